from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from sls.score import CRITERIA, authors_silhouette, obstacle, principal_axes, tsne_silhouette


def clusters(samples: int = 120, classes: int = 4, apart: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, 16)) * apart
    return (centres[labels] + random.normal(size=(samples, 16))).astype(np.float32), labels


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_the_number_of_threads_does_not_change_the_score(criterion):
    features, labels = clusters(150)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(CRITERIA[criterion](features, labels))
    assert found[0] == found[1]


def test_another_process_gives_the_same_score():
    code = "from test_sls_score import *; print(tsne_silhouette(*clusters()).hex())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float.fromhex(found.stdout) == tsne_silhouette(*clusters())


def test_separate_classes_score_high_and_mixed_ones_do_not():
    assert tsne_silhouette(*clusters(apart=3)) > 0.6
    assert tsne_silhouette(*clusters(apart=0)) < 0.1


def test_the_start_is_the_leading_principal_components_whatever_the_solver_does():
    features, _ = clusters()
    expected = PCA(2, svd_solver="full").fit_transform(features.astype(np.float64))
    start = principal_axes(features)
    assert np.allclose(np.abs(start), np.abs(expected / expected[:, 0].std() * 1e-4), atol=1e-9)


def test_mirrored_features_give_a_mirrored_start():
    features, _ = clusters()
    assert np.allclose(np.abs(principal_axes(-features)), np.abs(principal_axes(features)), atol=1e-9)


def test_the_authors_criterion_is_their_code():
    features, labels = clusters()
    with threadpool_limits(1):
        points = TSNE(n_components=2, init="pca", random_state=0).fit_transform(features)
    low, high = points.min(0), points.max(0)
    assert authors_silhouette(features, labels) == pytest.approx(
        silhouette_score((points - low) / (high - low), labels)
    )


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_equal_samples_have_no_score(criterion):
    assert np.isnan(CRITERIA[criterion](np.ones((40, 8), np.float32), np.arange(40) % 2))


@pytest.mark.parametrize(
    ("samples", "classes", "spoilt", "reason"),
    [(40, 1, False, "1 class"), (30, 2, False, "30 samples"), (40, 40, False, "40 samples"), (40, 2, True, "finite")],
)
def test_samples_that_cannot_be_scored_are_told_apart(samples, classes, spoilt, reason):
    features, labels = np.zeros((samples, 8)), np.arange(samples) % classes
    features[0, 0] = np.nan if spoilt else 0
    assert reason in obstacle(features, labels)


def test_enough_samples_of_two_classes_can_be_scored():
    assert obstacle(np.zeros((31, 8)), np.arange(31) % 2) is None
