"""Distillation by other means: the methods of Tables 1 and 4, and today's plain ones.

Each takes the frozen model's and the learner's `Output` on the same images and returns a scalar in
float32 or better. All are means over the batch, so that a weight means the same at any batch size.

| name | compares | usual weight, with that of the cross-entropy | source |
|---|---|---|---|
| kd | softened answers | 0.9, 0.1 | Hinton, Vinyals, Dean 2015, arXiv 1503.02531 |
| kd_standardised | the same on z-scores | 9, 0.1 | Sun et al., CVPR 2024, arXiv 2403.01427 |
| fitnet | the map of the middle stage | 10, 1 | Romero et al., ICLR 2015, arXiv 1412.6550 |
| at | where each stage is active | 1000, 1 | Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928 |
| pkt | who is similar to whom | 1, alone | Passalis, Tefas, ECCV 2018, arXiv 1803.10837 |
| darkrank | order of neighbours | 1, a metric loss 1 | Chen et al., AAAI 2018, arXiv 1707.01220 |
| mkd_absolute | embeddings | 1, a metric loss 1 | Yu et al., CVPR 2019, arXiv 1904.03624 |
| mkd_relative | distances | 10, a metric loss 1 | the same |

The weights of kd and at are those of the comparison in Tian et al., ICLR 2020, arXiv 1910.10699;
those of kd_standardised are its authors'. For fitnet that comparison has 100 at a
learning rate of 0.05; at the 0.1 to 0.2 used here the regressor then diverges in the first steps.
RKD (Park et al., CVPR 2019) is orders 2 and 3 of `horkd.losses` with reduction "rkd".

The last four are those of Table 4, on metric learning: they look at features alone. The weight of
mkd_relative is about its authors' 0.3 for CUB, whose term is larger by the size of their batch; the
1 of mkd_absolute is theirs for CUB, the others' 1 is the plain choice, tuned on nothing. The metric
loss beside darkrank and mkd is the study's own, where mkd's authors have batch-hard triplets
without a margin. In the published code darkrank and mkd see features of unit length; here they take
what they are given, and their values depend on its scale.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horkd.checks import as_its_weights, exact, same_device
from horkd.errors import HorkdError
from horkd.fast import distances
from horkd.networks.network import Output
from horkd.potentials import as_pair, pairwise_distances


def kd(frozen: Tensor, learner: Tensor, temperature: float = 4.0) -> Tensor:
    """T² · KL(softmax(z_f / T) ‖ softmax(z_g / T)), mean over images (Hinton et al. 2015).

    T² keeps the gradient's size independent of T.

    Args:
        frozen: logits z_f (N, C), get no gradient.
        learner: logits z_g (N, C).
        temperature: T.

    Returns:
        A scalar.

    Raises:
        HorkdError: if the shapes differ or the temperature is not positive.
    """
    z_f, z_g = exact(frozen, "frozen logits").detach(), exact(learner, "learner logits")
    if z_f.shape != z_g.shape or z_f.ndim != 2:
        raise HorkdError(
            f"kd compares logits over the same classes, got {tuple(z_f.shape)} and "
            f"{tuple(z_g.shape)}"
        )
    same_device(z_f, "frozen logits", z_g, "learner's")
    if not temperature > 0:
        raise HorkdError(f"the temperature must be positive, got {temperature}")
    f = F.log_softmax(z_f.to(z_g.dtype) / temperature, 1)
    g = F.log_softmax(z_g / temperature, 1)
    return temperature**2 * F.kl_div(g, f, reduction="batchmean", log_target=True)


def standardise(logits: Tensor) -> Tensor:
    """Z-scores of each image's logits (N, C): zero mean, unit (population) standard deviation.

    Logits that are all equal become equal z-scores, with a finite gradient.
    """
    z = exact(logits, "logits")
    if z.ndim != 2:
        raise HorkdError(f"logits must be (N, C), got {tuple(z.shape)}")
    z = z - z.mean(1, keepdim=True)
    return z / (z.square().mean(1, keepdim=True) + 1e-14).sqrt()


def kd_standardised(frozen: Tensor, learner: Tensor, temperature: float = 2.0) -> Tensor:
    """`kd` on z-scores: the learner need not copy the scale of the logits (Sun et al. 2024).

    Differs from the authors' code: the standard deviation is that of the population (theirs, of a
    sample, is half a percent larger for 100 classes), and 1e-14 is added to the variance instead of
    1e-7 to the standard deviation, which keeps the gradient finite for equal logits.

    Args:
        frozen: logits (N, C), get no gradient.
        learner: logits (N, C).
        temperature: T, the authors' base temperature.

    Returns:
        A scalar.

    Raises:
        HorkdError: as `kd`.
    """
    return kd(standardise(frozen), standardise(learner), temperature)


def pair_stages(frozen: Sequence[Tensor], learner: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Maps of both models, stage by stage from the last one, averaged to the smaller size of two.

    A learner at a lower resolution has smaller maps; a network with more stages gives up its
    first ones.

    Args:
        frozen: maps (N, K, H, W), the first stage first; get no gradient.
        learner: maps (N, K', H', W').

    Returns:
        Pairs (N, K, h, w), (N, K', h, w), the first stage first, in float32 or better.

    Raises:
        HorkdError: if one of them has no maps, or they are not of the same images.
    """
    if not frozen or not learner:
        raise HorkdError("fitnet and at need maps: call the networks with maps=True")
    count = min(len(frozen), len(learner))
    pairs = []
    for f, g in zip(frozen[-count:], learner[-count:], strict=True):
        f, g = _maps(f.detach() if isinstance(f, Tensor) else f, g)
        if len(f) != len(g):
            raise HorkdError(
                f"frozen model saw {len(f)} images, learner {len(g)}: they must be the same"
            )
        size = tuple(map(min, f.shape[-2:], g.shape[-2:]))
        pairs.append((F.adaptive_avg_pool2d(f, size), F.adaptive_avg_pool2d(g, size)))
    return pairs


