"""Pairs and galleries of images of classes that nothing was trained on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from horkd.data.images import ImageSet
from horkd.data.pairs import sample_pairs
from horkd.protocols.classification import Classification
from horkd.protocols.identification import Search, split_subjects
from horkd.protocols.verification import PairSet

#: Folds of the pairs, as in LFW.
FOLDS = 10


def with_unseen(unseen: ImageSet) -> Classification:
    """Classification whose networks can also be asked about classes never trained on.

    Args:
        unseen: images of such classes.
    """
    return Classification(lambda: unseen_pairs(unseen), lambda: unseen_search(unseen))


def unseen_pairs(images: ImageSet) -> PairSet:
    """Ten folds of up to 600 pairs, disjoint in classes, always the same.

    Args:
        images: of classes never trained on.
    """
    counts = images.labels.bincount()
    each = len(counts) // FOLDS * int(counts.min())  # images of a fold
    same = len(counts) // FOLDS * (int(counts.min()) * (int(counts.min()) - 1) // 2)
    per_fold = min(600, 2 * min(same, each * each // 4) // 2 * 2)
    return PairSet(images, sample_pairs(images.labels, FOLDS, per_fold))


def unseen_search(images: ImageSet) -> Search:
    """Three quarters of the classes to find, the others as unknown ones; always the same.

    Args:
        images: of classes never trained on.
    """
    count = 3 * len(images.classes) // 4
    gallery, probes = split(images.labels, images.classes, within(images.labels), count)
    what = f"{count} characters never trained on"
    return search(images.central, images.labels, gallery, probes, what)


def split(
    labels: Tensor, subjects: Sequence[str], names: Sequence[str], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """`split_subjects` of the images with a label of 0 or more: positions of gallery and probes."""
    known = labels >= 0
    gallery, probes = split_subjects(
        subjects, labels[known], [n for n, k in zip(names, known.tolist(), strict=True) if k], count
    )
    position = known.nonzero()[:, 0].numpy()
    return position[gallery], position[probes]


def within(labels: Tensor) -> list[str]:
    """The number of each image within its class, as a name."""
    seen: dict[int, int] = {}
    names = []
    for label in labels.tolist():
        seen[label] = seen.get(label, 0) + 1
        names.append(str(seen[label]))
    return names


def search(
    images: Tensor,
    labels: Tensor,
    gallery: np.ndarray,
    probes: np.ndarray,
    what: str,
) -> Search:
    """A search in which subjects without a gallery image are unknown ones."""
    subjects = labels[torch.from_numpy(gallery)].unique()
    unknown = ((labels >= 0) & ~torch.isin(labels, subjects)).nonzero()[:, 0]
    return Search(
        images, torch.from_numpy(gallery), torch.from_numpy(probes), unknown, labels, what
    )
