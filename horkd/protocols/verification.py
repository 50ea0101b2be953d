"""Are two images of one subject? What scores of pairs are worth, by the protocols of the field.

A pair has a score (higher: more alike), `same` says whether it is one subject, and it is accepted
when its score is *above* the threshold: a score that equals the threshold is rejected, in every
function here.

| number | of what | source |
|---|---|---|
| `k_fold` | accuracy with the threshold of the other folds | LFW, view 2: Huang et al. 2007 |
| `roc`, `auc` | accepted same over accepted different pairs | `sklearn.metrics` |
| `eer` | the point of the ROC with equal error rates | Phillips et al. 2011, below |
| `tar_at_far` | accepted same pairs at few accepted different ones | the same |
| `compare` | two models on the same pairs | McNemar 1947 |

Phillips, Grother, Micheals: Evaluation Methods in Face Recognition, in Handbook of Face
Recognition, 2nd edition, 2011.

Tensors, arrays or lists go in, Python numbers and arrays come out; all is computed in float64.
Accuracies are in percent; TAR, FAR, AUC and EER lie in 0 to 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from horkd.checks import _array, _flags, unit_rows, whole_numbers
from horkd.errors import HorkdError


def cosine(left: ArrayLike | Tensor, right: ArrayLike | Tensor) -> np.ndarray:
    """Cosine similarity of each pair of rows.

    Args:
        left: embeddings (P, D) of the pairs' first images.
        right: (P, D), of the second ones.

    Returns:
        float64 (P,) in −1 to 1; 0 where one of the two is a zero vector.

    Raises:
        HorkdError: if the shapes differ, there is no pair, or an embedding is not finite.
    """
    a, b = unit_rows(left, "left embeddings"), unit_rows(right, "right embeddings")
    if a.shape != b.shape:
        raise HorkdError(f"the two sides of pairs must be alike, got {a.shape} and {b.shape}")
    return np.clip((a * b).sum(1), -1, 1)


def best_threshold(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> float:
    """The threshold of highest accuracy, exactly: no grid.

    Candidates are the midpoints of neighbouring distinct scores, one below all scores and one above
    all. Of several best ones it is the middle one, counted in candidates; of an even number the
    lower of the two in the middle.

    Args:
        scores: (P,).
        same: bool (P,).

    Raises:
        HorkdError: on no pairs, unequal lengths, scores that are not finite, or one kind of pair.
    """
    s, is_same = _pairs(scores, same)
    values, position = np.unique(s, return_inverse=True)
    lower, upper = values[:-1], values[1:]
    middle = lower / 2 + upper / 2
    # between adjacent floats there is no number: the lower one separates them as well
    middle = np.where((lower < middle) & (middle < upper), middle, lower)
    candidates = np.array([_below(values[0]), *middle, -_below(-values[-1])])
    # candidate c rejects the c lowest distinct scores
    gain = np.bincount(position, weights=np.where(is_same, -1, 1), minlength=len(values))
    hits = is_same.sum() + np.array([0, *np.cumsum(gain)])
    best = np.flatnonzero(hits == hits.max())
    return float(candidates[best[(len(best) - 1) // 2]])


def accuracy(scores: ArrayLike | Tensor, same: ArrayLike | Tensor, threshold: float) -> float:
    """Percent of pairs that a threshold puts on the right side.

    Args:
        scores: (P,).
        same: bool (P,).
        threshold: a pair is accepted when its score is above it.

    Raises:
        HorkdError: as `best_threshold`, and on a threshold that is no number.
    """
    s, is_same = _pairs(scores, same)
    if math.isnan(threshold):
        raise HorkdError("the threshold is not a number")
    return 100 * float(np.mean((s > threshold) == is_same))


@dataclass(frozen=True)
class KFold:
    """Accuracies of the tested folds, each with the threshold of all other folds.

    Args:
        folds: ids of the tested folds, ascending.
        accuracies: percent of each tested fold.
        thresholds: the threshold that each tested fold got.
        sizes: pairs in each tested fold.
    """

    folds: tuple[int, ...]
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean of the folds' accuracies in percent: every fold counts the same."""
        return float(np.mean(self.accuracies))

    @property
    def standard_error(self) -> float | None:
        """Sample standard deviation of the folds' accuracies / √folds; None for a single fold.

        As the LFW protocol defines it. The folds share most of what their thresholds come from,
        so it is not that of independent repetitions.
        """
        count = len(self.folds)
        if count < 2:
            return None
        return float(np.std(self.accuracies, ddof=1) / math.sqrt(count))

    @property
    def n(self) -> int:
        """Pairs tested."""
        return sum(self.sizes)


