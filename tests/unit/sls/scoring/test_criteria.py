from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import NearestCentroid

from sls.scoring.criteria import CRITERIA, obstacle
from sls.scoring.ridge import ridge_head
from sls.scoring.tsne import authors_silhouette, tsne_silhouette
from store.errors import DataError

EXACT = ("ncm", "ridge", "knn", "silhouette", "cka")


def drawn(seed: int, *, samples: int = 40, width: int = 6, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters of unequal sizes; the last class is seen once."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.4, samples) - 1, classes - 2)
    labels[:classes] = np.arange(classes)
    labels[labels == classes - 1] = 0
    labels[0] = classes - 1
    centres = random.normal(size=(classes, width))
    return (centres[labels] + random.normal(size=(samples, width))).astype(np.float32), labels


# ------------------------------------------------------------------------------------------------- the slow twins


def class_mean_twin(features: np.ndarray, labels: np.ndarray) -> float:
    """Take the means again without each row in turn."""
    return cross_val_score(NearestCentroid(), features.astype(np.float64), labels, cv=LeaveOneOut()).mean()


def ridge_twin(features: np.ndarray, labels: np.ndarray) -> float:
    """Fit again without each row in turn, at the penalty that was chosen."""
    names, y = np.unique(labels, return_inverse=True)
    penalty, targets, right = ridge_head(features, y, len(names)).penalty, np.eye(len(names))[y], 0
    for train, (row,) in LeaveOneOut().split(features):
        model = Ridge(penalty, solver="svd").fit(features[train].astype(np.float64), targets[train])
        right += model.predict(features[[row]].astype(np.float64)).argmax() == y[row]
    return right / len(y)


def neighbours_twin(features: np.ndarray, labels: np.ndarray) -> float:
    """Let 20 others vote, one at a time, as DINO's evaluation does."""
    unit = [row / np.linalg.norm(row) for row in features.astype(np.float64)]
    right = 0
    for k, row in enumerate(unit):
        others = sorted(((float(row @ other), i) for i, other in enumerate(unit) if i != k), reverse=True)
        votes = dict.fromkeys(labels.tolist(), 0.0)
        for cosine, i in others[:20]:
            votes[int(labels[i])] += np.exp(cosine / 0.07)
        right += max(votes, key=votes.__getitem__) == labels[k]
    return right / len(labels)


def silhouette_twin(features: np.ndarray, labels: np.ndarray) -> float:
    values = []
    for k, row in enumerate(features.astype(np.float64)):
        away = np.sqrt(((features.astype(np.float64) - row) ** 2).sum(axis=1))
        same_class = labels == labels[k]
        if same_class.sum() == 1:
            values.append(0.0)
            continue
        a = away[same_class].sum() / (same_class.sum() - 1)
        b = min(away[labels == other].mean() for other in set(labels.tolist()) - {int(labels[k])})
        values.append((b - a) / max(a, b))
    return float(np.mean(values))


def cka_twin(features: np.ndarray, labels: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) on the n x n kernels (Kornblith et al. 2019, eq. 2 and 3)."""
    n = len(labels)
    centre = np.eye(n) - 1 / n
    K, L = features.astype(np.float64) @ features.T.astype(np.float64), labels[:, None] == labels

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ centre @ b @ centre))

    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


TWINS = {
    "ncm": class_mean_twin,
    "ridge": ridge_twin,
    "knn": neighbours_twin,
    "silhouette": silhouette_twin,
    "cka": cka_twin,
}


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), samples=st.integers(8, 60), width=st.integers(2, 60), classes=st.integers(3, 7))
def test_a_closed_form_is_its_slow_twin(name, seed, samples, width, classes):
    features, labels = drawn(seed, samples=samples, width=width, classes=classes)
    assert CRITERIA[name].score(features, labels) == pytest.approx(TWINS[name](features, labels), abs=1e-5)


@pytest.mark.parametrize(("name", "formula"), [("sls", tsne_silhouette), ("sls-authors", authors_silhouette)])
def test_a_t_sne_score_is_its_formula_on_the_rows_in_the_order_of_their_bytes(name, formula):
    features, labels = drawn(1)
    order = sorted(range(len(labels)), key=lambda i: features[i].tobytes())
    assert CRITERIA[name].score(features, labels) == formula(features[order], labels[order])


# ------------------------------------------------------------------------------------------------ what changes nothing


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_rows_changes_no_bit_even_where_rows_repeat(name, seed):
    features, labels = drawn(seed)
    features[5:9] = features[4]
    order = np.random.default_rng(seed).permutation(len(labels))
    assert CRITERIA[name].score(features[order], labels[order]) == CRITERIA[name].score(features, labels)


@pytest.mark.parametrize("name", EXACT)
def test_the_numbers_that_stand_for_the_classes_do_not_matter(name):
    features, labels = drawn(3)
    renamed = np.array([40, 2, 31, 7])[labels]
    assert CRITERIA[name].score(features, renamed) == pytest.approx(CRITERIA[name].score(features, labels), abs=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_the_scale_of_the_features_does_not_matter(name):
    features, labels = drawn(4)
    assert CRITERIA[name].score(features * 1024, labels) == pytest.approx(CRITERIA[name].score(features, labels))


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_a_score_leaves_its_arguments_as_they_are(name):
    features, labels = drawn(5)
    kept = features.copy(), labels.copy()
    CRITERIA[name].score(features, labels)
    assert np.array_equal(features, kept[0])
    assert np.array_equal(labels, kept[1])


# ------------------------------------------------------------------------------------------------------ the extremes


@pytest.mark.parametrize("name", EXACT)
def test_separate_classes_score_higher_than_mixed_ones(name):
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    noise = random.normal(size=(90, 8)).astype(np.float32)
    apart = noise + 20 * np.eye(3, 8, dtype=np.float32)[labels]
    assert CRITERIA[name].score(apart, labels) > 0.8
    assert CRITERIA[name].score(noise, labels) < 0.5


@pytest.mark.parametrize("name", ["ncm", "ridge", "knn"])
def test_the_only_row_of_a_class_is_never_right(name):
    labels = np.array([0] * 6 + [1])
    features = (np.eye(2, 4)[labels] * 50 + np.random.default_rng(0).normal(size=(7, 4))).astype(np.float32)
    assert CRITERIA[name].score(features, labels) == pytest.approx(6 / 7)


def test_classes_of_two_rows_lose_their_mean_to_the_other_row():
    features = np.array([[0, 0], [4, 0], [3, 1], [3, 2]], np.float32)
    assert CRITERIA["ncm"].score(features, np.array([0, 0, 1, 1])) == 0.5


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_rows_of_wrong_number_width_or_shape_are_refused_in_one_line(name):
    features, labels = drawn(0)
    for wrong in (
        (features, labels[:-1]),
        (features[:, :1], labels),
        (features, labels[:, None]),
        (features[0], labels),
    ):
        with pytest.raises(DataError, match=r"^[^\n]+: [^\n]+$"):
            CRITERIA[name].score(*wrong)
    with pytest.raises(DataError, match="at least one row"):
        CRITERIA[name].score(features[:0], labels[:0])


def spoilt(value: float) -> np.ndarray:
    features = drawn(0)[0]
    features[7, 2] = value
    return features


UNDEFINED = {
    "equal samples": (np.full((40, 6), 0.1, np.float32), drawn(0)[1]),
    "one class": (drawn(0)[0], np.zeros(40, np.int64)),
    "every class seen once": (drawn(0)[0], np.arange(40)),
    "a feature that is NaN": (spoilt(np.nan), drawn(0)[1]),
    "an infinite feature": (spoilt(np.inf), drawn(0)[1]),
    "one sample": (drawn(0)[0][:1], np.zeros(1, np.int64)),
}


@pytest.mark.parametrize("name", sorted(CRITERIA))
@pytest.mark.parametrize("case", UNDEFINED)
def test_what_has_no_score_gives_nan(name, case):
    assert np.isnan(CRITERIA[name].score(*UNDEFINED[case]))


@pytest.mark.parametrize("name", ["sls", "sls-authors"])
def test_t_sne_scores_need_more_samples_than_its_perplexity(name):
    features, labels = drawn(0)
    assert np.isnan(CRITERIA[name].score(features[:30], labels[:30]))
    assert np.isfinite(CRITERIA[name].score(features[:31], labels[:31]))


@pytest.mark.parametrize(
    ("samples", "classes", "value", "reason"),
    [(40, 1, 0, "1 class"), (30, 2, 0, "more than 30"), (40, 40, 0, "more than 40"), (40, 2, np.nan, "finite")],
)
def test_the_reason_is_said_in_words(samples, classes, value, reason):
    features, labels = np.zeros((3, samples, 8)), np.arange(samples) % classes
    features[1, 0, 0] = value
    assert reason in obstacle(features, labels, least=31)


def test_enough_samples_of_two_classes_can_be_scored():
    assert obstacle(np.zeros((31, 8)), np.arange(31) % 2, least=31) is None


def test_the_table_says_of_each_criterion_what_it_is():
    assert list(CRITERIA) == [criterion.name for criterion in CRITERIA.values()]
    assert set(CRITERIA) == {"sls", "sls-authors", *EXACT}
    assert {name for name, criterion in CRITERIA.items() if criterion.noise} == {"sls", "sls-authors"}
    rules = {name: (criterion.rule, criterion.view) for name, criterion in CRITERIA.items()}
    assert {name for name, pair in rules.items() if pair == ("tolerance", "served")} == {"ncm", "ridge", "knn"}
    assert {name for name, pair in rules.items() if pair == ("share", "scored")} == set(CRITERIA) - {
        "ncm",
        "ridge",
        "knn",
    }
    shares = {name: criterion.alpha for name, criterion in CRITERIA.items() if criterion.rule == "share"}
    assert shares == {"sls": 0.3, "sls-authors": 0.3, "silhouette": 0.3, "cka": 0.7}


def test_the_raw_silhouette_is_scikit_learns():
    features, labels = drawn(8)
    assert CRITERIA["silhouette"].score(features, labels) == pytest.approx(silhouette_score(features, labels), abs=1e-6)
