"""Augmented batches, made on the device that holds the images or from photos on disk."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from horkd.checks import require_seed
from horkd.data.images import ImageSet
from horkd.data.photos import PhotoFiles
from horkd.data.workers import decoded, workers_for
from horkd.errors import HorkdError


def _hash(x: Tensor) -> Tensor:
    """62 well-mixed bits of each non-negative integer, the same on any machine (SplitMix64)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        # the shift of an unsigned number
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x & (1 << 62) - 1


class Batches:
    """Shuffled batches of crops (and mirror images), one draw of each per image and epoch.

    A batch is handed out *before* any degradation: whoever looks at it, frozen model or learner,
    degrades the same crop.

    Args:
        images: the training images; stay where they are.
        batch_size: images per batch; the last incomplete batch of an epoch is dropped, because a
            relational loss is a function of the batch and BatchNorm fails on a single image.
        crop: how far a crop of the original size may be moved to each side; 0 for no augmentation
            by crops. What comes in from outside is the images' margin or, without one, black.
        flip: mirror half of the images.
        views: draw crop and mirroring of each image only this often, for epochs 0, 1, … views - 1
            and again; then they depend on the image's id and nothing else, so that what a frozen
            model says of them can be computed once for all runs. View 0 is the image itself. 0
            draws anew every epoch.
        per_class: images of each class in a batch, of classes drawn anew for every batch; 0 draws
            images regardless of their classes, each once per epoch.
        count: batches in an epoch; None for one pass over as many images as there are.

    Raises:
        HorkdError: if there are fewer images than one batch, or their margin is too small.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        crop: int = 4,
        flip: bool = True,
        views: int = 0,
        per_class: int = 0,
        count: int | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(images):
            raise HorkdError(f"batch size {batch_size} does not fit {len(images)} training images")
        self.per_class, self.count = per_class, count
        if images.margin and crop > images.margin:
            raise HorkdError(f"crops of ±{crop} pixels need a margin; there are {images.margin}")
        self.labels, self.size, self.views = images.labels, images.size, views
        # without a margin the surroundings are black
        self.padded = images.images if images.margin else F.pad(images.images, (crop,) * 4)
        self.first = images.margin - crop if images.margin else 0
        self.batch_size, self.crop, self.flip = batch_size, crop, flip
        device = self.labels.device
        everything = torch.arange(len(images), device=device)
        self.ids = everything if images.ids is None else images.ids
        self._pixel = torch.arange(self.size, device=device)
        self._channel = torch.arange(3, device=device)[None, :, None, None]

    def __len__(self) -> int:
        return self.count or len(self.labels) // self.batch_size

    def order(self, seed: int) -> Tensor:
        """Positions (int64) of the images of an epoch, in the order in which it hands them out."""
        return self._drawn(seed)[0]

    def _drawn(self, seed: int) -> tuple[Tensor, torch.Generator]:
        """`order`, and the generator that everything else of the epoch is drawn from."""
        require_seed(seed)
        device = self.labels.device
        g = torch.Generator(device).manual_seed(seed)
        n = len(self) * self.batch_size
        if self.per_class:
            order = balanced_order(self.labels, self.batch_size, self.per_class, len(self), seed)
            return order.to(device), g
        images = len(self.labels)
        passes = range(-(-n // images))
        draws = [torch.randperm(images, generator=g, device=device) for _ in passes]
        return torch.cat(draws)[:n], g

    def epoch(self, seed: int, number: int = 0, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: (uint8 (B, 3, S, S), int64 (B,)) per batch, the same for the same seed.

        Args:
            seed: of the order and, without `views`, of crops and mirroring.
            number: of the epoch, from 0; it chooses the view.
            first: leave out the batches before this one.
        """
        device = self.labels.device
        order, g = self._drawn(seed)
        # all draws at once: three small tensors instead of three kernels per batch
        n, span = len(self) * self.batch_size, 2 * self.crop + 1
        if self.views:
            draws = self._fixed(order, number % self.views)
        else:
            top = torch.randint(span, (n,), generator=g, device=device)
            left = torch.randint(span, (n,), generator=g, device=device)
            mirrored = torch.rand(n, generator=g, device=device) < (0.5 if self.flip else 0.0)
            draws = top, left, mirrored
        for start in range(first * self.batch_size, n, self.batch_size):
            part = slice(start, start + self.batch_size)
            index = order[part]
            yield self._crops(index, *(d[part] for d in draws)), self.labels[index]

    def view(
        self, number: int, batch_size: int, first: int = 0, last: int | None = None
    ) -> Iterator[Tensor]:
        """A view of images `first` to `last` - 1 in their order, uint8 (B, 3, S, S) at a time."""
        everything = torch.arange(len(self.labels), device=self.labels.device)[first:last]
        for index in everything.split(batch_size):
            yield self._crops(index, *self._fixed(index, number))

    def _fixed(self, index: Tensor, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Crop and mirroring by image and view alone."""
        if view == 0:
            centre = torch.full_like(index, self.crop)
            return centre, centre, torch.zeros_like(index, dtype=torch.bool)
        bits, span = _hash(self.ids[index] * 65_536 + view), 2 * self.crop + 1
        mirrored = (bits >> 40) % 2 == 0 if self.flip else torch.zeros_like(bits, dtype=torch.bool)
        return (bits & 0xFFFF) % span, (bits >> 20 & 0xFFFF) % span, mirrored

    def _crops(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        rows = self.first + top[:, None] + self._pixel  # (B, S)
        columns = self.first + left[:, None] + self._pixel
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        return self.padded[
            index[:, None, None, None],
            self._channel,
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


def balanced_order(
    labels: Tensor, batch_size: int, per_class: int, batches: int, seed: int
) -> Tensor:
    """Positions of images in batches of a few classes with several images each.

    By pytorch-metric-learning's MPerClassSampler. A batch that is no multiple of `per_class` ends
    in fewer images of its last class: 128 images are 25 classes of five and one of three, as in the
    code published with RKD. Where there are too few classes for that, each gives more images. Of a
    class with fewer than `per_class` images the sampler draws with replacement, so that a batch may
    hold one twice; RKD's code then takes fewer. That is about Stanford Online Products.

    Args:
        labels: int64 (N,).
        batch_size: images in a batch.
        per_class: images of each class in it.
        batches: how many.
        seed: of all draws.

    Returns:
        int64 (batches · batch_size,), on the CPU.

    Raises:
        HorkdError: if the package is not installed.
    """
    try:
        from pytorch_metric_learning.samplers import MPerClassSampler
        from pytorch_metric_learning.utils import common_functions
    except ImportError:
        raise HorkdError(
            "batches of a few classes need pytorch-metric-learning: pip install 'horkd[metric]'"
        ) from None
    labels = labels.cpu()
    per_class = max(per_class, -(-batch_size // len(labels.unique())))
    whole = -(-batch_size // per_class) * per_class
    sampler = MPerClassSampler(labels, per_class, whole, whole * batches)
    before = common_functions.NUMPY_RANDOM  # what the sampler draws from
    common_functions.NUMPY_RANDOM = np.random.RandomState(seed % 2**32)
    try:
        order = torch.tensor(list(sampler), dtype=torch.int64)
    finally:
        common_functions.NUMPY_RANDOM = before
    return order.view(batches, whole)[:, :batch_size].reshape(-1)


class ReducedBatches(Batches):
    """`Batches` with fixed views that hands out what a learner sees, reduced once for all epochs.

    For a learner whose view of a crop does not change, and that has no frozen model looking at the
    crops beside it: at 16 pixels, reducing takes as long as training on what comes out.

    Args:
        batches: with `views`.
        reduce: uint8 crops (B, 3, S, S) to what the learner sees of them, uint8 (B, 3, R, R).
    """

    def __init__(self, batches: Batches, reduce: Callable[[Tensor], Tensor]) -> None:
        self.batches, self.reduce = batches, reduce
        self.labels, self.batch_size, self.ids = batches.labels, batches.batch_size, batches.ids
        self.per_class, self.count = batches.per_class, batches.count
        self.views, self.seen = batches.views, {}

    def epoch(self, seed: int, number: int = 0, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Batches.epoch`, of reduced crops."""
        view = number % self.views
        if view not in self.seen:
            self.seen[view] = torch.cat([self.reduce(c) for c in self.batches.view(view, 256)])
        for index in self.order(seed)[first * self.batch_size :].split(self.batch_size):
            yield self.seen[view][index], self.labels[index]


class FileBatches(Batches):
    """`Batches` of photos on disk: decoded by worker processes, a few batches ahead.

    No more photos than those few batches are in memory; the list of their names is, once in every
    worker. The images' margin is what random crops move in.

    Args:
        files: the photos.
        batch_size, crop, flip: as of `Batches`.
        views: only 0; what a frozen model says of a large set is not kept.
        per_class, count: as of `Batches`.
        workers: processes that decode; 0 decodes in this one, None leaves it to `workers_for`.

    Raises:
        HorkdError: as `Batches`, or if views are asked for.
    """

    def __init__(
        self,
        files: PhotoFiles,
        batch_size: int,
        crop: int = 4,
        flip: bool = True,
        views: int = 0,
        per_class: int = 0,
        count: int | None = None,
        workers: int | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(files):
            raise HorkdError(f"batch size {batch_size} does not fit {len(files)} training images")
        if crop > files.margin:
            raise HorkdError(f"crops of ±{crop} pixels need a margin; there are {files.margin}")
        if views:
            raise HorkdError("fixed views need a set in memory: set views=0 in the recipe")
        self.files, self.labels, self.size, self.views = files, files.labels, files.size, 0
        self.batch_size, self.crop, self.flip = batch_size, crop, flip
        self.per_class, self.count = per_class, count
        self.workers = workers_for(len(files)) if workers is None else workers

    def epoch(self, seed: int, number: int = 0, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, on the CPU; the same for the same seed, whatever the number of workers."""
        order, g = self._drawn(seed)
        n, span = len(self) * self.batch_size, 2 * self.crop + 1
        top = torch.randint(span, (n,), generator=g)
        left = torch.randint(span, (n,), generator=g)
        mirrored = torch.rand(n, generator=g) < (0.5 if self.flip else 0.0)
        inner, size = self.files.margin - self.crop, self.size
        order = order[first * self.batch_size :]
        batches = decoded(self.files, self.batch_size, order.tolist(), self.workers)
        for step, (photos, labels) in enumerate(batches, first):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            places = zip(photos, top[part].tolist(), left[part].tolist(), strict=True)
            crops = [
                photo[:, inner + y : inner + y + size, inner + x : inner + x + size]
                for photo, y, x in places
            ]
            crops = torch.stack(crops)
            flipped = mirrored[part]
            crops[flipped] = crops[flipped].flip(3)
            yield crops, labels
