"""Retrieval against loops over queries and images, clusters by hand, and known transforms."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import watch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from horkd.errors import HorkdError
from horkd.protocols import neighbours
from horkd.protocols.alignment import align
from horkd.protocols.neighbours import TIE, measure, nearest, nmi

some = settings(max_examples=25, deadline=None)
#: A failing example is drawn again from its seed alone.
DRAWN = {"seed": st.integers(0, 2**16), "images": st.integers(4, 30)}
KS = (1, 2, 5, 100)
RATES = ("map_at_r", "r_precision")


def draw(seed: int = 0, images: int = 24, width: int = 5, classes: int = 6):
    """Embeddings (N, D) and labels (N,), with classes of different sizes and some of one image.

    All are multiples of 1/16: squared distances are equal or differ by far more than a tie.
    """
    random = np.random.default_rng(seed)
    ids = random.permutation(100)[:classes] - 50
    labels = random.choice(ids, images, p=random.dirichlet(np.full(classes, 2.0)))
    labels[:2] = ids[0]  # at least one query counts
    centres = dict(zip(ids.tolist(), random.normal(size=(classes, width)), strict=True))
    x = np.stack([centres[i] for i in labels.tolist()]) + random.normal(size=(images, width))
    order = random.permutation(images)
    return rounded(torch.tensor(x[order])), torch.tensor(labels[order])


def rounded(x: torch.Tensor) -> torch.Tensor:
    return ((16 * x).round() / 16).float()


def grid(seed: int, images: int):
    """As `draw`, on few points: many duplicates and equal distances, all of them exact."""
    x, y = draw(seed, images, width=2)
    return x.sign(), y


# --- oracle: one loop per query and image, in float64 -----------------------------------


def oracle(queries, labels, gallery=None, gallery_labels=None, own=None, ks=KS) -> dict:
    if gallery is None:
        gallery, gallery_labels, own = queries, labels, range(len(queries))
    own = [-1] * len(queries) if own is None else list(own)
    gallery, gallery_labels = gallery.double().tolist(), gallery_labels.tolist()
    middle = [sum(column) / len(gallery) for column in zip(*gallery, strict=True)]
    spread = sum(math.dist(row, middle) ** 2 for row in gallery) / len(gallery)
    found: dict = {"recall": {str(k): [] for k in ks}, "map_at_r": [], "r_precision": []}
    left_out = 0
    both = zip(queries.double().tolist(), labels.tolist(), strict=True)
    for q, (query, label) in enumerate(both):
        entries = []
        norm = math.dist(query, middle)
        tie = TIE * max(spread, norm * math.sqrt(spread)) or 1e-9
        for g, (row, other) in enumerate(zip(gallery, gallery_labels, strict=True)):
            if g != own[q]:
                same = other == label
                entries.append((math.dist(query, row) ** 2 + (tie if same else 0), same))
        same = [s for _, s in sorted(entries)]  # at equality, False first
        r = sum(same)
        if not r:
            left_out += 1
            continue
        for k in ks:
            found["recall"][str(k)].append(any(same[:k]))
        found["r_precision"].append(sum(same[:r]) / r)
        precisions = [sum(same[: i + 1]) / (i + 1) for i in range(r) if same[i]]
        found["map_at_r"].append(sum(precisions) / r)

    def mean(values):
        return pytest.approx(100 * sum(values) / len(values), abs=1e-9)

    return {
        "recall": {k: mean(v) for k, v in found["recall"].items()},
        **{rate: mean(found[rate]) for rate in RATES},
        "queries": len(queries) - left_out,
        "left_out": left_out,
        "gallery": len(gallery),
    }


@some
@given(**DRAWN, equal=st.booleans())
def test_the_rates_equal_an_explicit_loop(seed, images, equal):
    x, y = (grid if equal else draw)(seed, images)
    assert measure(x, y, ks=KS) == oracle(x, y)


@some
@given(**DRAWN, equal=st.booleans())
def test_another_gallery_with_and_without_the_queries(seed, images, equal):
    x, y = (grid if equal else draw)(seed, images)
    # the same images as another network sees them, and more
    random = np.random.default_rng(seed)
    theirs = rounded(torch.cat([x + 0.3 * torch.tensor(random.normal(size=x.shape)), x[:3] + 2]))
    labels = torch.cat([y, y[:3]])
    if equal:
        theirs = theirs.sign()
    for own in (None, np.arange(images), random.permutation(images)):
        if own is not None:
            own = np.where(labels[own] == y, own, -1)
        expected = oracle(x, y, theirs, labels, own)
        assert measure(x, y, theirs, labels, own, KS) == expected
    # queries of classes that the gallery has not
    strange = torch.cat([y[:1], y[1:] + 1000])
    if measure(x, y, theirs, labels)["left_out"] == 0:
        found = measure(x, strange, theirs, labels, ks=KS)
        assert found == oracle(x, strange, theirs, labels)
        assert found["left_out"] == images - 1


def test_by_hand():
    x = torch.tensor([[0.0], [1], [3], [7], [20], [21.5]])
    y = torch.tensor([5, 8, 5, 5, 8, 9])
    # nearest of each: 0: 1 3 7 ..; 1: 0 3 7 20; 3: 1 0 7; 7: 3 1 0; 20: 21.5 7 3 1; 21.5 alone
    found = measure(x, y)
    assert found == {
        "recall": {"1": 20.0, "2": 60.0, "4": 100.0, "8": 100.0},
        "map_at_r": pytest.approx(100 * (1 / 4 + 0 + 1 / 4 + 1 / 2 + 0) / 5),
        "r_precision": pytest.approx(100 * (1 / 2 + 0 + 1 / 2 + 1 / 2 + 0) / 5),
        "queries": 5,
        "left_out": 1,
        "gallery": 6,
    }
    assert json.loads(json.dumps(found)) == found
    assert {type(v) for v in (*found["recall"].values(), *map(found.get, RATES))} == {float}
    assert {type(found[k]) for k in ("queries", "left_out", "gallery")} == {int}
    # as a gallery of its own the query at 0 finds itself first
    assert measure(x[:1], y[:1], x, y)["map_at_r"] == pytest.approx(100 * (1 + 2 / 3) / 3)


@pytest.mark.parametrize("seed", range(4))
def test_an_independent_library(seed, monkeypatch):
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    knn = inference.CustomKNN(distances.LpDistance(normalize_embeddings=False))
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    judge = accuracy.AccuracyCalculator(
        include=names, k="max_bin_count", device=torch.device("cpu"), knn_func=knn
    )
    x, y = draw(seed, images=200, width=16, classes=25)
    x = x + torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) / 16
    monkeypatch.setattr(neighbours, "TIE", 0)  # it knows none, and nothing is equal here
    part, rest = (x[:80], y[:80]), (x[80:], y[80:])
    for found, theirs in (
        (measure(x, y), judge.get_accuracy(x, y)),
        (measure(*part, *rest), judge.get_accuracy(*part, *rest)),
        (measure(*part, x, y, np.arange(80)), judge.get_accuracy(*part, x, y, True)),
    ):
        mine = [found["recall"]["1"], *map(found.get, RATES)]
        assert mine == pytest.approx([100 * theirs[n] for n in names], abs=1e-4)
        assert 5 < found["map_at_r"] < 95


# --- properties -------------------------------------------------------------------------


@some
@given(**DRAWN, scale=st.floats(-12, 12), offset=st.floats(-100, 100))
def test_neither_rotation_nor_scale_nor_offset_matter(seed, images, scale, offset):
    x, y = draw(seed, images)
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(5, 5)))
    moved = (x.double() @ torch.tensor(turn) + offset) * 10.0**scale
    assert measure(moved, y) == measure(x, y)
    moved = (x.double() @ torch.tensor(turn) + offset / 50) * 10.0**scale
    assert measure(moved.float(), y) == measure(x, y)


@some
@given(**DRAWN)
def test_the_order_of_the_gallery_and_of_the_queries_does_not_matter(seed, images):
    x, y = grid(seed, images)
    random = np.random.default_rng(seed)
    order, places = random.permutation(images), random.permutation(images)
    expected = pytest.approx(measure(x, y)["map_at_r"])
    assert measure(x[order], y[order])["map_at_r"] == expected
    own = np.argsort(places)[order]
    found = measure(x[order], y[order], x[places], y[places], own)
    assert found["map_at_r"] == expected
    assert found["recall"] == pytest.approx(measure(x, y)["recall"])


@some
@given(**DRAWN)
def test_a_far_image_of_another_class_changes_nothing(seed, images):
    x, y = draw(seed, images)
    expected = measure(x, y)
    more = torch.cat([x[:7], torch.full((1, 5), 10.0), x[7:]])
    labels = torch.cat([y[:7], torch.tensor([999]), y[7:]])
    found = measure(more, labels)
    assert found.pop("gallery") == expected.pop("gallery") + 1
    assert found.pop("left_out") == expected.pop("left_out") + 1
    assert found == expected


@some
@given(**DRAWN, equal=st.booleans())
def test_rates_that_bound_each_other(seed, images, equal):
    found = measure(*(grid if equal else draw)(seed, images), ks=range(1, 40))
    recall = list(found["recall"].values())
    assert (np.diff(recall) >= 0).all()
    assert 0 <= found["map_at_r"] <= found["r_precision"] + 1e-9 <= 100 + 1e-9
    assert recall[-1] == 100  # K beyond the gallery: each query that counts has one


def test_perfect_clusters():
    y = torch.arange(40) // torch.tensor(4)
    x = torch.nn.functional.one_hot(y).float() + 0.01 * draw(0, 40, width=10)[0]
    found = measure(x, y)
    assert found["map_at_r"] == found["r_precision"] == 100
    assert set(found["recall"].values()) == {100}
    assert found["left_out"] == 0


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e8, 1e-30, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_collapsed_network_retrieves_nothing(value, dtype):
    y = torch.arange(60) // 20  # ordered by class: any order of equal images would look good
    for x in (
        torch.full((60, 7), value, dtype=dtype),
        torch.linspace(-1, 1, 7).to(dtype).expand(60, 7) * value,
    ):
        found = measure(x, y, ks=(1, 2, 4, 8, 40, 41))
        assert set(found["recall"].values()) == {0, 100}
        assert found["recall"]["40"] == 0
        assert found["recall"]["41"] == 100  # all 40 of other classes come first
        assert found["map_at_r"] == found["r_precision"] == 0
        # queries of another network against it
        assert measure(draw(0, 60, width=7)[0], y, x, y)["map_at_r"] == 0


def test_a_network_that_collapsed_up_to_rounding_retrieves_nothing():
    y = torch.arange(60) // 20
    x = torch.linspace(0.5, 1, 7).repeat(60, 1)
    x[20:40] = torch.nextafter(x[20:40], torch.tensor(2.0))  # by class, as of another batch
    x[40:] = torch.nextafter(x[40:], torch.tensor(0.0))
    assert x.unique(dim=0).shape == (3, 7)
    assert measure(x, y)["map_at_r"] == 0
    assert measure(x.double(), y)["map_at_r"] == 100  # there it is no rounding


@pytest.mark.parametrize(("factor", "expected"), [(0.8, 0.0), (1.2, 100.0)])
def test_how_much_nearer_is_nearer(factor, expected):
    """A query in the middle, an image of its class at 1 − ε, and others at 1 in all directions."""
    others = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    gallery = torch.cat([others, torch.full((1, 4), 0.5).double()])
    y = torch.tensor([0] * 8 + [1])
    spread = float((gallery - gallery.mean(0)).square().sum(1).mean())
    gallery[8] *= math.sqrt(1 - factor * TIE * spread)
    query = torch.zeros(1, 4).double()
    assert float((query - gallery.mean(0)).square().sum()) < spread
    assert measure(query, y[8:], gallery, y)["recall"]["1"] == expected


def test_duplicates_are_neighbours_like_any_other():
    point = torch.tensor([[3.0, 1], [3, 1], [0, 0], [-2, 5], [-2, 5], [9, 9]])
    # one of the own class: the query itself is left out, not its twin
    assert measure(point, torch.tensor([0, 0, 1, 2, 2, 3]))["recall"]["1"] == 100
    # of another class: it comes first, for the query at 0 as well, to which both are equally far
    y = torch.tensor([0, 1, 0, 2, 3, 2])
    found = measure(point[[0, 2]], y[[0, 2]], point, y, [0, 2], ks=(1, 2))
    assert found["recall"] == {"1": 0, "2": 100}
    # twins of both kinds: equal, which counts against
    twins = torch.tensor([[1.0], [1], [1], [8], [9]])
    found = measure(twins[:1], [0], twins, [0, 0, 1, 1, 1], [0], ks=(1, 2))
    assert found["recall"] == {"1": 0, "2": 100}


def test_the_query_is_left_out_by_index():
    gallery = torch.tensor([[0.0], [0], [0], [5], [7]])
    y = torch.tensor([1, 1, 0, 0, 1])
    at = {own: measure(gallery[4:], y[4:], gallery, y, [own])["r_precision"] for own in (-1, 4, 0)}
    assert at == pytest.approx({-1: 100 / 3, 4: 0.0, 0: 50.0})
    _, own = nearest(gallery[:1], gallery, 2, [0])
    assert own.tolist() == [[0, 0]]


def test_classes_of_one_image_count_in_no_rate():
    x, y = draw(3, 30)
    lonely = torch.cat([x, x[:5] + 1 / 16])
    labels = torch.cat([y, torch.arange(900, 905)])
    found = measure(lonely, labels)
    alone = sum(int((y == i).sum()) == 1 for i in y.tolist())
    assert (found["queries"], found["left_out"]) == (30 - alone, 5 + alone)
    assert found == measure(x, y, lonely, labels, np.arange(30)) | {"left_out": 5 + alone}


def test_the_usual_ks_and_none():
    x, y = draw()
    assert list(measure(x, y)["recall"]) == ["1", "2", "4", "8"]
    assert list(measure(x, y, ks=[3])["recall"]) == ["3"]
    assert measure(x, y, ks=()) == {**measure(x, y), "recall": {}}


@some
@given(**DRAWN, equal=st.booleans(), budget=st.integers(1, 20_000))
def test_the_budget_changes_nothing(seed, images, equal, budget):
    x, y = (grid if equal else draw)(seed, images)
    assert measure(x, y, budget=budget) == measure(x, y)
    ours, theirs = nearest(x, x, 3, budget=budget), nearest(x, x, 3)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_budget_decides_on_the_chunk(monkeypatch):
    sizes = []

    def watched(x, columns, *rest):
        sizes.append((len(x), len(columns)))
        return real(x, columns, *rest)

    real = neighbours._relative_squares
    monkeypatch.setattr(neighbours, "_relative_squares", watched)
    x, y = draw(0, 200)
    y[:] = torch.arange(200) % 40
    each = 9 * 200 + 64 * 8 + 32 * 5
    measure(x, y, budget=60 * each)
    assert sizes == [(60, 200)] * 3 + [(20, 200)]
    sizes.clear()
    measure(x[:2], y[:2], x, y, budget=1)
    assert sizes == [(1, 200)] * 2
    sizes.clear()
    nearest(x, x, 2, budget=100 * (6 * 200 + 12 * 2 + 32 * 5))
    assert sizes == [(100, 200)] * 2


PEAK = """
import torch
from horkd.retrieval import measure

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

