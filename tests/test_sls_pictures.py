from __future__ import annotations

import pytest
from PIL import Image

from sls.pictures import draw_depths
from store.evidence import Accuracy, Certificate, PruneIndex

CUT = PruneIndex(
    depth=3, blocks=4, criterion="tsne-silhouette", alpha=0.3, threshold=0.15, scores=(None, 0.1, 0.4, 0.5), samples=40
)
UNCUT = PruneIndex(depth=4, blocks=4, criterion="tsne-silhouette", alpha=0.3, scores=(None,) * 4, reason="one class")
CERTIFICATE = Certificate(full=Accuracy(9, 10), cut=Accuracy(8, 10), cut_before_retune=Accuracy(5, 10))
ACCURACIES = tuple(Accuracy(n, 10) for n in (2, 4, 5, 9))


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


def test_a_depth_without_scores_or_accuracies_is_drawn(tmp_path):
    assert draw_depths({"digits": PruneIndex(depth=4, blocks=4, criterion="none")}, tmp_path / "depths").is_file()
