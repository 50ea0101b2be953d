"""A configuration gives a key; a run of it leaves a record and a checkpoint under that key.

    runs/<name>-<key>/record.json            what was done and what came out
                      model.safetensors      the network (the export of a student)
                      objective.safetensors  projector and class centres, if it had any
                      views.json             the finished network tested on other resolutions
                      open_set.json          the same on pairs and galleries of unseen classes
                      state.safetensors      while unfinished: everything needed to go on
                      diverged.json          instead of a record: the loss was no finite number

The same configuration again is read, not recomputed. A run interrupted anywhere goes on from its
last saved step and ends with the record of an uninterrupted one. Files are written atomically and
carry a digest; a damaged one is set aside with a warning and never reused.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
import types
import typing
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from horkd import evaluate, paths, pretrained, remembered, storage
from horkd.baselines import Baselines, middle
from horkd.data import DRAWN, Dataset, ImageSet, PhotoFiles, load_dataset, whole_of
from horkd.data.disjoint import FOLDER, listing_digest, plain_name
from horkd.errors import HorkdError
from horkd.losses import HybridOrderLoss, class_centers, unit_length
from horkd.models import (
    ModelSpec,
    Network,
    Output,
    Statistics,
    load_network,
    macs,
    parameters,
    save_network,
)
from horkd.objectives import Frozen, Objective, Triplet, margin_head
from horkd.resolution import Degradation
from horkd.storage import Busy as Busy
from horkd.train import (
    Diverged,
    Interruption,
    Recipe,
    Settings,
    State,
    Task,
    describe_machine,
    fit,
    main_metric,
    new_state,
)

HEADS = ("linear", "cosface", "arcface", "triplet")
#: Whose best epoch is the result: nobody's (the last is), the validation split's, or the test's.
SELECTIONS = ("last", "validation", "test")
#: Part of every key: raise it when the meaning of a configuration changes.
FORMAT = 1
#: An epoch shorter than this is not worth a checkpoint of its own.
SAVE_EVERY_SECONDS = 10.0
#: Nor is one shorter than this worth a line in a log.
REPORT_SECONDS = 10.0
#: Within an epoch the state is kept this often.
SAVE_WITHIN_SECONDS = 180.0


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run produces. Equal configurations are the same run.

    Attributes:
        model: name of the network, as in `horkd.models`.
        degradation: what the learner sees of the full-resolution images.
        frozen: the run whose network is distilled from, or None. It sees its own degradation.
        orders: (order, weight) pairs for `HybridOrderLoss`; empty for none.
        reduction: of the relational losses: "mean", "sum" or "rkd".
        baselines: (name, weight) pairs for `horkd.baselines.Baselines`; empty for none.
        temperature: of kd and kd_standardised, None for their usual ones.
        balance: weights are gradients as multiples of the cross-entropy's (`Objective`).
        warmup: epochs over which the distillation terms rise to their weights.
        embedding: width of the features by a linear layer, or None for those of the architecture.
        head: "linear", the network's own classifier; "cosface" or "arcface", a margin softmax that
            is trained with the network and no part of it; "triplet", the triplet loss.
        unit: relations between features at unit length (`HybridOrderLoss`).
        clusters: order C to the centres of that many clusters of the frozen model's features
            (k-means) instead of the labels' classes; 0 for the labels.
        weights: the digest of a weights file (`horkd.pretrained.digest`): a network trained
            elsewhere, which `import_network` brings here. Nothing is trained then.
        mean, std: channel statistics that such a network expects; None for the data set's.
        normalized: the network ends in features of unit length.
        backbone: what the backbone starts from instead of random weights: "imagenet", the weights
            of its library, or the digest of a weights file (`horkd.pretrained.start_backbone`).
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
        ModelSpec(self.model, 1).parse()
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
        content = {"format": FORMAT, **_set_fields(self)}
        if self.data in DRAWN:  # redrawn images are other data
            content["data_version"] = DRAWN[self.data]
        if self.data.startswith(FOLDER):  # and so are photos that were added
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


def _set_fields(config: object) -> dict[str, object]:
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
        return _set_fields(value)
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


@dataclass(frozen=True)
class Run:
    """A finished run."""

    config: RunConfig
    folder: Path
    record: dict

    def network(self) -> Network:
        """The trained network (of the epoch that counts), in eval mode, on the CPU."""
        return load_network(self.folder / "model.safetensors")

    def centers(self) -> Tensor | None:
        """The frozen model's class centres (C, D) that this run was trained with, or None."""
        path = self.folder / "objective.safetensors"
        tensors = storage.load_tensors(path)[0] if path.is_file() else {}
        return tensors.get("relational.centers")


class TimeUp(HorkdError):
    """The time given to a run is over; it goes on from the last epoch when asked again."""


@dataclass(frozen=True)
class Control:
    """How a run is watched and stopped; nothing of it changes what comes out.

    Attributes:
        deadline: `time.monotonic()` at which to stop: after an epoch, if another one of its length
            would not end by then. The first epoch of a call is not cut short.
        wait: for another process that trains the same; False raises Busy instead.
        interruption: Ctrl-C and SIGTERM, if they are to be put off to the end of a step.
        say: gets a line after each epoch that is not over in moments.
        going: asked after each step and epoch; a run stops when it says False.
    """

    deadline: float | None = None
    wait: bool = True
    interruption: Interruption | None = None
    say: Callable[[str], None] = lambda line: None
    going: Callable[[], bool] = lambda: True


