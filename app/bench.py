"""The networks of one data set side by side: what each answers to a picture, at any resolution."""

import functools
import math
import statistics as stats
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from horkd import paths, storage
from horkd.data import DRAWN, full_size, load_dataset, normalise
from horkd.degradation import Degradation, resize
from horkd.errors import HorkdError
from horkd.lab.config import config_from_dict
from horkd.lab.store import read
from horkd.networks.network import Network, load_network, macs, parameters
from horkd.protocols.classification import agreement

#: Who is asked. "teacher" sees full resolution, "teacher small" the reduced image (the control that
#: shows what distillation is for), "alone" is the student's network trained without a teacher.
ROLES = ("teacher", "teacher small", "student", "alone")


@dataclass(frozen=True, eq=False)
class Model:
    """One trained network and what is known of it.

    Attributes:
        name: of its file.
        network: in eval mode.
        data: name of the data set it was trained on.
        classes: class names; empty for a network that only gives features.
        full: side of the data set's images, in pixels.
        degradation: what it was trained to see of them.
        mean, std: channel statistics (scale 0 to 1) of what it is fed.
        test: results on the test set from its record, or {} if none are known.
        learned_from: key of the network it was distilled from, or None.
        key: of its record; empty if it has none.
        id: of its weights.
        bytes: size of its file.
        trained_in: precision, device and version of torch (`horkd.lab.store.Run`), where known.
    """

    name: str
    network: Network
    data: str
    classes: tuple[str, ...]
    full: int
    degradation: Degradation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    test: Mapping
    learned_from: str | None
    key: str
    id: str
    bytes: int
    trained_in: Sequence[Mapping[str, str]] = ()

    @property
    def size(self) -> int:
        """Side of the images it was trained on, before any enlargement, in pixels."""
        return self.degradation.size

    @property
    def input(self) -> int:
        """Side of what its network is fed, in pixels."""
        return self.full if self.degradation.upsample else self.size

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, C), float32, of uint8 images (N, 3, S, S)."""
        out = self.network(normalise(images, self.mean, self.std))
        return out.features.float(), out.logits.float()

    @property
    def doubt(self) -> str:
        """In a sentence, why its answers should not be believed; empty if there is no reason."""
        if not self.classes:
            return ""
        top1, n = self.test.get("top1"), self.test.get("n")
        known = isinstance(top1, float | int) and math.isfinite(top1)
        if not known or not isinstance(n, int) or n < 1:
            return "No test result is known of it: it may be untrained."
        chance = 100 / len(self.classes)
        if top1 <= chance + 3 * (chance * (100 - chance) / n) ** 0.5:
            return f"It is untrained: {top1:.1f} % on the test set is what chance gives."
        return ""

    @functools.cached_property
    def cost(self) -> dict[str, float]:
        """`parameters`, `macs` of one image, `milliseconds` (median of 15 here), `bytes`."""
        image = torch.zeros(1, 3, self.input, self.input, dtype=torch.uint8)
        seconds = []
        for _ in range(18):
            start = time.perf_counter()
            self(image)
            seconds.append(time.perf_counter() - start)
        return {
            "parameters": parameters(self.network),
            "macs": macs(self.network, self.input),
            "milliseconds": 1000 * stats.median(seconds[3:]),
            "bytes": self.bytes,
        }


def at_hand(name: str) -> bool:
    """Whether a data set of `Bench` can be read without downloading anything."""
    if name in DRAWN:
        return True
    root = paths.data_dir() or paths.cache_dir() / "data"
    return (root / "cifar-100-python" / "train").is_file() if name == "cifar100" else False


def load_models(path: str | Path) -> list[Model]:
    """The networks that a path means.

    Args:
        path: an exported file, a folder of such files, or the folder of a run, which brings those
            that it was distilled from if they lie beside it.

    Raises:
        HorkdError: if there are none, or one is damaged.
    """
    path = Path(path)
    if (path / "record.json").is_file():
        return _of_run(path.resolve())
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _is_network(p))
        if not files:
            raise HorkdError(
                f"there is no network in {path}: name an exported file, a folder of such files or "
                "the folder of a run"
            )
    return [_exported(file) for file in files]


def _is_network(path: Path) -> bool:
    """Whether a file is one of the networks in a folder, and no copy that a system keeps of it."""
    return (
        path.suffix.lower() == ".safetensors" and path.stem != "reference" and path.name[0] != "."
    )


def _exported(path: Path) -> Model:
    network = load_network(path)
    tensors, header = storage.load_tensors(path)
    try:
        model = Model(
            name=path.stem,
            network=network,
            data=str(header["data"]),
            classes=tuple(header["classes"]),
            full=int(header["size"]),
            degradation=Degradation(**header["degradation"]),
            mean=network.spec.mean or tuple(header["mean"]),
            std=network.spec.std or tuple(header["std"]),
            test=dict(header.get("test") or {}),
            learned_from=header.get("learned_from"),
            key=str(header.get("key", "")),
            id=storage.tensor_digest(tensors)[:16],
            bytes=path.stat().st_size,
            trained_in=[dict(part) for part in header.get("trained_in", ())],
        )
        if not _sound(model):
            raise ValueError("classes, sizes or statistics do not fit the network")
        return model
    except (KeyError, TypeError, ValueError, OverflowError, HorkdError) as error:
        raise HorkdError(
            f"{path} has no header of `horkd export` ({error}): export the run again"
        ) from None


def _sound(model: Model) -> bool:
    """Whether what a header says can be true of its network."""
    statistics = (*model.mean, *model.std)
    return (
        len(model.classes) == model.network.spec.num_classes
        and all(isinstance(name, str) for name in model.classes)
        and isinstance(model.size, int)
        and 0 < model.size <= model.full
        and model.full >= 8
        and len(model.mean) == len(model.std) == 3
        and all(isinstance(v, float | int) and math.isfinite(v) for v in statistics)
        and min(model.std) > 0
        and isinstance(model.learned_from, str | None)
    )


def _of_run(folder: Path) -> list[Model]:
    """A run's network and, from the folders beside it, those that it was distilled from."""
    config = config_from_dict(storage.load_json(folder / "record.json")["config"])
    if folder.name != config.name:
        raise HorkdError(f"{folder} holds the run {config.name}: give the folder that name again")
    if config.data.startswith("cifar100") and not at_hand("cifar100"):
        raise HorkdError(
            f"the class names of {folder.name} are in CIFAR-100, which is not in HORKD_DATA, and "
            "the demo downloads nothing: put it there, or export the run where it is"
        )
    found = []
    while config is not None and (run := read(config, folder.parent)) is not None:
        network, data = run.network(), load_dataset(config.data, config.per_class)
        file = run.folder / "model.safetensors"
        found.append(
            Model(
                name=config.name,
                network=network,
                data=config.data,
                classes=tuple(data.train.classes) if network.classifier is not None else (),
                full=full_size(config.data),
                degradation=config.degradation,
                mean=network.spec.mean or data.mean,
                std=network.spec.std or data.std,
                test=run.record["results"]["test"],
                learned_from=config.frozen.key if config.frozen else None,
                key=config.key,
                id=run.record["files"]["model.safetensors"][:16],
                bytes=file.stat().st_size,
                trained_in=run.trained_in,
            )
        )
        config = config.frozen
    if not found:
        raise HorkdError(f"{folder} holds no finished run: let `horkd work` finish it")
    return found


