"""Who is it? Probes against a gallery of known subjects, closed set and open set.

The score of a subject for a probe is the highest cosine between the probe and any gallery image of
the subject. Scores that differ by no more than `TIE` are equal, and equality counts against the
probe: a network that gives every image the same embedding recognises nobody.

All is computed in float64, for at most chunk² cosines at a time. Rates of `rank_k` and
`rank_errors` are in percent; those of `dir_at_far` lie in 0 to 1, like the false accept rates it is
asked for.

Source of ranks and DIR: Phillips, Grother, Micheals, Evaluation Methods in Face Recognition,
in Handbook of Face Recognition, 2nd edition, 2011.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from horkd.checks import at_least_one, unit_rows, whole_numbers
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network
from horkd.predict import embed
from horkd.protocols import Asked, Protocol, Question
from horkd.protocols.thresholds import threshold_at

if TYPE_CHECKING:
    from horkd.data.images import Dataset
    from horkd.data.photos import PhotoFiles

#: Cosines no further apart are equal: the order of a sum alone changes them by about 1e-15.
TIE = 1e-12


@dataclass(frozen=True)
class Search:
    """Who is on a probe? Images to find in a gallery.

    Attributes:
        images: what the indices are about, without margin.
        gallery, probes: int64, indices of images of the same subjects.
        unknown: int64, indices of images of subjects without any gallery image; may be empty.
        labels: int64 (N,), the subject of each image; -1 for images that take no part.
        what: the setting in words.
        subjects: their names, if they have some.
    """

    images: "Tensor | PhotoFiles"
    gallery: Tensor
    probes: Tensor
    unknown: Tensor
    labels: Tensor
    what: str
    subjects: tuple[str, ...] = ()


class Identification(Protocol):
    """Nothing is trained, and there is no number to compare networks by: only who is on a probe."""

    def test(
        self, network: Network, data: "Dataset", degradation: Degradation, brief: bool = False
    ) -> dict:
        """Refused: a record's test is a number by which networks are compared."""
        raise HorkdError(
            f"{data.name} has no classes that are never trained on: verification needs faces or "
            "the embedded set"
        )


def identify(asked: Asked) -> dict:
    """Identification by the cosine of features: gallery and probes of a data set.

    `other` is what the network sees of the gallery.

    Returns:
        `rank1_error` and `rank5_error` in percent, `subjects`, `gallery` and `probes` (images),
        `what` (the setting in words) and, with unknown probes, `dir` (as `dir_at_far`).
    """
    search = asked.data.protocol.search

    def features(index: Tensor, degradation: Degradation) -> Tensor:
        images = search.images
        part = images[index] if isinstance(images, Tensor) else images.select(index)
        return embed(asked.network, part, asked.data, degradation, asked.flip)

    gallery = features(search.gallery, asked.other or asked.degradation)
    probes = features(search.probes, asked.degradation)
    people, whose = search.labels[search.gallery], search.labels[search.probes]
    errors = rank_errors(gallery, people, probes, whose)
    result = {
        "rank1_error": errors[1],
        "rank5_error": errors[5],
        "subjects": len(whose.unique()),
        "gallery": len(gallery),
        "probes": len(probes),
        "what": search.what,
    }
    if len(search.unknown):
        strangers = features(search.unknown, asked.degradation)
        result["dir"] = dir_at_far(gallery, people, probes, whose, strangers)
    return result


IDENTIFICATION = Question("identification", identify, "has no subjects that are never trained on")