def run(
    config: RunConfig,
    settings: Settings | None = None,
    runs: Path | None = None,
    control: Control | None = None,
) -> Run:
    """The finished run of a configuration: read if it is there, else trained, teachers first.

    Args:
        config: what to run.
        settings: how the machine should do it.
        runs: folder of all runs; `horkd.paths.runs_dir()` if None.
        control: how it is watched and stopped.

    Raises:
        Diverged: if the loss is, or was at an earlier try, no longer finite.
        TimeUp: if the deadline came first; nothing of the finished epochs is lost.
        Busy: if another process trains the same, and `control` says not to wait.
        KeyboardInterrupt: if `control` says to stop; the steps done so far are kept.
        HorkdError: if data are missing, the disk refuses, and so on.
    """
    runs, control = runs or paths.runs_dir(), control or Control()
    folder = runs / config.name
    found = _finished(config, folder)  # what is there needs no lock
    if found is not None:
        return found
    with storage.locked(runs / ".locks" / f"{config.key}.lock", control.wait):
        found = _finished(config, folder)
        if found is None:
            if config.weights:
                return _import(config, committed_file(config), settings, folder)
            _refuse_diverged(config, folder)
            found = _train(config, settings or Settings(), runs, folder, control)
        return found


def import_network(
    config: RunConfig, path: Path, settings: Settings | None = None, runs: Path | None = None
) -> Run:
    """Bring a network that was trained elsewhere here, as a finished run to distil from.

    Args:
        config: its `weights` must be the file's digest.
        path: the weights file.
        settings: where to test it.
        runs: folder of all runs.

    Raises:
        HorkdError: if the file is another one, does not fit the architecture, or data are missing.
    """
    runs = runs or paths.runs_dir()
    folder = runs / config.name
    found = pretrained.digest(path)
    if found != config.weights:
        raise HorkdError(f"{path} has digest {found}, but the run asks for {config.weights}")
    with storage.locked(runs / ".locks" / f"{config.key}.lock"):
        return _finished(config, folder) or _import(config, path, settings, folder)


def committed_file(config: RunConfig) -> Path:
    """The weights file of a given network among those that come with the reports.

    Raises:
        HorkdError: if it is not among them.
    """
    folders = dict.fromkeys((paths.root() / "reports", paths.reports_dir()))
    for path in (p for folder in folders for p in sorted(folder.glob("*/models/*.safetensors"))):
        if pretrained.digest(path) == config.weights:
            return path
    raise HorkdError(
        f"the weights {config.weights} of {config.model} are not imported yet, and no report has "
        "them: give their file with --teacher-weights"
    )


def _import(config: RunConfig, path: Path, settings: Settings | None, folder: Path) -> Run:
    data = load_dataset(config.data, config.per_class)
    started = time.monotonic()
    spec = _spec(config, data)
    if config.classifier:
        network = load_network(path, spec)
    else:
        network = pretrained.load_pretrained(path, spec)
    settings = (settings or Settings()).resolve(network)
    save_network(folder / "model.safetensors", network, key=config.key)
    files = {"model.safetensors": storage.tensor_digest(network.state_dict())}
    network = settings.place(load_network(folder / "model.safetensors"))
    results = _results(config, network, None, data, settings)
    around = round(time.monotonic() - started, 3)
    rest = {
        "history": [],
        "training_images": 0,
        "seconds": {
            "total": 0.0, "epochs": [], "around_epochs": around, "frozen_answers_read": [],
        },
        "frozen_files": None,
    }  # fmt: skip
    size = _input_size(config, data)
    return _record(config, folder, results, network, size, settings, files, rest)


def read(config: RunConfig, runs: Path | None = None) -> Run | None:
    """The run of a configuration if it is finished, else None. Trains nothing."""
    return _finished(config, (runs or paths.runs_dir()) / config.name)


def _refuse_trial(finished: Run) -> None:
    if finished.config.trial:
        raise HorkdError(
            f"{finished.config.name} is a trial, by which settings are chosen: it never looks at "
            "the test images"
        )


def features(finished: Run, settings: Settings | None = None) -> Tensor:
    """What a finished network says of every test image it was made for, (N, D), on the CPU.

    Args:
        finished: the run.
        settings: where to run it.
    """
    _refuse_trial(finished)
    config, network = finished.config, finished.network()
    data = load_dataset(config.data, config.per_class)
    settings = (settings or Settings()).resolve(network)
    images = evaluate.central(data.test)
    return evaluate.predict(
        settings.place(network), images, data, config.degradation
    ).features.cpu()


