"""What a network can do: top-k, verification, retrieval, latency, at a resolution of its own."""

import math

import numpy as np
import torch
from torch import Tensor

from horkd.data import (
    Dataset,
    ImageSet,
    identification_set,
    verification_set,
    whole_of,
)
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network
from horkd.predict import central, embed, predict
from horkd.protocols import retrieval, verification
from horkd.protocols.classification import accuracy
from horkd.protocols.identification import dir_at_far, rank_errors


def score(
    network: Network, images: ImageSet, data: Dataset, degradation: Degradation
) -> dict[str, float]:
    """What epochs are compared by: accuracy of a network on a split, seen through its degradation.

    On a split of classes that it was not trained on Recall@1, as `recall1` in percent, and `n`;
    NaN if features are no finite numbers.
    """
    found = predict(network, central(images), data, degradation)
    if data.disjoint and not found.features.isfinite().all():
        return {"recall1": math.nan, "n": len(found.features)}
    if data.disjoint:
        rates = retrieval.measure(found.features, images.labels.to(found.features.device), ks=(1,))
        return {"recall1": rates["recall"]["1"], "n": rates["queries"]}
    return accuracy(found.logits, images.labels)


def test(network: Network, data: Dataset, degradation: Degradation) -> dict:
    """What a network does on a data set's test: `accuracy`, or `verify` where there are pairs.

    A network without a classifier is verified on what was never trained on; on a disjoint set any
    network is tested by `retrieve`.
    """
    if data.disjoint:
        return retrieve(network, data, degradation)
    if data.pairs is None and network.classifier is not None:
        return score(network, data.test, data, degradation)
    return verify(network, data, degradation)


def verify(
    network: Network,
    data: Dataset,
    degradation: Degradation,
    other: Degradation | None = None,
    flip: bool = False,
    memo: dict | None = None,
) -> dict:
    """Verification by the cosine of features: the protocol of LFW on a data set's pairs.

    Args:
        network: any.
        data: with pairs, or with classes never trained on.
        degradation: what the network sees of both images of a pair.
        other: what it sees of the second one instead: pairs across resolutions.
        flip: as in `embed`.
        memo: keeps features of this network between calls.

    Returns:
        `verification.summary` of the pairs.

    Raises:
        HorkdError: if there is nothing to verify in the data set.
    """
    _, pairs, folds = verification_set(data)
    scores = pair_scores(network, data, degradation, other, flip, memo=memo)
    return verification.summary(scores, pairs.same, pairs.fold, folds)


def pair_scores(
    network: Network,
    data: Dataset,
    degradation: Degradation,
    other: Degradation | None = None,
    flip: bool = False,
    index: Tensor | None = None,
    memo: dict | None = None,
) -> np.ndarray:
    """Cosine of the features of both images of a data set's pairs, float64 (P,).

    Args:
        network: as in `verify`.
        data: as in `verify`.
        degradation: as in `verify`.
        other: as in `verify`.
        flip: as in `verify`.
        index: int64 (P,), of the pairs to look at; None for all.
        memo: as in `verify`.
    """
    images, pairs, _ = verification_set(data)
    index = torch.arange(len(pairs)) if index is None else index
    ends = torch.cat([pairs.left[index], pairs.right[index]])
    used, place = ends.unique(return_inverse=True)
    left, right = place.split(len(index))
    photos = images.central[used.to(images.images.device)]
    memo = {} if memo is None else memo

    def seen(view: Degradation) -> Tensor:
        # folds of one set have the same photos, and so have both sides of mixed pairs
        key = whole_of(data.name), used.numpy().tobytes(), view, flip
        if key not in memo:
            memo[key] = embed(network, photos, data, view, flip)
        return memo[key]

    return verification.cosine(seen(degradation)[left], seen(other or degradation)[right])


def identify(
    network: Network,
    data: Dataset,
    degradation: Degradation,
    other: Degradation | None = None,
    flip: bool = False,
    memo: dict | None = None,
) -> dict:
    """Identification by the cosine of features: gallery and probes of `identification_set`.

    Args:
        network: any.
        data: with subjects never trained on.
        degradation: what the network sees of gallery and probes.
        other: what it sees of the gallery instead.
        flip: as in `embed`.
        memo: not used: galleries are small.

    Returns:
        `rank1_error` and `rank5_error` in percent, `subjects`, `gallery` and `probes` (images),
        `what` (the setting in words) and, with unknown probes, `dir` (as `dir_at_far`).

    Raises:
        HorkdError: if there is nobody to identify in the data set.
    """
    search = identification_set(data)

    def seen(index: Tensor, view: Degradation) -> Tensor:
        images = search.images
        part = images[index] if isinstance(images, Tensor) else images.select(index)
        return embed(network, part, data, view, flip)

    gallery, probes = seen(search.gallery, other or degradation), seen(search.probes, degradation)
    people, asked = search.labels[search.gallery], search.labels[search.probes]
    errors = rank_errors(gallery, people, probes, asked)
    result = {
        "rank1_error": errors[1],
        "rank5_error": errors[5],
        "subjects": len(asked.unique()),
        "gallery": len(gallery),
        "probes": len(probes),
        "what": search.what,
    }
    if len(search.unknown):
        strangers = seen(search.unknown, degradation)
        result["dir"] = dir_at_far(gallery, people, probes, asked, strangers)
    return result


