from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sls.plots.tsne_maps import draw_maps, pen
from sls.scoring.criteria import CRITERIA
from sls.scoring.features import BlockFeatures
from store.errors import DataError, InvalidSettingError

NAMES = ("rose", "tulip", "poppy")


@cache
def blobs(blocks: int = 3, classes: int = 3, samples: int = 36) -> tuple[BlockFeatures, np.ndarray]:
    """Classes that lie farther apart at each block."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, 8))[labels]
    features = np.stack([centres * 2 * block + random.normal(size=(samples, 8)) for block in range(blocks)])
    return BlockFeatures(features.astype(np.float32), np.zeros_like(features, dtype=np.float32)), labels


def drawn(folder: Path, *, blocks: int = 3, classes: tuple[str, ...] = NAMES, depth: int = 2) -> Path:
    features, labels = blobs(blocks, len(classes))
    return draw_maps(features, labels, classes, folder / "maps", depth=depth)


def written(svg: Path) -> list[str]:
    """Every text in the picture: matplotlib leaves it as a comment beside the glyphs."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg.read_text())]


def test_each_title_has_the_score_that_the_paper_gives_its_block_and_says_what_is_cut(tmp_path):
    features, labels = blobs()
    scores = [CRITERIA["sls"].score(block, labels) for block in features.scored]
    texts = written(drawn(tmp_path))
    assert scores[0] < scores[2]
    expected = [f"1: {scores[0]:.2f}", f"2: {scores[1]:.2f}, the cut", f"3: {scores[2]:.2f}, pruned"]
    assert [text.replace("\N{MINUS SIGN}", "-") for text in texts if re.match(r"\d+: ", text)] == expected


def test_the_same_images_in_another_order_are_the_same_bytes(tmp_path):
    features, labels = blobs()
    scored = features.scored[2:]
    order = np.random.default_rng(1).permutation(len(labels))
    one, other = (
        draw_maps(
            BlockFeatures(scored[:, rows], scored[:, rows]), labels[rows], NAMES, tmp_path / name / "maps", depth=1
        )
        for name, rows in (("one", slice(None)), ("other", order))
    )
    assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in one.read_bytes()
    assert np.array_equal(*(np.asarray(Image.open(path.with_suffix(".png"))) for path in (one, other)))


def test_a_model_that_keeps_all_blocks_greys_none(tmp_path):
    texts = written(drawn(tmp_path, depth=3))
    assert not any("pruned" in text for text in texts)
    assert any(re.fullmatch(r"3: .*, the cut", text) for text in texts)


@pytest.mark.parametrize(("blocks", "columns"), [(12, 4), (32, 8)])
def test_every_block_of_a_deep_model_has_its_panel_in_a_wide_grid(tmp_path, blocks, columns):
    constant = BlockFeatures(np.ones((blocks, 40, 4), np.float32), np.ones((blocks, 40, 4), np.float32))
    svg = draw_maps(constant, np.arange(40) % 3, NAMES, tmp_path / "maps", depth=blocks // 2)
    texts = written(svg)
    assert sum("no score" in text for text in texts) == texts.count("no map") == blocks
    width, height = Image.open(svg.with_suffix(".png")).size
    assert width / height == pytest.approx(columns / (blocks / columns), rel=0.35)


def test_two_hundred_classes_all_look_different():
    assert len({pen(label) for label in range(200)}) == 200
    assert len({ink for ink, _ in map(pen, range(8))}) == len({mark for _, mark in map(pen, range(8))}) == 8


@pytest.mark.parametrize(("classes", "listed"), [(20, True), (200, False)])
def test_up_to_twenty_classes_have_a_legend_and_more_a_note(tmp_path, classes, listed):
    names = tuple(f"name {label}" for label in range(classes))
    random = np.random.default_rng(0)
    features = BlockFeatures(*random.normal(size=(2, 1, 210, 4)).astype(np.float32))
    texts = written(draw_maps(features, np.arange(210) % classes, names, tmp_path / "maps", depth=1))
    assert [name in texts for name in names] == [listed] * classes
    assert any(f"{classes} classes" in text for text in texts) != listed


def test_a_class_name_is_written_as_it_is_on_one_line(tmp_path):
    texts = written(drawn(tmp_path, classes=("$x_1$", "_hidden", "two\nlines")))
    assert {"$x_1$", "_hidden", "two lines"} <= set(texts)


@pytest.mark.parametrize(
    ("samples", "spoilt"), [(30, None), (40, np.nan), (40, np.inf)], ids=["too few images", "NaN", "infinity"]
)
def test_a_block_that_has_no_map_says_so_and_the_others_are_drawn(tmp_path, samples, spoilt):
    features = np.random.default_rng(0).normal(size=(2, samples, 4)).astype(np.float32)
    if spoilt is not None:
        features[0, 3, 2] = spoilt
    svg = draw_maps(BlockFeatures(features, features), np.arange(samples) % 3, NAMES, tmp_path / "maps", depth=2)
    assert written(svg).count("no map") == (2 if spoilt is None else 1)


def test_one_class_has_a_map_and_no_score(tmp_path):
    features, labels = blobs()
    texts = written(draw_maps(features, labels * 0, NAMES, tmp_path / "maps", depth=2))
    assert "no map" not in texts
    assert "2: no score, the cut" in texts


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.arange(35) % 3}, DataError, "35 labels for features"),
        ({"classes": ("rose", "tulip")}, DataError, r"labels reach beyond 0\.\.1"),
        ({"depth": 0}, InvalidSettingError, r"depth 0 is outside 1\.\.3"),
        ({"depth": 4}, InvalidSettingError, r"depth 4 is outside 1\.\.3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, change, error, message):
    features, labels = blobs()
    options = {"labels": labels, "classes": NAMES, "depth": 2, **change}
    with pytest.raises(error, match=message):
        draw_maps(features, options["labels"], options["classes"], tmp_path / "maps", depth=options["depth"])
