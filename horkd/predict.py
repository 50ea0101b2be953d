"""TODO"""

import os
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from horkd.data import (
    Dataset,
    ImageSet,
    PhotoFiles,
    normalise,
)
from horkd.data.batches import decoded
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network, Output, Statistics


def statistics(network: Network, data: Dataset) -> tuple[Statistics, Statistics]:
    """Channel mean and deviation of what a network is fed: its own, or else those of the data."""
    spec = network.spec
    return spec.mean or data.mean, spec.std or data.std


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


def memory_format(network: Network) -> torch.memory_format:
    """The format of a network's convolutions, which its images should have too."""
    weights = (p for p in network.parameters() if p.ndim == 4)
    fast = any(not p.is_contiguous() for p in weights)
    return torch.channels_last if fast else torch.contiguous_format


def _parts(images: Tensor | PhotoFiles, batch_size: int) -> Iterator[Tensor]:
    """uint8 (B, 3, S, S) at a time, in order."""
    if isinstance(images, Tensor):
        if len(images):
            yield from images.split(batch_size)
        return
    # of a whole photo the margin is a part that has to be decoded before it is left out
    files = images if images.crop.kind == "whole" else replace(images, margin=0)
    inner = slice(files.margin, files.margin + files.size)
    workers = min(8, os.cpu_count() or 1) if len(files) > 1000 else 0
    start = "spawn" if workers else None
    loader = DataLoader(
        files,
        batch_size,
        num_workers=workers,
        multiprocessing_context=start,
        generator=torch.Generator(),  # not the global one, which initial weights are drawn from
    )
    for photos, _, _ in decoded(loader):
        yield photos[:, :, inner, inner]


@torch.no_grad()
def predict(
    network: Network,
    images: Tensor | PhotoFiles,
    data: Dataset,
    degradation: Degradation,
    batch_size: int | None = None,
) -> Output:
    """Features and logits of full-resolution images, seen through a degradation.

    Args:
        network: put into eval mode for the duration.
        images: uint8 (N, 3, S, S), or photos on disk.
        data: whose channel statistics normalise the images.
        degradation: what the network sees of them; noise is drawn from a fixed seed.
        batch_size: images at a time; None for what suits network and machine.

    Returns:
        float32 features (N, D) and logits (N, C) on the network's device.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    generator = torch.Generator(device).manual_seed(0)
    mean, std = statistics(network, data)
    batch_size = batch_size or chunk(network, degradation, data.size)
    features, logits = [], []
    try:
        for batch in _parts(images, batch_size):
            x = normalise(degradation(batch.to(device), generator), mean, std)
            out = network(x.contiguous(memory_format=memory_format(network)))
            features.append(out.features.float())
            logits.append(out.logits.float())
    finally:
        network.train(training)
    if not features:
        raise HorkdError("there are no images to predict")
    return Output(torch.cat(features), torch.cat(logits))


def central(images: ImageSet | PhotoFiles) -> Tensor | PhotoFiles:
    """What `predict` takes of a split: images without margin, or the photos themselves."""
    return images.central if isinstance(images, ImageSet) else images


def embed(
    network: Network,
    images: Tensor | PhotoFiles,
    data: Dataset,
    degradation: Degradation,
    flip: bool = False,
) -> Tensor:
    """Features (N, D) at unit length, float32, on the CPU.

    Args:
        network: any.
        images: uint8 (N, 3, S, S), or photos on disk.
        data: whose channel statistics normalise the images.
        degradation: what the network sees of them.
        flip: add the features of the mirrored image before scaling, as face recognition often does.
    """
    features = predict(network, images, data, degradation).features
    if flip:
        if not isinstance(images, Tensor):
            raise HorkdError("flip needs images in memory: load them first")
        features = features + predict(network, images.flip(3), data, degradation).features
    return F.normalize(features).cpu()