def split_subjects(
    subjects: Sequence[str],
    labels: ArrayLike | Tensor,
    names: Sequence[str],
    count: int = 180,
    share: Fraction | float = Fraction(4, 5),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Some subjects drawn at random, and the images of each split into gallery and probes.

    The paper's setting on UCCS: 180 subjects at random, with 3,918 images for training and 907 for
    testing, about four to one. It names neither subjects nor images, so this split is another one.

    The draw is the order of SHA-256 digests, so it is the same on any machine and with any library:
    of seed and subject to choose subjects, of seed, subject and image name to order the images of a
    subject; the parts are decimal or UTF-8, joined by zero bytes. It depends neither on the order
    of subjects and images nor on how subjects are numbered.

    A subject with n images gives ⌈share · n⌉ of them to the gallery, but leaves at least one probe
    and one gallery image; subjects with a single image are not drawn.

    Args:
        subjects: name of each subject; label i is of subjects[i].
        labels: int (N,), the subject of each image.
        names: of the N images, such as file names; different within a subject.
        count: subjects to draw.
        share: of a subject's images that go to the gallery, between 0 and 1; read as a fraction
            with a denominator of 1000 at most.
        seed: of the draw.

    Returns:
        Indices of gallery images and of probes, int64, each ascending.

    Raises:
        HorkdError: on too few subjects with two images, labels without a subject, or names that
            occur twice.
    """
    if len(set(subjects)) < len(subjects):
        raise HorkdError("two subjects have the same name: give each one a name of its own")
    y = whole_numbers(labels, "labels", len(names))
    if len(y) and not 0 <= y.min() <= y.max() < len(subjects):
        raise HorkdError(
            f"labels run from {y.min()} to {y.max()}, but there are {len(subjects)} subjects"
        )
    part = Fraction(share).limit_denominator(1000) if 0 < share < 1 else Fraction(0)
    if not 0 < part < 1:
        raise HorkdError(f"the gallery's share must lie between 0 and 1, got {share}")
    images: dict[int, list[int]] = {}
    for index, label in enumerate(y.tolist()):
        images.setdefault(label, []).append(index)
    able = [label for label, own in images.items() if len(own) > 1]
    if not 1 <= count <= len(able):
        raise HorkdError(
            f"cannot draw {count} subjects: {len(able)} have two images or more, of "
            f"{len(subjects)} in all"
        )
    gallery, probes = [], []
    for label in sorted(able, key=lambda one: _digest(seed, subjects[one]))[:count]:
        own = images[label]
        if len({names[i] for i in own}) < len(own):
            raise HorkdError(
                f"two images of subject {subjects[label]} have the same name: use unique ones"
            )
        drawn = sorted((_digest(seed, subjects[label], names[i]), i) for i in own)
        kept = min(math.ceil(part * len(own)), len(own) - 1)
        gallery += [i for _, i in drawn[:kept]]
        probes += [i for _, i in drawn[kept:]]
    return np.sort(np.array(gallery, np.int64)), np.sort(np.array(probes, np.int64))


def rank_k(
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    probes: ArrayLike | Tensor,
    probe_labels: ArrayLike | Tensor,
    ks: Sequence[int] = (1, 5),
    chunk: int = 4096,
) -> dict[int, float]:
    """Percent of probes whose subject is among the k best, for each k.

    Args:
        gallery: embeddings (G, D).
        gallery_labels: int (G,), the subject of each gallery image.
        probes: embeddings (Q, D).
        probe_labels: int (Q,), each of a subject in the gallery.
        ks: ranks; with no more than k subjects the answer is 100.
        chunk: at most chunk² cosines are held at a time, or one probe's.

    Returns:
        k to percent. A subject whose score equals that of the right one is counted before it.

    Raises:
        HorkdError: on shapes that do not fit, embeddings that are not finite, a rank or chunk below
            1, or a probe whose subject is not in the gallery.
    """
    at_least_one("ranks", *ks)
    people = _Gallery.of(gallery, gallery_labels, chunk)
    ranks, _ = people.identify(probes, probe_labels, "probes")
    return {int(k): 100 * float(np.mean(ranks <= k)) for k in ks}


def rank_errors(
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    probes: ArrayLike | Tensor,
    probe_labels: ArrayLike | Tensor,
    ks: Sequence[int] = (1, 5),
    chunk: int = 4096,
) -> dict[int, float]:
    """Percent of probes whose subject is not among the k best: 100 − `rank_k`, same arguments."""
    hits = rank_k(gallery, gallery_labels, probes, probe_labels, ks, chunk)
    return {k: 100 - value for k, value in hits.items()}


def dir_at_far(
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    known: ArrayLike | Tensor,
    known_labels: ArrayLike | Tensor,
    unknown: ArrayLike | Tensor,
    fars: Sequence[float] = (1e-1, 1e-2),
    rank: int = 1,
    chunk: int = 4096,
) -> list[dict[str, float | int]]:
    """Open set: detection and identification rate at false accept rates; never interpolated.

    A known probe counts when its subject is among the `rank` best and the subject's score is above
    the threshold, by more than `TIE`. A false accept is an unknown probe whose best subject is. The
    threshold is one of the unknown probes' scores, with at most floor(far · n_unknown) of them
    above it; where that is 0 it is the highest one, and so few probes do not show such a rate.

    Args:
        gallery: embeddings (G, D).
        gallery_labels: int (G,).
        known: embeddings (K, D) of probes with a subject in the gallery.
        known_labels: int (K,).
        unknown: embeddings (U, D) of probes of other subjects.
        fars: the asked false accept rates, in 0 to 1.
        rank: how many best subjects a known probe's may be among.
        chunk: as in `rank_k`.

    Returns:
        For each rate `far` (as asked), `dir` in 0 to 1, `threshold`, `identified` (known probes
        that count), `accepted_unknown`, `n_known` and `n_unknown`.

    Raises:
        HorkdError: as `rank_k`, and on a rate outside of 0 to 1.
    """
    at_least_one("ranks", rank)
    people = _Gallery.of(gallery, gallery_labels, chunk)
    ranks, own = people.identify(known, known_labels, "known probes")
    strangers = people.rows(unknown, "unknown probes")
    best = np.concatenate([scores.max(1) for scores in people.scores(strangers)])
    rows = []
    for far in fars:
        threshold = threshold_at(far, best, own)
        hits = (ranks <= rank) & (own > threshold + TIE)
        rows.append(
            {
                "far": float(far),
                "dir": float(np.mean(hits)),
                "threshold": threshold,
                "identified": int(hits.sum()),
                "accepted_unknown": int(np.sum(best > threshold + TIE)),
                "n_known": len(own),
                "n_unknown": len(best),
            }
        )
    return rows


@dataclass(frozen=True)
class _Gallery:
    """Known subjects and their images.

    Args:
        images: (G, D) at unit length, ordered by subject.
        subjects: their labels (S,), ascending.
        starts: index of each subject's first image, (S,).
        chunk: at most chunk² cosines are held at a time, or one probe's.
    """

    images: np.ndarray
    subjects: np.ndarray
    starts: np.ndarray
    chunk: int

    @classmethod
    def of(
        cls, embeddings: ArrayLike | Tensor, labels: ArrayLike | Tensor, chunk: int
    ) -> "_Gallery":
        at_least_one("chunk", chunk)
        x = unit_rows(embeddings, "gallery embeddings")
        y = whole_numbers(labels, "gallery labels", len(x))
        order = np.argsort(y, kind="stable")
        subjects, starts = np.unique(y[order], return_index=True)
        return cls(x[order], subjects, starts, chunk)

    def rows(self, probes: ArrayLike | Tensor, name: str) -> np.ndarray:
        """Probes (Q, D) at unit length, if they fit the gallery."""
        x, width = unit_rows(probes, name), self.images.shape[1]
        if x.shape[1] != width:
            raise HorkdError(
                f"gallery embeddings are {width} wide and {name} {x.shape[1]}: use one network"
            )
        return x

    def scores(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Scores of all subjects (q, S), for some rows at a time."""
        step = max(1, self.chunk**2 // len(self.images))
        for start in range(0, len(x), step):
            cosines = x[start : start + step] @ self.images.T
            yield np.maximum.reduceat(cosines, self.starts, axis=1)

    def identify(
        self, probes: ArrayLike | Tensor, labels: ArrayLike | Tensor, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank of each probe's own subject, from 1, int64 (Q,), and its score (Q,)."""
        x = self.rows(probes, name)
        y = whole_numbers(labels, f"labels of {name}", len(x))
        missing = np.setdiff1d(y, self.subjects)
        if len(missing):
            shown = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
            raise HorkdError(f"the gallery has no subject {shown} of {name}: leave them out")
        column = np.searchsorted(self.subjects, y)
        ranks, own, done = [], [], 0
        for scores in self.scores(x):
            mine = scores[np.arange(len(scores)), column[done : done + len(scores)]]
            done += len(scores)
            ranks.append((scores >= mine[:, None] - TIE).sum(1))  # itself among them
            own.append(mine)
        return np.concatenate(ranks), np.concatenate(own)


def _digest(seed: int, *parts: str) -> bytes:
    text = "\0".join((str(int(seed)), *parts))
    return hashlib.sha256(
        text.encode(errors="surrogateescape")
    ).digest()  # as the file system has it
