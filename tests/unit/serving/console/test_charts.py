from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.console.charts import Chart, accuracy_chart, axis_low, estimates, score_chart
from store.records.evidence import Accuracy, Certificate, PruneIndex

accuracies = st.integers(1, 5000).flatmap(lambda total: st.builds(Accuracy, st.integers(0, total), st.just(total)))
scores = st.floats(-1e6, 1e6) | st.none()


def check_inside(chart: Chart) -> None:
    for mark in chart.marks:
        assert chart.left <= mark.x <= chart.right
        for y in (mark.y, mark.low, mark.high):
            assert y is None or chart.top - 1e-6 <= y <= chart.bottom + 1e-6
    assert 1 <= len(chart.y_ticks) <= 14
    assert all(chart.top - 1e-6 <= tick.at <= chart.bottom + 1e-6 for tick in chart.y_ticks)


@given(st.lists(accuracies, min_size=1, max_size=48), st.data())
def test_a_curve_of_any_accuracies_lies_inside_its_picture_and_rises_with_them(curve, data):
    depth = data.draw(st.integers(1, len(curve)))
    chart = accuracy_chart(curve, depth)
    check_inside(chart)
    assert [mark.depth for mark in chart.marks if mark.is_cut] == [depth]
    for one, other in zip(chart.marks, chart.marks[1:], strict=False):
        assert one.x < other.x
        if curve[one.depth - 1].value < curve[other.depth - 1].value:
            assert one.y > other.y


@given(st.lists(scores, min_size=1, max_size=48), st.none() | st.floats(-1e6, 1e6))
def test_scores_of_any_blocks_lie_inside_their_picture(values, threshold):
    index = PruneIndex(1, len(values), "silhouette", threshold=threshold, scores=tuple(values))
    chart = score_chart(index)
    if chart is None:
        assert all(value is None for value in values)
        return
    check_inside(chart)
    assert [mark.depth for mark in chart.marks] == [n for n, value in enumerate(values, 1) if value is not None]


@given(accuracies | st.none(), accuracies, accuracies | st.none())
def test_estimates_and_their_intervals_lie_on_the_axis(full, cut, before):
    certificate = Certificate(full, cut, before)
    assert 0 <= axis_low(certificate) <= 90
    for each in estimates(certificate):
        assert -1e-9 <= each.low <= each.x + 1e-9
        assert each.x <= each.high + 1e-9 <= 100 + 1e-6
