from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.native_builds import compiler, native_build
from support.processes import importing

from serving.kernel.instruction_sets import (
    KERNEL_ABI,
    SETTINGS,
    TILES_REFUSED,
    KernelChoice,
    choose_kernel,
    cpu_flags,
    missing_features,
    tiles_permitted,
)
from serving.kernel.variants import BUILD_RECORD, COOPERLAKE, HASWELL, SAPPHIRE_RAPIDS, VARIANTS
from store.errors import InvalidSettingError


@pytest.fixture
def cpu(tmp_path):
    """Write a /proc/cpuinfo of a CPU with these features."""

    def write(features: frozenset[str]) -> Path:
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nmodel name\t: a CPU\nflags\t\t: fpu {' '.join(sorted(features))}\n\n")
        return path

    return write


@pytest.fixture
def libraries(tmp_path):
    """Make a folder with a library for each variant, all of them the portable build, which every CPU runs."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in VARIANTS:
        shutil.copy(native_build("portable"), folder / f"{name}.so")
    return folder


def build_abi(path: Path, number: int) -> None:
    source = path.with_suffix(".cpp")
    source.write_text(
        f'extern "C" __attribute__((visibility("default"))) long onetrunk_kernel_abi(void){{return {number};}}'
    )
    compiler().build(source, path, flags=(), link_flags=())


def test_the_best_library_that_the_cpu_can_run_is_chosen_and_the_reason_names_the_feature(cpu, libraries):
    choice = choose_kernel("auto", cpu_info=cpu(COOPERLAKE), libraries=libraries)
    assert choice == KernelChoice("avx512", f"this CPU {VARIANTS['avx512'].advantage}", libraries / "avx512.so")


def test_amx_is_chosen_where_the_system_permits_tiles_and_the_reason_says_so_where_it_does_not(cpu, libraries):
    choice = choose_kernel("auto", cpu_info=cpu(SAPPHIRE_RAPIDS), libraries=libraries)
    if tiles_permitted():
        assert (choice.name, choice.reason) == ("amx", "this CPU multiplies bf16 tiles (amx_bf16)")
    else:
        assert choice.name == "avx512"
        assert choice.reason.endswith(TILES_REFUSED)


@pytest.mark.parametrize("lacking", sorted(SAPPHIRE_RAPIDS))
def test_a_cpu_that_lacks_one_feature_that_the_compiler_may_use_does_not_run_that_library(cpu, lacking):
    assert missing_features("amx", cpu(SAPPHIRE_RAPIDS - {lacking})) == f"this CPU lacks {lacking}"


def test_a_cpu_with_none_of_the_instruction_sets_leaves_it_to_torch(cpu, libraries):
    choice = choose_kernel("auto", cpu_info=cpu(HASWELL), libraries=libraries)
    assert choice == KernelChoice(None, "this CPU has neither AMX nor AVX512-BF16", None)
    assert str(choice) == f"none, torch runs instead: {choice.reason}"


def test_a_system_without_proc_leaves_it_to_torch(tmp_path, libraries):
    choice = choose_kernel("auto", cpu_info=tmp_path / "none", libraries=libraries)
    assert (choice.name, choice.reason) == (None, f"{tmp_path / 'none'} lists no features of an x86_64 CPU")


def test_off_turns_the_kernel_off_whatever_the_cpu_has(cpu, libraries):
    choice = choose_kernel("off", cpu_info=cpu(COOPERLAKE), libraries=libraries)
    assert choice == KernelChoice(None, "off by ONETRUNK_KERNEL=off", None)


def test_a_library_that_is_asked_for_by_name_is_chosen_though_a_better_one_could_run(cpu, libraries):
    choice = choose_kernel("avx512", cpu_info=cpu(SAPPHIRE_RAPIDS), libraries=libraries)
    assert choice == KernelChoice("avx512", "asked for by ONETRUNK_KERNEL=avx512", libraries / "avx512.so")


def test_the_environment_is_the_setting_where_none_is_given(cpu, libraries, monkeypatch):
    monkeypatch.setenv("ONETRUNK_KERNEL", "off")
    assert choose_kernel(cpu_info=cpu(COOPERLAKE), libraries=libraries).name is None
    monkeypatch.delenv("ONETRUNK_KERNEL")
    assert choose_kernel(cpu_info=cpu(COOPERLAKE), libraries=libraries).name == "avx512"


@pytest.mark.parametrize("setting", ["", "0", "AMX", "sse", "amx\n"])
def test_an_unknown_setting_is_refused_with_those_that_there_are(cpu, libraries, setting):
    with pytest.raises(InvalidSettingError) as refused:
        choose_kernel(setting, cpu_info=cpu(COOPERLAKE), libraries=libraries)
    assert str(refused.value) == f"ONETRUNK_KERNEL={setting!r} is not a kernel: use one of {', '.join(SETTINGS)}"


def test_a_library_that_this_cpu_cannot_run_is_refused_with_what_it_lacks(cpu, libraries):
    with pytest.raises(
        InvalidSettingError, match="'avx512' cannot run here, this CPU lacks avx512_bf16: use auto or off"
    ):
        choose_kernel("avx512", cpu_info=cpu(COOPERLAKE - {"avx512_bf16"}), libraries=libraries)
    with pytest.raises(InvalidSettingError, match="lacks abm, amx_bf16, amx_tile and 22 more"):
        choose_kernel("amx", cpu_info=cpu(frozenset()), libraries=libraries)


def test_an_empty_folder_leaves_it_to_torch_with_what_the_build_recorded(cpu, tmp_path):
    choice = choose_kernel("auto", cpu_info=cpu(COOPERLAKE), libraries=tmp_path)
    assert choice.reason == "its library is missing: reinstall onetrunk"
    (tmp_path / BUILD_RECORD).write_text(json.dumps({"reason": "no compiler was found"}))
    choice = choose_kernel("auto", cpu_info=cpu(COOPERLAKE), libraries=tmp_path)
    assert choice == KernelChoice(None, "no compiler was found", None)
    with pytest.raises(InvalidSettingError, match="'avx512' cannot run here: no compiler was found"):
        choose_kernel("avx512", cpu_info=cpu(COOPERLAKE), libraries=tmp_path)


def test_a_library_of_another_version_is_not_used(cpu, tmp_path):
    build_abi(tmp_path / "avx512.so", KERNEL_ABI + 1)
    choice = choose_kernel("auto", cpu_info=cpu(COOPERLAKE), libraries=tmp_path)
    versions = f"(ABI {KERNEL_ABI + 1}, needs {KERNEL_ABI})"
    assert choice == KernelChoice(None, f"avx512.so was built for another version {versions}: reinstall onetrunk", None)


def test_a_file_that_is_no_library_is_not_used(cpu, tmp_path):
    (tmp_path / "avx512.so").write_bytes(b"no library")
    choice = choose_kernel("auto", cpu_info=cpu(COOPERLAKE), libraries=tmp_path)
    assert choice.name is None
    assert choice.reason.startswith("avx512.so cannot be loaded (")


def test_no_library_is_loaded_that_the_cpu_cannot_run(cpu, tmp_path):
    """Loading would run code of it; a folder whose best library is none shows which ones are opened."""
    (tmp_path / "amx.so").write_bytes(b"no library")
    build_abi(tmp_path / "avx512.so", KERNEL_ABI)
    assert choose_kernel("auto", cpu_info=cpu(COOPERLAKE), libraries=tmp_path).name == "avx512"


def test_the_choice_needs_no_torch_and_this_machine_has_one():
    code = "import sys, serving.kernel.instruction_sets as sets; sets.choose_kernel(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=importing(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert cpu_flags()
