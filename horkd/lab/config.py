"""A configuration and its key: equal configurations are the same run."""

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field

import torch

from horkd.baselines import Baselines
from horkd.checks import plain_fields, require_seed
from horkd.data import DRAWN
from horkd.data.fingerprint import listing_digest
from horkd.data.retrieval import FOLDER, plain_name
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.losses import HybridOrderLoss
from horkd.networks.network import (
    ModelSpec,
    Statistics,
)
from horkd.objectives import Objective, require_tuples
from horkd.training import Recipe

HEADS = ("linear", "cosface", "arcface", "triplet")


#: Whose best epoch is the result: nobody's (the last is), the validation split's, or the test's.
SELECTIONS = ("last", "validation", "test")


#: Part of every key: raise it when the meaning of a configuration changes.
FORMAT = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run produces. Equal configurations are the same run.

    Attributes:
        model: name of the network, as in `horkd.networks.network`.
        degradation: what the learner sees of the full-resolution images.
        frozen: the run whose network is distilled from, or None. It sees its own degradation.
        orders: (order, weight) pairs for `HybridOrderLoss`; empty for none.
        reduction: of the relational losses: "mean", "sum" or "rkd".
        baselines: (name, weight) pairs for `horkd.baselines.Baselines`; empty for none.
        temperature: of kd and kd_standardised, None for their usual ones.
        balance: orders' weights are gradients as multiples of the cross-entropy's (`Objective`).
        warmup: epochs over which the distillation terms rise to their weights.
        embedding: width of the features by a linear layer, or None for those of the architecture.
        head: "linear", the network's own classifier; "cosface" or "arcface", a margin softmax that
            is trained with the network and no part of it; "triplet", the triplet loss.
        unit: relations between features at unit length (`HybridOrderLoss`).
        clusters: order C to the centres of that many clusters of the frozen model's features
            (k-means) instead of the labels' classes; 0 for the labels.
        weights: the digest of a weights file (`horkd.networks.weights.digest`): a network trained
            elsewhere, which `import_network` brings here. Nothing is trained then.
        mean, std: channel statistics that such a network expects; None for the data set's.
        normalized: the network ends in features of unit length.
        backbone: what the backbone starts from instead of random weights: "imagenet", the weights
            of its library, or the digest of a weights file
            (`horkd.networks.imagenet.start_backbone`).
        select: which epoch is the result: the "last"; the best one on the "validation" split; or
            the best one on the "test" images, as published code for metric learning has it, which
            makes the result too good.
        cross_entropy: weight of the loss on the labels: cross-entropy, or that of `head`.
        start: "scratch", or "frozen" to start from the frozen network's weights (same model).
        data: name of the data set.
        per_class: training images per class, None for all.
        validation: hold out the validation split and find the best epoch on it; False trains on
            training and validation images together, and has no best epoch.
        recipe: optimisation.
        seed: of initial weights, order of images and augmentation.
        classifier: the given weights are a file of this project's own (`horkd export`) and keep
            their classifier, over the classes of the data.
        trial: a run that settings are chosen by. It is read on the validation split, and never
            looks at the test images.
    """

    model: str
    degradation: Degradation
    frozen: "RunConfig | None" = None
    orders: tuple[tuple[str, float], ...] = ()
    reduction: str = "mean"
    cross_entropy: float = 1.0
    start: str = "scratch"
    data: str = "glyphs"
    per_class: int | None = None
    validation: bool = True
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    baselines: tuple[tuple[str, float], ...] = ()
    temperature: float | None = None
    balance: bool = False
    warmup: float = 0.0
    embedding: int | None = None
    head: str = "linear"
    unit: bool = False
    clusters: int = 0
    weights: str | None = None
    mean: Statistics | None = None
    std: Statistics | None = None
    normalized: bool = False
    backbone: str | None = None
    select: str = "last"
    trial: bool = False
    classifier: bool = False

    def __post_init__(self) -> None:
        plain_fields(self)
        ModelSpec(self.model, 1).parse()
        require_seed(self.seed)
        if not (math.isfinite(self.cross_entropy) and self.cross_entropy >= 0):
            raise HorkdError(f"cross_entropy must be 0 or more, got {self.cross_entropy}")
        if (self.orders or self.baselines) and self.frozen is None:
            raise HorkdError(
                "distillation needs a frozen model: set frozen=, or leave orders and baselines "
                "empty"
            )
        if self.start not in ("scratch", "frozen"):
            raise HorkdError(f"unknown start {self.start!r}: choose from scratch, frozen")
        if self.start == "frozen" and (self.frozen is None or self.frozen.model != self.model):
            raise HorkdError("start='frozen' needs a frozen run of the same model")
        if self.start == "frozen" and self.classifies != self.frozen.classifies:
            raise HorkdError(
                "start='frozen' needs a classifier in both networks or in none: train without "
                "labels, or with a margin head"
            )
        if self.recipe.views and self.frozen is not None and self.frozen.degradation.noise:
            raise HorkdError("fixed views need a frozen model that sees no noise")
        if self.head not in HEADS:
            raise HorkdError(f"unknown head {self.head!r}: choose from {', '.join(HEADS)}")
        if self.select not in SELECTIONS:
            raise HorkdError(f"unknown selection {self.select!r}: choose from {SELECTIONS}")
        if self.select == "validation" and not self.validation:
            raise HorkdError("select='validation' needs the validation split: set validation=True")
        if self.recipe.progressive and self.degradation.upsample:
            raise HorkdError("progressive is for networks that run at the size of their images")
        if any(p > self.degradation.size for _, p in self.recipe.progressive):
            raise HorkdError(
                f"stages of progressive must not be above the run's own {self.degradation.size} "
                f"pixels; got {', '.join(str(p) for _, p in self.recipe.progressive)}"
            )
        if self.classifier and not self.weights:
            raise HorkdError("classifier= is about given weights: set weights=, too")
        if self.trial and (not self.validation or self.select == "test"):
            raise HorkdError(
                "a trial is read on the validation split: set validation=True, and select to last "
                "or validation"
            )
        if self.trial and self.frozen is not None and not self.frozen.trial:
            raise HorkdError(
                "what a trial learns from must be a trial, too: another network may have been "
                "trained on the validation images"
            )
        if self.backbone and (self.start != "scratch" or self.weights):
            raise HorkdError("backbone= is for networks that are trained, from start='scratch'")
        if self.head == "triplet" and self.cross_entropy and self.recipe.per_class < 2:
            raise HorkdError("triplets need several images of a class: set recipe.per_class to 2")
        if self.clusters < 0:
            raise HorkdError(f"clusters must be 0 or more, got {self.clusters}")
        if self.frozen is not None and not self.frozen.weights and not self._same_images():
            raise HorkdError(
                "a learner and its frozen model must be trained on the same images: data, "
                "per_class and validation must agree"
            )
        if self.orders:  # refuses an unknown order now, not after the teacher's training
            HybridOrderLoss(dict(self.orders), torch.empty(0), reduction=self.reduction)
        baselines = Baselines(dict(self.baselines), self.temperature)
        Objective(self.cross_entropy, None, baselines, self.balance)
        if not self.cross_entropy and not any(w for _, w in (*self.orders, *self.baselines)):
            raise HorkdError(
                "nothing to minimise: give cross_entropy, an order or a baseline a weight"
            )
        if (self.orders or self.baselines) and not any(
            weight for _, weight in (*self.orders, *self.baselines)
        ):
            raise HorkdError(
                "orders and baselines all have weight 0, so that nothing is distilled: give one a "
                "weight, or leave them empty"
            )
        triplets = self.recipe.per_class if self.head == "triplet" and self.cross_entropy else 0
        batch = self.recipe.batch_size
        require_tuples(dict(self.orders), dict(self.baselines), batch, triplets)
        if not 0 <= self.warmup <= self.recipe.epochs:
            raise HorkdError(
                f"warmup must lie in 0 to {self.recipe.epochs} epochs, got {self.warmup}"
            )

    def _same_images(self) -> bool:
        ours = (self.data, self.per_class, self.validation)
        return ours == (self.frozen.data, self.frozen.per_class, self.frozen.validation)

    @property
    def classifies(self) -> bool:
        """Whether the network has a classifier: it came with it, or something trains it."""
        if self.weights:
            return self.classifier
        answers = any(name.startswith("kd") and weight for name, weight in self.baselines)
        return (self.head == "linear" and self.cross_entropy > 0) or answers

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits, the same for equal configurations.

        Fields at their default don't count: a field added later leaves older keys as they are.
        """
        content = {"format": FORMAT, **set_fields(self)}
        if self.data in DRAWN:  # redrawn images are other data
            content["data_version"] = DRAWN[self.data]
        if self.data.startswith(FOLDER):  # and so are photos that were added or edited
            content["data_version"] = listing_digest(self.data)
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A readable folder name, made unique by the key."""
        orders = "".join(order for order, _ in self.orders)
        names = [orders, *(name for name, _ in self.baselines)]
        labels = "triplet" if self.head == "triplet" else "ce"
        role = "+".join(filter(None, names)) or ("given" if self.weights else labels)
        size = self.degradation.size
        model = self.model.replace(":", "-")
        return f"{plain_name(self.data)}-{model}-{size}px-{role}-seed{self.seed}-{self.key}"

    @property
    def teacher(self) -> "RunConfig | None":
        """The first model of the chain of frozen ones; None for a run that has none."""
        return None if self.frozen is None else (self.frozen.teacher or self.frozen)


def set_fields(config: object) -> dict[str, object]:
    """The fields of a configuration that differ from their defaults, nested ones likewise."""
    content = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if value != default:
            content[f.name] = _plain(value, f.type)
    return content


def _plain(value: object, kind: object) -> object:
    """A field's value as its type says: 25 and 25.0 are the same weight."""
    if dataclasses.is_dataclass(value):
        return set_fields(value)
    if kind in (float, float | None):
        return None if value is None else float(value)
    if kind == Statistics | None:
        return [float(x) for x in value]
    if kind == tuple[tuple[str, float], ...]:
        return [(name, float(weight)) for name, weight in value]
    return value


def config_from_dict(content: dict, kind: type = RunConfig, path: str = "") -> object:
    """A configuration from plain JSON values.

    Raises:
        HorkdError: on an unknown or missing field, by its name.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name in content:
        if name not in known:
            raise HorkdError(f"unknown field {path}{name}: choose from {', '.join(known)}")
    values = {}
    for name, value in content.items():
        hint = hints[name]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = config_from_dict(value, hint, f"{path}{name}.")
        elif isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        values[name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise HorkdError(f"bad configuration: {error}") from None
