"""Augmented batches made on the device that holds the images. No worker processes."""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from horkd.data.images import ImageSet
from horkd.errors import HorkdError


@functools.lru_cache(maxsize=32)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) on the device; kept there, because copying it anew would halt a GPU every step."""
    return torch.tensor(values, device=device)[:, None, None]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, 3, H, W) to float32 with the given channel statistics (scale 0 to 1)."""
    device = images.device
    return (images.float() / 255 - _per_channel(mean, device)) / _per_channel(std, device)


class Batches:
    """Shuffled batches of crops (and mirror images), one draw of each per image and epoch.

    A batch is handed out *before* any degradation: whoever looks at it, frozen model or learner,
    degrades the same crop.

    Args:
        images: the training images; stay where they are.
        batch_size: images per batch; the last incomplete batch of an epoch is dropped, because a
            relational loss is a function of the batch and BatchNorm fails on a single image.
        crop: zero padding on each side, from which a crop of the original size is taken; 0 for
            no augmentation by crops.
        flip: mirror half of the images.

    Raises:
        HorkdError: if there are fewer images than one batch.
    """

    def __init__(self, images: ImageSet, batch_size: int, crop: int = 4, flip: bool = True) -> None:
        if not 1 <= batch_size <= len(images):
            raise HorkdError(f"batch size {batch_size} does not fit {len(images)} training images")
        self.labels, self.size = images.labels, images.size
        self.padded = F.pad(images.images, (crop,) * 4)
        self.batch_size, self.crop, self.flip = batch_size, crop, flip
        device = self.labels.device
        self._pixel = torch.arange(self.size, device=device)
        self._channel = torch.arange(3, device=device)[None, :, None, None]

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: (uint8 (B, 3, S, S), int64 (B,)) per batch, the same for the same seed."""
        device = self.labels.device
        g = torch.Generator(device).manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=g, device=device)
        # all draws at once: three small tensors instead of three kernels per batch
        n, span = len(self) * self.batch_size, 2 * self.crop + 1
        top = torch.randint(span, (n,), generator=g, device=device)
        left = torch.randint(span, (n,), generator=g, device=device)
        mirrored = torch.rand(n, generator=g, device=device) < (0.5 if self.flip else 0.0)
        for start in range(0, n, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self._crops(order[part], top[part], left[part], mirrored[part])

    def _crops(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor):
        rows = top[:, None] + self._pixel  # (B, S)
        columns = left[:, None] + self._pixel
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        crops = self.padded[
            index[:, None, None, None],
            self._channel,
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
        return crops, self.labels[index]
