"""Cross-resolution distillation, after *Look One and More* (AAAI 2020, arXiv 2409.05384).

Where the paper is:

| in the paper | name | module |
|---|---|---|
| the method: teacher → assistant → student | `transfer`, `distil` | `two_stages` |
| Eq. 1, an n-order loss | functions of two batches of features | `losses` |
| Eq. 2, order 1 | `order1` | `losses` |
| Eq. 3, order 2, and its potential ψ_d | `order2`, `pairwise_distances` | `losses`, `potentials` |
| Eqs. 4 and 5, order 3, and ψ_a | `order3`, `angle_cosines` | `losses`, `potentials` |
| Eq. 6, class centres | `class_centers` | `losses` |
| Eq. 7, order C, and ψ_e | `order_c`, `center_distances` | `losses`, `potentials` |
| Eq. 8, their weighted sum | `HybridOrderLoss` | `losses` |
| x ↦ x̂, the small image | `Degradation` | `degradation` |
| KD, FitNet, AT, PKT, DarkRank, MKD | `Baselines` | `baselines` |
| what a learner minimises | `Objective` | `objectives` |
| one training loop for all three | `fit` | `training` |
| every printed number | `TABLE_1` … `TABLE_4` | `paper` |

The rest serves it: `fast/` (distances and angles with their gradients), `networks/`, `data/`,
`protocols/` (how a network is judged), `lab/` (a configuration becomes a record), `studies/` (the
paper's tables, one folder for each task), and the command line in `cli.py`.

The names below come from their files when they are first asked for, so that `import horkd` is
fast.
"""

import importlib
from typing import TYPE_CHECKING

from horkd.checkout import require_own_code

if TYPE_CHECKING:
    from horkd.baselines import Baselines
    from horkd.data import ImageSet, load_dataset
    from horkd.degradation import Degradation
    from horkd.lab.config import RunConfig
    from horkd.lab.runner import run
    from horkd.losses import HybridOrderLoss, class_centers
    from horkd.networks.network import ModelSpec, Network, load_network
    from horkd.training import Recipe
    from horkd.two_stages import distil, transfer

#: Name -> the module that it is from.
_FROM = {
    "Baselines": "baselines",
    "Degradation": "degradation",
    "HybridOrderLoss": "losses",
    "ImageSet": "data",
    "ModelSpec": "networks.network",
    "Network": "networks.network",
    "Recipe": "training",
    "RunConfig": "lab.config",
    "class_centers": "losses",
    "distil": "two_stages",
    "load_dataset": "data",
    "load_network": "networks.network",
    "run": "lab.runner",
    "transfer": "two_stages",
}

#: Modules of the map, to be had as `horkd.losses`.
_SHELF = (
    *("baselines", "degradation", "losses", "objectives", "paper", "potentials", "training"),
    "two_stages",
)

__all__ = [
    "Baselines",
    "Degradation",
    "HybridOrderLoss",
    "ImageSet",
    "ModelSpec",
    "Network",
    "Recipe",
    "RunConfig",
    "class_centers",
    "distil",
    "load_dataset",
    "load_network",
    "run",
    "transfer",
]

require_own_code()


def __getattr__(name: str) -> object:
    if name in _FROM:
        return getattr(importlib.import_module(f"horkd.{_FROM[name]}"), name)
    if name in _SHELF:
        return importlib.import_module(f"horkd.{name}")
    raise AttributeError(f"module 'horkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_FROM))
