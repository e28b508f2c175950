from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.accounting.facts import FactsReader, Named, NamedBlob
from store.backends.local import LocalBackend
from store.errors import NewerFormatError
from store.records.blob import Blob
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex
from store.records.manifest import MANIFEST_FORMAT, Adapter, Head, Manifest
from store.records.width import WidthIndex

LOOKALIKE = {"format": 1, "head": {"classes": 1, "dim": 1, "labels": {"nbytes": 9, "sha256": "f" * 64}}}
words = st.text(max_size=12)
blobs = st.builds(Blob, st.integers(0, 2**256 - 1).map("{:064x}".format), st.integers(1, 10**9))
modules = st.sampled_from(("blocks.0.attn.qkv", "blocks.3.mlp.fc1", "norm"))
adapters = st.builds(
    Adapter,
    method=st.sampled_from(("lora", "bitfit")), rank=st.integers(0, 64),
    modules=st.lists(modules, min_size=1, unique=True).map(tuple),
    config=blobs, weights=blobs,
)  # fmt: skip
heads = st.builds(Head, classes=st.integers(2, 1000), dim=st.integers(1, 768), weights=blobs, labels=blobs)
lineages = st.none() | st.builds(
    Lineage, data=words, recipe=st.dictionaries(words, words | st.integers() | st.just(LOOKALIKE), max_size=3)
)
certificates = st.none() | st.just(Certificate(Accuracy(9, 10), Accuracy(8, 10)))


def reader(tmp_path_factory: pytest.TempPathFactory) -> FactsReader:
    return FactsReader(LocalBackend(tmp_path_factory.getbasetemp()), {})


def encoded(adapter: Adapter, head: Head, **fields: object) -> bytes:
    values = {
        "task": "acme/cars", "backbone": "a" * 64, "backbone_name": "toy/vit", "prune_index": PruneIndex(2, 4, "given"),
        "adapter": adapter, "head": head,
    }  # fmt: skip
    return Manifest(**(values | fields)).to_json()


def decoded(facts: FactsReader, data: bytes) -> Named:
    return facts._decode(data, NamedBlob("0" * 64, len(data)), "acme/cars")


@given(adapters, heads, lineages, certificates)
def test_what_is_found_in_a_manifest_is_what_decoding_gives(tmp_path_factory, adapter, head, lineage, certificate):
    facts, data = reader(tmp_path_factory), encoded(adapter, head, lineage=lineage, certificate=certificate)
    found = facts._named_in(data)
    assert found is not None
    assert found == decoded(facts, data)
    assert found.adapter == (adapter.weights.sha256, adapter.weights.nbytes)


@given(adapters, heads)
def test_a_width_another_layout_and_a_newer_format_are_left_to_the_decoder(tmp_path_factory, adapter, head):
    facts, data = reader(tmp_path_factory), encoded(adapter, head)
    width = WidthIndex.of([(1, 3), (1, 1)], heads=2, units=4)
    narrow = encoded(adapter, head, prune_index=dataclasses.replace(PruneIndex(2, 4, "given"), width=width))
    assert facts._named_in(narrow) is None
    assert decoded(facts, narrow).width == width
    spaced = json.dumps(json.loads(data)).encode()
    assert facts._named_in(spaced) is None
    assert decoded(facts, spaced) == facts._named_in(data)
    newer = data.replace(b'"format":%d' % MANIFEST_FORMAT, b'"format":%d' % (MANIFEST_FORMAT + 1))
    assert facts._named_in(newer) is None
    with pytest.raises(NewerFormatError, match=f"has format {MANIFEST_FORMAT + 1}"):
        decoded(facts, newer)
