"""Pairs for sets that have no official ones, drawn in the manner of LFW."""

import hashlib
from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor

from horkd.errors import HorkdError
from horkd.protocols.verification import Pairs


def _number(*words: object) -> int:
    """A number below 2⁶⁴ that depends on the words alone, not on any library's generator."""
    text = "/".join(map(str, ("horkd pairs", *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _draw(total: int, count: int, *words: object) -> list[int]:
    """`count` different numbers below `total`, all equally likely."""
    if 2 * count > total:
        return sorted(range(total), key=lambda i: _number(*words, i))[:count]
    drawn, trial = {}, 0
    while len(drawn) < count:
        drawn[_number(*words, trial) % total] = None
        trial += 1
    return list(drawn)


def sample_pairs(labels: Tensor, folds: int = 10, per_fold: int = 600, seed: int = 0) -> Pairs:
    """Pairs for a set that has no official ones, in the manner of LFW.

    In each fold one half of the pairs shows the same class, the other different ones, drawn without
    repetition and equally likely among all such pairs of images of the fold; the classes of
    different folds differ. All choices are SHA-256 of the seed and a counter, so that they are the
    same with every version of Python, NumPy and torch.

    Args:
        labels: int64 (N,); images of label -1 are left out.
        folds: number of folds.
        per_fold: pairs in each, an even number.
        seed: another seed gives other pairs.

    Raises:
        HorkdError: if there are too few classes or images.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise HorkdError(f"labels must be int64 (N,), got {labels.dtype} {tuple(labels.shape)}")
    if folds < 1 or per_fold < 2 or per_fold % 2:
        raise HorkdError(
            "folds must be at least 1 and per_fold an even number from 2 on, "
            f"got {folds} and {per_fold}"
        )
    members: dict[int, list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        if label >= 0:
            members.setdefault(label, []).append(i)
    if len(members) < 2 * folds:
        raise HorkdError(
            f"{folds} folds need at least {2 * folds} classes, there are {len(members)}: "
            "lower folds"
        )
    classes = sorted(members, key=lambda c: (_number(seed, "class", c), c))
    left, right, same, fold = [], [], [], []
    for k in range(folds):
        images, ends = [], []  # ends: where the class of an image ends
        for c in classes[k::folds]:
            images += members[c]
            ends += [len(images)] * len(members[c])
        for equal in (True, False):
            # the partners of image p are those in start .. stop, all behind it
            spans = [(p + 1, e) if equal else (e, len(images)) for p, e in enumerate(ends)]
            upto = list(accumulate(stop - start for start, stop in spans))
            if upto[-1] < per_fold // 2:
                kind = "the same class" if equal else "different classes"
                raise HorkdError(
                    f"fold {k} has {upto[-1]} pairs of {kind}, {per_fold // 2} are wanted: "
                    "lower per_fold or folds, or take more images"
                )
            for rank in _draw(upto[-1], per_fold // 2, seed, k, equal):
                p = bisect_right(upto, rank)
                left.append(images[p])
                right.append(images[spans[p][1] - (upto[p] - rank)])
                same.append(equal)
                fold.append(k)
    return Pairs(torch.tensor(left), torch.tensor(right), torch.tensor(same), torch.tensor(fold))
