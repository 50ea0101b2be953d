"""Galleries and probes against loops over probes and subjects, and a split that never changes."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horkd.errors import HorkdError
from horkd.protocols.identification import dir_at_far, rank_errors, rank_k, split_subjects

some = settings(max_examples=40, deadline=None)
#: A failing example is drawn again from its seed alone.
DRAWN = {"subjects": st.integers(1, 7), "seed": st.integers(0, 2**16), "equal": st.booleans()}
KS = (1, 2, 3, 5, 50)
FARS = (0.0, 0.01, 0.1, 0.3, 0.5, 1.0)


def draw(subjects: int, seed: int = 0, equal: bool = False):
    """Gallery, labels, known probes, labels, unknown probes; `equal` makes many equal cosines."""
    random = np.random.default_rng(seed)
    ids = random.permutation(50)[:subjects] - 10
    labels = np.concatenate([ids, random.choice(ids, 2 * subjects)])
    centres = random.normal(size=(50, 4))
    gallery = centres[labels + 10] + random.normal(size=(len(labels), 4))
    known_labels = random.choice(ids, 15)
    known = centres[known_labels + 10] + random.normal(size=(15, 4))
    unknown = random.normal(size=(12, 4))
    if equal:
        gallery, known, unknown = np.sign(gallery), np.sign(known), np.sign(unknown)
    order = random.permutation(len(labels))
    return gallery[order], labels[order], known, known_labels, unknown


# --- oracles: one loop per probe, subject and image ------------------------------------


def similarity(x, y) -> float:
    lengths = math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return round(sum(a * b for a, b in zip(x, y, strict=True)) / lengths, 13) if lengths else 0.0


def subject_scores(gallery, labels, probe) -> dict[int, float]:
    best: dict[int, float] = {}
    for image, label in zip(gallery.tolist(), labels.tolist(), strict=True):
        best[label] = max(best.get(label, -2.0), similarity(image, probe))
    return best


def oracle_rank(gallery, labels, probe, label) -> int:
    scores = subject_scores(gallery, labels, probe)
    own = scores.pop(label)
    return 1 + sum(other >= own for other in scores.values())


def oracle_ranks(gallery, labels, probes, probe_labels) -> list[int]:
    both = zip(probes.tolist(), probe_labels.tolist(), strict=True)
    return [oracle_rank(gallery, labels, probe, label) for probe, label in both]


# --- closed set -------------------------------------------------------------------------------


@some
@given(**DRAWN)
def test_ranks_equal_an_explicit_loop(subjects, seed, equal):
    gallery, labels, known, known_labels, _ = draw(subjects, seed, equal)
    ranks = oracle_ranks(gallery, labels, known, known_labels)
    expected = {k: 100 * sum(r <= k for r in ranks) / len(ranks) for k in KS}
    assert rank_k(gallery, labels, known, known_labels, KS) == pytest.approx(expected)
    errors = rank_errors(gallery, labels, known, known_labels, KS)
    assert errors == pytest.approx({k: 100 - value for k, value in expected.items()})
    assert rank_k(gallery, labels, known, known_labels, [subjects]) == {subjects: 100}


def test_the_usual_ranks_are_one_and_five():
    data = draw(7)[:4]
    assert list(rank_k(*data)) == list(rank_errors(*data)) == [1, 5]
    assert 0 < rank_k(*data)[1] < rank_k(*data)[5] <= 100
    assert {type(v) for v in rank_k(*data).values()} == {float}


@some
@given(**DRAWN, chunk=st.integers(1, 9))
def test_the_chunk_changes_nothing(subjects, seed, equal, chunk):
    gallery, labels, known, known_labels, unknown = draw(subjects, seed, equal)
    closed = (gallery, labels, known, known_labels)
    assert rank_k(*closed, KS, chunk) == rank_k(*closed, KS)
    for a, b in zip(
        dir_at_far(*closed, unknown, FARS, chunk=chunk),
        dir_at_far(*closed, unknown, FARS),
        strict=True,
    ):
        assert a == pytest.approx(b, abs=1e-14)


def test_no_more_cosines_are_held_than_the_chunk_allows(monkeypatch):
    gallery, labels, known, known_labels, _ = draw(6)
    assert gallery.shape == (18, 4)
    sizes = []

    class Watched:
        def reduceat(self, cosines, *rest, **named):
            sizes.append(cosines.shape)
            return np.maximum.reduceat(cosines, *rest, **named)

    class Numpy:
        maximum = Watched()

        def __getattr__(self, name):
            return getattr(np, name)

    monkeypatch.setattr("horkd.protocols.identification.np", Numpy())
    rank_k(gallery, labels, known, known_labels, chunk=9)
    assert sizes == [(4, 18)] * 3 + [(3, 18)]
    sizes.clear()
    rank_k(gallery, labels, known, known_labels, chunk=1)
    assert sizes == [(1, 18)] * 15


@some
@given(**DRAWN, exponent=st.floats(-50, 50))
def test_scale_rotation_order_and_numbering_change_nothing(subjects, seed, equal, exponent):
    gallery, labels, known, known_labels, unknown = draw(subjects, seed, equal)
    random = np.random.default_rng(seed + 1)
    rotation = np.linalg.qr(random.normal(size=(4, 4)))[0]
    a, b = random.permutation(len(gallery)), random.permutation(len(known))
    scale = 10.0 ** (exponent * random.random((len(gallery), 1)))
    first = (gallery, labels, known, known_labels)
    second = (
        (scale * gallery @ rotation)[a],
        5 - 3 * labels[a],
        7 * (known @ rotation)[b],
        5 - 3 * known_labels[b],
    )
    assert rank_k(*second, KS) == pytest.approx(rank_k(*first, KS))
    if not equal:  # a threshold itself may move in its last digits
        rows = dir_at_far(*first, unknown, FARS), dir_at_far(*second, unknown @ rotation, FARS)
        for mine, theirs in zip(*rows, strict=True):
            assert theirs == pytest.approx(mine, abs=1e-13)


def test_tensors_of_any_precision_are_read_as_their_values():
    data = [torch.tensor(x) for x in draw(6)[:4]]
    for dtype in (torch.float32, torch.bfloat16):
        rounded = [x.to(dtype) if x.is_floating_point() else x for x in data]
        arrays = [x.double().numpy() if x.is_floating_point() else x.numpy() for x in rounded]
        assert rank_k(*rounded) == rank_k(*arrays)


def test_a_subject_is_as_near_as_its_nearest_image():
    gallery = np.array([[1, 0], [0, 1], [0.8, 0.6]])
    assert rank_k(gallery, [3, 3, 5], [[0.1, 1]], [3], [1]) == {1: 100}  # not its mean image
    assert rank_k(gallery, [3, 3, 5], [[0.7, 0.7]], [3], [1, 2]) == {1: 0, 2: 100}


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_equal_embeddings_recognise_nobody(value):
    """Ties count against the probe; zero vectors are as near to all."""
    same = np.full((12, 4), value)
    labels = np.arange(12) % 6
    found = rank_k(same, labels, same[:7], labels[:7], range(1, 7))
    assert list(found.values()) == [0, 0, 0, 0, 0, 100]
    (row,) = dir_at_far(same, labels, same[:7], labels[:7], same, [0.5], rank=6)
    assert (row["identified"], row["accepted_unknown"]) == (0, 0)


def test_a_duplicate_under_another_name_counts_before_the_probes_subject():
    """Whatever its place, although the same product of long vectors may be summed otherwise."""
    random = np.random.default_rng(0)
    gallery = random.normal(size=(33, 515))
    for place in range(1, 33):
        copy = gallery.copy()
        copy[place] = 3.7 * copy[0]
        found = rank_k(copy, np.arange(33), copy[:1] + 0.01, [0], [1, 2])
        assert found == {1: 0, 2: 100}, place


def test_more_images_of_the_same_subject_are_no_rivals():
    gallery = np.repeat(np.eye(3), 4, axis=0)
    assert rank_k(gallery, np.repeat([4, 5, 6], 4), np.eye(3), [4, 5, 6], [1]) == {1: 100}


def test_one_subject_is_always_right():
    assert rank_k([[1.0, 0]], [7], [[-1.0, 0], [0, 0]], [7, 7]) == {1: 100, 5: 100}


ONE = np.eye(3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"gallery": np.ones((0, 3)), "gallery_labels": []}, "gallery embeddings must be one row"),
        ({"probes": np.ones((0, 3)), "probe_labels": []}, "probes must be one row per image"),
        ({"gallery": [[math.nan, 0, 0]] * 3}, "3 of 3 gallery embeddings are not finite"),
        ({"probes": [[math.inf, 0, 0], [1, 0, 0], [0, 0, 0]]}, "1 of 3 probes are not finite"),
        ({"probes": np.ones((3, 2))}, "gallery embeddings are 3 wide and probes 2: use one"),
        ({"gallery_labels": [0, 1]}, r"gallery labels must be 3 whole numbers, got .* \(2,\)"),
        ({"probe_labels": [0.0, 1, 2]}, "labels of probes must be 3 whole numbers, got float64"),
        ({"probe_labels": [0, 4, 3]}, "the gallery has no subject 3, 4 of probes: leave them out"),
        ({"chunk": 0}, "chunk must be 1 or more, got 0"),
        ({"ks": (1, 0)}, "ranks must be 1 or more, got 0"),
    ],
)
def test_bad_inputs_are_one_clear_line(changes, complaint):
    given_ = {"gallery": ONE, "gallery_labels": [0, 1, 2], "probes": ONE, "probe_labels": [0, 1, 2]}
    with pytest.raises(HorkdError, match=complaint) as caught:
        rank_k(**{**given_, **changes})
    assert "\n" not in str(caught.value)


def test_bad_ranks_of_the_open_set():
    with pytest.raises(HorkdError, match="ranks must be 1 or more, got -1"):
        dir_at_far(ONE, [0, 1, 2], ONE, [0, 1, 2], ONE, rank=-1)


def test_many_missing_subjects_are_not_all_listed():
    with pytest.raises(HorkdError, match="no subject 1, 2, 3, 4, 5 … of probes"):
        rank_k([[1.0]], [0], np.ones((8, 1)), np.arange(8))


# --- open set ---------------------------------------------------------------------------------


def oracle_dir(data, far, rank) -> tuple[int, int]:
    """Most identified probes over all thresholds that keep the rate, and the rate's bound."""
    gallery, labels, known, known_labels, unknown = data
    best = [max(subject_scores(gallery, labels, p).values()) for p in unknown.tolist()]
    ranks = oracle_ranks(gallery, labels, known, known_labels)
    own = [
        subject_scores(gallery, labels, p)[label]
        for p, label in zip(known.tolist(), known_labels.tolist(), strict=True)
    ]
    most = 0
    for threshold in [-2.0, *best, *own]:
        accepted = sum(b > threshold for b in best)
        if accepted <= Fraction(str(far)) * len(best):
            hits = sum(r <= rank and s > threshold for r, s in zip(ranks, own, strict=True))
            most = max(most, hits)
    return most, math.floor(Fraction(str(far)) * len(best))


