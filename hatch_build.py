"""Compile the engine's kernel: as a hook while a wheel or an editable install is built, or by itself in a checkout.

    python hatch_build.py

The system's compiler makes one library for each entry of `serving/kernel/variants.py`. Where there is none that works,
the hook asks for ziglang, a compiler on PyPI. Where nothing compiles, no library is made, and the engine runs on torch.
"""

# hatchling runs this file as no module of sys.modules, which dataclasses with postponed annotations do not survive.
import hashlib
import importlib.util
import json
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by itself, where hatchling need not be
    BuildHookInterface = object

ROOT = Path(__file__).parent.resolve()
MAIN = "kernel.cpp"
NATIVE = Path("serving/kernel/native")  # relative, so that no path of this machine gets into a library
TABLE = runpy.run_path(str(ROOT / "serving/kernel/variants.py"))  # by its path: onetrunk is not installed yet
VARIANTS, LIBRARIES, BUILD_RECORD = TABLE["VARIANTS"], TABLE["LIBRARIES"], TABLE["BUILD_RECORD"]

COMPILE = ("-x", "c++", "-std=c++17", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics",
           "-fvisibility=hidden", "-Wall", "-Wextra",
           "-ffp-contract=off",  # one row's sums may not depend on where the compiler joins a product and a sum
           "-Wno-psabi", "-Wno-maybe-uninitialized")  # fmt: skip  # of GCC's own vector headers, and of inlined vectors
OPTIMISE = ("-O3",)
# No C++ runtime: a C driver fails where a symbol of it is used, and a C++ driver drops what is not used.
LINK = ("-shared", "-Wl,--as-needed", "-lm", "-lpthread")
STRIP = ("-Wl,-s", "-Wl,-z,defs")

ZIGLANG = "ziglang>=0.17,<0.18"
ZIG_TARGET = ("-target", "x86_64-linux-gnu.2.28")
SYSTEM_COMPILERS = ("cc", "gcc", "clang", "c++", "g++", "clang++")
PROBE = '#include <immintrin.h>\n#include <atomic>\n#include <pthread.h>\nextern "C" int probe(void) { return 1; }\n'
NO_COMPILER = (
    "no compiler for C++ and AMX was found when onetrunk was installed: install g++ or clang, then reinstall onetrunk"
)
SWITCH = "ONETRUNK_BUILD_KERNEL"  # off: compile nothing, ask for no compiler


class BuildError(Exception):
    """Raised where a library cannot be compiled; its message is one line."""


@dataclass(frozen=True)
class Compiler:
    """The commands that compile a file and that link objects, without their arguments."""

    name: str
    compile: tuple[str, ...]
    link: tuple[str, ...]

    def build(self, source: Path, library: Path, *, flags: tuple[str, ...], link_flags: tuple[str, ...]) -> None:
        """Compile a source into `library`, which is there whole or not at all."""
        with tempfile.TemporaryDirectory() as scratch:
            compiled, linked = Path(scratch) / "kernel.o", library.with_name(f".{library.name}.{os.getpid()}")
            try:
                self._run((*self.compile, *COMPILE, *flags, "-c", str(source), "-o", str(compiled)))
                self._run((*self.link, str(compiled), *LINK, *link_flags, "-o", str(linked)))
                linked.replace(library)  # a process that has mapped the old one keeps it
            finally:
                linked.unlink(missing_ok=True)

    def _run(self, command: tuple[str, ...]) -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{self.name} failed: {first_error(done.stderr)}")
        sys.stderr.write(done.stderr)  # warnings


def first_error(output: str) -> str:
    lines = output.strip().splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0])


def supported_platform() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def system_compiler() -> Compiler | None:
    """Return the first compiler of this system that knows C++ and every instruction set; $CXX comes first."""
    commands = [shlex.split(os.environ.get("CXX", "")), *([name] for name in SYSTEM_COMPILERS)]
    for command in commands:
        if command and shutil.which(command[0]):
            compiler = Compiler(shlex.join(command), tuple(command), tuple(command))
            if works(compiler):
                return compiler
    return None


