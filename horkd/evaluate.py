"""What a network can do: top-k, agreement, latency, always at the network's own resolution."""

import time

import torch
from torch import Tensor

from horkd.data import Dataset, ImageSet, normalise
from horkd.errors import HorkdError
from horkd.models import Network, Output
from horkd.resolution import Degradation


@torch.no_grad()
def predict(
    network: Network,
    images: Tensor,
    data: Dataset,
    degradation: Degradation,
    batch_size: int = 500,
) -> Output:
    """Features and logits of full-resolution images, seen through a degradation.

    Args:
        network: put into eval mode for the duration.
        images: uint8 (N, 3, S, S).
        data: whose channel statistics normalise the images.
        degradation: what the network sees of them; noise is drawn from a fixed seed.
        batch_size: images at a time.

    Returns:
        float32 features (N, D) and logits (N, C) on the network's device.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    generator = torch.Generator(device).manual_seed(0)
    features, logits = [], []
    try:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size].to(device)
            out = network(normalise(degradation(batch, generator), data.mean, data.std))
            features.append(out.features.float())
            logits.append(out.logits.float())
    finally:
        network.train(training)
    if not features:
        raise HorkdError("there are no images to predict")
    return Output(torch.cat(features), torch.cat(logits))


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent, and the number of images `n`.

    Args:
        logits: (N, C); with fewer than five classes top-5 is 100.
        labels: int64 (N,).
    """
    labels = labels.to(logits.device)
    hit = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return {
        "top1": 100 * hit[:, 0].double().mean().item(),
        "top5": 100 * hit.any(1).double().mean().item(),
        "n": len(labels),
    }


def agreement(logits: Tensor, other: Tensor) -> dict[str, float]:
    """How alike two models answer on the same images.

    Args:
        logits: (N, C), the learner's.
        other: (N, C), the teacher's.

    Returns:
        `same_answer`, percent of images with the same top-1 class, and `kl`, the mean
        KL(other ‖ logits) in nats.
    """
    same = (logits.argmax(1) == other.argmax(1)).double().mean().item()
    p, q = other.double().log_softmax(1), logits.double().log_softmax(1)
    return {"same_answer": 100 * same, "kl": (p.exp() * (p - q)).sum(1).mean().item()}


def score(
    network: Network, images: ImageSet, data: Dataset, degradation: Degradation
) -> dict[str, float]:
    """Accuracy of a network on a split, seen through its degradation."""
    logits = predict(network, images.images, data, degradation).logits
    return accuracy(logits, images.labels)


@torch.no_grad()
def latency(network: Network, resolution: int, repeats: int = 30) -> float:
    """Median milliseconds for one image (batch 1) on the network's device, in eval mode."""
    parameter = next(network.parameters())
    x = torch.zeros(1, 3, resolution, resolution, device=parameter.device)
    training, seconds = network.training, []
    network.eval()
    for _ in range(repeats + 3):
        if x.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        network(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    network.train(training)
    return 1e3 * sorted(seconds[3:])[repeats // 2]
