"""The build hook without hatchling: what it compiles, when, and what it leaves where nothing compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.native_builds import compiler

import hatch_build
from serving.kernel.variants import BUILD_RECORD, VARIANTS

PATH = os.environ["PATH"]
SOURCE = '#include "version.h"\nextern "C" long onetrunk_kernel_abi(void) { return VERSION; }\n'


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Return the folder of the libraries, which is not there yet; they are built of one small source."""
    folder, native = tmp_path / "lib", tmp_path / "native"
    native.mkdir()
    (native / hatch_build.MAIN).write_text(SOURCE)
    (native / "version.h").write_text("#define VERSION 1\n")
    monkeypatch.setattr(hatch_build, "NATIVE", native)
    monkeypatch.setattr(hatch_build, "LIBRARIES", folder)
    monkeypatch.delenv(hatch_build.SWITCH, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hatch_build, "zig_compiler", lambda: None)


def record(libraries) -> dict[str, str]:
    return json.loads((libraries / BUILD_RECORD).read_text("utf-8"))


def files(libraries) -> set[str]:
    return {path.name for path in libraries.iterdir()}


def test_a_build_makes_a_library_for_each_variant_and_the_same_bytes_again(libraries):
    compiler()
    made_by = hatch_build.system_compiler().name
    assert hatch_build.build_libraries() == f"{made_by} built the kernel for {', '.join(VARIANTS)}"
    assert files(libraries) == {BUILD_RECORD, *(f"{name}.so" for name in VARIANTS)}
    contents = {path.name: path.read_bytes() for path in libraries.iterdir()}
    (libraries / "avx512.so").unlink()
    hatch_build.build_libraries()
    assert {path.name: path.read_bytes() for path in libraries.iterdir()} == contents


@pytest.mark.usefixtures("libraries")
def test_a_second_build_compiles_nothing_until_a_source_or_a_flag_changes(monkeypatch):
    compiler()
    hatch_build.build_libraries()
    assert hatch_build.build_libraries() == "the kernel is up to date"
    monkeypatch.setattr(hatch_build, "OPTIMISE", ("-O1",))
    assert "built the kernel" in hatch_build.build_libraries()
    (hatch_build.NATIVE / "version.h").write_text("#define VERSION 2\n")
    assert "built the kernel" in hatch_build.build_libraries()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_nothing_is_built_old_libraries_go_and_the_record_says_why(libraries):
    libraries.mkdir()
    (libraries / "amx.so").write_bytes(b"of older sources")
    line = hatch_build.build_libraries()
    assert line == f"no kernel was built: {hatch_build.NO_COMPILER}"
    assert files(libraries) == {BUILD_RECORD}
    assert record(libraries)["reason"] in line


@pytest.mark.usefixtures("libraries", "no_compiler")
def test_a_compiler_that_comes_later_builds_what_was_missing(monkeypatch):
    hatch_build.build_libraries()
    monkeypatch.setenv("PATH", PATH)
    assert "built the kernel" in hatch_build.build_libraries()


def test_the_switch_builds_nothing_and_asks_for_no_compiler(libraries, monkeypatch):
    monkeypatch.setenv(hatch_build.SWITCH, "off")
    assert hatch_build.build_libraries().startswith("no kernel was built: ONETRUNK_BUILD_KERNEL=off was set")
    assert files(libraries) == {BUILD_RECORD}
    assert hatch_build.requirements() == []


def test_a_compiler_that_fails_leaves_no_library_and_its_first_error_in_one_line(libraries, monkeypatch):
    compiler()
    monkeypatch.setattr(hatch_build, "COMPILE", (*hatch_build.COMPILE, "-include", "no-such-header.h"))
    monkeypatch.setattr(hatch_build, "works", lambda _: True)
    line = hatch_build.build_libraries()
    assert "no-such-header.h" in line
    assert len(line.splitlines()) == 1
    assert files(libraries) == {BUILD_RECORD}


@pytest.mark.usefixtures("libraries")
def test_another_platform_builds_nothing_and_asks_for_no_compiler(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "it is for Linux on x86_64, and this is Linux on aarch64" in hatch_build.build_libraries()
    assert hatch_build.requirements() == []


@pytest.mark.usefixtures("libraries")
def test_the_build_asks_for_ziglang_only_where_the_system_has_no_compiler(monkeypatch, tmp_path):
    compiler()
    assert hatch_build.requirements() == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hatch_build.requirements() == [hatch_build.ZIGLANG]


@pytest.mark.usefixtures("libraries")
def test_the_compiler_of_the_environment_comes_first_and_one_that_does_not_work_is_passed_over(monkeypatch):
    monkeypatch.setenv("CXX", "c++ -O2")
    compiler()
    assert hatch_build.system_compiler().name == "c++ -O2"
    monkeypatch.setenv("CXX", "false")
    assert hatch_build.system_compiler().name in hatch_build.SYSTEM_COMPILERS


def test_the_file_builds_the_checkouts_libraries_when_it_is_run_and_they_name_no_path_of_it():
    command = [sys.executable, str(hatch_build.ROOT / "hatch_build.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    for library in hatch_build.LIBRARIES.glob("*.so"):
        assert str(hatch_build.ROOT).encode() not in library.read_bytes()
