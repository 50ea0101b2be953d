"""What a finished network is asked beyond its test: other resolutions, unseen classes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from horkd import storage
from horkd.data import Dataset, PhotoFiles, load_dataset, look_again
from horkd.data.fingerprint import listing_digest
from horkd.data.retrieval import FOLDER
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import config_from_dict
from horkd.lab.prepare import says
from horkd.lab.store import Run, data_of, read, refuse_trial
from horkd.machine import Settings
from horkd.networks.network import Output
from horkd.predict import predict
from horkd.protocols import Asked
from horkd.protocols.questions import question

#: What the lock of a file of tests is called.
LOCKS = {"views.json": "views", "open_set.json": "looks"}


def features(finished: Run, settings: Settings | None = None) -> Tensor:
    """What a finished network says of every test image it was made for, (N, D), on the CPU.

    Args:
        finished: the run.
        settings: where to run it.
    """
    refuse_trial(finished)
    config, data, network = finished.config, data_of(finished), finished.network()
    settings = (settings or Settings()).resolve(network)
    placed = settings.place(network)
    return predict(placed, data.test.central, data, config.degradation).features.cpu()


def at_resolutions(
    finished: Run, degradations: Sequence[Degradation], settings: Settings | None = None
) -> list[dict]:
    """Test accuracy of a finished network on images of other resolutions or kernels.

    What has been looked at before is read from the run's `views.json`; where that says all,
    nothing is changed.

    Args:
        finished: the run.
        degradations: what the network is to see.
        settings: where to run it.

    Returns:
        For each degradation what the test of the data set's protocol gives: `top1`, `top5` and
        `n`, or rates of verification or retrieval.

    Raises:
        HorkdError: if the data set is missing, or the disk refuses.
    """
    refuse_trial(finished)
    path = finished.folder / "views.json"
    known = _known_degradations(_of_these_weights(finished, path))
    if any(_key(degradation) not in known for degradation in degradations):
        with _writing(finished, path) as content:
            known = _known_degradations(content)
            _test(finished, degradations, known, path, settings)
    return [known[_key(degradation)]["test"] for degradation in degradations]


def _test(
    finished: Run,
    degradations: Sequence[Degradation],
    known: dict[str, dict],
    path: Path,
    settings: Settings | None,
) -> None:
    """Add to `known`, and to the file, what is not there yet."""
    missing = {_key(d): d for d in degradations if _key(d) not in known}
    if not missing:  # another process was faster
        return
    network = finished.network()
    settings = (settings or Settings()).resolve(network)
    network = settings.place(network)
    data = data_of(finished)
    for key, degradation in missing.items():
        known[key] = {
            "degradation": asdict(degradation),
            "test": data.protocol.test(network, data, degradation),
        }
    content = {"key": finished.config.key, "files": finished.record["files"]}
    storage.save_json(path, content | {"views": [known[key] for key in sorted(known)]})


def _key(degradation: Degradation | dict) -> str:
    content = degradation if isinstance(degradation, dict) else asdict(degradation)
    return json.dumps(content, sort_keys=True)


def _known_degradations(content: dict) -> dict[str, dict]:
    """The content of a `views.json`, by `_key`."""
    return {_key(view["degradation"]): view for view in content.get("views", ())}


@dataclass(frozen=True)
class Look:
    """What a finished network is asked on images of classes that it was not trained on.

    Attributes:
        question: one of `horkd.protocols.questions`; "pixels" needs no network, "across" is queries
            by this network in the index of its teacher, made from its images at full resolution.
        data: the data set with the images.
        degradation: what the network sees of them.
        other: what it sees of the second image of a pair, or of the gallery, instead.
        flip: add the features of the mirrored image.
    """

    question: str
    data: str
    degradation: Degradation
    other: Degradation | None = None
    flip: bool = False

    def as_json(self) -> dict:
        """As a record has it, where the question is called task."""
        content = asdict(self)
        return {"task": content.pop("question"), **content}


def ask(finished: Run, looks: Sequence[Look], settings: Settings | None = None) -> list[dict]:
    """What a finished network says of images of classes that it was not trained on.

    What has been looked at before is read from the run's `open_set.json`; where that says all,
    nothing is changed.

    Args:
        finished: the run.
        looks: questions, data and resolutions.
        settings: where to run it.

    Returns:
        For each look the answer to its question.

    Raises:
        HorkdError: if a data set is missing or the question does not fit it, or the disk refuses.
    """
    refuse_trial(finished)
    for look in looks:
        question(look.question).check(look.other, look.flip)
    path = finished.folder / "open_set.json"
    known = known_looks(_of_these_photos(_of_these_weights(finished, path)))
    if any(look not in known for look in looks):
        with _writing(finished, path) as content:
            known = known_looks(_of_these_photos(content))
            _answer(finished, looks, known, path, settings)
    return [known[look] for look in looks]


def _answer(
    finished: Run,
    looks: Sequence[Look],
    known: dict[Look, dict],
    path: Path,
    settings: Settings | None,
) -> None:
    """Add to `known`, and to the file, what is not there yet."""
    network, memo = None, {}
    for look in dict.fromkeys(looks):
        if look in known:
            continue
        data = _data(finished, look)
        if network is None:
            network = finished.network()
            settings = (settings or Settings()).resolve(network)
            network = settings.place(network)
        teacher = partial(_teacher_says, finished, settings, data)
        asked = Asked(network, data, look.degradation, look.other, look.flip, memo, teacher)
        result = question(look.question)(asked)
        known[look] = json.loads(json.dumps(result))
        content = {"key": finished.config.key, "files": finished.record["files"]}
        listed = [{"look": k.as_json(), "result": v, **_photos(k.data)} for k, v in known.items()]
        storage.save_json(path, content | {"looks": listed})


def _data(finished: Run, look: Look) -> Dataset:
    """The data set of a look; the run's own one as the network was trained by it."""
    own = finished.config
    part = data_of(finished) if look.data == own.data else None
    data = load_dataset(look.data)
    if part is None or own.per_class is None:
        return data
    if question(look.question).own_images:
        return part
    return replace(data, mean=part.mean, std=part.std)


