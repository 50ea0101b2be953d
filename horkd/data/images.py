"""What every data set looks like to the rest of the code: small images as uint8, on one device."""

from dataclasses import dataclass

import torch

from horkd.errors import HorkdError


@dataclass(frozen=True)
class ImageSet:
    """Labelled square images held in memory.

    Attributes:
        images: uint8 (N, 3, S, S), values 0 to 255, RGB.
        labels: int64 (N,), each in 0 .. len(classes) - 1.
        classes: class names.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise HorkdError(f"images must be (N, 3, S, S), got {tuple(images.shape)}")
        if images.dtype != torch.uint8:
            raise HorkdError(f"images must be uint8, got {images.dtype}")
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise HorkdError(
                f"labels must be int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise HorkdError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but there are "
                f"{len(self.classes)} classes (0 to {len(self.classes) - 1})"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        return self.images.shape[-1]

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with images and labels on `device`."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes)

    def select(self, index: torch.Tensor) -> "ImageSet":
        """The images at `index` (int64 (M,)), in that order."""
        return ImageSet(self.images[index], self.labels[index], self.classes)


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set, and what is known of it.

    Attributes:
        name: how the command line calls it.
        train, validation, test: disjoint splits over the same classes.
        unseen: images of classes that are in no other split (open-set work), or None.
        flip: whether a mirrored image still belongs to its class.
        mean, std: channel statistics of the training images, on the scale 0 to 1.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    unseen: ImageSet | None
    flip: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def num_classes(self) -> int:
        """Number of classes of train, validation and test."""
        return len(self.train.classes)

    @property
    def size(self) -> int:
        """Side of the full-resolution images, in pixels."""
        return self.train.size