torch.set_num_threads(1)
x = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
y = torch.arange(20_000) % 4000
measure(x[:500], y[:500] % 7)  # libraries load on first use
before = peak()
measure(x[:1500], y[:1500], x, y, torch.arange(1500), budget={budget})
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_memory_stays_within_the_budget():
    """Without chunks it would be 270 MB."""
    budget, copies = 48 * 2**20, 4 * 20_000 * 64 * 4
    result = subprocess.run(
        [sys.executable, "-c", PEAK.format(budget=budget)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True,
    )  # fmt: skip
    growth = int(result.stdout)
    # allocators keep some more, with several threads up to a budget
    assert 0.5 * budget < growth < 2.25 * budget + copies


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = draw(1)
    x = x.to(dtype)
    assert measure(x, y) == measure(x.float(), y)
    assert all(
        torch.equal(a, b) for a, b in zip(nearest(x, x, 4), nearest(x.float(), x, 4), strict=True)
    )
    assert nmi(x, y) == nmi(x.float(), y)


@pytest.mark.parametrize("precision", ["medium", "highest"])
def test_settings_of_others_change_nothing(precision):
    x, y = draw(1, 60, width=64, classes=9)
    x += 30
    expected = measure(x, y)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", torch.bfloat16):
            assert measure(x.requires_grad_(), y) == expected
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


# --- pictures ---------------------------------------------------------------------------


def oracle_nearest(queries, gallery, k, own):
    rows = []
    for q, query in enumerate(queries.double().tolist()):
        entries = sorted(
            (math.dist(query, row), g)
            for g, row in enumerate(gallery.double().tolist())
            if g != own[q]
        )
        rows.append(entries[:k])
    return [[g for _, g in row] for row in rows], [[d for d, _ in row] for row in rows]


@some
@given(**DRAWN, equal=st.booleans(), k=st.integers(1, 3))
def test_the_nearest_equal_an_explicit_loop(seed, images, equal, k):
    x, _ = (grid if equal else draw)(seed, images)
    gallery = torch.cat([x, x[:2] + 1])
    random = np.random.default_rng(seed)
    for own in (None, np.arange(images), random.integers(-1, images + 2, images)):
        indices, distances = nearest(x, gallery, k, own)
        assert (indices.dtype, distances.dtype) == (torch.int64, torch.float32)
        expected = oracle_nearest(x, gallery, k, [-1] * images if own is None else own)
        assert indices.tolist() == expected[0]
        for ours, theirs in zip(distances.tolist(), expected[1], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=0)


def test_of_equal_ones_the_lower_index_comes_first_whatever_the_offset():
    x = torch.randn(50, 33, generator=torch.Generator().manual_seed(0))
    gallery = torch.cat([x, x, x]) + 1000
    indices, distances = nearest(gallery[:50], gallery, 3)
    assert indices.tolist() == [[i, i + 50, i + 100] for i in range(50)]
    assert not distances.any()
    indices, _ = nearest(gallery[:50], gallery, 149, list(range(50)))
    assert (indices != torch.arange(50)[:, None]).all()
    same = torch.ones(40, 3)
    assert nearest(same[:2], same, 5, [0, 3])[0].tolist() == [[1, 2, 3, 4, 5], [0, 1, 2, 4, 5]]


def test_all_of_the_gallery():
    x, _ = draw(0, 10)
    assert nearest(x, x, 10)[0].sort(1).values.tolist() == [list(range(10))] * 10
    assert nearest(x, x, 9, np.arange(10))[0].shape == (10, 9)
    with pytest.raises(HorkdError, match="cannot find 10 nearest images: there are 9"):
        nearest(x, x, 10, np.arange(10))
    with pytest.raises(HorkdError, match="cannot find 11 nearest images: there are 10"):
        nearest(x, x, 11, [-1] * 10)


# --- clusters ---------------------------------------------------------------------------


def oracle_nmi(y, clusters) -> float:
    n = len(y)

    def entropy(*parts):
        both = list(zip(*parts, strict=True))
        return -sum(both.count(v) / n * math.log(both.count(v) / n) for v in set(both))

    mutual = entropy(y) + entropy(clusters) - entropy(y, clusters)
    return 100 * 2 * mutual / (entropy(y) + entropy(clusters))


@pytest.mark.parametrize("seed", range(3))
def test_clusters_against_classes(seed):
    x, y = draw(seed, 60)
    means = KMeans(len(y.unique()), n_init=1, random_state=seed)
    expected = oracle_nmi(y.tolist(), means.fit_predict(x.numpy()).tolist())
    assert nmi(x, y, seed) == pytest.approx(expected)
    assert nmi(x, y, seed) == nmi(x, y, seed)
    assert nmi(4 * x, -y, seed) == pytest.approx(nmi(x, y, seed))


def test_clusters_are_drawn_from_the_seed():
    x, y = draw(0, 60)
    assert len({nmi(x, y, seed) for seed in range(6)}) > 1


def test_perfect_and_collapsed_clusters():
    y = torch.arange(40) // 10
    x = 10 * torch.nn.functional.one_hot(y).float() + draw(0, 40, width=4)[0] / 100
    assert nmi(x, y) == pytest.approx(100)
    assert nmi(torch.ones(40, 4), y) == 0  # without a warning, which would be an error here
    assert nmi(torch.ones(40, 4) * torch.tensor([[1.0], [2]]).repeat(20, 1), y) < 5


def test_many_clusters_start_at_random():
    seen = []

    def asked(frame) -> None:
        means = frame.f_locals["self"]
        seen.append((means.n_clusters, means.init, means.n_init))

    with watch.on_call(asked, KMeans.fit_predict):
        for classes in (1000, 1001):
            nmi(torch.randn(classes, 2), torch.arange(classes))
    assert seen == [(1000, "k-means++", 1), (1001, "random", 1)]


# --- alignment --------------------------------------------------------------------------


def rotation(width: int, seed: int = 0) -> torch.Tensor:
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    return torch.tensor(turn)


@pytest.mark.parametrize("flip", [1, -1])
def test_a_known_transform_is_found(flip):
    x = draw(0, 40)[0].double()
    turn = rotation(5)
    turn[0] *= flip  # of the two, one is a rotation and one a reflection
    found = align(x, 2.5 * x @ turn + torch.arange(5.0))
    assert found.width == 5
    assert found.scale == pytest.approx(2.5)
    torch.testing.assert_close(found.rotation, turn, rtol=0, atol=1e-9)
    new = draw(1, 9)[0].double()
    torch.testing.assert_close(found(new), 2.5 * new @ turn + torch.arange(5.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("wide", "narrow"), [("target", "source"), ("source", "target")])
def test_spaces_of_different_widths(wide, narrow):
    x = draw(0, 40, width=3)[0].double()
    turned = 0.3 * torch.nn.functional.pad(x, (0, 4)) @ rotation(7) - 2
    pair = {narrow: x, wide: turned}
    found = align(**pair)
    assert found.width == 7
    moved, padded = found(pair["source"]), found.pad(pair["target"])
    assert moved.shape == padded.shape == (40, 7)
    torch.testing.assert_close(moved, padded, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        torch.cdist(padded, padded), torch.cdist(pair["target"], pair["target"])
    )
    assert padded[:, pair["target"].shape[1] :].count_nonzero() == 0


@some
@given(seed=st.integers(0, 2**16), widths=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_relations_stay_and_no_other_transform_is_better(seed, widths):
    source = draw(seed, 12, width=widths[0])[0].double()
    target = draw(seed + 1, 12, width=widths[1])[0].double() + 4
    found = align(source, target)
    moved, padded = found(source), found.pad(target)
    torch.testing.assert_close(torch.cdist(moved, moved), found.scale * torch.cdist(source, source))
    eye = torch.eye(found.width).double()
    torch.testing.assert_close(found.rotation @ found.rotation.T, eye)
    assert found.scale >= 0

    def error(y):
        return float((y - padded).square().sum())

    least = error(moved)
    assert least <= error(torch.zeros_like(padded) + padded.mean(0)) + 1e-9  # scale 0
    random = np.random.default_rng(seed)
    middle = moved.mean(0)
    for size in (1e-3, 1e-1):
        step = torch.tensor(random.normal(size=eye.shape)) * size
        turn = torch.linalg.matrix_exp(step - step.T)
        for other in ((moved - middle) @ turn + middle, (moved - middle) * (1 + size) + middle,
                      (moved - middle) * (1 - size) + middle, moved + step[0]):  # fmt: skip
            assert least <= error(other) + 1e-9


def test_on_noise_it_is_better_than_none():
    teacher, y = draw(0, 60)
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    student = 7 * (teacher + 0.2 * noise) @ rotation(5).float() + 3
    moved = align(student[:40], teacher[:40])(student)
    assert (moved - teacher)[40:].square().mean() < 0.1
    assert (student - teacher)[40:].square().mean() > 10
    own = np.arange(60)
    before = measure(student, y, teacher, y, own)["map_at_r"]
    assert measure(moved, y, teacher, y, own)["map_at_r"] > before + 10
    assert measure(moved, y) == measure(student, y)


def test_types_and_a_source_without_extent():
    x, _ = draw(0, 20)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = align(x.to(dtype), x)
        assert found(x.to(dtype)).dtype == found.pad(x.to(dtype)).dtype == torch.float32
    assert found(x.double()).dtype == found.pad(x.double()).dtype == torch.float64
    for collapsed in (torch.full((20, 3), 0.1), torch.zeros(20, 3)):
        found = align(collapsed, x)
        assert found.scale == 0
        torch.testing.assert_close(found(collapsed), x.mean(0).expand(20, 5))
    assert align(x[:1], x[1:2]).scale == 0
    with pytest.raises(AttributeError):
        found.scale = 1.0


# --- errors -----------------------------------------------------------------------------

ONE = torch.eye(4)
Y = torch.tensor([0, 0, 1, 1])
BAD = ONE.clone()
BAD[1, 2] = math.nan
BAD[3, 0] = math.inf
GALLERY = {"gallery": ONE, "gallery_labels": Y}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"queries": BAD}, "2 of 4 queries are not finite in float32: check the network"),
        ({"queries": 1e39 * ONE.double()}, "4 of 4 queries are not finite in float32"),
        ({**GALLERY, "gallery": BAD}, "2 of 4 gallery embeddings are not finite"),
        ({"queries": ONE[0]}, r"queries must be one row per image, a float tensor \(N, D\), got "
                              r"torch.float32 of shape \(4,\)"),
        ({"queries": ONE[:0]}, r"queries must be one row per image.* got .*\(0, 4\)"),
        ({"queries": ONE[:, :0]}, r"queries must be one row per image.* got .*\(4, 0\)"),
        ({"queries": ONE.long()}, "queries must be one row per image, a float.* got torch.int64"),
        ({"queries": ONE.tolist()}, "queries must be one row per image.* got list"),
        ({**GALLERY, "gallery": ONE[:0]}, "gallery embeddings must be one row per image"),
        ({"query_labels": Y[:3]}, "query labels must be 4 whole numbers, got int64 of shape"),
        ({"query_labels": Y.float()}, "query labels must be 4 whole numbers, got float64"),
        ({**GALLERY, "gallery_labels": Y[:, None]}, "gallery labels must be 4 whole numbers"),
        ({"gallery": ONE}, "the gallery has no labels: give gallery_labels"),
        ({"gallery_labels": Y}, "gallery labels and own indices need a gallery: give it as well"),
        ({"own": [0, 1, 2, 3]}, "gallery labels and own indices need a gallery"),
        ({**GALLERY, "gallery": torch.ones(4, 3)}, "gallery embeddings are 3 wide and queries 4"),
        ({**GALLERY, "gallery": ONE.to("meta")}, "queries are on cpu, the gallery on meta"),
        ({**GALLERY, "own": [0, 1, 2]}, "own indices must be 4 whole numbers"),
        ({**GALLERY, "own": [0, 1, 2, 4]}, "own indices run from 0 to 4, but the gallery has 4"),
        ({**GALLERY, "own": [-2, 1, 2, 3]}, "own indices run from -2 to 3, but the gallery has 4"),
        ({**GALLERY, "own": [0, 1, 1, 3]}, "query 2 has class 1, but its own image in the gallery, "
                                           "1, has 0: check the own indices"),
        ({"query_labels": [1, 2, 3, 4]}, "none of 4 queries has another image of its class"),
        ({"query_labels": [7, 8, 7, 8], **GALLERY}, "none of 4 queries has another image"),
        ({"query_labels": [-9] * 4, **GALLERY}, "none of 4 queries has another image"),
        ({"ks": (1, 0)}, "K must be 1 or more, got 0"),
        ({"budget": 0}, "budget must be 1 or more, got 0"),
    ],
)  # fmt: skip
def test_bad_inputs_are_one_clear_line(changes, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        measure(**{"queries": ONE, "query_labels": Y, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: nearest(BAD, ONE, 1), "2 of 4 queries are not finite"),
        (lambda: nearest(ONE, BAD, 1), "2 of 4 gallery embeddings are not finite"),
        (lambda: nearest(ONE, ONE[:, :3], 1), "gallery embeddings are 3 wide and queries 4"),
        (lambda: nearest(ONE, ONE, 0), "k must be 1 or more, got 0"),
        (lambda: nearest(ONE, ONE, 1, budget=0), "budget must be 1 or more, got 0"),
        (lambda: nearest(ONE, ONE, 1, [0, 1, 2, 9]), "own indices run from 0 to 9"),
        (lambda: nmi(BAD, Y), "2 of 4 embeddings are not finite"),
        (lambda: nmi(ONE, Y[:2]), "labels must be 4 whole numbers"),
        (lambda: nmi(ONE, [3] * 4), "all images are of one class: clusters need two"),
        (lambda: align(BAD, ONE), "2 of 4 source embeddings are not finite"),
        (lambda: align(ONE, BAD), "2 of 4 target embeddings are not finite"),
        (lambda: align(ONE, ONE[:3]), "4 source and 3 target embeddings: align with those of the"),
        (lambda: align(ONE[:0], ONE[:0]), "source embeddings must be one row per image"),
        (lambda: align(ONE, ONE)(ONE[:, :3]), r"the source was \(N, 4\) when aligned, got \(4, 3"),
        (lambda: align(ONE[:, :2], ONE)(ONE), r"the source was \(N, 2\) when aligned, got \(4, 4"),
        (lambda: align(ONE, ONE[:, :2]).pad(ONE), r"the target was \(N, 2\) when aligned"),
        (lambda: align(ONE, ONE).pad(ONE[0]), r"the target was \(N, 4\) when aligned, got \(4,\)"),
    ],
)
def test_the_others_complain_in_one_clear_line(call, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        call()
    assert "\n" not in str(caught.value)