def k_fold(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fold: ArrayLike | Tensor,
    test_folds: Sequence[int] | None = None,
) -> KFold:
    """The LFW protocol: each fold is tested with the best threshold of all other folds.

    Args:
        scores: (P,).
        same: bool (P,).
        fold: int (P,), the fold of each pair, in any numbering.
        test_folds: ids of the folds to test; None for all. A network that was trained on nine folds
            is tested on the tenth only, with the threshold of the nine.

    Returns:
        Accuracy and threshold of each tested fold. A tested fold may hold one kind of pair; the
        others together may not.

    Raises:
        HorkdError: as `best_threshold`; on fewer than two folds, or test folds that do not exist.
    """
    s, is_same, ids = _folded(scores, same, fold)
    folds, thresholds = _thresholds(s, is_same, ids, test_folds)
    accuracies, sizes = [], []
    for tested, threshold in zip(folds, thresholds, strict=True):
        own = ids == tested
        accuracies.append(100 * float(np.mean((s[own] > threshold) == is_same[own])))
        sizes.append(int(own.sum()))
    return KFold(tuple(folds), tuple(accuracies), tuple(thresholds), tuple(sizes))


def correct(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fold: ArrayLike | Tensor,
    test_folds: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs `k_fold` gets right, for `compare`.

    Args:
        scores: (P,).
        same: bool (P,).
        fold: int (P,).
        test_folds: as in `k_fold`.

    Returns:
        bool (T,), right or wrong, and int64 (T,), the tested pairs' indices, ascending.

    Raises:
        HorkdError: as `k_fold`.
    """
    s, is_same, ids = _folded(scores, same, fold)
    folds, thresholds = _thresholds(s, is_same, ids, test_folds)
    index = np.flatnonzero(np.isin(ids, folds))
    threshold = np.array(thresholds)[np.searchsorted(folds, ids[index])]
    return (s[index] > threshold) == is_same[index], index


def roc(
    scores: ArrayLike | Tensor, same: ArrayLike | Tensor, points: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The receiver operating characteristic, from no pair accepted to all accepted.

    Args:
        scores: (P,).
        same: bool (P,).
        points: keep at most so many points, 3 or more: both ends, the highest TAR without any
            accepted different pair, and between it and the end points about evenly spaced in
            log FAR. None keeps every corner.

    Returns:
        FAR, TAR and thresholds, (R,) each; FAR ascending, thresholds descending. Pairs with scores
        above a threshold are accepted; `sklearn.metrics.roc_curve` also accepts an equal score, so
        its thresholds are one float higher.

    Raises:
        HorkdError: as `best_threshold`, and on fewer than 3 points.
    """
    if points is not None and points < 3:
        raise HorkdError(f"a curve needs 3 points or more, got {points}")
    s, is_same = _pairs(scores, same)
    far, tar, thresholds = roc_curve(is_same, s)
    thresholds = np.append(s.max(), np.nextafter(thresholds[1:], -np.inf))
    if points is None or len(far) <= points:
        return far, tar, thresholds
    aims = np.append(0.0, np.geomspace(far[far > 0][0], 1, points - 3, endpoint=False))
    inside = np.searchsorted(far, aims, side="right") - 1  # the last point that is not above
    keep = np.unique([0, *inside, len(far) - 1])
    return far[keep], tar[keep], thresholds[keep]


def auc(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> float:
    """Area under the ROC in 0 to 1: how often a same pair scores above a different one.

    Equal scores count half.

    Args:
        scores: (P,).
        same: bool (P,).

    Raises:
        HorkdError: as `best_threshold`.
    """
    s, is_same = _pairs(scores, same)
    return float(roc_auc_score(is_same, s))


def eer(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> float:
    """Equal error rate in 0 to 1: where FAR = 1 − TAR on the ROC, joined by straight lines.

    Args:
        scores: (P,).
        same: bool (P,).

    Raises:
        HorkdError: as `best_threshold`.
    """
    far, tar, _ = roc(scores, same)
    excess = far - (1 - tar)  # from −1 to 1, never falling
    after = int(np.argmax(excess >= 0))
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return float(far[before] + share * (far[after] - far[before]))


def allowed(far: float, n: int) -> int:
    """How many of `n` a false accept rate lets through: floor(far · n), far read as a decimal.

    Raises:
        HorkdError: if the rate does not lie in 0 to 1.
    """
    if not 0 <= far <= 1:
        raise HorkdError(f"a false accept rate lies in 0 to 1, got {far}")
    return math.floor(Fraction(str(float(far))) * n)  # in floats 0.29 · 100 is below 29


def threshold_at(far: float, others: np.ndarray, own: np.ndarray) -> float:
    """The lowest threshold that at most floor(far · N) of the wrong scores are above.

    It is one of the wrong scores, or below all scores if all may pass.

    Args:
        far: the asked false accept rate.
        others: float64 (N,), the scores that should be rejected.
        own: float64 (M,), the scores that should be accepted.

    Raises:
        HorkdError: if the rate does not lie in 0 to 1.
    """
    accepted = allowed(far, len(others))
    if accepted == len(others):
        return _below(min(others.min(), own.min()))
    place = len(others) - 1 - accepted
    return float(np.partition(others, place)[place])


def tar_at_far(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
) -> list[dict[str, float | int]]:
    """The highest TAR at thresholds whose FAR does not exceed the asked one; never interpolated.

    The threshold is one of the different pairs' scores, with at most floor(far · n_different) of
    them above it. Where that is 0, it is the highest score of a different pair: so few pairs do
    not show such a rate, and the TAR is that of no accepted different pair at all.

    Args:
        scores: (P,).
        same: bool (P,).
        fars: the asked false accept rates, in 0 to 1.

    Returns:
        For each rate `far` (as asked), `tar` in 0 to 1, `threshold`, `accepted_different` (pairs;
        fewer than allowed where scores are equal), `n_same` and `n_different`.

    Raises:
        HorkdError: as `best_threshold`, and on a rate outside of 0 to 1.
    """
    s, is_same = _pairs(scores, same)
    alike, different = s[is_same], s[~is_same]
    rows = []
    for far in fars:
        threshold = threshold_at(far, different, alike)
        rows.append(
            {
                "far": float(far),
                "tar": float(np.mean(alike > threshold)),
                "threshold": threshold,
                "accepted_different": int(np.sum(different > threshold)),
                "n_same": len(alike),
                "n_different": len(different),
            }
        )
    return rows


def summary(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fold: ArrayLike | Tensor,
    test_folds: Sequence[int] | None = None,
    points: int = 60,
) -> dict[str, object]:
    """All that a record keeps of a verification: plain numbers.

    Args:
        scores: (P,).
        same: bool (P,).
        fold: int (P,).
        test_folds: as in `k_fold`; curve and rates are of the tested pairs alone.
        points: of the curve, as in `roc`.

    Returns:
        `accuracy` (mean over folds, %), `standard_error` (None for one fold), `folds`, `accuracies`
        and `thresholds` by fold, `n` pairs, `auc`, `eer`, `tar` (as `tar_at_far`) and `roc` with
        `far` and `tar`.

    Raises:
        HorkdError: as `k_fold`.
    """
    s, is_same, ids = _folded(scores, same, fold)
    found = k_fold(s, is_same, ids, test_folds)
    tested = np.isin(ids, found.folds)
    s, is_same = s[tested], is_same[tested]
    far, tar, _ = roc(s, is_same, points)
    return {
        "accuracy": found.mean,
        "standard_error": found.standard_error,
        "folds": list(found.folds),
        "accuracies": list(found.accuracies),
        "thresholds": list(found.thresholds),
        "n": found.n,
        "auc": auc(s, is_same),
        "eer": eer(s, is_same),
        "tar": tar_at_far(s, is_same),
        "roc": {"far": far.round(6).tolist(), "tar": tar.round(6).tolist()},
    }


@dataclass(frozen=True)
class Comparison:
    """Two models, a and b, on the same pairs.

    Args:
        difference: accuracy of a minus that of b, in points, over all pairs.
        only_a: pairs that only a gets right.
        only_b: pairs that only b gets right.
        n: pairs compared.
        p: two-sided p of the exact McNemar test.
    """

    difference: float
    only_a: int
    only_b: int
    n: int
    p: float


def compare(a_correct: ArrayLike | Tensor, b_correct: ArrayLike | Tensor) -> Comparison:
    """Are two models equally often right? The exact McNemar test on the same pairs.

    Only pairs that one of them gets right count; if both were as good, each would win half of them.
    The test takes pairs as independent. Pairs that share an image are not, and then p is too small.

    Args:
        a_correct: bool (P,), as from `correct`.
        b_correct: bool (P,), of the same pairs in the same order.

    Raises:
        HorkdError: on no pairs, unequal lengths, or anything but bool.
    """
    a, b = _flags(a_correct, "a_correct"), _flags(b_correct, "b_correct")
    if len(a) != len(b):
        raise HorkdError(f"{len(a)} and {len(b)} pairs: compare models on the same ones")
    if not len(a):
        raise HorkdError("there are no pairs to compare")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return Comparison(100 * (only_a - only_b) / len(a), only_a, only_b, len(a), p)


def _below(score: float) -> float:
    """One below a score, or the next float below where one makes no difference."""
    return float(min(score - 1, np.nextafter(score, -np.inf)))


def _pairs(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> tuple[np.ndarray, np.ndarray]:
    s, is_same = _array(scores, "scores"), _flags(same, "same")
    if s.ndim != 1:
        raise HorkdError(f"scores must be one per pair, (P,), got shape {s.shape}")
    if len(s) != len(is_same):
        raise HorkdError(f"{len(s)} scores but `same` of {len(is_same)} pairs")
    if not len(s):
        raise HorkdError("there are no pairs")
    if not np.isfinite(s).all():
        bad = int((~np.isfinite(s)).sum())
        raise HorkdError(f"{bad} of {len(s)} scores are not finite: check the embeddings")
    if is_same.all() or not is_same.any():
        kind = "same" if is_same[0] else "different"
        raise HorkdError(f"all {len(s)} pairs are {kind}: a threshold needs both kinds")
    return s, is_same


def _folded(
    scores: ArrayLike | Tensor, same: ArrayLike | Tensor, fold: ArrayLike | Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s, is_same = _pairs(scores, same)
    ids = whole_numbers(fold, "folds", len(s))
    if len(np.unique(ids)) < 2:
        raise HorkdError("all pairs are in one fold: the threshold has to come from another one")
    return s, is_same, ids


def _thresholds(
    s: np.ndarray, is_same: np.ndarray, ids: np.ndarray, test_folds: Sequence[int] | None
) -> tuple[list[int], list[float]]:
    """The folds to test, ascending, and the best threshold of all others for each."""
    there = np.unique(ids).tolist()
    folds = there if test_folds is None else sorted(int(f) for f in test_folds)
    unknown = [str(f) for f in folds if f not in there]
    if unknown or not folds or len(set(folds)) < len(folds):
        what = f"there is no fold {', '.join(unknown)}" if unknown else f"test folds {folds}"
        raise HorkdError(f"{what}: choose different ones from {', '.join(map(str, there))}")
    thresholds = []
    for tested in folds:
        others = ids != tested
        if is_same[others].all() or not is_same[others].any():
            raise HorkdError(
                f"outside of fold {tested} there is one kind of pair: a threshold needs both"
            )
        thresholds.append(best_threshold(s[others], is_same[others]))
    return folds, thresholds
