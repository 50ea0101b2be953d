"""What every data set looks like to the rest of the code: small images as uint8, on one device."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from horkd.checks import is_tensor
from horkd.errors import HorkdError
from horkd.protocols import Protocol
from horkd.protocols.classification import Classification

if TYPE_CHECKING:
    from horkd.data.photos import PhotoFiles


@dataclass(frozen=True)
class ImageSet:
    """Labelled square images held in memory.

    Attributes:
        images: uint8 (N, 3, S, S), values 0 to 255, RGB; with a margin S is larger by twice that.
        labels: int64 (N,), each in 0 .. len(classes) - 1.
        classes: class names.
        margin: pixels around the image proper on each side, for random crops of real surroundings.
        ids: int64 (N,), the number of each image in the set that this one is a part of; None for
            0 .. N - 1. Augmentation that is fixed by image (`Batches`, `views`) goes by it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    margin: int = 0
    ids: torch.Tensor | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        is_tensor(images, "images")
        is_tensor(labels, "labels")
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise HorkdError(f"images must be (N, 3, S, S), got {tuple(images.shape)}")
        if self.margin < 0 or images.shape[-1] <= 2 * self.margin:
            raise HorkdError(
                f"a margin of {self.margin} does not fit images of {images.shape[-1]} pixels"
            )
        if self.ids is not None and self.ids.shape != images.shape[:1]:
            raise HorkdError(f"ids must be ({len(images)},), got {tuple(self.ids.shape)}")
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
        """Side of the images proper, in pixels."""
        return self.images.shape[-1] - 2 * self.margin

    @property
    def central(self) -> torch.Tensor:
        """The images proper, without their margin: uint8 (N, 3, size, size), not a copy."""
        inner = slice(self.margin, self.margin + self.size)
        return self.images[:, :, inner, inner]

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with images and labels on `device`."""
        ids = None if self.ids is None else self.ids.to(device)
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels, ids=ids)

    def select(self, index: torch.Tensor) -> "ImageSet":
        """The images at `index` (int64 (M,) or boolean (N,)), in that order; keeps their ids."""
        ids = torch.arange(len(self), device=self.labels.device) if self.ids is None else self.ids
        images, labels = self.images[index], self.labels[index]
        return replace(self, images=images, labels=labels, ids=ids[index])


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set, and what is known of it.

    A classification set has three splits over the same classes. A set of faces is trained on some
    people and tested on pairs of images of others; it has no validation split. In a set for metric
    learning each split has classes of its own, numbered from 0.

    Attributes:
        name: how the command line calls it.
        train, validation, test: disjoint splits; of a set of faces, `test` may hold the
            training images as well.
        unseen: images of classes that are in no other split (open-set work), or None.
        flip: whether a mirrored image still belongs to its class.
        mean, std: channel statistics to normalise by, on the scale 0 to 1.
        protocol: how networks are scored and tested on it.
        whole: the set in memory that `train` is a part of, for what is computed once for all parts.
    """

    name: str
    train: "ImageSet | PhotoFiles"
    validation: "ImageSet | PhotoFiles | None"
    test: "ImageSet | PhotoFiles"
    unseen: ImageSet | None
    flip: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    protocol: Protocol = field(default_factory=Classification)
    whole: ImageSet | None = None

    @property
    def held_apart(self) -> bool:
        """Whether the validation split has classes of its own."""
        return self.validation is not None and self.validation.classes != self.train.classes

    def training(self, validation: bool = True) -> "ImageSet | PhotoFiles":
        """The images to train on.

        Args:
            validation: hold the validation split out; else it is joined to the training images,
                classes of its own after theirs.
        """
        if validation or self.validation is None:
            return self.train
        train, held = self.train, self.validation
        first = len(train.classes) if self.held_apart else 0
        labels = torch.cat([train.labels, held.labels + first])
        classes = train.classes + (held.classes if self.held_apart else ())
        if isinstance(train, ImageSet):
            return ImageSet(torch.cat([train.images, held.images]), labels, classes)
        if train.root != held.root:
            raise HorkdError(f"the photos of {self.name} lie in two folders: put them into one")
        return replace(train, files=train.files + held.files, labels=labels, names=classes)

    def classes_trained(self, validation: bool = True) -> int:
        """Number of classes of `training`."""
        held = 0 if validation or not self.held_apart else len(self.validation.classes)
        return self.num_classes + held

    @property
    def num_classes(self) -> int:
        """Number of classes of the training images."""
        return len(self.train.classes)

    @property
    def size(self) -> int:
        """Side of the full-resolution images, in pixels."""
        return self.test.size