def works(compiler: Compiler) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "probe.cpp"
        source.write_text(PROBE, encoding="utf-8")
        newest = next(iter(VARIANTS.values())).compile_flags  # a compiler that knows these knows the others
        try:
            compiler.build(source, Path(scratch) / "probe.so", flags=newest, link_flags=STRIP)
        except (BuildError, OSError):
            return False
    return True


def zig_compiler() -> Compiler | None:
    """Return ziglang's clang where it is installed; `c++` compiles and `cc` links, which spares its C++ runtime."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    zig = (sys.executable, "-m", "ziglang")
    return Compiler("ziglang", (*zig, "c++", *ZIG_TARGET), (*zig, "cc", *ZIG_TARGET))


def sources_digest(flags: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of all that a library depends on, but for the compiler."""
    digest = hashlib.sha256(repr((COMPILE, OPTIMISE, LINK, STRIP, flags)).encode())
    for name, variant in VARIANTS.items():
        digest.update(repr((name, variant.compile_flags)).encode())
    for path in sorted((ROOT / NATIVE).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build_libraries() -> str:
    """Bring the libraries up to date and record how; return one line that says what was done."""
    LIBRARIES.mkdir(exist_ok=True)
    record, digest = LIBRARIES / BUILD_RECORD, sources_digest()
    if wanted() and up_to_date(record, digest):
        return "the kernel is up to date"
    record.unlink(missing_ok=True)
    compiler, reason = choose_compiler()
    try:
        if compiler is not None:
            build_variants(compiler)
    except BuildError as error:
        compiler, reason = None, f"{error}: set CXX to another compiler, then reinstall onetrunk"
    for library in LIBRARIES.glob("*.so"):
        if compiler is None or library.stem not in VARIANTS:
            library.unlink()
    made_by = None if compiler is None else compiler.name
    written = {"sources": digest, "compiler": made_by, "reason": reason}
    record.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return f"no kernel was built: {reason}" if reason else f"{made_by} built the kernel for {', '.join(VARIANTS)}"


def wanted() -> bool:
    return os.environ.get(SWITCH) != "off"


def up_to_date(record: Path, digest: str) -> bool:
    """Whether the libraries were built of these sources; where none was, a compiler may have come since."""
    try:
        written = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    libraries = {path.stem for path in LIBRARIES.glob("*.so")}
    return not written["reason"] and written["sources"] == digest and libraries == set(VARIANTS)


def choose_compiler() -> tuple[Compiler | None, str]:
    """Return the compiler, or None with the reason."""
    if not wanted():
        return None, f"{SWITCH}=off was set when onetrunk was installed: reinstall it without"
    if not supported_platform():
        return None, f"it is for Linux on x86_64, and this is {platform.system()} on {platform.machine()}"
    compiler = system_compiler() or zig_compiler()
    return compiler, "" if compiler else NO_COMPILER


def build_variants(compiler: Compiler) -> None:
    """Compile all libraries, as many at a time as this process has cores."""

    def build(name: str) -> None:
        flags = (*OPTIMISE, *VARIANTS[name].compile_flags)
        compiler.build(NATIVE / MAIN, LIBRARIES / f"{name}.so", flags=flags, link_flags=STRIP)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(build, VARIANTS))


def requirements() -> list[str]:
    """Return what the build needs from PyPI: ziglang, only where no compiler is here."""
    return [ZIGLANG] if wanted() and supported_platform() and system_compiler() is None else []


class KernelHook(BuildHookInterface):
    """Hatchling's hook for wheels and editable installs; an sdist takes the sources as they are."""

    def dependencies(self) -> list[str]:
        return requirements()

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            self.app.display_info(build_libraries())
        except OSError as error:
            self.app.display_warning(f"no kernel was built: {error}")
        libraries = sorted(LIBRARIES.glob("*.so"))
        if libraries:
            build_data.update(pure_python=False, tag="py3-none-linux_x86_64")
        if version == "standard":
            files = [*libraries, *LIBRARIES.glob(BUILD_RECORD)]
            build_data["force_include"].update({str(path): str(path.relative_to(ROOT)) for path in files})


if __name__ == "__main__":
    sys.stdout.write(f"{build_libraries()}\n")