def _maps(frozen: Tensor, learner: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, K, H, W) in float32 or better, on one device."""
    f, g = exact(frozen, "frozen maps"), exact(learner, "learner maps")
    for x in (f, g):
        if x.ndim != 4:
            raise HorkdError(f"maps must be (N, K, H, W), got {tuple(x.shape)}")
    same_device(f, "frozen maps", g, "learner's")
    return f, g


def middle(stages: int) -> int:
    """Index of the stage that FitNet's hint comes from."""
    return (stages - 1) // 2


def fitnet(frozen: Tensor, learner: Tensor) -> Tensor:
    """Mean squared difference of two maps (Romero et al. 2015), the learner's after a regressor.

    Differs from the paper: hint and cross-entropy are minimised together, as is usual now, not one
    after the other; a larger frozen map is averaged down to the learner's size.

    Args:
        frozen: the hint (N, K, H, W), gets no gradient.
        learner: (N, K, H, W).

    Returns:
        A scalar.

    Raises:
        HorkdError: if the shapes differ.
    """
    f, g = _maps(frozen, learner)
    if f.shape != g.shape:
        raise HorkdError(
            f"fitnet compares maps of one shape, got {tuple(f.shape)} and {tuple(g.shape)}: add a "
            "regressor"
        )
    return F.mse_loss(g, f.detach().to(g.dtype))


def attention(maps: Tensor) -> Tensor:
    """Where a map is active: mean square over channels, unit length per image, (N, H·W)."""
    return F.normalize(exact(maps, "maps").square().mean(1).flatten(1), eps=1e-12)


