"""What a network is fed: full-resolution images, degraded, normalised, in its memory format."""

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from horkd.checks import is_tensor
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network, Statistics

if TYPE_CHECKING:
    from horkd.data.images import Dataset


@functools.lru_cache(maxsize=32)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) on the device; kept there, because copying it anew would halt a GPU every step."""
    return torch.tensor(values, device=device)[:, None, None]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, 3, H, W) to float32 with the given channel statistics (scale 0 to 1).

    Raises:
        HorkdError: if the images are anything else: floats may be on another scale, or normalised.
    """
    is_tensor(images, "images")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise HorkdError(
            f"images must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    device = images.device
    return (images.float() / 255 - _per_channel(mean, device)) / _per_channel(std, device)


def memory_format(network: Network) -> torch.memory_format:
    """The format of a network's convolutions, which its images should have too."""
    weights = (p for p in network.parameters() if p.ndim == 4)
    fast = any(not p.is_contiguous() for p in weights)
    return torch.channels_last if fast else torch.contiguous_format


@dataclass(frozen=True)
class Channels:
    """Channel mean and deviation on the scale 0 to 1; a `Dataset` has them, too."""

    mean: Statistics
    std: Statistics


@dataclass(frozen=True)
class Preprocess:
    """Degrades and normalises uint8 images (N, 3, S, S).

    Attributes:
        degradation: what the network sees of them.
        mean, std: channel statistics, on the scale 0 to 1.
        layout: memory format of the result.
    """

    degradation: Degradation
    mean: Statistics
    std: Statistics
    layout: torch.memory_format = torch.contiguous_format

    @classmethod
    def of(
        cls,
        network: Network,
        channels: "Channels | Dataset",
        degradation: Degradation,
        layout: torch.memory_format | None = None,
    ) -> "Preprocess":
        """What a network needs: its own channel statistics, or else those of the data.

        Args:
            network: any; one without a specification has no statistics of its own.
            channels: statistics of the data.
            degradation: what the network sees.
            layout: None for that of the network's convolutions.
        """
        spec = getattr(network, "spec", None)
        return cls(
            degradation,
            (spec and spec.mean) or channels.mean,
            (spec and spec.std) or channels.std,
            memory_format(network) if layout is None else layout,
        )

    def at(self, pixels: int) -> "Preprocess":
        """The same with another resolution."""
        return replace(self, degradation=replace(self.degradation, size=pixels))

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """float32 (N, 3, R, R); noise is drawn from the generator."""
        x = normalise(self.degradation(images, generator), self.mean, self.std)
        return x.contiguous(memory_format=self.layout)
