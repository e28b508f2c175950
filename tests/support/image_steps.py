"""`python -m support.image_steps FOLDER`: the steps of deploy/Dockerfile one by one, without a Docker engine.

Each stage is a fresh Debian 12 (debootstrap) in FOLDER, entered by chroot. Two things differ from an image, and the
report names them: Debian's own Python stands for the official image's, and PyTorch's builds for CPUs are those of this
environment, as their index may be out of reach.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = "ca-certificates"
PYTHON = "apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*"
CLIENTS = re.compile(r"(https?|no)_proxy|PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL)|SSL_CERT_FILE", re.IGNORECASE)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LIBRARIES = ("torch", "torchvision", "torchgen", "functorch", "triton", "nvidia", "cuda")
LENT = "/lent"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    word: str
    rest: str


@dataclass
class Stage:
    """A root folder, and what the instructions so far say of the commands to come."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    command: Sequence[str] = ()
    health: Sequence[str] = ()


def read(path: Path) -> Iterator[Step]:
    """Yield the instructions; a line that ends with a backslash goes on."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        word, rest = line.split(None, 1)
        yield Step(word, rest.strip())


def main() -> None:
    folder = Path(sys.argv[1])
    report: dict[str, object] = {"replaced": ["FROM: Debian 12 with its own Python 3.11"]}
    stages: list[Stage] = []
    seconds: dict[str, float] = {}
    for step in read(ROOT / "deploy" / "Dockerfile"):
        start = time.monotonic()
        if step.word == "FROM":
            stages.append(Stage(bootstrap(folder, len(stages))))
        elif stages:
            do(step, stages, report)
        seconds[f"{len(seconds) + 1} {step.word} {step.rest[:90]}"] = round(time.monotonic() - start, 1)
        sys.stderr.write(f"{time.monotonic() - start:6.1f} s  {step.word} {step.rest[:100]}\n")
    final = stages[-1]
    report |= {"seconds": seconds, "command": final.command, "environment": final.environment, "user": final.user}
    report["compiler"] = inside(final, ["sh", "-c", "command -v g++ || true"]).stdout.strip()
    report["writable"] = inside(final, ["sh", "-c", "touch /srv/onetrunk/a /tmp/a && ! touch /opt/a"]).returncode == 0
    report["doctor"] = inside(final, ["onetrunk", "doctor"]).stdout
    (folder / "report.json").write_text(json.dumps(report, indent=2))


def bootstrap(folder: Path, number: int) -> Path:
    """Make a root of Debian 12; the second is a copy of the first as it was."""
    clean, root = folder / "clean", folder / f"stage-{number}"
    if not clean.exists():
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(clean)])
        for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), CERTIFICATES):
            shutil.copy(path, clean / path.relative_to("/"))
        done = inside(Stage(clean), ["sh", "-ec", PYTHON])
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (clean / "usr/bin/python").symlink_to("python3")
    run(["cp", "-a", str(clean), str(root)])
    return root


def do(step: Step, stages: list[Stage], report: dict[str, object]) -> None:
    stage = stages[-1]
    if step.word == "ENV":
        for assignment in shlex.split(step.rest):
            name, _, value = assignment.partition("=")
            value = value.replace("$PATH", stage.environment.get("PATH", SYSTEM_PATH))
            stage.environment[name] = value
    elif step.word == "WORKDIR":
        stage.folder = step.rest
        (stage.root / step.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif step.word == "USER":
        stage.user = step.rest.partition(":")[0]
    elif step.word == "CMD":
        stage.command = json.loads(step.rest)
    elif step.word == "HEALTHCHECK":
        stage.health = json.loads(step.rest.partition("CMD ")[2])
    elif step.word == "COPY":
        copy(step.rest.split(), stages)
    elif step.word == "RUN" and "TORCH_INDEX" in step.rest:
        lend(stage)
        replaced = report["replaced"]
        assert isinstance(replaced, list)
        replaced.append(f"RUN {step.rest}: the builds of this environment")
    elif step.word == "RUN":
        done = inside(stage, ["/bin/bash", "-c", step.rest])
        assert done.returncode == 0, f"RUN {step.rest}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        report.setdefault("output", {})[step.rest[:60]] = done.stdout[-1500:]  # type: ignore[index]


def copy(words: Sequence[str], stages: list[Stage]) -> None:
    stage, base = stages[-1], ROOT
    if words[0].startswith("--from="):
        base, words = stages[0].root, words[1:]
    *sources, target = words
    into = stage.root / (target if target.startswith("/") else f"{stage.folder}/{target}").lstrip("/")
    for source in sources:
        place = into / source if target.endswith("/") else into
        place.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-a", "--no-target-directory", str(base / source.lstrip("/")), str(place)])


def lend(stage: Stage) -> None:
    """Show the libraries that could not be fetched to the root, as they are here."""
    site = next((stage.root / "opt/onetrunk/lib").glob("python3*")) / "site-packages"
    here = Path(sysconfig.get_path("purelib"))
    for path in here.iterdir():
        if path.name.partition("-")[0].lower().startswith(LIBRARIES):
            (site / path.name).symlink_to(f"{LENT}/{path.name}")


def inside(stage: Stage, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as the image would: with its environment, folder and user, and no more than /proc and /dev."""
    return subprocess.run(enter(stage, command), capture_output=True, text=True, check=False, env={})


def enter(stage: Stage, command: Sequence[str]) -> list[str]:
    defaults: Mapping[str, str] = {"PATH": SYSTEM_PATH, "HOME": "/tmp"}
    if stage.user == "0":  # how this machine reaches its packages
        defaults = {**defaults, **{name: value for name, value in os.environ.items() if CLIENTS.fullmatch(name)}}
    variables = [f"{name}={value}" for name, value in {**defaults, **stage.environment}.items()]
    mounts = f"""
        mount -t proc proc {stage.root}/proc && mount --rbind /dev {stage.root}/dev
        mkdir -p {stage.root}{LENT} && mount --bind -o ro {sysconfig.get_path("purelib")} {stage.root}{LENT}
        cd {stage.root}
        exec chroot --userspec={stage.user}:{stage.user} {stage.root} env -i {shlex.join(variables)} \
          sh -c 'cd "$0" && exec "$@"' {stage.folder} {shlex.join(command)}
    """
    return ["/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", mounts]


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