def at(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean squared difference of attention maps, summed over stages (Zagoruyko et al. 2017).

    Differs from the paper: a mean over positions instead of a norm, as in the authors' code, so
    that the same weight counts four times as much on maps of half the side; maps of unequal size
    are averaged to the smaller one.

    Args:
        pairs: (frozen, learner) maps of one size, as from `pair_stages`.

    Returns:
        A scalar.

    Raises:
        HorkdError: if a pair is not of one size.
    """
    terms = []
    for f, g in pairs:
        f, g = _maps(f, g)
        if (len(f), *f.shape[2:]) != (len(g), *g.shape[2:]):
            raise HorkdError(
                f"at compares maps of one size, got {tuple(f.shape)} and {tuple(g.shape)}: "
                "pair_stages makes them so"
            )
        terms.append((attention(f.detach()) - attention(g)).square().mean().to(g.dtype))
    return sum(terms)


def directions(x: Tensor) -> Tensor:
    """Rows of x (N, D) at unit length; those below 1e-30 count as zero, with a finite gradient."""
    size = x.detach().abs().amax(1, keepdim=True)
    # the largest entry becomes 1, so that squares neither overflow nor vanish
    x = x / torch.where(size > 1e-30, size, 1.0)
    return x * x.square().sum(1, keepdim=True).clamp(min=0.5).rsqrt()


def pkt(frozen: Tensor, learner: Tensor, eps: float = 1e-7) -> Tensor:
    """Σ_j p_(j|i) log(p_(j|i) / q_(j|i)), mean over i (Passalis and Tefas 2018).

    p_(j|i) = K_ij / Σ_(k≠i) K_ik of the frozen model, q of the learner, with the kernel
    K_ij = (cos(x_i, x_j) + 1) / 2 + ε. The cosine to a zero vector is 0.

    Differs from the authors' code: that keeps the diagonal, where K = 1 (the paper's sums are over
    pairs of distinct images, as here), takes the mean over all N² entries, which is 1/N of the mean
    over i, and adds ε to p and q in the logarithm, not to K.

    Args:
        frozen: features (N, D_f), get no gradient.
        learner: features (N, D_g); the widths may differ.
        eps: ε, which keeps opposite vectors finite.

    Returns:
        A scalar; zero, connected to the graph, for fewer than three images.

    Raises:
        HorkdError: if the batch sizes differ or ε is not positive.
    """
    if not eps > 0:
        raise HorkdError(f"pkt's eps must be positive, got {eps}")
    f, g = as_pair(frozen, learner)
    if len(g) < 3:  # a distribution over one other image
        return (g * 0).sum()
    itself = torch.eye(len(g), dtype=torch.bool, device=g.device)

    def log_probabilities(x: Tensor) -> Tensor:
        unit = directions(x.double())  # 1 + cos cancels for opposite vectors
        kernel = (unit @ unit.T + 1) / 2 + eps
        return kernel.log().masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)

    with distances.without_autocast(g):
        p, q = log_probabilities(f), log_probabilities(g)
        return F.kl_div(q, p, reduction="batchmean", log_target=True).to(g.dtype)


def darkrank(
    frozen: Tensor, learner: Tensor, alpha: float = 3.0, beta: float = 3.0, length: int = 4
) -> Tensor:
    """−log P(π_i), mean over queries i: hard DarkRank (Chen et al. 2018).

    π_i lists the `length` other images that are nearest to i for the frozen model, nearest first.
    The learner gives it the probability of Plackett and Luce: with scores
    s_ij = −α ‖g_i − g_j‖^β, log P(π) = Σ_k (s_π(k) − log Σ_(l≥k) exp s_π(l)).

    Differs from the authors' code, which lists the whole batch (of 8 images, by default): four are
    listed in the comparison of the code published with RKD (Park et al. 2019; its alpha is 2), and
    `length` = N − 1 lists all. That code drops whoever comes first, here the query is left out,
    though others may be equal to it; equally near images are listed in the order of the batch.

    Args:
        frozen: features (N, D_f), get no gradient.
        learner: features (N, D_g); the widths may differ.
        alpha: α, for features of about unit length.
        beta: β.
        length: images in a list, no more than N − 1.

    Returns:
        A scalar; zero, connected to the graph, for fewer than three images.

    Raises:
        HorkdError: if the batch sizes differ, α is not positive, β is less than 1, or a list has
            fewer than two images.
    """
    if not (alpha > 0 and beta >= 1 and length >= 2):
        raise HorkdError(
            "darkrank needs alpha > 0, beta >= 1 and lists of 2 images or more, got "
            f"alpha {alpha}, beta {beta}, length {length}"
        )
    f, g = as_pair(frozen, learner)
    if len(g) < 3:  # a list of one image has one order
        return (g * 0).sum()
    order = pairwise_distances(f, normalize=False).fill_diagonal_(torch.inf)
    order = order.argsort(dim=1, stable=True)[:, : min(length, len(g) - 1)]
    with distances.without_autocast(g):
        # float64: the cube of a large distance leaves float32
        near = pairwise_distances(g, normalize=False).gather(1, order).double()
        scores = -alpha * near.pow(beta)
        before = scores.new_ones(scores.shape[1], scores.shape[1], dtype=torch.bool).tril(-1)
        # the gradient of logcumsumexp would lose digits where scores are far apart
        log_rest = scores[:, None].masked_fill(before, -torch.inf).logsumexp(2)
        return (log_rest - scores).sum(1).mean().to(g.dtype)


def mkd_absolute(frozen: Tensor, learner: Tensor) -> Tensor:
    """‖f_i − g_i‖₂, mean over i: the absolute teacher of Yu et al. 2019.

    Args:
        frozen: f (N, D), gets no gradient.
        learner: g (N, D).

    Returns:
        A scalar.

    Raises:
        HorkdError: if the shapes differ.
    """
    f, g = as_pair(frozen, learner)
    if f.shape != g.shape:
        raise HorkdError(
            f"mkd_absolute compares embeddings of equal width, but the frozen one is {f.shape[1]} "
            f"wide and the learner's {g.shape[1]}: give the learner an embedding of equal width"
        )
    if len(g) == 0:
        return (g * 0).sum()
    # squares of float64 neither overflow nor vanish; at zero the norm's gradient is zero
    return torch.linalg.vector_norm((f - g).double(), dim=1).mean().to(g.dtype)


def mkd_relative(frozen: Tensor, learner: Tensor) -> Tensor:
    """|‖f_i − f_j‖ − ‖g_i − g_j‖|, mean over pairs i ≠ j: the relative teacher of Yu et al. 2019.

    Differs from order 2: absolute, not squared, and not normalised by the mean distance, so that
    scales count. Differs from the authors' code, which takes the Euclidean norm over the
    differences of all pairs: N times their root mean square.

    Args:
        frozen: f (N, D_f), gets no gradient.
        learner: g (N, D_g); the widths may differ.

    Returns:
        A scalar; zero, connected to the graph, for fewer than two images.

    Raises:
        HorkdError: if the batch sizes differ.
    """
    f, g = as_pair(frozen, learner)
    n = len(g)
    if n < 2:
        return (g * 0).sum()
    difference = pairwise_distances(g, normalize=False) - pairwise_distances(f, normalize=False)
    return difference.abs().sum().to(g.dtype) / (n * (n - 1))


NAMES = ("kd", "kd_standardised", "fitnet", "at", "pkt", "darkrank", "mkd_absolute", "mkd_relative")
#: Images in a batch from which on a loss says anything, where that is not one.
SMALLEST = {"pkt": 3, "darkrank": 3, "mkd_relative": 2}
#: Those that look at maps inside the networks.
ON_MAPS = ("fitnet", "at")


class Baselines(nn.Module):
    """A weighted sum of this module's losses, with named terms: the interface of HybridOrderLoss.

    Example:
        >>> loss = Baselines({"kd": 0.9})
        >>> frozen = Output(torch.randn(8, 64), torch.randn(8, 10))
        >>> learner = Output(torch.randn(8, 32), torch.randn(8, 10))
        >>> sorted(loss(frozen, learner))
        ['kd', 'loss']

    Args:
        weights: name to weight; 0 leaves the loss out.
        temperature: of kd and kd_standardised; None for each one's usual temperature.
        regressor: maps the learner's middle map to the hint's channels, for fitnet. Train it with
            the learner; it is no part of the exported student.

    Raises:
        HorkdError: on an unknown name, a negative weight or a temperature that is not positive.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        temperature: float | None = None,
        regressor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            if name not in NAMES:
                raise HorkdError(f"unknown baseline {name!r}: choose from {', '.join(NAMES)}")
            if not weight >= 0:
                raise HorkdError(f"the weight of {name} is {weight}; it must be 0 or more")
        if temperature is not None and not temperature > 0:
            raise HorkdError(f"the temperature must be positive, got {temperature}")
        self.weights = {name: float(weights[name]) for name in NAMES if weights.get(name, 0)}
        self.softening = {} if temperature is None else {"temperature": temperature}
        self.regressor = regressor

    @property
    def needs_maps(self) -> bool:
        """Whether the networks have to be called with maps=True."""
        return any(name in ON_MAPS for name in self.weights)

    def forward(self, frozen: Output, learner: Output) -> dict[str, Tensor]:
        """`loss`, the weighted sum, and each active loss unweighted, all scalars."""
        pairs = pair_stages(frozen.maps, learner.maps) if self.needs_maps else []
        compute = {
            "kd": lambda: kd(frozen.logits, learner.logits, **self.softening),
            "kd_standardised": lambda: kd_standardised(
                frozen.logits, learner.logits, **self.softening
            ),
            "fitnet": lambda: self._hint(*pairs[middle(len(pairs))]),
            "at": lambda: at(pairs),
            "pkt": lambda: pkt(frozen.features, learner.features),
            "darkrank": lambda: darkrank(frozen.features, learner.features),
            "mkd_absolute": lambda: mkd_absolute(frozen.features, learner.features),
            "mkd_relative": lambda: mkd_relative(frozen.features, learner.features),
        }
        terms = {name: compute[name]() for name in self.weights}
        zero = (learner.features.float() * 0).sum()
        return {"loss": sum((w * terms[n] for n, w in self.weights.items()), zero), **terms}

    def _hint(self, frozen: Tensor, learner: Tensor) -> Tensor:
        with torch.autocast(learner.device.type, enabled=False):
            if self.regressor is not None:
                learner = self.regressor(as_its_weights(self.regressor, learner))
            return fitnet(frozen, learner)