@some
@given(**DRAWN, rank=st.integers(1, 3))
def test_the_open_set_is_the_best_of_all_thresholds_that_keep_the_rate(subjects, seed, equal, rank):
    data = draw(subjects, seed, equal)
    for row in dir_at_far(*data, FARS, rank):
        most, bound = oracle_dir(data, row["far"], rank)
        assert row["identified"] == most
        assert row["dir"] == pytest.approx(most / 15)
        assert row["accepted_unknown"] <= bound
        assert (row["n_known"], row["n_unknown"]) == (15, 12)
        best = [max(subject_scores(*data[:2], p).values()) for p in data[4].tolist()]
        assert row["accepted_unknown"] == sum(b > row["threshold"] + 5e-13 for b in best)


@some
@given(**DRAWN)
def test_more_false_accepts_and_more_ranks_never_identify_fewer(subjects, seed, equal):
    data = draw(subjects, seed, equal)
    table = np.array([[r["dir"] for r in dir_at_far(*data, FARS, rank)] for rank in (1, 2, 7)])
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    # without a threshold it is the closed set
    ranks = rank_k(*data[:4], (1, 2, 7))
    assert (100 * table[:, -1]).tolist() == pytest.approx(list(ranks.values()))


def test_the_open_set_by_hand():
    gallery = np.eye(3)
    angle = np.array([0.1, 0.3, 0.5, 0.9])  # from their own subjects; the last is nearer another
    known = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    unknown = np.array([[0, np.sin(0.2), np.cos(0.2)], [0, np.sin(0.4), np.cos(0.4)],
                        [-1, -1, -1], [0, 0, 0]])  # fmt: skip
    rows = dir_at_far(gallery, [0, 1, 2], known, [0, 0, 0, 0], unknown, [0.1, 0.25, 0.5, 0.75, 1])
    assert [r["identified"] for r in rows] == [1, 2, 3, 3, 3]
    assert [r["accepted_unknown"] for r in rows] == [0, 1, 2, 3, 4]
    assert [r["dir"] for r in rows] == [0.25, 0.5, 0.75, 0.75, 0.75]
    expected = [math.cos(0.2), math.cos(0.4), 0, -1 / math.sqrt(3)]
    assert [r["threshold"] for r in rows[:4]] == pytest.approx(expected)
    assert rows[4]["threshold"] < expected[-1]
    assert {type(v) for v in rows[0].values()} == {int, float}
    (second,) = dir_at_far(gallery, [0, 1, 2], known, [0, 0, 0, 0], unknown, [1], rank=2)
    assert second["identified"] == 4


