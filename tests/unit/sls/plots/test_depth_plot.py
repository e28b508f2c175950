from __future__ import annotations

import html
import re

import numpy as np
import pytest
from PIL import Image

from sls.plots.depth_plot import draw_depths
from sls.plots.style import shorten
from store.records.evidence import Accuracy, Certificate, PruneIndex

CUT = PruneIndex(
    depth=3, blocks=4, criterion="sls", alpha=0.3, threshold=0.15, scores=(None, 0.1, 0.4, 0.5), samples=40
)
UNCUT = PruneIndex(depth=4, blocks=4, criterion="sls", alpha=0.3, scores=(None,) * 4, reason="one class")
CERTIFICATE = Certificate(full=Accuracy(9, 10), cut=Accuracy(8, 10), cut_before_retune=Accuracy(5, 10))
ACCURACIES = tuple(Accuracy(n, 10) for n in (2, 4, 5, 9))


def written(svg: str) -> list[str]:
    """Every text in the picture: matplotlib leaves it as a comment beside the glyphs."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg)]


def deep(blocks: int, **options: object) -> PruneIndex:
    scores = tuple(np.linspace(-0.4, 0.8, blocks).tolist())
    return PruneIndex(blocks // 2, blocks, "sls", 0.3, 0.24, scores, **options)


@pytest.mark.parametrize("count", [1, 7])
def test_every_task_has_its_panel_in_svg_and_png(tmp_path, count):
    tasks = {f"task{n}": UNCUT if n % 2 else CUT for n in range(count)}
    svg = draw_depths(tasks, tmp_path / "new" / "depths", certificates=dict.fromkeys(tasks, CERTIFICATE))
    text = svg.read_text()
    assert all(f"<!-- {name}: " in text for name in tasks)
    assert Image.open(svg.with_suffix(".png")).width > 700


def test_the_same_picture_is_the_same_bytes(tmp_path):
    one, other = (
        draw_depths({"digits": CUT}, tmp_path / place / "depths", accuracies={"digits": ACCURACIES}).read_bytes()
        for place in ("a", "b")
    )
    assert one == other
    assert b"<dc:date>" not in one


def test_a_depth_without_scores_or_accuracies_is_drawn(tmp_path):
    assert draw_depths({"digits": PruneIndex(depth=4, blocks=4, criterion="none")}, tmp_path / "depths").is_file()


def test_a_task_that_could_not_be_scored_says_so_in_its_panel(tmp_path):
    assert "not scored" in written(draw_depths({"digits": UNCUT}, tmp_path / "depths").read_text())


@pytest.mark.parametrize(("candidates", "marked"), [((), 0), ((6,), 0), ((5, 6, 7), 2)])
def test_the_other_depths_of_an_undecided_index_are_marked_and_its_title_says_so(tmp_path, candidates, marked):
    texts = written(draw_depths({"digits": deep(12, candidates=candidates)}, tmp_path / "depths").read_text())
    assert ("other candidate for the cut" in texts) == bool(marked)
    assert (f"digits: 6 of 12{', undecided' if candidates else ''}") in texts


def test_the_curve_of_the_certificate_is_a_line_of_its_own_beside_the_test_accuracies(tmp_path):
    curve = tuple(Accuracy(n, 10) for n in (1, 3, 6, 8))
    certificate = Certificate(full=Accuracy(9, 10), cut=Accuracy(8, 10), curve=curve)
    svg = draw_depths(
        {"digits": CUT},
        tmp_path / "depths",
        certificates={"digits": certificate},
        accuracies={"digits": ACCURACIES},
    )
    texts = written(svg.read_text())
    assert {"validation accuracy, ridge head there", "accuracy, cut there", "accuracy, all blocks"} <= set(texts)
    without = draw_depths({"digits": CUT}, tmp_path / "without", certificates={"digits": CERTIFICATE})
    assert "validation accuracy, ridge head there" not in written(without.read_text())


def test_accuracy_at_full_depth_is_not_drawn_where_it_is_not_known(tmp_path):
    certificate = Certificate(full=None, cut=Accuracy(8, 10))
    texts = written(draw_depths({"digits": CUT}, tmp_path / "depths", certificates={"digits": certificate}).read_text())
    assert "accuracy, all blocks" not in texts
    assert "accuracy, tuned again at the cut" in texts


@pytest.mark.parametrize(("blocks", "ticks"), [(12, 12), (32, 8), (31, 10)])
def test_however_many_blocks_there_are_at_most_twelve_depths_are_written_below(tmp_path, blocks, ticks):
    texts = written(draw_depths({"digits": deep(blocks)}, tmp_path / "depths").read_text())
    depths = [text for text in texts if text.isdigit()]
    assert len(depths) == ticks
    assert blocks % 2 or depths[-1] == str(blocks)


def lowest_tick(svg: str) -> float:
    return min(float(text.replace("\N{MINUS SIGN}", "-")) for text in written(svg) if re.fullmatch(r"\W?\d\.\d+", text))


def test_panels_that_share_an_axis_show_the_lowest_score_of_any(tmp_path):
    tasks = {"low": deep(12), "high": CUT, "none": UNCUT}
    assert lowest_tick(draw_depths(tasks, tmp_path / "depths").read_text()) < -0.3


@pytest.mark.parametrize("name", ["$x_1$", "_hidden", "a & <b>", "été"])
def test_a_name_is_written_as_it_is(tmp_path, name):
    texts = written(draw_depths({name: CUT}, tmp_path / "depths").read_text())
    assert any(text.startswith(name) for text in texts)


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert shorten("a rather long class name\n17") == "a rather lon…ass name 17"
    assert shorten("short\tname") == "short name"
