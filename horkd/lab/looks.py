"""What a finished network is asked beyond its test: other resolutions, unseen classes."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from horkd import evaluate, storage
from horkd import predict as predict_
from horkd.data import Dataset, PhotoFiles, load_dataset
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import config_from_dict
from horkd.lab.store import Run, _refuse_trial, read
from horkd.machine import Settings
from horkd.networks.network import (
    Network,
    Output,
)
from horkd.storage import Busy as Busy


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
    images = predict_.central(data.test)
    return predict_.predict(
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
    train = predict_.central(data.train)
    count = min(evaluate.ALIGNED_BY, len(data.train))
    some = torch.linspace(0, len(data.train) - 1, count).long()
    part = train.select(some) if isinstance(train, PhotoFiles) else train[some]
    test = predict_.central(data.test)
    pairs, asked = (
        predict_.predict(network, images, data, view).features.cpu() for images in (part, test)
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
        _PREDICTED[key] = predict_.predict(network, images, data, config.degradation)
    return _PREDICTED[key]
