"""CIFAR-100 from its official files, through torchvision."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import numpy as np
import torch

from horkd import paths
from horkd.data.images import Dataset, ImageSet
from horkd.data.source import Source
from horkd.errors import HorkdError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR100

#: Channel statistics of the 50,000 training images, scale 0 to 1.
MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
VALIDATION_PER_CLASS = 50


def _open(root: Path, train: bool) -> "CIFAR100":
    """One split, downloaded if it is not there.

    Raises:
        HorkdError: if the files are damaged, or absent and cannot be downloaded.
    """
    from torchvision.datasets import CIFAR100  # slow to import

    folder = root / CIFAR100.base_folder
    there = folder.is_dir() and any(folder.iterdir())
    try:
        return CIFAR100(root, train=train, download=not there)
    except (RuntimeError, URLError, OSError, EOFError, ValueError) as error:
        if there:
            raise HorkdError(
                f"the CIFAR-100 files in {folder} are incomplete or damaged ({error}): "
                "remove that folder and put the official files there again"
            ) from None
        raise HorkdError(
            f"CIFAR-100 is not in {root} and could not be downloaded ({error}): set HORKD_DATA to "
            "the folder that holds cifar-100-python/ with the files train, test and meta"
        ) from None


def _image_set(split: "CIFAR100") -> ImageSet:
    images = torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)))
    return ImageSet(images, torch.tensor(split.targets), tuple(split.classes))


def first_per_class(labels: torch.Tensor, count: int, order: torch.Tensor) -> torch.Tensor:
    """Boolean (N,): the first `count` examples of each class in the given order of indices."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        chosen[order[labels[order] == c][:count]] = True
    return chosen


def load_cifar100(per_class: int | None = None) -> Dataset:
    """CIFAR-100: 45,000 training, 5,000 validation and 10,000 test images of 32×32, 100 classes.

    The validation split is the same 50 images of each class every time, drawn from the official
    training set; train plus validation is the official training set. The official set's few
    duplicates (14 within training, 10 across training and test) are kept.

    Args:
        per_class: keep only that many training images of each class, for trials; validation and
            test images are then limited to as many.

    Raises:
        HorkdError: if the files are absent and cannot be downloaded, or are damaged.
    """
    if per_class is not None and not 1 <= per_class <= 450:
        raise HorkdError(f"per_class must lie in 1 to 450 for CIFAR-100, got {per_class}")
    root = paths.data_dir() or paths.cache_dir() / "data"
    official, test = _image_set(_open(root, train=True)), _image_set(_open(root, train=False))
    order = torch.randperm(len(official), generator=torch.Generator().manual_seed(0))
    held = first_per_class(official.labels, VALIDATION_PER_CLASS, order)
    train, validation = official.select(~held), official.select(held)
    if per_class is not None:
        train, validation, test = (
            s.select(first_per_class(s.labels, per_class, torch.arange(len(s))))
            for s in (train, validation, test)
        )
    return Dataset("cifar100", train, validation, test, None, flip=True, mean=MEAN, std=STD)


def _load(name: str, per_class: int | None) -> Dataset:
    return load_cifar100(per_class)


def _images(name: str, per_class: int | None, validation: bool) -> int:
    each = per_class or 500 - VALIDATION_PER_CLASS
    return 100 * (each if validation else each + min(each, VALIDATION_PER_CLASS))


SOURCE = Source(_load, lambda name: 32, _images, classes=100)
