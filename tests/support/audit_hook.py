"""Take a hostile task through every load path under an audit hook, and print the events that must not occur.

`python -m support.audit_hook FOLDER` prints a line with the name of each load path, then one for each such event.
"""

from __future__ import annotations

import io
import os
import pickle  # for the hook to notice
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from onetrunk.rendering.model_card import export_hub
from serving.engine.engine import Engine
from serving.runtime.predictor import Predictor
from sls.adapters.task_folder import backbone_of, read_folder
from store.maintenance.garbage import collect_garbage
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.registry.bundle import export_bundle, import_bundle
from store.registry.store import ReadOnlyStore, Store
from store.weights.backbones import Backbone, encode, load_backbone, open_backbone
from store.weights.lowering.lower import lower

MARK = "planted_by_the_attacker"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "ctypes.dlopen")


def listen(root: Path, heard: list[str]) -> None:
    """Append every event of the interpreter which means that the store's data was run."""

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "pickle.find_class" or (event in PROGRAMS and str(root) in str(arguments)):
            heard.append(f"{event} {arguments}")
        elif event in ("compile", "exec", "import", "marshal.loads") and (
            MARK in str(arguments) or str(root) in str(arguments)
        ):
            heard.append(f"{event} of the store's data")
        elif event == "open" and str(arguments[0]).startswith(str(root)) and str(arguments[0]).endswith(PICKLES):
            heard.append(f"open {arguments[0]}")

    sys.addaudithook(hear)


def image() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "PNG")
    return out.getvalue()


def backbone_from(folder: Path) -> Backbone:
    return load_backbone(
        "vit_tiny_patch16_224",
        weights=folder / "model.safetensors",
        arguments={"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3},
        label="toy/vit",
    )


def everything(root: Path) -> None:
    """Publish, find, read, serve, export, bundle, rebuild, and load the results again."""
    task, backbone = root / "task", backbone_from(root)
    with Store.open(root / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        store.publish("flowers", task, backbone="toy/vit", depth=2, aliases=("prod",))
        store.set_tag("flowers", "note", f"__import__('os').system('{MARK}')")
        version = store.resolve("flowers@prod")
        read = [store.read(blob) for blob in version.manifest.blobs]
        lowered = lower(
            config=read[0], adapter=read[1], head=read[2], labels=read[3], depth=2, backbone=backbone.tensors
        )
        Engine(open_backbone(store, store.backbone("toy/vit"))).forward(torch.zeros(1, 3, 32, 32), [lowered])
        with Predictor(store) as service:
            service.predict("flowers", image())
        exported = store.export("flowers", root / "exported")
        export_hub(store, "flowers", root / "hub")
        export_bundle(store, ["flowers"], root / "bundle.tar")
        verify(store)
        collect_garbage(store, grace_s=0)
    assert backbone_of(exported) == backbone.record.id.fingerprint
    read_folder(exported, backbone)
    read_folder(task, backbone, depth=2)
    with Store.open(root / "other", create=True) as other:
        import_bundle(other, root / "bundle.tar")
        assert other.resolve("flowers").digest == version.digest
    (root / "store" / "catalogue.sqlite").unlink()
    rebuild(root / "store")
    with ReadOnlyStore.open(root / "store") as read_only:
        assert read_only.history("flowers")
    load_file(exported / "head.safetensors")


def refuse(attempt: Callable[[], object]) -> None:
    """Print the error that refuses the attempt."""
    try:
        attempt()
    except Exception as error:
        sys.stdout.write(f"refused: {type(error).__name__}: {error}\n")
    else:
        sys.stdout.write("taken\n")


LOAD_PATHS: dict[str, Callable[[Path], object]] = {
    "everything": everything,
    "a pickle": lambda root: pickle.loads((root / "task" / "optimizer.pt").read_bytes()),
    "code": lambda _root: compile(f"{MARK} = 1", "x", "exec"),
    "a module": lambda root: exec("import planted_module", {"__path__": sys.path.insert(0, str(root / "task"))}),
    "a publish": lambda root: refuse(
        lambda: Store.open(root / "store", create=True).publish("x", root / "bare", backbone="toy/vit")
    ),
    "PEFT's reader": lambda root: refuse(lambda: read_folder(root / "bare", backbone_from(root), depth=2)),
    "a local model": lambda root: refuse(lambda: load_backbone(f"local-dir:{root / 'model'}")),
    "a model of the Hub": lambda _root: refuse(lambda: load_backbone("hf-hub:evil/vit")),
    "a file of weights": lambda root: refuse(
        lambda: load_backbone("vit_tiny_patch16_224", weights=root / "task" / "optimizer.pt")
    ),
}


def watch(path: str, root: Path) -> None:
    heard: list[str] = []
    listen(root, heard)
    LOAD_PATHS[path](root)
    sys.stdout.write("".join(f"heard: {line[:200]}\n" for line in heard))


def main(root: Path) -> None:
    """Take each path in a process of its own, as an audit hook cannot be removed; the libraries are imported once."""
    for path in LOAD_PATHS:
        sys.stdout.write(f"{path}:\n")
        sys.stdout.flush()
        if os.fork() == 0:
            try:
                watch(path, root)
            except BaseException as error:
                sys.stdout.write(f"failed: {error!r}\n")
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
