"""What needs the data set itself: nearest training images, and test images that divide the models.

Features and answers are computed once per set of networks and images, in some seconds to a minute,
and kept in the cache.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from app.bench import Answer, Bench
from app.reference import batched, sample
from horkd import paths, storage
from horkd.data import load_dataset
from horkd.errors import HorkdError
from horkd.protocols import neighbours

NEIGHBOURS = 5
#: What the gallery can be filtered by: text -> who is right, given (teacher, other, student).
FILTERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "student right, teacher fed small wrong": lambda t, s, r: r & ~s,
    "teacher right, student wrong": lambda t, s, r: t & ~r,
    "student right, teacher wrong": lambda t, s, r: r & ~t,
    "all three right": lambda t, s, r: t & s & r,
    "all three wrong": lambda t, s, r: ~(t | s | r),
}


@dataclass(frozen=True)
class Neighbour:
    """A training image near a picture in a network's feature space.

    Attributes:
        label: class name.
        distance: Euclidean, divided by the mean distance to all indexed images.
        image: uint8 (3, full, full).
    """

    label: str
    distance: float
    image: Tensor


class Gallery:
    """Images of a bench's data set and what its networks make of them.

    Args:
        bench: whose data set is at hand.
        progress: called with a share of 1 and a word while features are computed.
        indexed: training images that neighbours are looked for among, at most.
        tested: test images that are shown, at most.

    Raises:
        HorkdError: if the data set cannot be read.
    """

    def __init__(
        self,
        bench: Bench,
        progress: Callable[[float, str], object] = print,
        indexed: int = 5000,
        tested: int = 2000,
    ) -> None:
        data = load_dataset(bench.data)
        self.bench = bench
        self.train = sample(data.train, indexed)
        self.test = sample(data.test, tested)
        self._features = self._cached(progress, indexed)
        self._answers: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def _cached(self, progress: Callable[[float, str], object], indexed: int) -> dict[str, Tensor]:
        """Id of a network -> features of the indexed images as it sees them, float32 (N, D)."""
        models = self.bench.models
        images = storage.tensor_digest({"images": self.train.images})
        keys = "\n".join([self.bench.data, str(indexed), images, *(m.id for m in models)])
        name = hashlib.sha256(keys.encode()).hexdigest()[:16]
        path = paths.cache_dir() / "demo" / f"{self.bench.data}-{name}.safetensors"
        try:
            return {k: t.float() for k, t in storage.load_tensors(path)[0].items()}
        except HorkdError:  # not there yet, or damaged
            pass
        found = {}
        for i, model in enumerate(models):
            progress(i / len(models), f"training images as {model.name} sees them")
            found[model.id] = batched(lambda x, m=model: m(m.degradation(x)), self.train.images)[0]
        storage.save_tensors(
            path, {k: t.half() for k, t in found.items()}, {"data": self.bench.data}
        )
        return {k: t.half().float() for k, t in found.items()}

    def neighbours(self, answer: Answer) -> list[Neighbour]:
        """The training images nearest to a picture in the space of the network that answered."""
        gallery = self._features[answer.model.id]
        query = answer.features[None]
        index, distance = neighbours.nearest(query, gallery, NEIGHBOURS)
        mean = float(torch.cdist(query, gallery).mean())
        return [
            Neighbour(self.train.classes[self.train.labels[i]], d / mean, self.train.images[i])
            for i, d in zip(index[0].tolist(), distance[0].tolist(), strict=True)
        ]

    def answers(self, role: str, size: int) -> tuple[Tensor, Tensor]:
        """Classes (N,) and their probabilities (N,) that a role gives for the test images."""
        key = role, self.bench.full if role == "teacher" else size
        if key not in self._answers:
            _, logits = batched(lambda x: self.bench.outputs(role, x, size)[2:], self.test.images)
            p, c = logits.softmax(1).max(1)
            self._answers[key] = c, p
        return self._answers[key]

    def disagreements(self, size: int, which: str, label: str | None = None) -> Tensor:
        """Indices of test images on which the models differ as asked, student's surest first.

        Args:
            size: resolution in pixels.
            which: one of `FILTERS`.
            label: only images of this class; None for all.
        """
        right = [
            self.answers(role, size)[0] == self.test.labels
            for role in ("teacher", "teacher small", "student")
        ]
        chosen = FILTERS[which](*right)
        if label is not None:
            chosen &= self.test.labels == self.test.classes.index(label)
        index = chosen.nonzero()[:, 0]
        return index[self.answers("student", size)[1][index].argsort(descending=True, stable=True)]
