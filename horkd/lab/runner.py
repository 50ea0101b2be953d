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

import hashlib
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from horkd import answers, evaluate, paths, storage
from horkd import predict as predict_
from horkd.baselines import Baselines, middle
from horkd.data import DRAWN, Dataset, ImageSet, PhotoFiles, load_dataset, whole_of
from horkd.data.retrieval import FOLDER, listing_digest
from horkd.errors import HorkdError
from horkd.lab.checkpoint import Control, TimeUp, _as_before, _resume, _Saver
from horkd.lab.config import FORMAT, RunConfig, _set_fields
from horkd.lab.looks import _predicted
from horkd.lab.store import (
    Run,
    _finished,
    _note_divergence,
    _record,
    _refuse_diverged,
    committed_file,
)
from horkd.losses import HybridOrderLoss, class_centers, unit_length
from horkd.machine import Settings, commit
from horkd.networks.imagenet import imagenet_name, start_backbone
from horkd.networks.network import ModelSpec, Network, load_network, save_network
from horkd.networks.weights import digest, load_pretrained
from horkd.objectives import Frozen, Objective, Triplet, margin_head
from horkd.protocols import classification
from horkd.storage import Busy as Busy
from horkd.training import Diverged, State, Task, fit, new_state


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
    found = digest(path)
    if found != config.weights:
        raise HorkdError(f"{path} has digest {found}, but the run asks for {config.weights}")
    with storage.locked(runs / ".locks" / f"{config.key}.lock"):
        return _finished(config, folder) or _import(config, path, settings, folder)


def _import(config: RunConfig, path: Path, settings: Settings | None, folder: Path) -> Run:
    data = load_dataset(config.data, config.per_class)
    started = time.monotonic()
    spec = _spec(config, data)
    if config.classifier:
        network = load_network(path, spec)
    else:
        network = load_pretrained(path, spec)
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
        start_backbone(network, config.backbone)
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
        not settings.on_cuda and 4 * recipe.epochs * images * width <= answers.LARGEST
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
        one = answers.view_size(images, width, settings.precision == "bf16")
        needed = min(views, recipe.epochs) * one
        answers.require_space(folder, needed)
    return folder


def _images_per_epoch(config: RunConfig, data: Dataset) -> int:
    if config.recipe.batches:
        return config.recipe.batches * config.recipe.batch_size
    return len(data.training(config.validation))


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
        rest["backbone"] = imagenet_name(config.model)
    return _record(config, folder, results, network, size, settings, files, rest)


def _results(
    config: RunConfig, network: Network, frozen_run: Run | None, data: Dataset, settings: Settings
) -> dict[str, object]:
    """What the finished network does on the test set."""
    if data.pairs is not None or data.disjoint or network.classifier is None:
        return {"test": evaluate.test(network, data, config.degradation)}
    test = data.test.to(settings.device)
    last = predict_.predict(network, test.central, data, config.degradation).logits
    results: dict[str, object] = {"test": classification.accuracy(last, test.labels)}
    if frozen_run is not None and frozen_run.config.classifies:
        frozen = settings.place(frozen_run.network())
        target = _predicted(frozen_run, frozen, "test", test.central, data).logits
        results["agreement"] = classification.agreement(last, target)
    return results
