"""What a comparison concludes: do the servers agree, and which goals are met."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

from benchmarks.serving.rivals.subjects import BATCHED, MULTIPLEXED, OURS, Running, Subject
from benchmarks.serving.rivals.workload import Workload
from benchmarks.support.figures import Goal

GOALS = {"native": {"mean": 20.0, "full": 15.0, "vit": 5.0}, "torch": {"mean": 8.0, "full": 5.0, "vit": 2.0}}
"""How many times the best Ray rival's images a second, with the engine's own kernel and without."""


class Case(Protocol):
    """What the goals are judged by: `peers.Measured`."""

    images_per_s: dict[str, list[float]]
    p50_ms: dict[str, list[float]]
    task_nbytes: dict[str, float]


def agreement(subjects: Mapping[Subject, Running], workload: Workload) -> dict[str, float]:
    """Return the share of tasks for which a server gives the label that ours gives; rounding explains a few."""
    labels = {subject.name: _labels(subject, running, workload) for subject, running in subjects.items()}
    return {
        name: statistics.fmean(one == other for one, other in zip(values, labels[OURS.name], strict=True))
        for name, values in labels.items()
    }


def _labels(subject: Subject, running: Running, workload: Workload) -> list[int]:
    labels = []
    for task, image in workload.images.items():
        head, _, body = subject.ask(task, image).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, target, _ = first.split()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=120)
        connection.request(method, target, body, dict(line.split(": ", 1) for line in lines))
        response = connection.getresponse()
        said = response.read()
        assert response.status == 200, f"{subject.name} answers {response.status}: {said[:200]!r}"
        labels.append(subject.answer(json.loads(said)))
        connection.close()
    return labels


def goals_of(measured: Mapping[str, Case], *, kernel: str) -> list[Goal]:
    goals: list[Goal] = []
    for name, case in measured.items():
        is_packaged, is_full = name.startswith("packaged"), name.endswith("full depth")
        best = _best_ray(case)
        if best:
            bound = GOALS[kernel]["full" if is_full else "mean" if is_packaged else "vit"]
            goals.append(
                Goal(f"{name}: ours / best Ray rival", _median_ratio(case.images_per_s[OURS.name], best), bound)
            )
        bare = case.images_per_s["bare engine"]
        over_http = _median_ratio(case.images_per_s[OURS.name], bare)
        goals.append(Goal(f"{name}: over HTTP / bare engine", over_http, 0.5 if is_packaged else 0.95))
        if is_packaged:
            together = _median_ratio(case.images_per_s["16 images a request"], bare)
            goals.append(Goal(f"{name}: 16 images a request / bare engine", together, 0.8))
            above = [
                one - alone
                for one, alone in zip(case.p50_ms["one client"], case.p50_ms["bare engine, one image"], strict=True)
            ]
            goals.append(
                Goal(f"{name}: p50 of one client above the bare engine's, ms", statistics.median(above), 3.0, most=True)
            )
        elif MULTIPLEXED.name in case.task_nbytes:
            share = case.task_nbytes[OURS.name] / case.task_nbytes[MULTIPLEXED.name]
            goals.append(Goal(f"{name}: memory of a task / that of a copied backbone", share, 1 / 50, most=True))
    return goals


def _best_ray(case: Case) -> list[float]:
    rates = [case.images_per_s[subject.name] for subject in (MULTIPLEXED, BATCHED) if subject.name in case.images_per_s]
    return [max(values) for values in zip(*rates, strict=True)]


def _median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, base, strict=True))
