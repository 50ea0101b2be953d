"""The networks of one data set side by side: what each answers to a picture, at any resolution."""

import functools
import statistics as stats
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from horkd import runs, storage
from horkd.data import full_size, load_dataset, normalise
from horkd.errors import HorkdError
from horkd.models import Network, load_network, macs, parameters
from horkd.resolution import Degradation, resize

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
        bytes: size of its file.
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
    bytes: int

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
        if not self.test:
            return "No test result is known of it: it may be untrained."
        if "top1" not in self.test:
            return ""
        chance, n = 100 / len(self.classes), max(1, self.test.get("n", 1))
        if self.test["top1"] <= chance + 3 * (chance * (100 - chance) / n) ** 0.5:
            return (
                f"It is untrained: {self.test['top1']:.1f} % on the test set is what chance gives."
            )
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


def load_models(path: Path) -> list[Model]:
    """The networks that a path means.

    Args:
        path: an exported file, a folder of such files, or the folder of a run, which brings those
            that it was distilled from if they lie beside it.

    Raises:
        HorkdError: if there are none, or one is damaged.
    """
    if (path / "record.json").is_file():
        return _of_run(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.glob("*.safetensors") if p.stem != "reference")
        if not files:
            raise HorkdError(
                f"there is no network in {path}: name an exported file, a folder of such files or "
                "the folder of a run"
            )
    return [_exported(file) for file in files]


def _exported(path: Path) -> Model:
    network = load_network(path)
    header = storage.load_tensors(path)[1]
    try:
        return Model(
            path.stem,
            network,
            header["data"],
            tuple(header["classes"]),
            header["size"],
            Degradation(**header["degradation"]),
            network.spec.mean or tuple(header["mean"]),
            network.spec.std or tuple(header["std"]),
            header.get("test") or {},
            header.get("learned_from"),
            header.get("key", ""),
            path.stat().st_size,
        )
    except (KeyError, TypeError) as error:
        raise HorkdError(
            f"{path} was not written by `horkd export` ({error} is missing): export the run again"
        ) from None


def _of_run(folder: Path) -> list[Model]:
    """A run's network and, from the folders beside it, those that it was distilled from."""
    config = runs.config_from_dict(storage.load_json(folder / "record.json")["config"])
    found = []
    while config is not None:
        run = runs.read(config, folder.parent)
        if run is None:
            break
        network, data = run.network(), load_dataset(config.data, config.per_class)
        file = run.folder / "model.safetensors"
        found.append(
            Model(
                run.folder.name,
                network,
                config.data,
                tuple(data.train.classes) if network.classifier is not None else (),
                full_size(config.data),
                config.degradation,
                network.spec.mean or data.mean,
                network.spec.std or data.std,
                run.record["results"]["test"],
                config.frozen.key if config.frozen else None,
                config.key,
                file.stat().st_size,
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
        models: of one data set, with one teacher at least.
        enlarge: resolutions at which the teacher is fed small images enlarged to full size; at the
            others it sees them as they are. `Reference` knows which is better.

    Attributes:
        data: name of the data set.
        classes: C names.
        full: side of the full-resolution images, in pixels.
        teacher: the largest network of full resolution that was trained on labels.
        students, alone: size in pixels -> network.
        left_out: names of networks that have no place here.
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
        self.students = _by_size([m for m in rest if m.learned_from is not None])
        self.alone = _by_size([m for m in rest if m.learned_from is None])
        shown = (self.teacher, *self.students.values(), *self.alone.values())
        self.models, self.left_out = shown, [m.name for m in models if m not in shown]
        step = max(2, self.full // 16)
        self.sizes = tuple(range(self.full - (self.full // step - 2) * step, self.full + 1, step))
        self.enlarge = frozenset(enlarge if _takes_any_size(self.teacher) else self.sizes)
        like = next(iter(self.students.values()), self.teacher).degradation
        self._degradation = replace(like, upsample=False)
        # an image's answers at all sizes are computed once: moving the slider only looks them up
        self._known = functools.lru_cache(maxsize=128)(self._answers)

    def student_at(self, role: str, size: int) -> Model | None:
        """The network that is asked for an image of `size` pixels.

        The largest that was trained on no more pixels than that, so that nothing is enlarged; the
        smallest if there is none. None if no network has that role.
        """
        known = self.students if role == "student" else self.alone
        smaller = [s for s in known if s <= size]
        if not known:
            return None
        return known[max(smaller) if smaller else min(known)]

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
        return model, fed, *model(resize(small, fed))

    def reduced(self, images: Tensor, size: int) -> Tensor:
        """Images (N, 3, full, full) at another resolution, by what the students were trained on."""
        return replace(self._degradation, size=size)(images)

    def roles(self) -> list[str]:
        """Those of `ROLES` that have a network."""
        missing = {"student": not self.students, "alone": not self.alone}
        return [role for role in ROLES if not missing.get(role)]

    def answers(self, image: Tensor) -> dict[str, dict[int, Answer]]:
        """What every role answers at every size: role -> size -> answer.

        Args:
            image: uint8 (1, 3, full, full).
        """
        return self._known(image.numpy().tobytes())

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
    """Size -> network, ascending; of several the first by name length and name: the plain arm."""
    chosen: dict[int, Model] = {}
    for model in sorted(models, key=lambda m: (m.size, len(m.name), m.name)):
        chosen.setdefault(model.size, model)
    return chosen


def divergence(teacher: Answer, learner: Answer) -> float:
    """KL(teacher ‖ learner) of two answers, in nats."""
    p, q = teacher.logits.double().log_softmax(0), learner.logits.double().log_softmax(0)
    return float((p.exp() * (p - q)).sum())