def test_a_score_is_not_above_an_equal_one_whatever_its_rounding():
    random = np.random.default_rng(1)
    gallery = random.normal(size=(5, 515))
    for scale in random.random(40) + 1:
        image = gallery[:1] + random.normal(size=(1, 515))
        unknown = np.concatenate([image, scale * image])
        rows = dir_at_far(gallery, np.arange(5), scale * image, [0], unknown, [0, 0.5], chunk=3)
        assert [(r["identified"], r["accepted_unknown"]) for r in rows] == [(0, 0)] * 2


def test_the_usual_rates():
    assert [r["far"] for r in dir_at_far(*draw(4))] == [1e-1, 1e-2]


def test_unknown_probes_that_do_not_fit():
    gallery, labels, known, known_labels, _ = draw(3)
    for unknown, complaint in (
        (np.ones((0, 4)), "unknown probes must be one row per image"),
        (np.ones((2, 5)), "gallery embeddings are 4 wide and unknown probes 5"),
        (np.full((1, 4), math.nan), "1 of 1 unknown probes are not finite"),
    ):
        with pytest.raises(HorkdError, match=complaint):
            dir_at_far(gallery, labels, known, known_labels, unknown)
    with pytest.raises(HorkdError, match="labels of known probes must be 15 whole numbers"):
        dir_at_far(gallery, labels, known, known_labels[:3], known)
    with pytest.raises(HorkdError, match="a false accept rate lies in 0 to 1, got 2"):
        dir_at_far(gallery, labels, known, known_labels, known, [2])