def retrieve(
    network: Network,
    data: Dataset,
    degradation: Degradation,
    other: Degradation | None = None,
    flip: bool = False,
    memo: dict | None = None,
    clusters: bool = True,
) -> dict:
    """Retrieval among the test images of a disjoint set, each of them query and gallery.

    Args:
        network: any; its features are compared by their Euclidean distance as they are.
        data: a disjoint set.
        degradation: what the network sees of queries and gallery.
        other: what it sees of the gallery instead.
        flip: not supported.
        memo: not used.
        clusters: also `nmi`, which takes minutes for many classes.

    Returns:
        `retrieval.measure` of the embeddings and, for queries and gallery alike, their `nmi`.

    Raises:
        HorkdError: if the set is not disjoint, or mirrored images are asked for.
    """
    require_disjoint(data)
    if flip:
        raise HorkdError("retrieval knows no mirrored images: leave flip out")
    images = central(data.test)
    queries = predict(network, images, data, degradation).features
    labels = data.test.labels.to(queries.device)
    if other is not None and other != degradation:
        gallery = predict(network, images, data, other).features
        own = torch.arange(len(labels), device=queries.device)
        return retrieval.measure(queries, labels, gallery, labels, own)
    found = retrieval.measure(queries, labels)
    return found | ({"nmi": retrieval.nmi(queries.cpu(), labels.cpu())} if clusters else {})


def retrieve_pixels(
    network: Network | None,
    data: Dataset,
    degradation: Degradation,
    other: Degradation | None = None,
    flip: bool = False,
    memo: dict | None = None,
) -> dict:
    """Retrieval by the pixels themselves: what every network has to beat.

    Args:
        network: not used.
        data: a disjoint set of small images, which are held in memory.
        degradation: how the images are made small; values are compared as they are, in [0, 1].
        other: not supported.
        flip: not supported.
        memo: not used.

    Returns:
        What `retrieve` gives, of vectors of 3·r·r numbers.

    Raises:
        HorkdError: if the set is not disjoint, or its images are photos on disk.
    """
    require_disjoint(data)
    if other is not None or flip:
        raise HorkdError("retrieval by pixels knows neither other= nor flip=: leave them out")
    if not isinstance(data.test.images, Tensor):
        raise HorkdError(f"retrieval by pixels is for small images, not for those of {data.name}")
    generator = torch.Generator().manual_seed(0)
    seen = [degradation(part, generator) for part in data.test.images.cpu().split(1024)]
    pixels, labels = torch.cat(seen).flatten(1).float() / 255, data.test.labels.cpu()
    return retrieval.measure(pixels, labels) | {"nmi": retrieval.nmi(pixels, labels)}


#: Training images that student and teacher are aligned by; more change little.
ALIGNED_BY = 4096


def retrieve_across(
    queries: Tensor, gallery: Tensor, labels: Tensor, pairs: tuple[Tensor, Tensor]
) -> dict:
    """Retrieval by one network in the index of another: what a system with an index has to do.

    Args:
        queries: features (N, D) of the test images by the network that queries.
        gallery: features (N, D') of the same images by the one that made the index.
        labels: int64 (N,).
        pairs: features of the same training images by both, to align them.

    Returns:
        `retrieval.measure` twice: `as_is` (None where the widths differ), and `aligned`, after the
        similarity transform that takes one space to the other best on the training images.
    """
    own = torch.arange(len(labels))
    as_is = None
    if queries.shape[1] == gallery.shape[1]:
        as_is = retrieval.measure(queries, labels, gallery, labels, own)
    transform = retrieval.align(*pairs)
    moved, padded = transform(queries), transform.pad(gallery)
    aligned = retrieval.measure(moved, labels, padded, labels, own)
    return {"as_is": as_is, "aligned": aligned, "aligned_by": len(pairs[0])}


def require_disjoint(data: Dataset) -> None:
    """Refuse, in one line, a data set whose test classes are trained on."""
    if not data.disjoint:
        raise HorkdError(
            f"{data.name} has no test classes of its own: retrieval needs a set for metric "
            "learning, such as glyphs-disjoint"
        )