def views(
    finished: Run, degradations: Sequence[Degradation], settings: Settings | None = None
) -> list[dict]:
    """Test accuracy of a finished network on images of other resolutions or kernels.

    What has been looked at before is read from the run's `views.json`.

    Args:
        finished: the run.
        degradations: what the network is to see.
        settings: where to run it.

    Returns:
        For each degradation what `horkd.evaluate.test` gives: `top1`, `top5` and `n`, or rates of
        verification or retrieval.

    Raises:
        HorkdError: if the data set is missing, or the disk refuses.
    """
    _refuse_trial(finished)
    path = finished.folder / "views.json"
    with storage.locked(finished.folder.parent / ".locks" / f"{finished.config.key}.views.lock"):
        known = _known_views(finished, path)
        wanted = [_view_key(d) for d in degradations]
        missing = {k: d for k, d in zip(wanted, degradations, strict=True) if k not in known}
        if missing:
            network = finished.network()
            settings = (settings or Settings()).resolve(network)
            network = settings.place(network)
            data = load_dataset(finished.config.data, finished.config.per_class)
            for key, degradation in missing.items():
                known[key] = {
                    "degradation": asdict(degradation),
                    "test": evaluate.test(network, data, degradation),
                }
            content = {"key": finished.config.key, "files": finished.record["files"]}
            storage.save_json(path, content | {"views": [known[key] for key in sorted(known)]})
    return [known[key]["test"] for key in wanted]


def _view_key(degradation: Degradation | dict) -> str:
    content = degradation if isinstance(degradation, dict) else asdict(degradation)
    return json.dumps(content, sort_keys=True)


def _known_views(finished: Run, path: Path) -> dict[str, dict]:
    """Views of these very weights."""
    content = _of_these_weights(finished, path)
    return {_view_key(view["degradation"]): view for view in content.get("views", ())}


@dataclass(frozen=True)
class Look:
    """What a finished network is asked on images of classes that it was not trained on.

    Attributes:
        task: "verification" (`evaluate.verify`), "identification" (`evaluate.identify`),
            "retrieval" (`evaluate.retrieve`), "pixels" (`evaluate.retrieve_pixels`, which needs no
            network), or "across": queries by this network in the index of its teacher, made from
            its images at full resolution (`evaluate.retrieve_across`).
        data: the data set with the images.
        degradation: what the network sees of them.
        other: what it sees of the second image of a pair, or of the gallery, instead.
        flip: add the features of the mirrored image.
    """

    task: str
    data: str
    degradation: Degradation
    other: Degradation | None = None
    flip: bool = False


def open_set(finished: Run, looks: Sequence[Look], settings: Settings | None = None) -> list[dict]:
    """What a finished network says of images of classes that it was not trained on.

    What has been looked at before is read from the run's `open_set.json`.

    Args:
        finished: the run.
        looks: tasks, data and views.
        settings: where to run it.

    Returns:
        For each look what `evaluate.verify`, `identify`, `retrieve` or `retrieve_across` gives.

    Raises:
        HorkdError: if a data set is missing or has no such task, or the disk refuses.
    """
    _refuse_trial(finished)
    ask = {
        "verification": evaluate.verify,
        "identification": evaluate.identify,
        "retrieval": evaluate.retrieve,
        "pixels": evaluate.retrieve_pixels,
        "across": None,
    }
    for look in looks:
        if look.task not in ask:
            raise HorkdError(f"unknown task {look.task!r}: choose from {', '.join(ask)}")
        if look.task == "across" and (look.other or look.flip):
            raise HorkdError("queries in the teacher's index know neither other= nor flip=")
    path = finished.folder / "open_set.json"
    with storage.locked(finished.folder.parent / ".locks" / f"{finished.config.key}.looks.lock"):
        known = known_looks(_of_these_weights(finished, path))
        missing = [look for look in dict.fromkeys(looks) if look not in known]
        network, memo = None, {}
        own = finished.config
        for look in missing:
            data = load_dataset(look.data)
            if data.disjoint and look.data == own.data:  # its very test images
                data = load_dataset(own.data, own.per_class)
            elif (
                look.data == own.data and own.per_class is not None
            ):  # statistics it was trained by
                part = load_dataset(own.data, own.per_class)
                data = dataclasses.replace(data, mean=part.mean, std=part.std)
            if network is None:
                network = finished.network()
                settings = (settings or Settings()).resolve(network)
                network = settings.place(network)
            view, other = look.degradation, look.other
            if look.task == "across":
                result = _across(finished, network, data, view, settings)
            else:
                result = ask[look.task](network, data, view, other, look.flip, memo)
            known[look] = json.loads(json.dumps(result))
            content = {"key": finished.config.key, "files": finished.record["files"]}
            listed = [{"look": asdict(k), "result": v} for k, v in known.items()]
            storage.save_json(path, content | {"looks": listed})
    return [known[look] for look in looks]


def _across(
    finished: Run, network: Network, data: Dataset, view: Degradation, settings: Settings
) -> dict:
    """Queries by a finished network in its teacher's index."""
    evaluate.require_disjoint(data)
    config = finished.config.teacher
    if config is None:
        raise HorkdError(f"{finished.config.name} has no teacher whose index it could query")
    teacher_run = read(config, finished.folder.parent)
    if teacher_run is None:
        raise HorkdError(f"the teacher {config.name} of {finished.config.name} is not there")
    teacher = settings.place(teacher_run.network())
    train = evaluate.central(data.train)
    count = min(evaluate.ALIGNED_BY, len(data.train))
    some = torch.linspace(0, len(data.train) - 1, count).long()
    part = train.select(some) if isinstance(train, PhotoFiles) else train[some]
    test = evaluate.central(data.test)
    pairs, asked = (
        evaluate.predict(network, images, data, view).features.cpu() for images in (part, test)
    )
    targets, index = (
        _predicted(teacher_run, teacher, split, images, data).features.cpu()
        for split, images in ((f"{count} of train", part), ("test", test))
    )
    return evaluate.retrieve_across(asked, index, data.test.labels, (pairs, targets))