# --- the split --------------------------------------------------------------------------------

SUBJECTS = ("anna", "bert", "cara", "dora", "emil")
IMAGES = {"anna": 6, "bert": 5, "cara": 3, "dora": 2, "emil": 1}
LABELS = [SUBJECTS.index(s) for s, n in IMAGES.items() for _ in range(n)]
NAMES = [f"{i}.png" for n in IMAGES.values() for i in range(1, n + 1)]


@pytest.mark.parametrize(
    ("count", "seed", "gallery", "probes"),
    [
        (3, 0, [0, 1, 2, 3, 4, 7, 8, 9, 10, 15], [5, 6, 14]),  # dora, bert, anna
        (2, 0, [7, 8, 9, 10, 15], [6, 14]),
        (1, 0, [15], [14]),
        (2, 7, [6, 8, 9, 10, 11, 13], [7, 12]),  # cara, bert
    ],
)
def test_the_split_is_the_same_for_ever(count, seed, gallery, probes):
    """Worked out with `printf '0\\000anna\\0006.png' | sha256sum` and `sort`."""
    for labels, share in ((LABELS, Fraction(4, 5)), (torch.tensor(LABELS), 0.8)):
        found = split_subjects(SUBJECTS, labels, NAMES, count, share, seed)
        assert [x.tolist() for x in found] == [gallery, probes]
        assert {x.dtype for x in found} == {np.dtype(np.int64)}


