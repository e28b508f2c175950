from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.broken_bundles import bundle_of
from support.destinations import empty_store
from support.processes import in_a_child
from support.toy_backbone import publish

from store.errors import ConflictError, InvalidSettingError, NotFoundError, StorageError, VersionNotFoundError
from store.maintenance.verify import verify
from store.registry.bundle import export_bundle, import_bundle
from store.registry.store import Store


def test_the_size_that_is_told_is_that_of_the_file(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    bundled = export_bundle(store, ["flowers"], tmp_path / "flowers.tar")
    assert bundled.versions == ("flowers:1",)
    assert bundled.nbytes == (tmp_path / "flowers.tar").stat().st_size
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_a_file_that_is_there_is_not_replaced(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("thesis.tex", "link"):
        with pytest.raises(ConflictError, match="choose a new name"):
            export_bundle(store, ["flowers"], tmp_path / name)
    assert (tmp_path / "thesis.tex").read_text() == "x"
    assert not (tmp_path / "nowhere").exists()


def test_an_export_that_fails_leaves_no_file(store: Store, folder: Path, tmp_path: Path) -> None:
    version = publish(store, folder)
    Path(store.blobs.locate(version.manifest.head.weights)).unlink()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match="head weights of flowers:1"):
        export_bundle(store, ["flowers"], out / "flowers.tar")
    assert list(out.iterdir()) == []


def test_a_disk_without_hard_links_takes_a_bundle_too(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, f"no hard link of {target} to {path}")

    publish(store, folder)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    export_bundle(store, ["flowers"], tmp_path / "flowers.tar")
    monkeypatch.undo()
    assert (tmp_path / "flowers.tar").read_bytes() == bundle_of(store, "flowers").getvalue()


def test_a_disk_that_takes_no_more_is_a_typed_error_and_leaves_no_file(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    publish(store, folder)
    (tmp_path / "out").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="choose another place"):
            export_bundle(store, ["flowers"], tmp_path / "out" / "flowers.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_not_there_is_neither_exported_nor_imported(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    with pytest.raises(VersionNotFoundError):
        export_bundle(store, ["flowers:9"], tmp_path / "a.tar")
    with pytest.raises(InvalidSettingError, match="at least one"):
        export_bundle(store, [], tmp_path / "a.tar")
    for path in (tmp_path / "a.tar", tmp_path):
        with pytest.raises(NotFoundError, match="give one that `export_bundle"):
            import_bundle(store, path)


def test_a_stream_that_cannot_seek_is_refused(store: Store) -> None:
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as child, pytest.raises(InvalidSettingError, match="twice"):
        import_bundle(store, child.stdout)


def test_bundles_need_no_tensor_library() -> None:
    heavy = "('torch', 'numpy', 'timm', 'peft')"
    modules = "store.registry.bundle, onetrunk.rendering.model_card"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_import_that_dies_at_any_sync_shows_nothing_half_written(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, folder)
    publish(store, folder, "cars")
    bundle, sync, code, point = bundle_of(store, "cars", "flowers"), os.fsync, 9, -2
    while code == 9:
        point += 3
        other, left = empty_store(tmp_path / str(point)), [point]

        def die_at_the_point(descriptor: int, left: list[int] = left) -> None:
            sync(descriptor)
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)

        monkeypatch.setattr(os, "fsync", die_at_the_point)
        code = in_a_child(lambda other=other: import_bundle(other, bundle))
        monkeypatch.undo()
        assert code == 0 or point < 100
        assert [version.task for version in other.versions()] == ["cars", "flowers"][: len(other.versions())]
        assert verify(other) == []
        assert [version.number for version in import_bundle(other, bundle)] == [1, 1]
    assert point > 20