def known_looks(content: dict) -> dict[Look, dict]:
    """The content of an `open_set.json`, by look."""
    return {config_from_dict(x["look"], Look): x["result"] for x in content.get("looks", ())}


def _of_these_weights(finished: Run, path: Path) -> dict:
    """A file of tests of these very weights; those of other ones are of no use."""
    try:
        content = storage.load_json(path) if path.is_file() else {}
    except storage.DamagedFile as error:
        storage.set_aside(path, str(error))
        content = {}
    return content if content.get("files") == finished.record["files"] else {}


def export(
    finished: Run, path: Path, bits: int = 16, settings: Settings | None = None
) -> dict[str, object]:
    """Write a run's network for others to use, with all that a prediction needs.

    The header holds the network's specification, class names (if it has a classifier), degradation,
    channel statistics, test results, the key of the record and that of the frozen model it learned
    from (None: labels only). `horkd.models.load_network` reads it back in float32. A file of 8 bits
    is tested before it is written: its header says what the run gave and, as `rounded`, what the
    file gives.

    Args:
        finished: the run.
        path: the file.
        bits: of a weight: 16, 8 or 32 (`horkd.models.save_network`).
        settings: where a file of 8 bits is tested.

    Returns:
        The test results of the run, and with 8 bits those of the file as `rounded`.

    Raises:
        HorkdError: if the data set, for its class names, or the disk is not there.
    """
    _refuse_trial(finished)
    config, record = finished.config, finished.record
    data = load_dataset(config.data, config.per_class)
    header = {
        "key": config.key,
        "learned_from": config.frozen.key if config.frozen else None,
        "data": config.data,
        "classes": list(data.train.classes) if config.classifies else [],
        "size": data.size,
        "degradation": asdict(config.degradation),
        "mean": list(data.mean),
        "std": list(data.std),
        "test": record["results"]["test"],
    }
    results: dict[str, object] = {"test": header["test"]}
    if bits == 8:
        with tempfile.TemporaryDirectory() as folder:
            rounded = Path(folder) / "rounded.safetensors"
            save_network(rounded, finished.network(), bits)
            network = load_network(rounded)
        settings = (settings or Settings()).resolve(network)
        results["rounded"] = evaluate.test(settings.place(network), data, config.degradation)
        header["rounded"] = results["rounded"]
    save_network(path, finished.network(), bits, **header)
    return results


def diverged(config: RunConfig, runs: Path | None = None) -> dict | None:
    """What is known of a run whose loss was no longer finite (`epoch`, `terms`, …), else None."""
    path = (runs or paths.runs_dir()) / config.name / "diverged.json"
    if not path.is_file():
        return None
    try:
        note = storage.load_json(path)
    except storage.DamagedFile as error:
        storage.set_aside(path, str(error))
        return None
    return note if note.get("key") == config.key else None


def _refuse_diverged(config: RunConfig, folder: Path) -> None:
    note = diverged(config, folder.parent)
    if note is not None:
        terms = {name: float(value) for name, value in note["terms"].items()}
        path = folder / "diverged.json"
        raise Diverged(note["epoch"], terms, f"known from {path}, remove it to try again")


def _finished(config: RunConfig, folder: Path) -> Run | None:
    """The run in `folder` if it is whole; damaged files are set aside."""
    path = folder / "record.json"
    if not path.is_file():
        return None
    try:
        record = storage.load_json(path)
        if record.get("key") != config.key:
            raise storage.DamagedFile(f"{path} is the record of another configuration")
        for name in record["files"]:
            tensors, _ = storage.load_tensors(folder / name)
            if storage.tensor_digest(tensors) != record["files"][name]:
                raise storage.DamagedFile(f"{folder / name} is not the file of its record")
    except storage.DamagedFile as error:
        storage.set_aside(folder, str(error))
        return None
    except HorkdError as error:  # a checkpoint is gone: train again
        storage.set_aside(folder, str(error))
        return None
    (folder / "state.safetensors").unlink(missing_ok=True)  # stopped just before it was removed
    return Run(config, folder, record)


