"""What is measured of a bench before anyone asks it: `python -m app.reference FOLDER`.

Class centres, accuracy at every resolution, how far students usually are from their teacher, and
the limit below which a picture counts as unlike anything the teacher knows. Kept beside the
networks as `reference.safetensors`; the demo works without it, but then leaves these things out.
The teacher's way of taking small images and the limit are chosen on validation images, the rest is
of test images.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from app.bench import Bench, Model, load_models
from horkd import paths, storage
from horkd.data import ImageSet, load_dataset
from horkd.errors import HorkdError, printable_output
from horkd.losses import class_centers
from horkd.protocols.classification import accuracy, agreement

#: Share of the validation images below the limit.
FLAGGED = 0.05
BATCH = 250


@dataclass(frozen=True, eq=False)
class Reference:
    """What is known of a bench.

    Attributes:
        centers: id of a network -> its class centres, float32 (C, D), of training images.
        accuracy: role -> size -> top-1 on test images, in percent.
        divergence: role -> size -> deciles (9) of KL(teacher ‖ learner) on test images, in nats.
        same: role -> size -> test images with the teacher's answer, in percent.
        enlarge: sizes at which the teacher was better on validation images if they were enlarged.
        limit: of `familiarity`; 5 % of the validation images are below.
        flagged: test images below it, in percent.
        n: test images.
    """

    centers: Mapping[str, Tensor]
    accuracy: Mapping[str, Mapping[int, float]]
    divergence: Mapping[str, Mapping[int, list[float]]]
    same: Mapping[str, Mapping[int, float]]
    enlarge: tuple[int, ...]
    limit: float
    flagged: float
    n: int


def familiarity(features: Tensor, centers: Tensor) -> Tensor:
    """How much images look like what a network was trained on, (N,); at most 0.

    Minus the distance to the nearest class centre, divided by the length of the feature. Chosen
    among eleven such scores by `benchmarks/unknown.py` on the photos; on the characters it is
    0.8 points behind the best.

    Args:
        features: (N, D).
        centers: (C, D), of the same network.
    """
    nearest = torch.cdist(features, centers).amin(1)
    return -nearest / features.norm(dim=1).clamp_min(torch.finfo(features.dtype).tiny)


def measure(bench: Bench, images: int | None = None) -> Reference:
    """Measure a bench on its data set.

    Args:
        bench: any; which way its teacher takes small images does not matter.
        images: of each split at most, for trials; None for all.

    Raises:
        HorkdError: if the data set is not there.
    """
    data = load_dataset(bench.data)
    train, validation, test = (sample(s, images) for s in (data.train, data.validation, data.test))
    centers = {}
    for model in tqdm(bench.models, desc="class centres"):
        features, _ = batched(lambda x, m=model: m(m.degradation(x)), train.images)
        centers[model.id] = class_centers(features, train.labels, len(bench.classes))
    enlarge = _better_enlarged(bench.models, validation)
    measured = _by_role(Bench(bench.models, enlarge), test)
    limit, flagged = _limit(bench.teacher, centers, validation.images, test.images)
    return Reference(centers, *measured, enlarge, limit, flagged, len(test))


def sample(images: ImageSet, count: int | None) -> ImageSet:
    """At most that many images, always the same ones, drawn since some sets are sorted by class."""
    if count is None or count >= len(images):
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.select(order[:count].sort().values)


@torch.no_grad()
def batched(answer: Callable[[Tensor], tuple], images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of many images, a few at a time."""
    parts = [answer(part) for part in images.split(BATCH)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _better_enlarged(models: Sequence[Model], images: ImageSet) -> tuple[int, ...]:
    """Sizes at which the teacher knows more images if they are enlarged to full size."""
    as_is = Bench(models)
    enlarged = Bench(models, enlarge=as_is.sizes)
    better = []
    for size in tqdm(as_is.sizes[:-1], desc="ways to feed the teacher"):
        right = []
        for bench in (as_is, enlarged):
            answer = functools.partial(_outputs, bench, "teacher small", size)
            right.append(accuracy(batched(answer, images.images)[1], images.labels)["top1"])
        if right[1] > right[0]:
            better.append(size)
    return tuple(better)


def _outputs(bench: Bench, role: str, size: int, images: Tensor) -> tuple[Tensor, Tensor]:
    return bench.outputs(role, images, size)[2:]


def _limit(
    teacher: Model, centers: Mapping[str, Tensor], validation: Tensor, test: Tensor
) -> tuple[float, float]:
    """Familiarity below which 5 % of the validation images are, and test images below it in %."""
    own = centers[teacher.id].half().float()  # as they are kept
    known = familiarity(batched(teacher, validation)[0], own).double()
    limit = float(known.quantile(FLAGGED))
    new = familiarity(batched(teacher, test)[0], own).double()
    return limit, 100 * (new < limit).double().mean().item()


def _by_role(bench: Bench, images: ImageSet) -> tuple[dict, dict, dict]:
    """Accuracy, deciles of the divergence and share of equal answers, each role -> size."""
    _, whole = batched(bench.teacher, images.images)
    log_p = whole.double().log_softmax(1)
    right = {"teacher": {bench.full: accuracy(whole, images.labels)["top1"]}}
    divergence: dict[str, dict] = {}
    same: dict[str, dict] = {}
    tenths = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    for role in bench.roles()[1:]:
        right[role], divergence[role], same[role] = {}, {}, {}
        for size in tqdm(bench.sizes, desc=role):
            _, logits = batched(functools.partial(_outputs, bench, role, size), images.images)
            kl = (log_p.exp() * (log_p - logits.double().log_softmax(1))).sum(1)
            right[role][size] = accuracy(logits, images.labels)["top1"]
            divergence[role][size] = kl.quantile(tenths).tolist()
            same[role][size] = agreement(logits, whole)["same_answer"]
    return right, divergence, same


def save(path: str | Path, bench: Bench, reference: Reference) -> None:
    """Write a reference atomically; class centres as float16."""
    content = {f.name: getattr(reference, f.name) for f in fields(reference)}
    centers = content.pop("centers")
    tensors = {name: c.half() for name, c in centers.items()}
    storage.save_tensors(path, tensors, {"reference": content, "data": bench.data})


def load(path: str | Path, bench: Bench) -> Reference | None:
    """The reference of a bench, or None if there is none or it is of other networks.

    Raises:
        HorkdError: if the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return None
    tensors, header = storage.load_tensors(path)
    if header.get("data") != bench.data or set(tensors) != {m.id for m in bench.models}:
        return None
    try:
        content = dict(header["reference"])
        for name in ("accuracy", "divergence", "same"):  # JSON knows no keys but text
            content[name] = {
                role: {int(size): value for size, value in by_size.items()}
                for role, by_size in content[name].items()
            }
        content["enlarge"] = tuple(content["enlarge"])
        for role in bench.roles()[1:]:
            for table in ("accuracy", "divergence", "same"):
                if set(content[table][role]) != set(bench.sizes):
                    raise ValueError("other resolutions")
        return Reference({name: t.float() for name, t in tensors.items()}, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HorkdError(
            f"{path} is of another version ({error}): run python -m app.reference {path.parent}"
        ) from None


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the networks of a folder and write `reference.safetensors` into it.

    Args:
        argv: the folder; that of the command line if None.
    """
    printable_output()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of exported networks")
    options = parser.parse_args(argv)
    try:
        paths.settle()
        folder = paths.typed_path(options.folder)
        models = load_models(folder)
        if models[0].classes:
            bench = Bench(models)
            save(folder / "reference.safetensors", bench, measure(bench))
        else:
            from app.faces import FaceBench

            faces = FaceBench(models)
            faces.save(folder / "reference.safetensors", faces.measure())
    except HorkdError as error:
        sys.exit(f"horkd: {error}")


if __name__ == "__main__":
    main()
