"""Distillation by other means: the methods that Table 1 compares with, and today's plain ones.

Each takes the frozen model's and the learner's `Output` on the same images and returns a scalar in
float32. All are means over the batch, so that a weight means the same at any batch size.

| name | compares | usual weight, with that of the cross-entropy | source |
|---|---|---|---|
| kd | softened answers | 0.9, 0.1 | Hinton, Vinyals, Dean 2015, arXiv 1503.02531 |
| kd_standardised | the same on z-scores | 9, 0.1 | Sun et al., CVPR 2024, arXiv 2403.01427 |
| fitnet | the map of the middle stage | 10, 1 | Romero et al., ICLR 2015, arXiv 1412.6550 |
| at | where each stage is active | 1000, 1 | Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928 |

The weights of kd and at are those of the comparison in Tian et al., ICLR 2020, arXiv 1910.10699;
those of kd_standardised are its authors'. For fitnet that comparison has 100 at a
learning rate of 0.05; at the 0.1 to 0.2 used here the regressor then diverges in the first steps.
RKD (Park et al., CVPR 2019) is orders 2 and 3 of `horkd.losses` with reduction "rkd".
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horkd.errors import HorkdError
from horkd.models import Output


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
    if frozen.shape != learner.shape:
        raise HorkdError(
            f"kd compares logits over the same classes, got {tuple(frozen.shape)} and "
            f"{tuple(learner.shape)}"
        )
    if not temperature > 0:
        raise HorkdError(f"the temperature must be positive, got {temperature}")
    f = F.log_softmax(frozen.detach().float() / temperature, 1)
    g = F.log_softmax(learner.float() / temperature, 1)
    return temperature**2 * F.kl_div(g, f, reduction="batchmean", log_target=True)


def standardise(logits: Tensor) -> Tensor:
    """Z-scores of each image's logits (N, C): zero mean, unit (population) standard deviation.

    Logits that are all equal become equal z-scores, with a finite gradient.
    """
    z = logits.float()
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
        Pairs (N, K, h, w), (N, K', h, w), the first stage first, in float32.

    Raises:
        HorkdError: if one of them has no maps.
    """
    if not frozen or not learner:
        raise HorkdError("fitnet and at need maps: call the networks with maps=True")
    count = min(len(frozen), len(learner))
    pairs = []
    for f, g in zip(frozen[-count:], learner[-count:], strict=True):
        size = tuple(map(min, f.shape[-2:], g.shape[-2:]))
        pairs.append(
            (
                F.adaptive_avg_pool2d(f.detach().float(), size),
                F.adaptive_avg_pool2d(g.float(), size),
            )
        )
    return pairs


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
    if frozen.shape != learner.shape:
        raise HorkdError(
            f"fitnet compares maps of one shape, got {tuple(frozen.shape)} and "
            f"{tuple(learner.shape)}: add a regressor"
        )
    return F.mse_loss(learner.float(), frozen.detach().float())


def attention(maps: Tensor) -> Tensor:
    """Where a map is active: mean square over channels, unit length per image, (N, H·W)."""
    return F.normalize(maps.float().square().mean(1).flatten(1), eps=1e-12)


def at(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean squared difference of attention maps, summed over stages (Zagoruyko et al. 2017).

    Differs from the paper: a mean over positions instead of a norm, as in the authors' code, so
    that the same weight counts four times as much on maps of half the side; maps of unequal size
    are averaged to the smaller one.

    Args:
        pairs: (frozen, learner) maps of one size, as from `pair_stages`.

    Returns:
        A scalar.
    """
    return sum((attention(f.detach()) - attention(g)).square().mean() for f, g in pairs)


NAMES = ("kd", "kd_standardised", "fitnet", "at")
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
        }
        terms = {name: compute[name]() for name in self.weights}
        zero = (learner.features.float() * 0).sum()
        return {"loss": sum((w * terms[n] for n, w in self.weights.items()), zero), **terms}

    def _hint(self, frozen: Tensor, learner: Tensor) -> Tensor:
        with torch.autocast(learner.device.type, enabled=False):
            return fitnet(frozen, learner if self.regressor is None else self.regressor(learner))
