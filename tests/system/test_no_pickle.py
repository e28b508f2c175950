"""No content of a store, a folder, a bundle or a model hub is ever run: no pickle, no code, no import."""

from __future__ import annotations

import ast
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.audit_hook import LOAD_PATHS, MARK
from support.processes import importing
from support.toy_backbone import ARGUMENTS, Toy

PACKAGES = ("onetrunk", "store", "serving", "sls")
ROOT = Path(__file__).parents[2]
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "runpy", "code"}
RUNS_PROGRAMS = {("fork_server.py", "runpy")}  # Ray's own, by the path that Ray gave
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.hub.load_state_dict_from_url"),
    *("np.load", "numpy.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


def plant(folder: Path, payload: bytes) -> None:
    """Lay out what a loader might fall for."""
    for name in ("optimizer.pt", "training_args.bin", "scheduler.pkl", "adapter_model.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(payload)
    for name in ("planted_module", "conftest", "sitecustomize", "torch", "modeling_adapter"):
        (folder / f"{name}.py").write_text(f"{MARK} = 1\n")
    config = json.loads((folder / "adapter_config.json").read_bytes())
    config["auto_mapping"] = {"base_model_class": MARK, "parent_library": "planted_module"}
    config["base_model_name_or_path"] = f"__import__('{MARK}')"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    names = f"{{{{ {MARK}() }}}}\n__import__('{MARK}')\n!!python/object/apply:os.system ['{MARK}']\n"
    (folder / "classes.txt").write_text(names)


@pytest.fixture(scope="module")
def heard(toy: Toy, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The events of each load path, with a hostile task, and with folders and models of nothing but a pickle."""
    place = tmp_path_factory.mktemp("audited")
    root, trace = place / "root", place / "trace"
    root.mkdir()
    payload = pickle.dumps(Payload(trace))
    plant(Path(shutil.copytree(tuned, root / "task")), payload)
    (root / "model.safetensors").write_bytes(toy.weights)
    bare = Path(shutil.copytree(root / "task", root / "bare"))
    (bare / "adapter_model.safetensors").unlink()
    (bare / "adapter_model.bin").write_bytes(payload)
    cached = place / "hub" / "models--evil--vit"
    plant_models([root / "model", cached / "snapshots" / ("0" * 40)], payload)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    lines = run(root, {"HF_HUB_CACHE": str(place / "hub"), "HF_HUB_OFFLINE": "1"})
    trace.rmdir()  # left by the one that unpickles on purpose, which would have failed, had another done so before
    starts = [index for index, line in enumerate(lines) if line.removesuffix(":") in LOAD_PATHS]
    return {lines[i][:-1]: lines[i + 1 : j] for i, j in itertools.pairwise([*starts, len(lines)])}


def plant_models(folders: list[Path], payload: bytes) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": ARGUMENTS, "pretrained_cfg": {}}
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        for name in ("pytorch_model.bin", "model.pth", "pytorch_model.pth"):
            (folder / name).write_bytes(payload)


def run(root: Path, environment: dict[str, str]) -> list[str]:
    program = [sys.executable, "-P", "-m", "support.audit_hook", str(root)]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**importing(), **environment},
        cwd=root / "task",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_no_load_path_unpickles_compiles_or_imports_anything_of_the_stores(heard: dict[str, list[str]]) -> None:
    assert heard["everything"] == []


@pytest.mark.parametrize(
    ("what", "expected"),
    [("a pickle", "heard: pickle.find_class"), ("code", "heard: compile"), ("a module", "heard: exec")],
)
def test_the_ear_hears_what_it_is_there_for(heard: dict[str, list[str]], what: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in heard[what])


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("a publish", "refused: FormatError: .*adapter_model.bin is a pickle"),
        ("PEFT's reader", "refused: FormatError: .*adapter_model.bin is a pickle"),
        ("a local model", "refused: BackboneNotFoundError: .*a pickle is not read"),
        ("a model of the Hub", "refused: BackboneNotFoundError: .*cannot be loaded"),
        ("a file of weights", "refused: FormatError: .*not a whole safetensors file"),
    ],
)
def test_where_there_is_nothing_but_a_pickle_it_is_refused_and_not_opened(
    heard: dict[str, list[str]], what: str, expected: str
) -> None:
    (line,) = heard[what]
    assert re.match(expected, line), line


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))
    yield from sorted(ROOT.glob("onetrunk*.py"))


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom):
            yield from [node.module or ""] if (node.module or "").partition(".")[0] in UNPICKLERS else []
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            safely = name in ("np.load", "numpy.load") and any(
                word.arg == "allow_pickle" and isinstance(word.value, ast.Constant) and word.value.value is False
                for word in node.keywords
            )
            if (name in CALLS or name in METHODS) and not safely:
                yield name


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_names_what_could_run_data(path: Path) -> None:
    assert [name for name in forbidden(ast.parse(path.read_text())) if (path.name, name) not in RUNS_PROGRAMS] == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load(x)", "eval(x)", "np.load(x)", "exec(x)",
     "np.load(x, allow_pickle=True)", "import yaml\nyaml.load(x)", "import joblib", "import marshal as m"],
)  # fmt: skip
def test_the_look_for_such_names_finds_them(code: str) -> None:
    assert list(forbidden(ast.parse(code))) != []
