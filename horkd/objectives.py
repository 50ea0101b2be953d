"""What a learner minimises: a loss on the labels plus distillation from a frozen model."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horkd import baselines as baselines_
from horkd import losses
from horkd.baselines import Baselines
from horkd.checks import as_its_weights, exact, is_tensor, same_device
from horkd.errors import HorkdError
from horkd.losses import ORDERS, HybridOrderLoss
from horkd.networks.network import Network, Output


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
    def forward(self, x: Tensor, maps: bool = False) -> Output:
        """Features, logits and, if wanted, maps of normalised images."""
        return self.network(x, maps)


def margin_head(name: str, num_classes: int, width: int) -> nn.Module:
    """A margin softmax over cosines, as pytorch-metric-learning has it.

    `cosface`: 0.35 on the cosine (Wang et al. 2018, arXiv 1801.09414); `arcface`: 0.5 radians
    on the angle (Deng et al. 2019, arXiv 1801.07698), in degrees there. Both scale cosines by 64.

    Args:
        name: "cosface" or "arcface".
        num_classes: C; labels are 0 .. C - 1.
        width: D, of the features.

    Raises:
        HorkdError: if the package is not installed.
    """
    try:
        from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
    except ImportError:
        raise HorkdError(
            f"the {name} head needs pytorch-metric-learning: pip install 'horkd[metric]'"
        ) from None
    if name == "cosface":
        return CosFaceLoss(num_classes, width, margin=0.35, scale=64)
    return ArcFaceLoss(num_classes, width, margin=math.degrees(0.5), scale=64)


class Triplet(nn.Module):
    """Triplet loss with distance-weighted negatives, as pytorch-metric-learning has them.

    max(0, ‖a − p‖ − ‖a − n‖ + margin) between unit vectors, mean over the triplets that are not
    zero. An image is anchor as often as there are images of its class, each time with one of these
    at random, which may come twice, and with a negative drawn by Wu et al. 2017 (arXiv 1706.07567):
    inversely to how many random points lie at its distance. Draws from torch's global generators.

    Differs from the code published with RKD: that takes every positive once and the mean over all
    triplets, scales the weights of negatives anchor by anchor, and draws any negative where none
    qualifies. The library scales weights over the batch, so that anchors whose negatives are all
    much further away than the batch's closest one can be left out.

    Args:
        margin: in units of the distance between unit vectors.

    Raises:
        HorkdError: if the package is not installed.
    """

    #: What the loss is called among the terms.
    term = "triplet"

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        try:
            from pytorch_metric_learning.losses import TripletMarginLoss
            from pytorch_metric_learning.miners import DistanceWeightedMiner
        except ImportError:
            raise HorkdError(
                "the triplet loss needs pytorch-metric-learning: pip install 'horkd[metric]'"
            ) from None
        self.loss, self.miner = TripletMarginLoss(margin), DistanceWeightedMiner()

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """A scalar for features (N, D) and labels int64 (N,); not a number if a feature is none."""
        if not features.isfinite().all():  # the miner would fail in a way that says nothing
            return features.sum() * float("nan")
        return self.loss(features, labels, self.miner(features.detach(), labels))


def require_tuples(
    orders: Mapping[str, float],
    baselines: Mapping[str, float],
    batch_size: int,
    triplets: int = 0,
) -> None:
    """Refuse batches in which a term would be zero whatever the networks say.

    Args:
        orders: weights of `HybridOrderLoss`.
        baselines: weights of `Baselines`.
        batch_size: images in a batch.
        triplets: images of each class in a batch, if there is a triplet loss.

    Raises:
        HorkdError: in one line.
    """
    needed = {f"order {order}": losses.SMALLEST.get(order, 1) for order, w in orders.items() if w}
    needed |= {name: baselines_.SMALLEST.get(name, 1) for name, w in baselines.items() if w}
    if triplets:
        needed["the triplet loss"] = triplets + 1  # and one image of another class
    for name, images in needed.items():
        if batch_size < images:
            raise HorkdError(
                f"{name} needs {images} images in a batch, with {batch_size} it is always zero: "
                "set batch_size in the recipe, or leave it out"
            )


class Objective(nn.Module):
    """Named terms and their weighted sum for one batch.

    Args:
        cross_entropy: weight of the loss on the labels: cross-entropy, or what `head` makes of
            them.
        relational: the hybrid-order loss against a frozen model, or None (teacher, controls).
        baselines: further losses against the frozen model, or None.
        head: turns features (N, D) and labels into a loss, in place of the network's own classifier
            and cross-entropy: a margin softmax, or `Triplet`. It is trained with the network and
            no part of it.
        balance: let an order's weight mean its gradient at the features as a multiple of the
            cross-entropy's, whatever the order's own scale: each gets a factor that follows the
            measured norms. Weights of `baselines` stay as they are. Differs from the paper.

    Raises:
        HorkdError: if orders should be balanced against a cross-entropy that is not there.
    """

    def __init__(
        self,
        cross_entropy: float = 1.0,
        relational: HybridOrderLoss | None = None,
        baselines: Baselines | None = None,
        balance: bool = False,
        head: nn.Module | None = None,
    ):
        super().__init__()
        self.head = head
        #: The name of the loss on the labels.
        self.on_labels = getattr(head, "term", "cross_entropy")
        if balance and not cross_entropy:
            raise HorkdError("balance needs a cross-entropy to measure the orders against")
        self.relational, self.baselines = relational, baselines
        self.weights: dict[str, float] = {}
        if cross_entropy:
            self.weights[self.on_labels] = cross_entropy
        if relational is not None:
            orders = {ORDERS[order]: w for order, w in relational.weights.items()}
            self.weights |= orders
            for name in orders if balance else ():  # buffers: a run that goes on has to know them
                self.register_buffer(f"factor_{name}", torch.zeros(()))
        if baselines is not None:
            self.weights |= baselines.weights

    @property
    def distilled(self) -> list[str]:
        """Names of the terms that need the frozen model."""
        return [name for name in self.weights if name != self.on_labels]

    def check_batches(self, batch_size: int, per_class: int = 0) -> None:
        """Refuse batches in which a term would be zero whatever the networks say.

        Args:
            batch_size: images in a batch.
            per_class: images of each class in it; 0 regardless of classes.

        Raises:
            HorkdError: in one line; also if there is no term at all.
        """
        if not self.weights:
            raise HorkdError(
                "nothing to minimise: give cross_entropy, an order or a baseline a weight"
            )
        relational, baselines = self.relational, self.baselines
        require_tuples(
            {} if relational is None or relational.gather else relational.weights,
            {} if baselines is None else baselines.weights,
            batch_size,
            per_class if isinstance(self.head, Triplet) and self.on_labels in self.weights else 0,
        )

    def silent(self, history: Sequence[Mapping]) -> list[str]:
        """Names of the terms that were zero in every step; `history` as of `check_learning`."""
        return [n for n in self.weights if not any(entry["terms"][n] for entry in history)]

    def check_learning(self, history: Sequence[Mapping]) -> None:
        """Refuse a finished run in which a term said nothing from the first step to the last.

        Args:
            history: an entry for each epoch, with its `terms`.

        Raises:
            HorkdError: in one line.
        """
        if silent := self.silent(history):
            raise HorkdError(
                f"{', '.join(silent)} was zero in every step of all {len(history)} epochs, so that "
                "nothing was learnt by it: no batch had a valid tuple, or there was nothing to "
                "tell apart; take larger batches, more classes, or leave it out"
            )

    @property
    def needs_maps(self) -> bool:
        """Whether both networks have to return maps."""
        return self.baselines is not None and self.baselines.needs_maps

    def forward(
        self, learner: Output, labels: Tensor, frozen: Output | None, ramp: float = 1.0
    ) -> dict[str, Tensor]:
        """`loss` and each active term, unweighted; all scalars in float32 or better.

        Args:
            learner: what the learner says of a batch.
            labels: whole numbers (N,).
            frozen: what the frozen model says of the same images, or None.
            ramp: factor of all distillation terms in the loss.
        """
        terms: dict[str, Tensor] = {}
        if self.on_labels in self.weights:
            terms[self.on_labels] = self._on_labels(learner, labels)
        if self.relational is not None:
            terms |= self.relational(frozen.features, learner.features)
        if self.baselines is not None:
            terms |= self.baselines(frozen, learner)
        terms.pop("loss", None)
        weighted = {name: self._weight(name) * term for name, term in terms.items()}
        loss = sum(w if name == self.on_labels else ramp * w for name, w in weighted.items())
        return {"loss": loss, **terms}

    def _on_labels(self, learner: Output, labels: Tensor) -> Tensor:
        labels = self._checked(labels, len(learner.features))
        same_device(labels, "labels", learner.features, "features")
        if self.head is not None:
            with torch.autocast(labels.device.type, enabled=False):
                features = exact(learner.features, "features")
                return self.head(as_its_weights(self.head, features), labels)
        logits = exact(learner.logits, "logits")
        try:
            return F.cross_entropy(logits, labels)
        except IndexError:  # a GPU cannot say it: it would have to be waited for
            raise HorkdError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but the network has "
                f"{logits.shape[1]} classes (0 to {logits.shape[1] - 1})"
            ) from None

    @staticmethod
    def _checked(labels: Tensor, images: int) -> Tensor:
        """Labels int64 (N,), if they are whole numbers, one for each image."""
        is_tensor(labels, "labels")
        if labels.dtype == torch.bool or labels.is_floating_point() or labels.shape != (images,):
            raise HorkdError(
                f"labels must be {images} whole numbers, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        return labels.long()

    def _weight(self, name: str) -> float | Tensor:
        factor = getattr(self, f"factor_{name}", None)
        return self.weights[name] if factor is None else self.weights[name] * factor

    def rebalance(self, terms: dict[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """‖∂(w·term)/∂features‖₂ of each term over the batch: who drives the learner?

        Without the ramp. A loss on maps has no gradient at the features and counts as zero. With
        `balance` the factors first move half of the way to the measured norms; the first
        measurement sets them, and before it the orders count nothing.

        Args:
            terms: what `forward` returned, its graph still alive.
            features: the learner's features (N, D) that these terms were computed from.
        """
        norms = self._unweighted_norms(terms, features)
        for name in self.distilled:
            factor = getattr(self, f"factor_{name}", None)
            if factor is not None:
                whole = self.weights[self.on_labels] * norms[self.on_labels]
                # a gradient that is only rounding is not worth being made as large as another
                target = whole / norms[name].maximum(1e-4 * whole).clamp(min=1e-12)
                factor.copy_(torch.where(factor == 0, target, (factor + target) / 2))
        return {name: self._weight(name) * norm for name, norm in norms.items()}

    def _unweighted_norms(self, terms: dict[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        norms = {}
        for name in self.weights:
            (gradient,) = torch.autograd.grad(
                terms[name], features, retain_graph=True, allow_unused=True
            )
            norms[name] = (
                features.new_zeros(()).float() if gradient is None else gradient.float().norm()
            )
        return norms