def many(seed: int = 0, subjects: int = 250):
    """Subjects with 1 to 50 images in random order."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(subjects), random.integers(1, 51, subjects)))
    names = [f"{i:05d}.jpg" for i in range(len(labels))]
    return [f"s{i}" for i in range(subjects)], labels, names


def test_the_papers_setting():
    subjects, labels, names = many()
    gallery, probes = split_subjects(subjects, labels, names)
    assert not set(gallery) & set(probes)
    mine, theirs = Counter(labels[gallery].tolist()), Counter(labels[probes].tolist())
    assert len(mine) == len(theirs) == 180
    assert set(mine) == set(theirs)
    whole = Counter(labels.tolist())
    for subject, count in mine.items():
        n = whole[subject]
        assert count + theirs[subject] == n
        assert theirs[subject] == max(1, n // 5)  # the rounding rule, from the probes' side
    assert gallery.tolist() == sorted(gallery)
    assert probes.tolist() == sorted(probes)


def test_neither_order_nor_numbering_matter():
    subjects, labels, names = many(subjects=30)
    wanted = [
        {(subjects[labels[i]], names[i]) for i in part}
        for part in split_subjects(subjects, labels, names, 12)
    ]
    random = np.random.default_rng(1)
    images, numbers = random.permutation(len(labels)), random.permutation(30)
    others = [subjects[i] for i in np.argsort(numbers)]
    shuffled, theirs = numbers[labels][images], [names[i] for i in images]
    found = split_subjects(others, shuffled, theirs, 12)
    assert [{(others[shuffled[i]], theirs[i]) for i in part} for part in found] == wanted


def test_another_seed_is_another_split():
    data = many(subjects=30)
    splits = [[x.tolist() for x in split_subjects(*data, count, seed=s)]
              for s in range(4) for count in (12, 25)]  # fmt: skip
    assert all(a != b for i, a in enumerate(splits) for b in splits[:i])


def test_the_draw_is_even():
    """Each of 10 subjects by about half of 400 seeds, each image as a probe by about a tenth."""
    subjects, labels = [f"s{i}" for i in range(10)], np.repeat(np.arange(10), 5)
    names = [str(i) for i in range(50)]
    drawn: Counter = Counter()
    for seed in range(400):
        drawn.update(split_subjects(subjects, labels, names, 5, seed=seed)[1].tolist())
    chosen = [sum(drawn[i] for i in range(5 * s, 5 * s + 5)) for s in range(10)]
    assert sum(chosen) == 2000
    assert max(abs(c - 200) for c in chosen) < 50  # five standard deviations
    assert max(abs(drawn[i] - 40) for i in range(50)) < 30


@pytest.mark.parametrize(
    ("share", "gallery"),
    [(Fraction(4, 5), [1, 2, 3, 4, 5, 6, 7, 8, 8, 9]), (0.8, [1, 2, 3, 4, 5, 6, 7, 8, 8, 9]),
     (0.5, [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]), (0.01, [1] * 10), (0.99, list(range(1, 11)))],
)  # fmt: skip
def test_rounding_is_up_for_the_gallery_with_one_probe_left(share, gallery):
    for n, wanted in zip(range(2, 12), gallery, strict=True):
        parts = split_subjects(["one"], [0] * n, [str(i) for i in range(n)], 1, share)
        assert [len(x) for x in parts] == [wanted, n - wanted], n


def test_a_fifth_of_any_multiple_of_five_is_whole():
    for n in range(5, 600, 5):
        _, probes = split_subjects(["one"], [0] * n, [str(i) for i in range(n)], 1, 0.8)
        assert len(probes) == n // 5


def test_two_subjects_may_have_images_of_one_name_and_any_bytes_for_a_name():
    gallery, probes = split_subjects(["é", "\udcff"], [0, 0, 1, 1], ["a", "b", "a", "b"], 2)
    assert sorted([*gallery, *probes]) == [0, 1, 2, 3]
    assert {i // 2 for i in gallery} == {i // 2 for i in probes} == {0, 1}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"count": 5}, "cannot draw 5 subjects: 4 have two images or more, of 5 in all"),
        ({"count": 0}, "cannot draw 0 subjects"),
        ({"labels": [], "names": []}, "cannot draw 3 subjects: 0 have two images or more"),
        ({"subjects": ["anna"] * 5}, "two subjects have the same name"),
        ({"names": ["1.png"] * 17}, "two images of subject .* have the same name: use unique"),
        ({"names": NAMES[1:]}, "labels must be 16 whole numbers, got int64 of shape"),
        ({"subjects": SUBJECTS[:4]}, "labels run from 0 to 4, but there are 4 subjects"),
        ({"labels": [-1] * 17}, "labels run from -1 to -1"),
        ({"share": 1.0}, "the gallery's share must lie between 0 and 1, got 1.0"),
        ({"share": 0}, "the gallery's share must lie between 0 and 1"),
        ({"share": math.nan}, "the gallery's share must lie between 0 and 1"),
        ({"share": 1e-6}, "the gallery's share must lie between 0 and 1"),
    ],
)
def test_a_split_that_cannot_be_is_one_clear_line(changes, complaint):
    values = {"subjects": SUBJECTS, "labels": LABELS, "names": NAMES, "count": 3}
    with pytest.raises(HorkdError, match=complaint) as caught:
        split_subjects(**{**values, **changes})
    assert "\n" not in str(caught.value)
