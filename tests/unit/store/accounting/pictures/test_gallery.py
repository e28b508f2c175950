from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toy_backbone import BLOCKS, publish, relabel, tune

from store.accounting.pictures.backbone_map import backbone_map
from store.accounting.pictures.drawing import Picture
from store.accounting.pictures.gallery import pictures
from store.accounting.pictures.scales import linear_ticks, log_ticks, size, spread
from store.accounting.pictures.style import css
from store.accounting.report import StorageReport, storage_report
from store.registry.store import Store

BY_SIZE = [*range(10, 25), *range(10)]  # a label of two digits takes a byte more


@pytest.fixture
def report(store: Store, folder: Path, tmp_path: Path) -> StorageReport:
    for number in range(25):
        publish(store, relabel(folder, "<a>", '"b"', f"c{number}"), f"acme/task-{number:02}")
    publish(store, tune(tmp_path / "birds", depth=BLOCKS), "birds", depth=None)
    return storage_report(store)


def parse(picture: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(picture.file())


def texts(picture: Picture) -> list[str]:
    return ["".join(element.itertext()) for element in parse(picture).iter() if element.tag.endswith("}text")]


def test_every_picture_is_an_svg_with_a_name_a_description_and_its_data(report: StorageReport) -> None:
    found = pictures(report)
    assert [picture.name for picture in found] == ["task-bytes", "scaling", "backbone", "growth"]
    for picture in found:
        root = parse(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-labelledby") == f"{picture.name}-title {picture.name}-text"
        assert picture.title in "".join(root.itertext())
        assert picture.rows


def test_a_picture_in_a_page_needs_no_style_attribute_no_script_and_no_address(report: StorageReport) -> None:
    for picture in pictures(report):
        assert not re.search(r"style=|<style|<script|href=|https?:|url\(", picture.svg)
        used = {name for names in re.findall(r'class="([^"]*)"', picture.svg) for name in names.split()}
        assert all(f".{name}" in css() for name in used - {"pic"})


def test_bars_are_as_wide_as_the_bytes_that_the_data_has(report: StorageReport) -> None:
    (bars, *_) = pictures(report)
    assert [row["task"] for row in bars.rows] == ["birds", *(f"acme/task-{n:02}" for n in BY_SIZE)]
    drawn = [e for e in parse(bars).iter() if e.tag.endswith("}rect") and len(e)]
    told = [re.fullmatch(r"birds: .* ([\d,]+) B", e[0].text or "") for e in drawn]
    nbytes = [int(match[1].replace(",", "")) for match in told if match]
    assert sum(nbytes) == bars.rows[0]["nbytes"]
    widths = [float(e.get("width", 0)) for e, match in zip(drawn, told, strict=True) if match]
    assert widths[0] / widths[2] == pytest.approx(nbytes[0] / nbytes[2], rel=0.01)
    assert any("6 smaller ones, mean" in text for text in texts(bars))


def test_the_curves_pass_through_what_the_report_says_of_the_present_tasks(report: StorageReport) -> None:
    scaling = pictures(report)[1]
    at_one, *_, at_most = scaling.rows
    assert (at_one["tasks"], at_most["tasks"]) == (1, 1000)
    compared = report.comparison
    ours = compared.fixed_nbytes + 1000 * (compared.nbytes - compared.fixed_nbytes) / compared.tasks
    assert at_most["this_store_nbytes"] == round(ours)
    full = compared.form("full_copies_fp32")
    assert at_most["full_copies_fp32_nbytes"] == round(1000 * full.nbytes / compared.tasks)


def test_every_task_leaves_the_backbone_at_its_depth(report: StorageReport) -> None:
    rows = {row["block"]: row for row in pictures(report)[2].rows}
    assert (rows[1]["running"], rows[2]["leaving"], rows[3]["running"], rows[4]["tasks"]) == (26, 25, 1, ["birds"])


def test_a_map_links_its_tasks_and_is_coloured_by_load(report: StorageReport) -> None:
    (backbone,) = report.backbones
    picture = backbone_map(backbone, report.tasks, load={1: 0.9, 2: 0.1}, link=lambda task: f"/tasks/{task}?a=1&b=2")
    assert 'href="/tasks/birds?a=1&amp;b=2"' in picture.svg
    assert "block 1: busy 90% of the time" in picture.svg
    parse(picture)


def test_an_empty_store_has_pictures_that_say_so(store: Store) -> None:
    bars, scaling, growth = pictures(storage_report(store))
    assert "no task is published yet" in bars.svg
    assert "no task to compare yet" in scaling.svg
    assert growth.rows
    for picture in (bars, scaling, growth):
        parse(picture)


@given(st.floats(1, 1e18))
def test_ticks_are_round_few_and_reach_the_largest_value(most: float) -> None:
    ticks = linear_ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] >= most * 0.998
    assert 2 <= len(ticks) <= 8


@given(st.floats(1, 1e18), st.floats(1, 1e6))
def test_ticks_of_a_log_axis_are_powers_of_ten_around_the_values(least: float, factor: float) -> None:
    ticks = log_ticks(least, least * factor)
    assert ticks[0] <= least * 1.001
    assert ticks[-1] * 1.001 >= least * factor
    assert all(math.log10(tick) == round(math.log10(tick)) for tick in ticks)


@given(st.lists(st.floats(0, 500), max_size=12))
def test_labels_are_moved_apart_and_keep_their_order(places: list[float]) -> None:
    moved = spread(places, least=16, low=0, high=500)
    ordered = sorted(zip(places, moved, strict=True))
    assert all(b - a >= 15.999 for (_, a), (_, b) in itertools.pairwise(ordered))
    assert all(-0.001 <= y <= 500.001 for y in moved)


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (343_200_000, "343 MB")],
)
def test_bytes_are_shown_in_units_that_people_read(nbytes: int, shown: str) -> None:
    assert size(nbytes) == shown