@dataclass(frozen=True, eq=False)
class Answer:
    """What one network says of one picture.

    Attributes:
        model: who.
        fed: side of the image it was fed, in pixels.
        probabilities: float32 (C,).
        logits: float32 (C,).
        features: float32 (D,).
    """

    model: Model
    fed: int
    probabilities: Tensor
    logits: Tensor
    features: Tensor

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Class names and probabilities, most probable first."""
        values, index = self.probabilities.topk(min(count, len(self.probabilities)))
        names = self.model.classes
        return [(names[i], p) for i, p in zip(index.tolist(), values.tolist(), strict=True)]

    def of(self, name: str) -> float:
        """Its probability of a class."""
        return float(self.probabilities[self.model.classes.index(name)])


class Bench:
    """A teacher, students of several resolutions and, if any, the same networks undistilled.

    Args:
        models: of one data set, with one teacher and one student at least.
        enlarge: resolutions at which the teacher is fed small images enlarged to full size; at the
            others it sees them as they are. `Reference` knows which is better.

    Attributes:
        data: name of the data set.
        classes: C names.
        full: side of the full-resolution images, in pixels.
        teacher: the largest network of full resolution that was trained on labels.
        students, alone: size in pixels -> network; a student of full resolution is an assistant.
        left_out: names of networks that have no place here: a second one of a size and role, and
            those trained on images that were reduced in another way than the first student's.
        sizes: resolutions that are looked at, ascending, in equal steps, the last being `full`.
    """

    def __init__(self, models: Sequence[Model], enlarge: Sequence[int] = ()) -> None:
        self.data, self.classes, self.full = models[0].data, models[0].classes, models[0].full
        for model in models:
            if (model.classes, model.full) != (self.classes, self.full):
                raise HorkdError(
                    f"{model.name} and {models[0].name} know different classes or image sizes: "
                    "show them one at a time"
                )
        whole = [m for m in models if m.size == self.full and m.learned_from is None]
        if not whole:
            raise HorkdError(
                f"there is no teacher of {self.full} pixels among "
                f"{', '.join(m.name for m in models)}: add its file with --models"
            )
        self.teacher = max(whole, key=lambda m: macs(m.network, m.input))
        rest = [m for m in models if m is not self.teacher]
        students = _by_size([m for m in rest if m.learned_from is not None])
        if not students:
            raise HorkdError(
                f"there is no distilled student among {', '.join(m.name for m in models)}: add its "
                "file with --models"
            )
        self._degradation = _way_of(next(iter(students.values())))
        rest = [m for m in rest if m.size == self.full or _way_of(m) == self._degradation]
        self.students = _by_size([m for m in rest if m.learned_from is not None])
        self.alone = _by_size([m for m in rest if m.learned_from is None])
        shown = (self.teacher, *self.students.values(), *self.alone.values())
        self.models, self.left_out = shown, [m.name for m in models if m not in shown]
        self.sizes = _sizes(self.full, [m.size for m in shown])
        self.enlarge = frozenset(enlarge if _takes_any_size(self.teacher) else self.sizes)
        # an image's answers at all sizes are computed once: moving the slider only looks them up
        self._known = functools.lru_cache(maxsize=128)(self._answers)

    @property
    def reduced_sizes(self) -> list[int]:
        """Resolutions below the full one that students were trained at; `full` if there is none."""
        return [s for s in self.students if s < self.full] or [self.full]

    def student_at(self, role: str, size: int) -> Model:
        """The student, or the undistilled network, that is asked for an image of `size` pixels.

        The largest that was trained on no more pixels than that, fed the image reduced once more;
        below the smallest that one, fed it enlarged.
        """
        known = self.students if role == "student" else self.alone
        return known[max((s for s in known if s <= size), default=min(known))]

    def outputs(self, role: str, images: Tensor, size: int) -> tuple[Model, int, Tensor, Tensor]:
        """Who answers in a role, the pixels it is fed, its features (N, D) and logits (N, C).

        Args:
            role: one of `ROLES`, with a network here.
            images: uint8 (N, 3, full, full).
            size: resolution that they are reduced to; of no effect for the teacher.
        """
        if role == "teacher":
            return self.teacher, self.full, *self.teacher(self.teacher.degradation(images))
        small = self.reduced(images, size)
        model = self.teacher if role == "teacher small" else self.student_at(role, size)
        fed = model.input
        if role == "teacher small" and size not in self.enlarge:
            fed = size
        return model, fed, *model(resize(small, fed, self._degradation.kernel))

    def reduced(self, images: Tensor, size: int) -> Tensor:
        """Images (N, 3, full, full) at another resolution, by what the students were trained on."""
        return replace(self._degradation, size=size)(images)

    def roles(self) -> list[str]:
        """Those of `ROLES` that have a network."""
        return [role for role in ROLES if role != "alone" or self.alone]

    def answers(self, image: Tensor) -> dict[str, dict[int, Answer]]:
        """What every role answers at every size: role -> size -> answer.

        Args:
            image: uint8 (1, 3, full, full).
        """
        return self._known(image.numpy().tobytes())

    def forget(self) -> None:
        """Forget all answers."""
        self._known.cache_clear()

    def _answers(self, pixels: bytes) -> dict[str, dict[int, Answer]]:
        image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
        image = image.reshape(1, 3, self.full, self.full)
        found: dict[str, dict[int, Answer]] = {}
        for role in self.roles():
            sizes = self.sizes[-1:] if role == "teacher" else self.sizes
            found[role] = {}
            for size in sizes:
                model, fed, features, logits = self.outputs(role, image, size)
                p = logits[0].softmax(0)
                found[role][size] = Answer(model, fed, p, logits[0], features[0])
        found["teacher"] = dict.fromkeys(self.sizes, found["teacher"][self.full])
        return found


def _takes_any_size(model: Model) -> bool:
    """Whether a network can be fed images smaller than those it was trained on."""
    try:
        model(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    except (HorkdError, RuntimeError, AssertionError):
        return False
    return True


def _by_size(models: Sequence[Model]) -> dict[int, Model]:
    """Size -> network, ascending; of several of a size the plain arm, which is called student."""

    def order(model: Model) -> tuple:
        plain = model.name.startswith(("student", "assistant"))
        return model.size, not plain, len(model.name), model.name

    chosen: dict[int, Model] = {}
    for model in sorted(models, key=order):
        chosen.setdefault(model.size, model)
    return chosen


def _way_of(model: Model) -> Degradation:
    """How images were reduced for a network, whatever their size."""
    return replace(model.degradation, size=1, upsample=False)


def _sizes(full: int, known: Sequence[int]) -> tuple[int, ...]:
    """Resolutions in equal steps up to the full one, all that networks know among them.

    At most 64, in steps of at most a sixteenth (2 pixels at least); sizes that would need more are
    passed by.
    """
    common, most = math.gcd(full, *known), max(2, full // 16)
    step = max(d for d in range(1, most + 1) if common % d == 0)
    if full // step > 64:
        step = most
    least = min(4, *known)
    return tuple(s for s in range(full % step, full + 1, step) if s >= least)


def divergence(teacher: Answer, learner: Answer) -> float:
    """KL(teacher ‖ learner) of two answers, in nats."""
    return agreement(learner.logits[None], teacher.logits[None])["kl"]
