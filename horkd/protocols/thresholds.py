"""Scores of pairs and thresholds: accuracy, ROC, and rates of false accepts.

A pair has a score (higher: more alike), `same` says whether it is one subject, and it is accepted
when its score is *above* the threshold: a score that equals the threshold is rejected, in every
function here.

Tensors, arrays or lists go in, Python numbers and arrays come out; all is computed in float64.
Accuracies are in percent; TAR, FAR, AUC and EER lie in 0 to 1.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from horkd.checks import flags, numbers
from horkd.errors import HorkdError


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
    s, is_same = checked_pairs(scores, same)
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
    s, is_same = checked_pairs(scores, same)
    if math.isnan(threshold):
        raise HorkdError("the threshold is not a number")
    return 100 * float(np.mean((s > threshold) == is_same))


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
    from sklearn import metrics  # slow to import

    if points is not None and points < 3:
        raise HorkdError(f"a curve needs 3 points or more, got {points}")
    s, is_same = checked_pairs(scores, same)
    far, tar, thresholds = metrics.roc_curve(is_same, s)
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
    from sklearn import metrics  # slow to import

    s, is_same = checked_pairs(scores, same)
    return float(metrics.roc_auc_score(is_same, s))


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
    s, is_same = checked_pairs(scores, same)
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


def _below(score: float) -> float:
    """One below a score, or the next float below where one makes no difference."""
    return float(min(score - 1, np.nextafter(score, -np.inf)))


def checked_pairs(
    scores: ArrayLike | Tensor, same: ArrayLike | Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float64 (P,) and flags bool (P,), checked.

    Raises:
        HorkdError: as `best_threshold`.
    """
    s, is_same = numbers(scores, "scores"), flags(same, "same")
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
