"""What a certificate says beside accuracy, as text: classes, calibration, and the cost of the stored dtype."""

from __future__ import annotations

from collections.abc import Sequence

from onetrunk.rendering.accuracy import with_interval
from onetrunk.rendering.tables import Record
from store.records.evidence import Certificate
from store.records.measures import ClassCounts

SHOWN = 3


def describe_measures(certificate: Certificate, classes: Sequence[str]) -> Record:
    """Return one line for each measure; a measure that was not taken has none."""
    fields: dict[str, object] = {}
    counts, calibration, rounding = certificate.class_counts, certificate.calibration, certificate.rounding
    if counts is not None:
        fields["macro F1"] = f"{counts.macro_f1:.1%}"
        fields["weakest classes"] = ", ".join(_weakest(counts, classes))
        if counts.confusion:
            fields["most confused"] = ", ".join(_most_confused(counts, classes)) or "none"
    if calibration is not None:
        fields["calibration error"] = (
            f"{calibration.ece:.1%}; at temperature {calibration.temperature:g}, which is not served, "
            f"{calibration.ece_scaled:.1%}"
        )
    if rounding is not None:
        lost = 100 * (rounding.before.value - certificate.cut.value)
        fields[f"points lost by {rounding.dtype}"] = f"{lost:.2f}, from {with_interval(rounding.before)}"
    return fields


def _weakest(counts: ClassCounts, classes: Sequence[str]) -> list[str]:
    f1 = counts.f1
    return [f"{classes[place]} (F1 {f1[place]:.1%})" for place in counts.weakest[:SHOWN]]


def _most_confused(counts: ClassCounts, classes: Sequence[str]) -> list[str]:
    return [
        f"{classes[pair.true]} as {classes[pair.answered]} ({pair.images})" for pair in counts.most_confused[:SHOWN]
    ]
