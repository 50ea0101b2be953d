"""What a configuration needs before its first step: networks, objective, frozen answers."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from horkd import answers as answers_
from horkd.answers import Answers, FixedViews
from horkd.baselines import Baselines, middle
from horkd.data import DRAWN, Dataset, ImageSet, PhotoFiles, load_dataset, whole_of
from horkd.data.fingerprint import listing_digest
from horkd.data.retrieval import FOLDER
from horkd.errors import HorkdError
from horkd.lab.config import FORMAT, RunConfig, set_fields
from horkd.lab.store import Run
from horkd.losses import HybridOrderLoss, class_centers, unit_length
from horkd.machine import Settings
from horkd.networks.network import ModelSpec, Network, Output
from horkd.objectives import Frozen, Objective, Triplet, margin_head
from horkd.predict import predict
from horkd.preprocess import Preprocess


def check(config: RunConfig, data: Dataset) -> None:
    """Refuse a configuration that the data set does not allow.

    Raises:
        HorkdError: in one line.
    """
    if config.degradation.size > data.size:
        raise HorkdError(
            f"resolution {config.degradation.size} is above the {data.size} pixels of {data.name}"
        )
    if config.validation and data.validation is None:
        raise HorkdError(f"{data.name} has no validation split: set validation=False")
    if config.select != "last" or config.trial:
        check_scored(config, data)
    if config.recipe.views and not isinstance(data.train, ImageSet):
        raise HorkdError("fixed views need a set in memory: set views=0 in the recipe")


def check_scored(config: RunConfig, data: Dataset) -> None:
    """Refuse a configuration whose epochs cannot be compared.

    Raises:
        HorkdError: in one line.
    """
    if not data.protocol.scores(config.classifies):
        raise HorkdError(
            "select and trial need a score on the validation split: a classifier or a disjoint set"
        )
    if config.select == "validation" and data.held_apart and len(data.validation.classes) < 2:
        raise HorkdError(
            f"{data.name} has too few classes to hold two out (a fifth of those to train on), and "
            "among one everything is found: add some up to 10, or take the last epoch (--select "
            "last)"
        )


def check_frozen(config: RunConfig, data: Dataset) -> None:
    """Refuse a frozen model that looks at images of another size.

    Raises:
        HorkdError: in one line.
    """
    if load_dataset(config.frozen.data, config.frozen.per_class).size != data.size:
        raise HorkdError(
            f"{config.frozen.data} and {data.name} differ in size: both models must see one crop"
        )


def network_spec(config: RunConfig, data: Dataset) -> ModelSpec:
    """The network of a configuration, with a classifier if something trains it."""
    classes = data.classes_trained(config.validation) if config.classifies else 0
    return ModelSpec(
        config.model, classes, config.embedding, config.mean, config.std, config.normalized
    )


def input_size(config: RunConfig, data: Dataset) -> int:
    """Side in pixels of what the network is fed."""
    return data.size if config.degradation.upsample else config.degradation.size


def training_set(config: RunConfig, data: Dataset, settings: Settings) -> ImageSet | PhotoFiles:
    """The images to train on, those in memory on the device."""
    images = data.training(config.validation)
    return images.to(settings.device) if isinstance(images, ImageSet) else images


def scored_images(
    config: RunConfig, data: Dataset, settings: Settings
) -> ImageSet | PhotoFiles | None:
    """The images that epochs are compared by, if they are."""
    images = data.validation if config.validation else None
    if config.select == "test":
        images = data.test
    if images is None or not data.protocol.scores(config.classifies):
        return None
    return images.to(settings.device) if isinstance(images, ImageSet) else images


def answers_of(
    config: RunConfig, frozen_run: Run, frozen: Frozen, data: Dataset, settings: Settings
) -> Answers:
    """What the frozen model says of the crops of a run, and where that is kept."""
    views = None
    if config.recipe.views:
        whole = data.whole or data.training(config.validation)
        views = FixedViews(
            whole, config.recipe.views, config.recipe.crop, data.flip, data.whole is not None
        )
    preprocess = Preprocess.of(
        frozen.network, data, config.frozen.degradation, settings.memory_format
    )
    runs = frozen_run.folder.parent
    folder = answers_folder(config, frozen_run, frozen.network, data, settings, runs)
    return Answers(frozen, preprocess, settings, folder, views)


def answers_folder(
    config: RunConfig,
    frozen: Run,
    network: Network,
    data: Dataset,
    settings: Settings,
    runs: str | Path,
) -> Path | None:
    """The folder of the frozen model's answers to the crops of this run, if they are kept.

    Args:
        config: the run.
        frozen: the run of the frozen model.
        network: its network.
        data: the data set of the run.
        settings: resolved settings of the machine.
        runs: folder of all runs.

    Raises:
        HorkdError: if the disk has no room for them.
    """
    runs = Path(runs)
    recipe, views = config.recipe, config.recipe.views
    images = len(data.training(config.validation))
    if recipe.batches:
        images = recipe.batches * recipe.batch_size
    if views:
        images = len(data.whole or data.training(config.validation))
    width = network.width + network.spec.num_classes
    if not answers_.keeps(settings, 4 * recipe.epochs * images * width, bool(views)):
        return None
    seen = _what_is_seen(config, frozen, data, settings)
    key = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:12]
    folder = runs / ".frozen" / key
    if views:
        one = answers_.view_size(images, width, settings.precision == "bf16")
        answers_.require_space(folder, min(views, recipe.epochs) * one)
    return folder


def _what_is_seen(
    config: RunConfig, frozen: Run, data: Dataset, settings: Settings
) -> dict[str, object]:
    """All that decides what a frozen model says of the crops of a run."""
    recipe = config.recipe
    seen = {
        "format": FORMAT,
        "frozen": frozen.record["files"],  # its very weights, not its configuration
        "view": set_fields(config.frozen.degradation),
        "data": [config.data, DRAWN.get(config.data), config.per_class, config.validation],
        "crops": [recipe.batch_size, recipe.crop, data.flip, config.seed],
        "machine": [settings.device, settings.precision, settings.channels_last],
    }
    if recipe.per_class or recipe.batches:
        seen["crops"] += [recipe.per_class, recipe.batches]
    if config.data.startswith(FOLDER):
        seen["data"].append(listing_digest(config.data))
    if recipe.views:  # they depend on the image alone, whatever part of the set is trained on
        if data.whole is not None:
            seen["data"] = [whole_of(config.data)]
        seen["crops"] = [recipe.crop, data.flip]
    return seen


def objective_of(
    config: RunConfig,
    network: Network,
    train: ImageSet | PhotoFiles,
    data: Dataset,
    frozen_run: Run | None,
    answers: Answers | None,
) -> Objective:
    """The loss on the labels and, with a frozen model, the losses against it with what they need.

    Args:
        config: what is minimised.
        network: the learner.
        train: the training images.
        data: the data set that they are of.
        frozen_run: the run of the frozen model, if there is one.
        answers: what that says.
    """
    relational = baselines = head = None
    if config.orders:
        relational = _relational(config, network, train, data, frozen_run, answers)
    if config.baselines:
        frozen = answers.frozen.network
        if Baselines(dict(config.baselines)).needs_maps and not frozen.channels:
            raise HorkdError(f"fitnet and at compare maps, and {config.frozen.model} shows none")
        hinted = any(name == "fitnet" and weight for name, weight in config.baselines)
        regressor = _regressor(network, frozen) if hinted else None
        baselines = Baselines(dict(config.baselines), config.temperature, regressor)
    if config.cross_entropy:
        if config.head == "triplet":
            head = Triplet()
        elif config.head != "linear":
            head = margin_head(config.head, len(train.classes), network.width)
    return Objective(config.cross_entropy, relational, baselines, config.balance, head)


def _relational(
    config: RunConfig,
    network: Network,
    train: ImageSet | PhotoFiles,
    data: Dataset,
    frozen_run: Run,
    answers: Answers,
) -> HybridOrderLoss:
    weights, wide = dict(config.orders), answers.frozen.network.width
    centers = projector = None
    if weights.get("C"):
        features, labels = _frozen_features(train, data, frozen_run, answers), train.labels
        if config.unit:
            features = unit_length(features)
        count = len(train.classes)
        if config.clusters:
            labels, count = _clusters(features, config.clusters), config.clusters
        centers = class_centers(features, labels.to(features.device), count)
    if {"1", "C"} & weights.keys() and network.width != wide:
        projector = nn.Linear(network.width, wide)
    return HybridOrderLoss(weights, centers, projector, config.reduction, unit=config.unit)


def _frozen_features(
    train: ImageSet | PhotoFiles, data: Dataset, frozen_run: Run, answers: Answers
) -> Tensor:
    """What the frozen model says of every training image, without augmentation."""
    if answers.keeps_views:
        own = not answers.views.by_id or train.ids is None
        ids = torch.arange(len(train)) if own else train.ids.cpu()
        return answers.of_view(0).features[ids].to(answers.settings.device, torch.float32)
    return says(frozen_run, answers.frozen.network, data, "train", train.central).features


def _clusters(features: Tensor, count: int) -> Tensor:
    """The cluster of each feature, int64 (N,), by k-means from a fixed seed; none is empty."""
    from sklearn.cluster import KMeans

    if count > len(features):
        raise HorkdError(f"{count} clusters need as many images; there are {len(features)}")
    found = KMeans(count, n_init=1, random_state=0).fit_predict(features.cpu().numpy())
    return torch.from_numpy(found).long().to(features.device)


def _regressor(network: Network, frozen: Network) -> nn.Module:
    """FitNet's 1×1 convolution from the learner's middle map to the frozen model's channels."""
    ours, theirs = network.channels, frozen.channels
    stage = middle(min(len(ours), len(theirs))) - min(len(ours), len(theirs))  # from the end
    return nn.Conv2d(ours[stage], theirs[stage], 1)


_SAID: dict[str, Output] = {}


def says(
    frozen_run: Run, network: Network, data: Dataset, split: str, images: Tensor | PhotoFiles
) -> Output:
    """What a frozen model says of a whole split; the last few are kept for further runs.

    Args:
        frozen_run: the model's run.
        network: its network, on the device.
        data: the data set of the images.
        split: their name in it.
        images: uint8 (N, 3, S, S), or photos on disk.
    """
    config = frozen_run.config
    asked = {
        "weights": frozen_run.record["files"],
        "view": asdict(config.degradation),
        "images": [split, data.name, len(images), config.per_class],
        "device": str(next(network.parameters()).device),
    }
    if data.name.startswith(FOLDER):
        asked["images"].append(listing_digest(data.name))
    key = json.dumps(asked, sort_keys=True)
    if key not in _SAID:
        while len(_SAID) >= 4:
            _SAID.pop(next(iter(_SAID)))
        _SAID[key] = predict(network, images, data, config.degradation)
    return _SAID[key]