def _train(
    config: RunConfig,
    settings: Settings,
    runs: Path,
    folder: Path,
    control: Control,
) -> Run:
    commit()  # of the code that runs, not of whatever is checked out when it ends
    data = load_dataset(config.data, config.per_class)
    if config.degradation.size > data.size:
        raise HorkdError(
            f"resolution {config.degradation.size} is above the {data.size} pixels of {data.name}"
        )
    if config.validation and data.validation is None:
        raise HorkdError(f"{data.name} has no validation split: set validation=False")
    if (config.select != "last" or config.trial) and not (data.disjoint or config.classifies):
        raise HorkdError(
            "select and trial need a score on the validation split: a classifier or a disjoint set"
        )
    if config.select == "validation" and data.disjoint and len(data.validation.classes) < 2:
        raise HorkdError(
            f"{data.name} has too few classes to hold two out (a fifth of those to train on), and "
            "among one everything is found: add some up to 10, or take the last epoch (--select "
            "last)"
        )
    called = time.monotonic()
    frozen_run = run(config.frozen, settings, runs, control) if config.frozen else None
    started = time.monotonic()
    if control.deadline is not None and called < control.deadline <= started:
        raise TimeUp(f"time is up before the first epoch of {config.name}")
    if frozen_run and load_dataset(config.frozen.data, config.frozen.per_class).size != data.size:
        raise HorkdError(
            f"{config.frozen.data} and {data.name} differ in size: both models must see one crop"
        )
    spec = _spec(config, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Network(spec)
        settings = _as_before(settings, folder / "state.safetensors")
        settings = settings.resolve(network)
        frozen = Frozen(settings.place(frozen_run.network())) if frozen_run else None
        if config.start == "frozen":
            network.load_state_dict(frozen.network.state_dict())
        train = data.training(config.validation)
        if config.recipe.views and not isinstance(train, ImageSet):
            raise HorkdError("fixed views need a set in memory: set views=0 in the recipe")
        if isinstance(train, ImageSet):
            train = train.to(settings.device)
        task = Task(
            data,
            train,
            config.degradation,
            config.recipe,
            settings,
            config.seed,
            frozen,
            config.frozen.degradation if frozen else None,
            _scored(config, data, settings),
            config.warmup,
            _answers(config, frozen_run, frozen.network, data, settings, runs) if frozen else None,
        )
        objective = _objective(config, network, frozen_run, task)
        objective = objective.to(settings.device)
    state = new_state(settings.place(network), objective, config.recipe)
    resumed = _resume(state, folder / "state.safetensors", config)
    if config.backbone and not resumed:
        pretrained.start_backbone(network, config.backbone)
    if settings.compile == "on":
        torch.compiler.reset()  # the networks of a queue share a limit on recompilations
        network.backbone.compile()
        if frozen is not None:
            frozen.network.backbone.compile()
    saver = _Saver(folder / "state.safetensors", config, settings, control)
    earlier = sum(state.seconds) + state.elapsed
    label = config.name.rsplit("-", 1)[0]
    try:
        fit(state, task, label, saver.after_epoch, saver.after_step, control.interruption)
    except Diverged as error:
        _note_divergence(config, folder, error, settings)
        raise
    return _finish(config, folder, state, frozen_run, data, settings, started - earlier)


def _answers(
    config: RunConfig, frozen: Run, network: Network, data: Dataset, settings: Settings, runs: Path
) -> Path | None:
    """The folder of the frozen model's answers to the crops of this run, if they are kept."""
    recipe, views = config.recipe, config.recipe.views
    images = _images_per_epoch(config, data)
    if views:
        images = len(data.whole or data.training(config.validation))
    width = network.width + network.spec.num_classes
    automatic = bool(views) or (
        not settings.on_cuda and 4 * recipe.epochs * images * width <= remembered.LARGEST
    )
    if settings.cache == "off" or (settings.cache == "auto" and not automatic):
        return None
    seen = {
        "format": FORMAT,
        "frozen": frozen.record["files"],  # its very weights, not its configuration
        "view": _set_fields(config.frozen.degradation),
        "data": [config.data, DRAWN.get(config.data), config.per_class, config.validation],
        "crops": [recipe.batch_size, recipe.crop, data.flip, config.seed],
        "machine": [settings.device, settings.precision, settings.channels_last],
    }
    if recipe.per_class or recipe.batches:
        seen["crops"] += [recipe.per_class, recipe.batches]
    if config.data.startswith(FOLDER):
        seen["data"].append(listing_digest(config.data))
    if views:  # they depend on the image alone, whatever part of the set is trained on
        if data.whole is not None:
            seen["data"] = [whole_of(config.data)]
        seen["crops"] = [recipe.crop, data.flip]
    key = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:12]
    folder = runs / ".frozen" / key
    if views:
        one = remembered.view_size(images, width, settings.precision == "bf16")
        needed = min(views, recipe.epochs) * one
        remembered.require_space(folder, needed)
    return folder


def _images_per_epoch(config: RunConfig, data: Dataset) -> int:
    if config.recipe.batches:
        return config.recipe.batches * config.recipe.batch_size
    return len(data.training(config.validation))


def _note_divergence(config: RunConfig, folder: Path, error: Diverged, settings: Settings) -> None:
    """Leave a record of the failure: it is a result, and not worth a second try."""
    note = {
        "format": FORMAT,
        "key": config.key,
        "name": config.name,
        "config": asdict(config),
        "epoch": error.epoch,
        "terms": {name: str(value) for name, value in error.terms.items()},  # JSON has no NaN
        "machine": describe_machine(settings.device),
        "versions": versions(),
        "commit": commit(),
    }
    storage.save_json(folder / "diverged.json", note)
    (folder / "state.safetensors").unlink(missing_ok=True)


def _input_size(config: RunConfig, data: Dataset) -> int:
    return data.size if config.degradation.upsample else config.degradation.size


def _spec(config: RunConfig, data: Dataset) -> ModelSpec:
    classes = data.classes_trained(config.validation) if config.classifies else 0
    return ModelSpec(
        config.model, classes, config.embedding, config.mean, config.std, config.normalized
    )


