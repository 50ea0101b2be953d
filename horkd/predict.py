"""Features and logits of full-resolution images, seen through a degradation."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from horkd.checks import at_least_one, uint8_images, whole_number
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network, Output
from horkd.preprocess import Channels, Preprocess
from horkd.processes import loader_failures

if TYPE_CHECKING:
    from horkd.data.images import Dataset
    from horkd.data.photos import PhotoFiles


def chunk(network: Network, degradation: Degradation, size: int) -> int:
    """Images at a time for a pass without gradient.

    On a CPU large images go in few at a time, so that their maps stay in its cache: a MobileFaceNet
    at 112 pixels is twice as fast on 8 images as on 100.
    """
    side = size if degradation.upsample else min(size, degradation.size)
    if side < 64:
        return 500
    if next(network.parameters()).is_cuda:
        return max(32, 500 * 64**2 // side**2)
    return max(4, 100_000 // side**2)


def _parts(images: "Tensor | PhotoFiles", batch_size: int) -> Iterator[Tensor]:
    """uint8 (B, 3, S, S) at a time, in order."""
    if not isinstance(images, Tensor):
        yield from images.parts(batch_size)
    elif len(images):
        yield from images.split(batch_size)


@torch.no_grad()
def predict(
    network: Network,
    images: "Tensor | PhotoFiles",
    channels: "Channels | Dataset",
    degradation: Degradation,
    batch_size: int | None = None,
) -> Output:
    """Features and logits of full-resolution images, seen through a degradation.

    Args:
        network: put into eval mode for the duration.
        images: uint8 (N, 3, S, S), or photos on disk.
        channels: statistics that normalise the images where the network has none of its own: a
            data set, or `Channels`.
        degradation: what the network sees of them; noise is drawn from a fixed seed.
        batch_size: images at a time; None for what suits network and machine.

    Returns:
        float32 features (N, D) and logits (N, C) on the network's device.

    Raises:
        HorkdError: if there are no images, or none of that kind.
    """
    if not hasattr(images, "parts"):  # photos on disk have them
        uint8_images(images, "predict")
    if batch_size is not None:
        batch_size = whole_number(batch_size, "batch_size")
        at_least_one("batch_size", batch_size)
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    generator = torch.Generator(device).manual_seed(0)
    preprocess = Preprocess.of(network, channels, degradation)
    if batch_size is None:
        size = images.shape[-1] if isinstance(images, Tensor) else images.size
        batch_size = chunk(network, degradation, size)
    features, logits = [], []
    try:
        with loader_failures():
            for batch in _parts(images, batch_size):
                out = network(preprocess(batch.to(device), generator))
                features.append(out.features.float())
                logits.append(out.logits.float())
    finally:
        network.train(training)
    if not features:
        raise HorkdError("there are no images to predict")
    return Output(torch.cat(features), torch.cat(logits))


def embed(
    network: Network,
    images: "Tensor | PhotoFiles",
    channels: "Channels | Dataset",
    degradation: Degradation,
    flip: bool = False,
) -> Tensor:
    """Features (N, D) at unit length, float32, on the CPU.

    Args:
        network: any.
        images: uint8 (N, 3, S, S), or photos on disk.
        channels: as in `predict`.
        degradation: what the network sees of them.
        flip: add the features of the mirrored image before scaling, as face recognition often does.

    Raises:
        HorkdError: if photos on disk are to be mirrored, or there are no images.
    """
    features = predict(network, images, channels, degradation).features
    if flip:
        if not isinstance(images, Tensor):
            raise HorkdError("flip needs images in memory: load them first")
        features = features + predict(network, images.flip(3), channels, degradation).features
    return F.normalize(features).cpu()
