"""Top-1 and top-5 accuracy, and how alike two models answer."""

from torch import Tensor


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
