"""Strategies of the model test: contents of tasks made by stock PEFT, names, rules and searches."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from store.adapters.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.listing import Search
from store.records.manifest import Card
from support.model_records import Content, ModelRule
from support.toy_backbone import Toy, make_toy, tune

TASKS = ("acme/roses", "poppies")
ALIASES = ("prod", "canary")
OTHER, ANOTHER = "b" * 64, "c" * 64  # fingerprints of backbones whose weights are kept elsewhere


@cache
def toy() -> Toy:
    return make_toy()


@cache
def file_bodies() -> tuple[tuple[bytes, bytes, bytes], ...]:
    """Return config, adapter and head as stock PEFT leaves them, and again with another adapter."""
    with tempfile.TemporaryDirectory() as name:
        folder = tune(Path(name), depth=1, r=1, target_modules=["blocks.0.attn.qkv"])
        config, weights, head = ((folder / file).read_bytes() for file in (CONFIG, WEIGHTS, HEAD))
    return (config, weights, head), (config, weights[:-3] + b"abc", head)


def files_of(content: Content, fingerprint: str) -> dict[str, bytes]:
    """Return the files of a task's folder; there is a card where the content has a certificate."""
    files = dict(zip((CONFIG, WEIGHTS, HEAD, LABELS), content.files, strict=True))
    if content.full is None or content.cut is None:
        return files
    certificate = Certificate(full=Accuracy(content.full, 100), cut=Accuracy(content.cut, 100))
    return {**files, CARD: Card(fingerprint, PruneIndex(1, 4, "given"), certificate).to_json()}


tasks = st.sampled_from(TASKS)
aliases = st.sampled_from(("latest", *ALIASES))
alias_tuples = st.sampled_from(((), (), ("prod",), ("canary",)))
picks = st.sampled_from((0, 0, 0, 1, 1, 2, 3))
seldom = st.integers(0, 3).map(lambda drawn: drawn == 3)
backbone_names = st.sampled_from(("toy/vit", "toy/vit", "toy/vit", "renamed/vit", "other/vit"))

contents = st.builds(
    lambda body, label, counts: Content((*file_bodies()[body], f"{label}\nb\nc\n".encode()), *(counts or ())),
    st.integers(0, 1),
    st.sampled_from("xy"),
    st.sampled_from([(90, 89), (90, 60), None]),
)
rules = st.builds(
    ModelRule,
    protected=seldom,
    max_drop=st.sampled_from([1.0, None, 0.5]),  # 90 % less 89 % are 1 point, and a little more where they are floats
    min_accuracy=st.sampled_from([0.89, None]),
)
searches = st.builds(
    Search,
    text=st.sampled_from((None, "s", "%", "_", "ME/", "poppies")),
    tags=st.dictionaries(st.sampled_from(("owner", "stage")), st.sampled_from(("a", "%")), max_size=2),
    backbone=st.sampled_from((None, "toy/vit", OTHER)),
    method=st.sampled_from((None, "lora", "vera")),
    alias=st.none() | aliases,
    tenant=st.sampled_from((None, "", "acme", "acm")),
)