def _scored(config: RunConfig, data: Dataset, settings: Settings) -> ImageSet | PhotoFiles | None:
    """The images that epochs are compared by."""
    scored = data.validation if config.validation else None
    if config.select == "test":
        scored = data.test
    return scored.to(settings.device) if isinstance(scored, ImageSet) else scored


_PREDICTED: dict[str, Output] = {}


def _predicted(
    frozen_run: Run, network: Network, split: str, images: Tensor | PhotoFiles, data: Dataset
) -> Output:
    """What the frozen model says of a whole split; the last few are kept for further runs."""
    config = frozen_run.config
    asked = {
        "weights": frozen_run.record["files"],
        "view": _view_key(config.degradation),
        "images": [split, data.name, len(images), config.per_class],
        "device": str(next(network.parameters()).device),
    }
    key = json.dumps(asked, sort_keys=True)
    if key not in _PREDICTED:
        while len(_PREDICTED) >= 4:
            _PREDICTED.pop(next(iter(_PREDICTED)))
        _PREDICTED[key] = evaluate.predict(network, images, data, config.degradation)
    return _PREDICTED[key]


def _objective(
    config: RunConfig, network: Network, frozen_run: Run | None, task: Task
) -> Objective:
    """Cross-entropy and, with a frozen model, the losses against it with what they need."""
    relational = baselines = head = None
    if config.orders:
        relational = _relational(config, network, frozen_run, task)
    if config.baselines:
        if Baselines(dict(config.baselines)).needs_maps and not task.frozen.network.channels:
            raise HorkdError(f"fitnet and at compare maps, and {config.frozen.model} shows none")
        regressor = _regressor(network, task.frozen.network) if _hinted(config) else None
        baselines = Baselines(dict(config.baselines), config.temperature, regressor)
    if config.cross_entropy:
        if config.head == "triplet":
            head = Triplet()
        elif config.head != "linear":
            head = margin_head(config.head, len(task.train.classes), network.width)
    return Objective(config.cross_entropy, relational, baselines, config.balance, head)


def _relational(
    config: RunConfig, network: Network, frozen_run: Run, task: Task
) -> HybridOrderLoss:
    weights = dict(config.orders)
    wide = task.frozen.network.width
    centers = projector = None
    if weights.get("C"):
        features, labels = _frozen_features(config, frozen_run, task), task.train.labels
        if config.unit:
            features = unit_length(features)
        count = len(task.train.classes)
        if config.clusters:
            labels, count = _clusters(features, config.clusters), config.clusters
        centers = class_centers(features, labels.to(features.device), count)
    if {"1", "C"} & weights.keys() and network.width != wide:
        projector = nn.Linear(network.width, wide)
    return HybridOrderLoss(weights, centers, projector, config.reduction, unit=config.unit)


def _frozen_features(config: RunConfig, frozen_run: Run, task: Task) -> Tensor:
    """What the frozen model says of every training image, without augmentation."""
    train = task.train
    if task.recipe.views and task.answers is not None:
        own = task.data.whole is None or train.ids is None
        ids = torch.arange(len(train)) if own else train.ids.cpu()
        return task.view_answers(0).features[ids].to(task.settings.device, torch.float32)
    images = train.central if isinstance(train, ImageSet) else train
    return _predicted(frozen_run, task.frozen.network, "train", images, task.data).features


def _clusters(features: Tensor, count: int) -> Tensor:
    """The cluster of each feature, int64 (N,), by k-means from a fixed seed; none is empty."""
    from sklearn.cluster import KMeans

    if count > len(features):
        raise HorkdError(f"{count} clusters need as many images; there are {len(features)}")
    found = KMeans(count, n_init=1, random_state=0).fit_predict(features.cpu().numpy())
    return torch.from_numpy(found).long().to(features.device)


def _hinted(config: RunConfig) -> bool:
    return any(name == "fitnet" and weight for name, weight in config.baselines)


def _regressor(network: Network, frozen: Network) -> nn.Module:
    """FitNet's 1×1 convolution from the learner's middle map to the frozen model's channels."""
    ours, theirs = network.channels, frozen.channels
    stage = middle(min(len(ours), len(theirs))) - min(len(ours), len(theirs))  # from the end
    return nn.Conv2d(ours[stage], theirs[stage], 1)


