"""The file of a packed backbone: shared, never trusted without its digest, and never needed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.kernel_cases import best_library
from support.oracle import make_backbone
from support.processes import importing

from serving.kernel import packed_file
from serving.kernel.packed_file import DIGEST_NBYTES, SETTING, cache_folder, open_packed
from serving.kernel.support import coverage
from store.backends import atomic_write

ARGUMENTS = {"embed_dim": 64, "num_heads": 2, "depth": 2, "img_size": 16, "patch_size": 4}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"), **ARGUMENTS)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(SETTING, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=[0, 1 << 60], ids=["mapped", "copied"])
def shared(request, monkeypatch) -> None:
    monkeypatch.setattr(packed_file, "SHARED_NBYTES", request.param)


@pytest.fixture
def packings(monkeypatch) -> list[str]:
    """Return a list that grows with each backbone that is packed."""
    made, pack = [], packed_file._pack
    monkeypatch.setattr(packed_file, "_pack", lambda *each: (made.append("packed"), pack(*each))[1])
    return made


def mapped(backbone) -> NDArray[np.uint8]:
    vit = backbone.skeleton()
    return open_packed(backbone, vit, best_library(), coverage(vit)).memory


def opened(backbone) -> bytes:
    return mapped(backbone).tobytes()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.usefixtures("shared")
def test_the_first_engine_writes_the_file_and_the_next_ones_map_it(backbone, folder, packings):
    first = opened(backbone)
    (file,) = files(folder)
    assert opened(backbone) == opened(backbone) == first == file.read_bytes()[DIGEST_NBYTES:]
    assert packings == ["packed"]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("place", [0, DIGEST_NBYTES - 1, DIGEST_NBYTES, -1])
def test_a_damaged_file_is_made_again(backbone, folder, packings, place):
    first = opened(backbone)
    (file,) = files(folder)
    whole = bytearray(file.read_bytes())
    whole[place] ^= 1
    file.chmod(0o600)
    file.write_bytes(whole)
    assert opened(backbone) == first == opened(backbone)
    assert len(packings) == 2
    assert files(folder) == [file]


@pytest.mark.parametrize("size", [0, DIGEST_NBYTES, -1, 1])
def test_a_file_of_another_size_is_made_again(backbone, folder, size):
    first = opened(backbone)
    (file,) = files(folder)
    whole = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(whole[:size] if size != 1 else whole + b"x")
    assert opened(backbone) == first
    assert file.read_bytes() == whole


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not_used(backbone, folder, packings, mode):
    first = opened(backbone)
    (file,) = files(folder)
    file.chmod(mode)
    assert opened(backbone) == first
    assert len(packings) == 2
    assert file.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_used(backbone, folder, caplog, mode):
    folder.mkdir()
    folder.chmod(mode)
    assert cache_folder() is None
    assert "must belong to this user" in caplog.text
    opened(backbone)
    assert files(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_or_a_file_of_another_user_is_not_used(backbone, folder, packings):
    opened(backbone)
    (file,) = files(folder)
    os.chown(file, 12345, 12345)
    opened(backbone)
    assert len(packings) == 2
    assert file.stat().st_uid == os.geteuid()
    os.chown(folder, 12345, 12345)
    assert cache_folder() is None


def test_off_and_what_is_no_folder_leave_each_process_its_own(backbone, tmp_path, monkeypatch):
    for setting in ("off", str(tmp_path / "file" / "cache")):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(SETTING, setting)
        assert cache_folder() is None
        assert len(opened(backbone)) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [28, 30, 13])
def test_a_full_disk_or_a_folder_that_cannot_be_written_keeps_no_engine_from_starting(
    backbone, folder, monkeypatch, caplog, error
):
    def fails(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(atomic_write, "write_synced", fails)
    assert len(opened(backbone)) > 0
    assert files(folder) == []
    assert "keeps a packed backbone of its own" in caplog.text


def test_what_is_mapped_cannot_be_written_and_survives_a_replacement(backbone, folder, monkeypatch):
    monkeypatch.setattr(packed_file, "SHARED_NBYTES", 0)
    opened(backbone)
    memory = mapped(backbone)
    before = memory.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        memory[0] = 1
    (file,) = files(folder)
    atomic_write.replace_file(file, b"something else")
    assert memory.tobytes() == before


OPEN = """
import sys, pickle
from serving.kernel.packed_file import open_packed
from serving.kernel.support import coverage
from pathlib import Path
import hashlib
backbone = pickle.loads(Path(sys.argv[1]).read_bytes())
vit = backbone.skeleton()
packed = open_packed(backbone, vit, Path(sys.argv[2]), coverage(vit))
print(hashlib.sha256(packed.memory.tobytes()).hexdigest())
"""


def test_processes_that_start_at_once_find_the_same_bytes_and_leave_one_file(backbone, folder, tmp_path):
    (tmp_path / "backbone").write_bytes(pickle.dumps(backbone))
    command = [sys.executable, "-c", OPEN, str(tmp_path / "backbone"), str(best_library())]
    started = [subprocess.Popen(command, env=importing(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate(timeout=120)[0].strip() for process in started}
    assert len(found) == 1
    assert len(found.pop()) == 64
    assert len(files(folder)) == 1


def test_another_backbone_or_another_coverage_has_a_file_of_its_own(backbone, folder, tmp_path):
    opened(backbone)
    opened(make_backbone(tmp_path / "other", **{**ARGUMENTS, "global_pool": "avg"}))
    opened(make_backbone(tmp_path / "third", **{**ARGUMENTS, "embed_dim": 32}))
    assert len(files(folder)) == 3
