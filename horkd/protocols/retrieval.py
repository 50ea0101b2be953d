"""Retrieval among classes never trained on: by a network, by pixels, across two networks."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network
from horkd.predict import predict
from horkd.preprocess import Channels
from horkd.protocols import Asked, Protocol, Question
from horkd.protocols.alignment import align
from horkd.protocols.neighbours import measure, nmi

if TYPE_CHECKING:
    from horkd.data.images import Dataset, ImageSet
    from horkd.data.photos import PhotoFiles

#: Training images that student and teacher are aligned by; more change little.
ALIGNED_BY = 4096


class Retrieval(Protocol):
    """Every split has classes of its own; its images are queries and gallery alike."""

    metric = "recall1"

    @property
    def questions(self) -> tuple[str, ...]:
        """Retrieval in three ways."""
        return ("retrieval", "pixels", "across")

    def scores(self, classifies: bool) -> bool:
        """Any network: features are enough."""
        return True

    def score(
        self,
        network: Network,
        images: "ImageSet | PhotoFiles",
        channels: "Channels | Dataset",
        degradation: Degradation,
    ) -> dict[str, float]:
        """Recall@1 as `recall1` in percent, NaN if features are no finite numbers."""
        found = predict(network, images.central, channels, degradation).features
        if not found.isfinite().all():
            return {"recall1": math.nan, "n": len(found)}
        rates = measure(found, images.labels.to(found.device), ks=(1,))
        return {"recall1": rates["recall"]["1"], "n": rates["queries"]}

    def test(
        self, network: Network, data: "Dataset", degradation: Degradation, brief: bool = False
    ) -> dict:
        """`retrieve` among the test images; `brief` without `nmi`."""
        return retrieve(Asked(network, data, degradation), clusters=not brief)


def retrieve(asked: Asked, clusters: bool = True) -> dict:
    """Retrieval among the test images, each of them query and gallery.

    Features are compared by their Euclidean distance as they are. `other` is what the network sees
    of the gallery.

    Args:
        asked: network, data and what is seen.
        clusters: also `nmi`, which takes minutes for many classes.

    Returns:
        `measure` of the embeddings and, for queries and gallery alike, their `nmi`.
    """
    data, other = asked.data, asked.other
    images = data.test.central
    queries = predict(asked.network, images, data, asked.degradation).features
    labels = data.test.labels.to(queries.device)
    if other is not None and other != asked.degradation:
        gallery = predict(asked.network, images, data, other).features
        own = torch.arange(len(labels), device=queries.device)
        return measure(queries, labels, gallery, labels, own)
    found = measure(queries, labels)
    return found | ({"nmi": nmi(queries.cpu(), labels.cpu())} if clusters else {})


def retrieve_pixels(asked: Asked) -> dict:
    """Retrieval by the pixels themselves: what every network has to beat.

    Images are made small by the degradation, held in memory, and compared as they are, in [0, 1].

    Returns:
        What `retrieve` gives, of vectors of 3·r·r numbers.

    Raises:
        HorkdError: if the images are photos on disk.
    """
    test = asked.data.test
    if not isinstance(test.images, Tensor):
        raise HorkdError(
            f"retrieval by pixels is for small images, not for those of {asked.data.name}"
        )
    generator = torch.Generator().manual_seed(0)
    seen = [asked.degradation(part, generator) for part in test.images.cpu().split(1024)]
    pixels, labels = torch.cat(seen).flatten(1).float() / 255, test.labels.cpu()
    return measure(pixels, labels) | {"nmi": nmi(pixels, labels)}


def retrieve_across(asked: Asked) -> dict:
    """Queries by a network in its teacher's index of the test images at full resolution.

    Returns:
        `across`; both are aligned by the same training images.
    """
    data = asked.data
    count = min(ALIGNED_BY, len(data.train))
    some = torch.linspace(0, len(data.train) - 1, count).long()
    part, test = data.train.select(some).central, data.test.central
    targets, index = (
        asked.teacher(split, images).features.cpu()
        for split, images in ((f"{count} of train", part), ("test", test))
    )
    pairs, queries = (
        predict(asked.network, images, data, asked.degradation).features.cpu()
        for images in (part, test)
    )
    return across(queries, index, data.test.labels, (pairs, targets))


def across(queries: Tensor, gallery: Tensor, labels: Tensor, pairs: tuple[Tensor, Tensor]) -> dict:
    """Retrieval by one network in the index of another: what a system with an index has to do.

    Args:
        queries: features (N, D) of the test images by the network that queries.
        gallery: features (N, D') of the same images by the one that made the index.
        labels: int64 (N,).
        pairs: features of the same training images by both, to align them.

    Returns:
        `measure` twice: `as_is` (None where the widths differ), and `aligned`, after the
        similarity transform that takes one space to the other best on the training images.
    """
    own = torch.arange(len(labels))
    as_is = None
    if queries.shape[1] == gallery.shape[1]:
        as_is = measure(queries, labels, gallery, labels, own)
    transform = align(*pairs)
    moved, padded = transform(queries), transform.pad(gallery)
    aligned = measure(moved, labels, padded, labels, own)
    return {"as_is": as_is, "aligned": aligned, "aligned_by": len(pairs[0])}


_MISSING = (
    "has no test classes of its own: retrieval needs a set for metric learning, such as "
    "glyphs-disjoint"
)
RETRIEVAL = Question(
    "retrieval",
    retrieve,
    _MISSING,
    flips=False,
    refusal="retrieval knows no mirrored images: leave flip out",
    own_images=True,
)
PIXELS = Question(
    "pixels",
    retrieve_pixels,
    _MISSING,
    mixed=False,
    flips=False,
    refusal="retrieval by pixels knows neither other= nor flip=: leave them out",
    own_images=True,
)
ACROSS = Question(
    "across",
    retrieve_across,
    _MISSING,
    mixed=False,
    flips=False,
    refusal="queries in the teacher's index know neither other= nor flip=",
    own_images=True,
)