class _Saver:
    """Keeps the state, reports on it, and stops the run where that is asked for."""

    def __init__(self, path: Path, config: RunConfig, settings: Settings, control: Control) -> None:
        self.path, self.config, self.settings = path, config, settings
        self.control = control
        self.last = time.monotonic()

    def after_step(self, state: State) -> None:
        """Within an epoch the state is kept every few minutes, and when the run is to stop."""
        stop = self._stop()
        if stop or time.monotonic() - self.last >= SAVE_WITHIN_SECONDS:
            self._save(state)
        if stop:
            raise KeyboardInterrupt

    def after_epoch(self, state: State) -> None:
        """Between two epochs, unless the last write was moments ago."""
        self._report(state)
        now, deadline = time.monotonic(), self.control.deadline
        late = deadline is not None and now + state.seconds[-1] > deadline
        late = late and state.epoch < self.config.recipe.epochs
        stop = self._stop()
        if late or stop or now - self.last >= SAVE_EVERY_SECONDS:
            self._save(state)  # also at the very end: the tests to come may take minutes
        if stop:
            raise KeyboardInterrupt
        if late:
            raise TimeUp(
                f"time is up after epoch {state.epoch} of {self.config.recipe.epochs} of "
                f"{self.config.name}"
            )

    def _stop(self) -> bool:
        going, interruption = self.control.going(), self.control.interruption
        return not going or (interruption is not None and interruption.asked)

    def _report(self, state: State) -> None:
        """One line: epoch, loss, score, seconds, time left."""
        if state.seconds[-1] < REPORT_SECONDS:
            return
        recipe, entry = self.config.recipe, state.history[-1]
        size = self.config.degradation.size
        parts = [f"epoch {state.epoch} of {recipe.epochs}"]
        if recipe.progressive:
            parts[0] += f" at {entry['pixels']} px"
        parts.append(f"loss {entry['terms']['loss']:.4g}")
        if "validation" in entry:
            metric = main_metric(entry["validation"])
            parts.append(f"validation {metric} {entry['validation'][metric]:.2f} %")
        parts.append(f"{state.seconds[-1]:.0f} s")
        # an epoch takes as long as its images have pixels; the fastest of equal ones tells, since
        # others may have waited for the frozen model's answers
        pixels = [recipe.pixels(epoch, size) ** 2 for epoch in range(recipe.epochs)]
        own = pixels[state.epoch - 1]
        done = zip(reversed(state.seconds), reversed(pixels[: state.epoch]), strict=False)
        left = min(s for s, p in done if p == own) * sum(pixels[state.epoch :]) / own
        if left:
            parts.append(f"{duration(left)} left")
        self.control.say(f"{self.config.name}: {', '.join(parts)}")

    def _save(self, state: State) -> None:
        tensors = {f"network.{n}": t for n, t in state.network.state_dict().items()}
        tensors |= {f"objective.{n}": t for n, t in state.objective.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in (state.best or {}).items()}
        if state.step:
            tensors |= {f"sums.{n}": t for n, t in state.sums.items()}
            tensors |= {f"norms.{n}": t for n, t in state.norms.items()}
            tensors |= {f"random.{n}": t for n, t in state.generators.state().items()}
        for index, slot in state.optimizer.state_dict()["state"].items():
            for name, value in slot.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{name}"] = value
        metadata = {
            "epoch": state.epoch,
            "step": state.step,
            "reading": state.reading,
            "elapsed": time.perf_counter() - state.begun if state.step else 0.0,
            "history": state.history,
            "seconds": state.seconds,
            "remembered": state.remembered,
            "best_epoch": state.best_epoch,
            "config": asdict(self.config),
            "settings": asdict(self.settings),
            "commits": list(dict.fromkeys([*state.commits, commit()])),
        }
        storage.save_tensors(self.path, tensors, metadata)
        self.last = time.monotonic()


def _as_before(settings: Settings, path: Path) -> Settings:
    """Settings left to the machine ("auto") as an interrupted run had them; its precision anyway.

    A run that changed its precision on the way would be neither the one nor the other.
    """
    try:
        saved = storage.load_tensors(path)[1]["settings"] if path.is_file() else {}
    except (storage.DamagedFile, KeyError):  # `_resume` deals with it
        return settings
    device = saved.get("device", "")
    if settings.device not in ("auto", device):
        return settings
    if device.startswith("cuda") and not torch.cuda.is_available():
        return settings  # begun on a GPU that is gone: go on with what there is
    if "precision" in saved and settings.precision not in ("auto", saved["precision"]):
        warnings.warn(
            f"{path.parent.name} was begun in {saved['precision']} and goes on in it, not in "
            f"{settings.precision}",
            stacklevel=2,
        )
        settings = dataclasses.replace(settings, precision="auto")
    open_ones = [f.name for f in dataclasses.fields(settings) if f.name in saved]
    return dataclasses.replace(
        settings, **{n: saved[n] for n in open_ones if getattr(settings, n) == "auto"}
    )


def _is_of(saved: object, config: RunConfig) -> bool:
    """Whether a saved configuration is this one; fields that came later have their defaults."""
    try:
        return config_from_dict(saved).key == config.key
    except (HorkdError, TypeError):
        return False


