"""What a learner minimises: cross-entropy on the labels plus hybrid-order distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horkd.losses import ORDERS, HybridOrderLoss
from horkd.models import Network, Output


class Frozen(nn.Module):
    """A trained network that only looks: eval mode whatever is called around it, no gradient."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode: BatchNorm statistics must not follow the learner's batches."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Output:
        """Features and logits of normalised images."""
        return self.network(x)


class Objective(nn.Module):
    """Named terms and their weighted sum for one batch.

    Args:
        cross_entropy: weight of the cross-entropy on the labels.
        relational: the hybrid-order loss against a frozen model, or None (teacher, controls).
    """

    def __init__(self, cross_entropy: float = 1.0, relational: HybridOrderLoss | None = None):
        super().__init__()
        self.relational = relational
        self.weights: dict[str, float] = {}
        if cross_entropy:
            self.weights["cross_entropy"] = cross_entropy
        if relational is not None:
            self.weights |= {ORDERS[order]: w for order, w in relational.weights.items()}

    def forward(self, learner: Output, labels: Tensor, frozen: Output | None) -> dict[str, Tensor]:
        """`loss` and each active term, unweighted; all scalars in float32 or better."""
        terms: dict[str, Tensor] = {}
        if "cross_entropy" in self.weights:
            terms["cross_entropy"] = F.cross_entropy(learner.logits.float(), labels)
        if self.relational is not None:
            relational = self.relational(frozen.features, learner.features)
            terms |= {name: relational[name] for name in self.weights if name in relational}
        loss = sum(self.weights[name] * term for name, term in terms.items())
        return {"loss": loss, **terms}

    def gradient_norms(self, terms: dict[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """‖∂(w·term)/∂features‖₂ of each term over the batch: who drives the learner?

        Args:
            terms: what `forward` returned, its graph still alive.
            features: the learner's features (N, D) that these terms were computed from.
        """
        norms = {}
        for name, weight in self.weights.items():
            (gradient,) = torch.autograd.grad(
                weight * terms[name], features, retain_graph=True, allow_unused=True
            )
            norms[name] = (
                features.new_zeros(()).float() if gradient is None else gradient.float().norm()
            )
        return norms
