"""Top-1 and top-5 accuracy, and how alike two models answer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from horkd.checks import is_tensor, same_device, whole_numbers
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network
from horkd.predict import predict
from horkd.preprocess import Channels
from horkd.protocols import Asked, Protocol, Says
from horkd.protocols.verification import VERIFICATION

if TYPE_CHECKING:
    from horkd.data.images import Dataset, ImageSet
    from horkd.data.photos import PhotoFiles


class Classification(Protocol):
    """Training and test are about the same classes.

    A network without a classifier is tested by pairs of classes never trained on.
    """

    def scores(self, classifies: bool) -> bool:
        """By the classifier alone."""
        return classifies

    def score(
        self,
        network: Network,
        images: "ImageSet | PhotoFiles",
        channels: "Channels | Dataset",
        degradation: Degradation,
    ) -> dict[str, float]:
        """`accuracy`."""
        return accuracy(
            predict(network, images.central, channels, degradation).logits, images.labels
        )

    def test(
        self, network: Network, data: "Dataset", degradation: Degradation, brief: bool = False
    ) -> dict:
        """`accuracy` on the test images, or `verification` without a classifier."""
        if network.classifier is None:
            return VERIFICATION(Asked(network, data, degradation))
        return self.score(network, data.test, data, degradation)

    def judge(
        self, network: Network, data: "Dataset", degradation: Degradation, says: Says | None
    ) -> dict[str, object]:
        """`test` and, where frozen model and network both classify, their `agreement`."""
        if network.classifier is None:
            return super().judge(network, data, degradation, says)
        logits = predict(network, data.test.central, data, degradation).logits
        results: dict[str, object] = {"test": accuracy(logits, data.test.labels)}
        if says is not None:
            results["agreement"] = agreement(logits, says("test", data.test.central).logits)
        return results


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent, and the number of images `n`.

    Args:
        logits: (N, C); with fewer than five classes top-5 is 100.
        labels: whole numbers (N,).

    Raises:
        HorkdError: if they are no logits, or not as many labels.
    """
    _require_logits(logits)
    labels = torch.from_numpy(whole_numbers(labels, "labels", len(logits))).to(logits.device)
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

    Raises:
        HorkdError: if they are no logits of the same images over the same classes.
    """
    _require_logits(logits)
    _require_logits(other)
    same_device(logits, "one model's logits", other, "the other's")
    if logits.shape != other.shape:
        raise HorkdError(
            f"logits of one model are {tuple(logits.shape)}, of the other {tuple(other.shape)}: "
            "give those of the same images and classes"
        )
    same = (logits.argmax(1) == other.argmax(1)).double().mean().item()
    p, q = other.double().log_softmax(1), logits.double().log_softmax(1)
    return {"same_answer": 100 * same, "kl": (p.exp() * (p - q)).sum(1).mean().item()}


def _require_logits(logits: Tensor) -> None:
    is_tensor(logits, "logits")
    if logits.ndim != 2 or not logits.numel():
        raise HorkdError(f"logits must be (N, C), got {tuple(logits.shape)}")
