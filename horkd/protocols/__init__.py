"""How networks are scored and tested on a data set; every `Dataset` carries its protocol.

| module | protocol | networks are compared by |
|---|---|---|
| `classification` | `Classification` | top-1 accuracy |
| `verification` | `Verification` | accuracy on pairs of images |
| `identification` | `Identification` | nothing: asked for who is on a probe alone |
| `retrieval` | `Retrieval` | Recall@1 among classes never trained on |

Beyond its test a finished network can be asked the questions of `questions`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network, Output
from horkd.preprocess import Channels

if TYPE_CHECKING:
    from horkd.data.images import Dataset, ImageSet
    from horkd.data.photos import PhotoFiles
    from horkd.protocols.identification import Search
    from horkd.protocols.verification import PairSet

#: A frozen model's answers to the images of a split: from the split's name and its images.
Says = Callable[[str, "torch.Tensor | PhotoFiles"], Output]


#: What sums up a result, and what it is called; the first that is there.
_HEADLINES = {
    "recall1": "Recall@1",
    "recall": "Recall@1",
    "top1": "top-1",
    "accuracy": "verification",
}


class Headline(NamedTuple):
    """The number that sums up a result; as text `top-1 85.00`.

    Attributes:
        key: of the result.
        name: in words.
        percent: the number.
    """

    key: str
    name: str
    percent: float

    def __str__(self) -> str:
        return f"{self.name} {self.percent:.2f}"


def headline(result: Mapping[str, Any]) -> Headline:
    """The number that sums up a score, a test or the answer to a question.

    Args:
        result: of `Protocol.score` or `Protocol.test`, or of a `Question`.

    Raises:
        KeyError: if nothing in it sums it up.
    """
    for key, name in _HEADLINES.items():
        if key in result:
            found = result[key]
            return Headline(key, name, found["1"] if isinstance(found, Mapping) else found)
    raise KeyError(f"none of {', '.join(_HEADLINES)} in a result")


class Protocol:
    """What the networks of a data set are compared by.

    Args:
        pairs: makes the pairs to verify, when they are first asked for; None if there are none.
        search: makes gallery and probes, likewise.

    Attributes:
        metric: the main number of `score`.
    """

    metric = "top1"

    def __init__(
        self,
        pairs: "Callable[[], PairSet] | None" = None,
        search: "Callable[[], Search] | None" = None,
    ) -> None:
        self._make_pairs, self._make_search = pairs, search

    @cached_property
    def pairs(self) -> "PairSet | None":
        """Pairs of images to verify, if the data set has some."""
        return self._make_pairs and self._make_pairs()

    @cached_property
    def search(self) -> "Search | None":
        """Images to identify in a gallery, if the data set has some."""
        return self._make_search and self._make_search()

    @property
    def questions(self) -> tuple[str, ...]:
        """What finished networks can be asked on this data set (`horkd.protocols.questions`)."""
        there = {"verification": self._make_pairs, "identification": self._make_search}
        return tuple(name for name, make in there.items() if make)

    def scores(self, classifies: bool) -> bool:
        """Whether epochs can be compared: whether `score` has something to go by.

        Args:
            classifies: the network has a classifier.
        """
        return False

    def score(
        self,
        network: Network,
        images: "ImageSet | PhotoFiles",
        channels: "Channels | Dataset",
        degradation: Degradation,
    ) -> dict[str, float]:
        """What epochs are compared by: `metric` in percent and `n`, the images that count.

        Args:
            network: any that `scores` allows.
            images: a split.
            channels: statistics that normalise them.
            degradation: what the network sees.

        Returns:
            Plain numbers; NaN if the network gives no finite ones.
        """
        raise HorkdError("networks cannot be scored on this data set after an epoch")

    def test(
        self, network: Network, data: "Dataset", degradation: Degradation, brief: bool = False
    ) -> dict:
        """What a network does on the test of a data set.

        Args:
            network: any.
            data: the data set that carries this protocol.
            degradation: what the network sees.
            brief: leave out what takes minutes and compares no epochs.

        Raises:
            HorkdError: if there is nothing to test this network on.
        """
        raise NotImplementedError

    def judge(
        self, network: Network, data: "Dataset", degradation: Degradation, says: Says | None
    ) -> dict[str, object]:
        """The results of a finished network for its record: `test`, and what else can be said.

        Args:
            network: the network.
            data: the data set that carries this protocol.
            degradation: what the network sees.
            says: the answers of its frozen model, if that has a classifier.
        """
        return {"test": self.test(network, data, degradation)}


@dataclass(frozen=True)
class Asked:
    """A question on a data set, put to a finished network.

    Attributes:
        network: who is asked.
        data: the data set with the images.
        degradation: what the network sees of them.
        other: what it sees of the second image of a pair, or of the gallery, instead.
        flip: add the features of the mirrored image (`embed`).
        memo: keeps features of this network between questions.
        teacher: what the network's teacher says of images at its own resolution; raises HorkdError
            if there is none.
    """

    network: Network | None
    data: "Dataset"
    degradation: Degradation
    other: Degradation | None = None
    flip: bool = False
    memo: dict = field(default_factory=dict)
    teacher: Says | None = None


@dataclass(frozen=True)
class Question:
    """One kind of question; called with an `Asked` it gives plain numbers.

    Attributes:
        name: how it is called.
        answer: the function that answers it.
        missing: what is said, after its name, of a data set that it cannot be asked of.
        mixed: whether it knows `Asked.other`.
        flips: whether it knows `Asked.flip`.
        refusal: what is said of an option that it does not know.
        own_images: whether it is about the very test images of the data set: of a network trained
            on fewer images per class, those that are left with so many.
    """

    name: str
    answer: Callable[[Asked], dict]
    missing: str
    mixed: bool = True
    flips: bool = True
    refusal: str = ""
    own_images: bool = False

    def check(self, other: Degradation | None, flip: bool) -> None:
        """Refuse options that this question does not know.

        Raises:
            HorkdError: if it does not know one that is given.
        """
        if (other is not None and not self.mixed) or (flip and not self.flips):
            raise HorkdError(self.refusal)

    def __call__(self, asked: Asked) -> dict:
        """The answer.

        Raises:
            HorkdError: if the data set or the options do not fit.
        """
        if self.name not in asked.data.protocol.questions:
            raise HorkdError(f"{asked.data.name} {self.missing}")
        self.check(asked.other, asked.flip)
        return self.answer(asked)
