from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sls.pipeline.git_commit import current_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree of one commit, and the directory that the test runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "train.py").write_text("print('tuning')\n")
    git("init", "--quiet")
    git("add", "train.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "start")
    return tmp_path


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.usefixtures("tree")
def test_the_commit_of_a_clean_tree_is_its_whole_digest() -> None:
    assert current_commit() == git("rev-parse", "HEAD")


@pytest.mark.usefixtures("tree")
def test_a_tag_does_not_stand_for_the_digest() -> None:
    git("-c", "user.name=a", "-c", "user.email=a@b", "tag", "--annotate", "--message", "first", "v1")
    assert current_commit() == git("rev-parse", "HEAD")


def test_a_changed_file_makes_it_dirty(tree: Path) -> None:
    (tree / "train.py").write_text("print('something else')\n")
    assert current_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_a_file_that_git_does_not_know_does_not(tree: Path) -> None:
    (tree / "result.json").write_text("{}")
    assert current_commit() == git("rev-parse", "HEAD")


def test_a_folder_within_the_tree_has_the_commit_of_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "deeper").mkdir()
    monkeypatch.chdir(tree / "deeper")
    assert current_commit() == git("rev-parse", "HEAD")


def test_looking_leaves_the_tree_as_it_is(tree: Path) -> None:
    index = (tree / ".git" / "index").read_bytes()
    (tree / "train.py").touch()
    current_commit()
    assert (tree / ".git" / "index").read_bytes() == index


def test_a_tree_without_a_commit_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    assert current_commit() is None


def test_a_folder_outside_any_tree_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() is None


def test_a_machine_without_git_has_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tree))
    assert current_commit() is None