def _resume(state: State, path: Path, config: RunConfig) -> bool:
    """Put a saved state into `state`, if there is one; a damaged or foreign one is set aside."""
    if not path.is_file():
        return False
    try:
        tensors, metadata = storage.load_tensors(path)
        if not _is_of(metadata.get("config"), config):
            raise storage.DamagedFile(f"{path} is the state of another configuration")
        if any(name.startswith("momentum.") for name in tensors):
            raise storage.DamagedFile(f"{path} was written by an earlier version of horkd")
    except storage.DamagedFile as error:
        storage.set_aside(path, str(error))
        return False

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    device = next(state.network.parameters()).device
    state.network.load_state_dict(part("network."))
    state.objective.load_state_dict(part("objective."))
    state.best = {n: t.to(device) for n, t in part("best.").items()} or None
    saved = state.optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in part("optimizer.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = tensor
    state.optimizer.load_state_dict({**saved, "state": slots})
    state.epoch, state.best_epoch = metadata["epoch"], metadata["best_epoch"]
    state.history, state.seconds = metadata["history"], metadata["seconds"]
    state.remembered = metadata["remembered"]
    state.step, state.elapsed = metadata.get("step", 0), metadata.get("elapsed", 0.0)
    state.reading = metadata.get("reading", False)
    state.commits = metadata.get("commits", [])
    state.sums, state.norms = (
        {n: t.to(device) for n, t in part(prefix).items()} for prefix in ("sums.", "norms.")
    )
    state.random = part("random.")
    return True


def _finish(
    config: RunConfig,
    folder: Path,
    state: State,
    frozen_run: Run | None,
    data: Dataset,
    settings: Settings,
    started: float,
) -> Run:
    """Write the checkpoint, look at the test set with what was written, write the record.

    A trial looks at the validation split instead.
    """
    files = {}
    size = _input_size(config, data)
    last = None
    if config.select != "last":
        last = {n: t.detach().clone() for n, t in state.network.state_dict().items()}
        state.network.load_state_dict(state.best)
    # what `compile` changes is not in the state dict, so that this is the plain network
    save_network(folder / "model.safetensors", state.network, key=config.key)
    files["model.safetensors"] = storage.tensor_digest(state.network.state_dict())
    network = settings.place(load_network(folder / "model.safetensors"))
    if config.trial:
        own = config.degradation
        results = {"validation": evaluate.score(network, data.validation, data, own)}
    else:
        results = _results(config, network, frozen_run, data, settings)
    extras = state.objective.state_dict()
    if extras:
        path = folder / "objective.safetensors"
        files[path.name] = storage.save_tensors(path, extras, {"key": config.key})
    if last is not None:
        network.load_state_dict(last)
        results["selected"] = {
            "by": config.select,
            "epoch": state.best_epoch,
            "score": state.history[state.best_epoch - 1]["validation"],
        }
        if not config.trial:
            test = (
                evaluate.retrieve(network, data, config.degradation, clusters=False)
                if data.disjoint
                else evaluate.test(network, data, config.degradation)
            )
            results["last"] = {"epoch": state.epoch, "test": test}
    elif state.best is not None and not config.trial:
        network.load_state_dict(state.best)
        results["best"] = {
            "epoch": state.best_epoch,
            "validation": state.history[state.best_epoch - 1]["validation"],
            "test": evaluate.test(network, data, config.degradation),
        }
    rest = {
        "history": state.history,
        "training_images": len(data.training(config.validation)),
        "seconds": {
            "total": sum(state.seconds),
            "epochs": state.seconds,
            # loading, centres, compiling, checkpoints and tests of the last call
            "around_epochs": round(time.monotonic() - started - sum(state.seconds), 3),
            "frozen_answers_read": state.remembered,  # epochs that did not run the frozen model
        },
        "frozen_files": frozen_run.record["files"] if frozen_run else None,
    }
    if len(commits := list(dict.fromkeys([*state.commits, commit()]))) > 1:
        rest["commits"] = commits  # of a run that was trained in parts; `commit` ended it
    if config.backbone == "imagenet":
        rest["backbone"] = pretrained.imagenet_name(config.model)
    return _record(config, folder, results, network, size, settings, files, rest)


def _results(
    config: RunConfig, network: Network, frozen_run: Run | None, data: Dataset, settings: Settings
) -> dict[str, object]:
    """What the finished network does on the test set."""
    if data.pairs is not None or data.disjoint or network.classifier is None:
        return {"test": evaluate.test(network, data, config.degradation)}
    test = data.test.to(settings.device)
    last = evaluate.predict(network, test.central, data, config.degradation).logits
    results: dict[str, object] = {"test": evaluate.accuracy(last, test.labels)}
    if frozen_run is not None and frozen_run.config.classifies:
        frozen = settings.place(frozen_run.network())
        target = _predicted(frozen_run, frozen, "test", test.central, data).logits
        results["agreement"] = evaluate.agreement(last, target)
    return results


def _record(
    config: RunConfig,
    folder: Path,
    results: dict[str, object],
    network: Network,
    size: int,
    settings: Settings,
    files: dict[str, str],
    rest: dict[str, object],
) -> Run:
    """Write what is known of a finished run."""
    record = {
        "format": FORMAT,
        "key": config.key,
        "name": config.name,
        "config": asdict(config),
        "results": results,
        "cost": {
            "parameters": parameters(network),
            "macs": macs(network, size),
            "latency_ms": round(evaluate.latency(network, size), 3),
        },
        "settings": {k: v for k, v in asdict(settings).items() if k != "progress"},
        "machine": describe_machine(settings.device),
        "versions": versions(),
        "commit": commit(),
        "files": files,
        **rest,
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples become lists
    storage.save_json(folder / "record.json", record)
    (folder / "state.safetensors").unlink(missing_ok=True)
    return Run(config, folder, record)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("horkd", "torch", "torchvision", "numpy", "pillow")
    also = ("pytorch-metric-learning", "timm", "scikit-learn")  # where they are installed
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "from a checkout"
    for name in also:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}


@functools.lru_cache(maxsize=1)
def commit() -> str:
    """The checkout's commit, with `+` if horkd's files are changed; empty outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.root()), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "horkd")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
