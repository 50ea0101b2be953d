"""Two photos, one person or two: at any resolution, with the error rates that were measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from app.bench import Model
from app.pictures import SIDE, Picture
from horkd import storage
from horkd.data import load_dataset
from horkd.data.photos import CENTRE_CROP
from horkd.degradation import Degradation, resize
from horkd.errors import HorkdError
from horkd.protocols import verification

#: Resolutions that are looked at, as far as the networks go.
SIZES = (8, 12, 16, 20, 24, 28, 32)
#: How a photo is cut out: LFW's photos show twice as much as the face.
FRAMINGS = ("whole head, as in LFW", "face only")
#: What must be said with every answer; the report on faces has the whole model card.
WARNING = (
    "For research on distillation only. The networks learned from twelve thousand press photos of "
    "public figures, most of them men and most of them white, and must not be used to identify or "
    "to judge anyone."
)


@dataclass(frozen=True)
class Verdict:
    """What one network says of two photos.

    Attributes:
        model: name of the network.
        similarity: cosine of the two features.
        threshold: above it the two are taken for one person; None if it was not measured.
        false_accepts: pairs of two people above the threshold, in percent of `n` held-out pairs.
        false_rejects: pairs of one person below it, in percent of as many.
        n: of either kind.
    """

    model: str
    similarity: float
    threshold: float | None = None
    false_accepts: float | None = None
    false_rejects: float | None = None
    n: int = 0

    @property
    def same(self) -> bool | None:
        """Whether it takes them for one person; None without a threshold."""
        return None if self.threshold is None else self.similarity > self.threshold


class FaceBench:
    """Networks for faces, of one or several resolutions.

    Args:
        models: that give features, of one size of photos.
        thresholds: what `measure` found, or {}.

    Attributes:
        sizes: resolutions that are looked at, ascending.
    """

    def __init__(
        self, models: Sequence[Model], thresholds: Mapping[str, Mapping[int, dict]] | None = None
    ) -> None:
        self.models = {m.size: m for m in sorted(models, key=lambda m: (m.size, m.name))}
        self.full = models[0].full
        if any(m.full != self.full for m in models):
            raise HorkdError(
                "these networks for faces take photos of different sizes: show them one at a time"
            )
        more = (self.full,) if max(self.models) > SIZES[-1] else ()
        self.sizes = (*SIZES, *more)
        self.thresholds = dict(thresholds or {})

    def model_at(self, size: int) -> Model:
        """The largest network trained on no more pixels than that, or else the smallest."""
        return self.models[max((s for s in self.models if s <= size), default=min(self.models))]

    def features(self, images: Tensor, size: int) -> Tensor:
        """Features (N, D) of photos reduced to a resolution.

        Args:
            images: uint8 (N, 3, full, full).
            size: in pixels.
        """
        model = self.model_at(size)
        return model(resize(Degradation(size)(images), model.input))[0]

    def seen(self, picture: Picture, size: int, framing: str) -> Tensor:
        """What a network sees of a photo: uint8 (3, size, size)."""
        return Degradation(size)(cut(picture, framing, self.full))[0]

    def verify(self, left: Picture, right: Picture, size: int, framing: str) -> Verdict:
        """Whether two photos show one person.

        Args:
            left: any photo.
            right: another.
            size: resolution that both are reduced to, in pixels.
            framing: one of `FRAMINGS`.
        """
        images = torch.cat([cut(p, framing, self.full) for p in (left, right)])
        model = self.model_at(size)
        found = self.features(images, size)
        similarity = float(verification.cosine(found[:1], found[1:])[0])
        known = self.thresholds.get(model.id, {}).get(size, {})
        return Verdict(model.name, similarity, **known)

    def measure(self) -> dict[str, dict[int, dict]]:
        """Thresholds and their error rates, id of a network -> size -> fields of `Verdict`.

        The threshold is the most accurate one on nine folds of LFW's pairs, whose people the
        networks have seen; the rates are of the tenth, whose people they have not.

        Raises:
            HorkdError: if LFW is not there, or a network has seen all of its folds.
        """
        found: dict[str, dict[int, dict]] = {m.id: {} for m in self.models.values()}
        for size in tqdm(self.sizes, desc="thresholds"):
            model = self.model_at(size)
            data = load_dataset(model.data)
            asked = data.protocol.pairs
            if asked is None or asked.folds is None:
                raise HorkdError(f"{model.data} has no pairs of unseen people to measure on")
            images, pairs = asked.images.central, asked.pairs
            parts = [self.features(part, size) for part in images.split(100)]
            scores = verification.cosine(
                torch.cat(parts)[pairs.left], torch.cat(parts)[pairs.right]
            )
            same, held = np.asarray(pairs.same), np.isin(pairs.fold, asked.folds)
            threshold = verification.best_threshold(scores[~held], same[~held])
            accepted = scores > threshold
            found[model.id][size] = {
                "threshold": float(threshold),
                "false_accepts": 100 * float(accepted[held & ~same].mean()),
                "false_rejects": 100 * float((~accepted)[held & same].mean()),
                "n": int((held & same).sum()),
            }
        return found

    def save(self, path: str | Path, thresholds: Mapping[str, Mapping[int, dict]]) -> None:
        """Write what `measure` found."""
        storage.save_tensors(path, {}, {"thresholds": thresholds})

    def load(self, path: str | Path) -> None:
        """Read what `measure` found, if the file is there.

        Raises:
            HorkdError: if it is damaged.
        """
        path = Path(path)
        if not path.is_file():
            return
        known = storage.load_tensors(path)[1].get("thresholds")
        try:
            for key, rows in known.items():
                for row in rows.values():
                    Verdict("", 0.0, **row)
                self.thresholds[key] = {int(size): row for size, row in rows.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise HorkdError(
                f"{path} is of another version ({error}): run python -m app.reference {path.parent}"
            ) from None


def cut(picture: Picture, framing: str, size: int) -> Tensor:
    """The face in a photo as networks see it: uint8 (1, 3, size, size)."""
    return Picture(face(picture, framing)).at(size)


def face(picture: Picture, framing: str) -> Image.Image:
    """The part of a photo that is compared, square.

    Raises:
        HorkdError: if the framing is not one of `FRAMINGS`.
    """
    if framing not in FRAMINGS:
        raise HorkdError(f"unknown framing {framing!r}: choose from {', '.join(FRAMINGS)}")
    if framing == FRAMINGS[1]:
        return picture.square
    side = picture.square.width
    x, y, width = CENTRE_CROP.square(side, side)
    box = (x - width / 2, y - width / 2, x + width / 2, y + width / 2)
    out = min(SIDE, max(1, round(width)))
    return picture.square.resize((out, out), Image.Resampling.BICUBIC, box)