def _teacher_says(
    finished: Run, settings: Settings, data: Dataset, split: str, images: Tensor | PhotoFiles
) -> Output:
    """What the teacher of a finished network says of images at its own resolution."""
    config = finished.config.teacher
    if config is None:
        raise HorkdError(f"{finished.config.name} has no teacher whose index it could query")
    teacher = read(config, finished.folder.parent)
    if teacher is None:
        raise HorkdError(f"the teacher {config.name} of {finished.config.name} is not there")
    return says(teacher, settings.place(teacher.network()), data, split, images)


def known_looks(content: dict) -> dict[Look, dict]:
    """The content of an `open_set.json`, by look."""
    found = {}
    for entry in content.get("looks", ()):
        fields = dict(entry["look"])
        fields["question"] = fields.pop("task")
        found[config_from_dict(fields, Look)] = entry["result"]
    return found


def _photos(data: str) -> dict[str, str]:
    """What tells other photos of a folder from those that were looked at."""
    return {"photos": listing_digest(data)} if data.startswith(FOLDER) else {}


def _of_these_photos(content: dict) -> dict:
    """The content of an `open_set.json`, of those looks whose photos are what they were."""
    listed = content.get("looks", [])
    for data in {entry["look"]["data"] for entry in listed}:
        look_again(data)
    kept = [e for e in listed if e.get("photos") == _photos(e["look"]["data"]).get("photos")]
    return {**content, "looks": kept}


@contextmanager
def _writing(finished: Run, path: Path) -> Iterator[dict]:
    """One process at a time adds to a file of tests; a damaged one is set aside.

    Yields:
        What is in it by now.
    """
    name = f"{finished.config.key}.{LOCKS[path.name]}.lock"
    with storage.locked(finished.folder.parent / ".locks" / name):
        try:
            if path.is_file():
                storage.load_json(path)
        except storage.DamagedFile as error:
            storage.set_aside(path, str(error))
        yield _of_these_weights(finished, path)


def _of_these_weights(finished: Run, path: Path) -> dict:
    """A file of tests of these very weights; those of other ones, and damaged, are of no use."""
    try:
        content = storage.load_json(path) if path.is_file() else {}
    except storage.DamagedFile:  # whoever adds to it says so
        content = {}
    return content if content.get("files") == finished.record["files"] else {}
