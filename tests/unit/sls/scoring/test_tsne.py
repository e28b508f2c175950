from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from sls.scoring.tsne import authors_silhouette, principal_axes, tsne_points, tsne_silhouette


def clusters(samples: int = 80, classes: int = 4, apart: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, 16)) * apart
    return (centres[labels] + random.normal(size=(samples, 16))).astype(np.float32), labels


def paper_silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """The formula, a row and a class at a time."""
    total = 0.0
    for k, point in enumerate(points):
        away = np.linalg.norm(points - point, axis=1)
        same_class = labels == labels[k]
        a = away[same_class].sum() / (same_class.sum() - 1)
        b = min(away[labels == other].mean() for other in set(labels) - {labels[k]})
        total += (b - a) / max(a, b)
    return total / len(points)


def test_the_score_is_the_formula_on_the_coordinates_that_t_sne_gives():
    features, labels = clusters()
    assert tsne_silhouette(features, labels) == pytest.approx(paper_silhouette(tsne_points(features), labels), abs=1e-5)


def test_the_coordinates_are_the_same_with_another_number_of_threads():
    features, _ = clusters()
    points = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            points.append(tsne_points(features))
    assert np.array_equal(*points)


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


def test_equal_samples_have_no_coordinates_and_no_score():
    features, labels = np.full((40, 8), 0.1, np.float32), np.arange(40) % 2
    assert tsne_points(features) is None
    assert np.isnan(tsne_silhouette(features, labels))
    assert np.isnan(authors_silhouette(features, labels))
