"""What the demo asks its networks: answers, reference, the hint, examples, neighbours, faces."""

import functools
import itertools
import math
import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from oracles import of_fold
from PIL import Image
from scipy.stats import entropy
from torch import Tensor

from app import __main__ as start
from app import bench, examples, faces, gallery, reference, show
from app.bench import ROLES, Answer, Bench, Model, at_hand, divergence, load_models
from app.examples import EXAMPLES
from app.faces import FRAMINGS, FaceBench, Verdict
from app.gallery import FILTERS, Gallery
from app.pictures import SIDE, Picture, as_image, read
from app.reference import familiarity, measure
from app.show import Exhibit
from horkd import storage
from horkd.data import PhotoFiles, load_dataset
from horkd.data.cifar import load_cifar100
from horkd.data.glyphs import CHARACTERS, render
from horkd.data.lfw import load_lfw
from horkd.degradation import Degradation, resize
from horkd.errors import HorkdError
from horkd.lab import store
from horkd.lab.config import config_from_dict
from horkd.networks import network
from horkd.networks.network import ModelSpec, Network, save_network
from horkd.predict import predict
from horkd.protocols.verification import cosine

REPORTS = Path(__file__).parents[1] / "reports"
FOLDERS = {"cifar100": REPORTS / "cpu-cifar100" / "models",
           "glyphs": REPORTS / "quick-glyphs" / "models"}  # fmt: skip
FACES = REPORTS / "faces-lfw" / "models"
BOTH = pytest.mark.parametrize("data", FOLDERS)
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)


@functools.cache
def committed(data: str) -> tuple[Bench, reference.Reference]:
    models = load_models(FOLDERS[data])
    known = reference.load(FOLDERS[data] / "reference.safetensors", Bench(models))
    return Bench(models, known.enlarge), known


@functools.cache
def pictures(data: str) -> Tensor:
    """uint8 (N, 3, 32, 32) of the kind that the networks know; nothing is read."""
    if data == "glyphs":
        return render(CHARACTERS[::17], 1, 0, "demo").images
    return torch.cat([drawn(name) for name in list(EXAMPLES)[::2]])


@functools.cache
def drawn(name: str) -> Tensor:
    return read(EXAMPLES[name]).at(32)


def held(folder: str) -> Path:
    root = os.environ.get("HORKD_DATA", "").strip()
    if not root:
        pytest.skip("HORKD_DATA is not set")
    if not (Path(root) / folder).exists():
        pytest.skip(f"HORKD_DATA has no {folder}")
    return Path(root) / folder


def make(size: int = 32, seed: int = 0, **changes) -> Model:
    """A network of random weights for six characters."""
    values = {
        "name": f"network-{size}-{seed}",
        "network": tiny.network(seed=seed).eval(),
        "data": "glyphs",
        "classes": CHARACTERS[: tiny.CLASSES],
        "full": 32,
        "degradation": Degradation(size),
        "mean": MEAN,
        "std": STD,
        "test": {"top1": 90.0, "n": 100},
        "learned_from": None,
        "key": f"key-{size}-{seed}",
        "bytes": 1,
    } | changes
    weights = storage.tensor_digest(values["network"].state_dict())[:16]
    return Model(**{"id": weights, **values})


def trio(**changes) -> list[Model]:
    """A teacher, students of 8 and 16 pixels, and the smaller one undistilled."""
    return [
        make(network=tiny.network("resnet8x0.5").eval(), key="t", **changes),
        make(8, 1, learned_from="t", **changes),
        make(16, 2, learned_from="t", **changes),
        make(8, 3, **changes),
    ]


def feed(model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits by hand, one image at a time."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.mean, model.std))
    with torch.no_grad():
        out = [model.network(((x / 255 - mean) / std)[None]) for x in images.float()]
    return torch.cat([o.features for o in out]), torch.cat([o.logits for o in out])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def run_folders(tmp_path_factory) -> dict[str, Path]:
    """A teacher and an assistant of 32 pixels and a student of 8, each learned from the one before.

    As folders of runs, and of each run's export below "exports".
    """
    teacher = tiny.teacher(degradation=Degradation(32))
    assistant = tiny.student(frozen=teacher, degradation=Degradation(32))
    found, folder = {}, tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        tiny.patch(patch)
        for name, config in {"teacher": teacher, "assistant": assistant,
                             "student": tiny.student(frozen=assistant)}.items():  # fmt: skip
            run = tiny.run(config, folder)
            store.export(run, folder / "exports" / f"{name}.safetensors")
            found[name] = run.folder
    return found


@pytest.fixture
def on_six(monkeypatch):
    """The demo's data set is the one of six characters."""
    for module in (bench, reference, gallery):
        monkeypatch.setattr(module, "load_dataset", tiny.load)
    tiny.patch(monkeypatch)


# --- bench: who answers, and what ------------------------------------------------------------


@BOTH
def test_answers_equal_predictions(data):
    """Every role at every size that its network knows, through horkd's own degradation."""
    asked, images = committed(data)[0], pictures(data)
    native = Bench(asked.models)
    enlarged = Bench(asked.models, asked.sizes)
    teacher = asked.teacher
    stand_in = SimpleNamespace(mean=teacher.mean, std=teacher.std, size=32)
    cases = [(b, "teacher", s, teacher, Degradation(32)) for b, s in ((asked, 8), (asked, 32))]
    for size in (4, 10, 16, 30, 32):
        cases.append((native, "teacher small", size, teacher, Degradation(size)))
        cases.append((enlarged, "teacher small", size, teacher, Degradation(size, upsample=True)))
    for role, known in (("student", asked.students), ("alone", asked.alone)):
        assert list(known) == [8, 12, 16, 32]
        cases += [(asked, role, size, m, Degradation(size)) for size, m in known.items()]
    for which, role, size, model, seen in cases:
        expected = predict(model.network, images, stand_in, seen)
        fed = 32 if seen.upsample else seen.size
        who, pixels, features, logits = which.outputs(role, images, size)
        assert (who, pixels) == (model, fed)
        close(features, expected.features)
        close(logits, expected.logits)
        answer = which.answers(images[:1])[role][size]  # alone, not in a batch
        assert (answer.model, answer.fed) == (model, fed)
        close(answer.features, expected.features[0])
        close(answer.logits, expected.logits[0])
        close(answer.probabilities, expected.logits[0].softmax(0))


@BOTH
def test_between_sizes_the_image_is_reduced_once_more(data):
    asked, images = committed(data)[0], pictures(data)[:2]
    for size, smaller in ((4, 8), (6, 8), (10, 8), (14, 12), (30, 16)):
        model, fed, features, _ = asked.outputs("student", images, size)
        assert (model.size, fed) == (smaller, smaller)
        small = resize(Degradation(size)(images), smaller)
        close(features, feed(model, small)[0])


def test_the_committed_benches():
    for data in FOLDERS:
        asked = committed(data)[0]
        assert (asked.data, asked.full, len(asked.classes)) == (data, 32, 100)
        assert asked.teacher.name == "teacher"
        assert [m.name for m in asked.students.values()] == [
            "student-8", "student-12", "student", "assistant"
        ]  # fmt: skip
        assert [m.name for m in asked.alone.values()] == [
            "student-8-alone", "student-12-alone", "student-alone", "assistant-alone"
        ]  # fmt: skip
        assert asked.left_out == []
        assert asked.roles() == list(ROLES)
        assert asked.sizes == tuple(range(4, 33, 2))
        assert not any(m.doubt for m in asked.models)
        assert {*asked.students, *asked.alone} <= set(asked.sizes)


@pytest.mark.parametrize("full", [6, 8, 16, 28, 32, 48, 64, 96, 112, 224])
def test_sizes_go_in_equal_steps_up_to_the_full_one(full):
    sizes = Bench([make(full, full=full), make(full, 1, full=full, learned_from="t")]).sizes
    assert len({b - a for a, b in itertools.pairwise(sizes)}) == 1
    assert 0 < sizes[0] < sizes[-1] == full
    assert len(sizes) <= 20


@pytest.mark.parametrize(
    ("known", "full"),
    [((7,), 32), ((2,), 32), ((1,), 32), ((16,), 112), ((8, 12, 16), 112), ((7, 13), 64)],
)
@pytest.mark.parametrize("role", ["student", "alone"])
def test_every_size_that_a_network_knows_can_be_chosen(known, full, role):
    learned = {"student": "t", "alone": None}[role]
    others = [make(s, i, full=full, learned_from=learned) for i, s in enumerate(known, 1)]
    shown = Bench([make(full, full=full), make(full, 9, full=full, learned_from="t"), *others])
    assert set(known) < set(shown.sizes)
    assert {b - a for a, b in itertools.pairwise(shown.sizes)} == {shown.sizes[1] - shown.sizes[0]}
    assert 0 < shown.sizes[0] < shown.sizes[-1] == full
    assert len(shown.sizes) <= 64


@pytest.mark.parametrize("full", [5, 32, 64, 65, 97, 112])
def test_sizes_of_any_two_networks(full):
    for small, large in itertools.combinations(range(1, full + 1), 2):
        sizes = bench._sizes(full, [full, small, large])
        step = sizes[1] - sizes[0]
        assert {b - a for a, b in itertools.pairwise(sizes)} == {step}
        assert 0 < min(4, small) <= sizes[0] < min(4, small) + step
        assert sizes[-1] == full
        assert len(sizes) <= 64
        assert step <= max(2, full // 16)
        most = max(2, full // 16)
        fits = [d for d in range(1, most + 1) if not any(s % d for s in (full, small, large))]
        if full // fits[-1] <= 64:
            assert {small, large} <= set(sizes)
            assert step == fits[-1]


@pytest.mark.parametrize("sizes", [(8,), (32,), (8, 12, 16, 32), (5, 31), (16, 24)])
def test_the_largest_student_that_needs_no_enlarging_is_asked(sizes):
    models = [make(), *(make(s, s, learned_from="t") for s in sizes)]
    shown = Bench([*models, *(make(s, 50 + s) for s in sizes)])
    assert tuple(shown.students) == tuple(shown.alone) == sizes
    assert shown.reduced_sizes == ([s for s in sizes if s < 32] or [32])
    for size in range(1, 33):
        expected = min(sizes)
        for s in sizes:
            if s <= size:
                expected = max(expected, s)
        assert shown.student_at("student", size).size == expected
        assert shown.student_at("student", size) is shown.students[expected]
        assert shown.student_at("alone", size) is shown.alone[expected]


def test_who_is_the_teacher_and_who_is_left_out():
    large = make(network=tiny.network("resnet8x0.5").eval(), name="large")
    small = make(name="small", seed=1)
    plain, longer = make(8, 2, name="s", learned_from="t"), make(8, 3, name="st", learned_from="t")
    for order in itertools.permutations([large, small, plain, longer]):
        shown = Bench(order)
        assert shown.teacher is large
        assert shown.alone == {32: small}
        assert shown.students == {8: plain}
        assert shown.left_out == ["st"]
        assert set(shown.models) == {large, small, plain}
    # a large network that learned from another, or sees few pixels, teaches nobody
    learned, blurred = replace(large, learned_from="t"), replace(large, degradation=Degradation(16))
    assert Bench([learned, blurred, small]).teacher is small


@pytest.mark.parametrize("role", ["student", "alone"])
def test_of_several_networks_of_a_size_the_plain_one_is_shown(role):
    """It is called student or assistant; among several of those the shortest name, then by name."""
    learned = {"student": "t", "alone": None}[role]
    names = ["kd", "student-8-long", "a-student", "student-8", "student-9"]
    some = [make(8, i, name=n, learned_from=learned) for i, n in enumerate(names, 1)]
    whole = [make(32, i, name=n, learned_from=learned) for i, n in ((6, "x"), (7, "assistant"))]
    for order in (some, some[::-1]):
        teacher = make(network=tiny.network("resnet8x0.5").eval())
        shown = Bench([teacher, make(16, 9, learned_from="t"), *order, *whole])
        known = shown.students if role == "student" else shown.alone
        assert {s: m.name for s, m in known.items() if s != 16} == {8: "student-8", 32: "assistant"}
        assert Counter(shown.left_out) == Counter([*names, "x"]) - Counter(["student-8"])


def test_networks_of_different_kinds_are_refused():
    fewer = make(8, 1, name="odd", classes=CHARACTERS[1:7])
    for other in (fewer, make(64, 1, name="odd", full=64), make(8, 1, name="odd", classes=())):
        with pytest.raises(HorkdError, match="odd and network-32-0 know different") as error:
            Bench([make(), other])
        tiny.one_line(error, longest=400)


def test_without_a_teacher():
    for alone in ([make(16)], [make(learned_from="t")], [make(8), make(16, learned_from="t")]):
        with pytest.raises(HorkdError, match="there is no teacher of 32 pixels among") as error:
            Bench(alone)
        assert "--models" in tiny.one_line(error, longest=400)


@pytest.mark.parametrize("others", [[], [(8, 1)], [(8, 1), (16, 2), (32, 3)]])
def test_without_a_student(others):
    models = [make(), *(make(*other) for other in others)]
    with pytest.raises(HorkdError, match="there is no distilled student among network-32") as error:
        Bench(models)
    assert "--models" in tiny.one_line(error, longest=400)
    assert all(m.name in str(error.value) for m in models)


def test_a_teacher_and_an_assistant():
    shown = Bench([make(), make(32, 1, learned_from="t")])
    assert shown.roles() == ["teacher", "teacher small", "student"]
    assert shown.reduced_sizes == [32]
    found = shown.answers(tiny.data().test.images[:1])
    assert set(found) == {"teacher", "teacher small", "student"}
    for by_size in found.values():
        assert tuple(by_size) == shown.sizes
    assert len(set(found["teacher"].values())) == 1
    close(found["teacher"][32].logits, found["teacher small"][32].logits)


def test_a_teacher_that_takes_one_size_only_is_fed_enlarged_images():
    spec = ModelSpec("mobilefacenet", tiny.CLASSES)
    teacher = make(112, full=112, network=Network(spec).eval())
    shown = Bench([teacher, make(16, 1, full=112, learned_from="t")])
    assert shown.enlarge == set(shown.sizes)
    image = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8)
    for size in (4, 16):
        assert shown.outputs("teacher small", image, size)[1] == 112


def test_other_ways_of_reducing():
    """Blur, kernel and JPEG are those of the students; enlarging is each network's own matter."""
    seen = Degradation(8, kernel="area", blur=0.7, jpeg=50)
    image = tiny.data().test.images[:1]
    learned = make(8, 1, learned_from="t", degradation=seen)
    shown = Bench([make(), learned])
    assert torch.equal(shown.reduced(image, 8), seen(image))
    assert torch.equal(shown.reduced(image, 16), replace(seen, size=16)(image))
    close(shown.outputs("student", image, 8)[3], feed(learned, seen(image))[1])
    close(shown.outputs("teacher", image, 8)[3], feed(shown.teacher, image)[1])
    enlarging = make(8, 1, learned_from="t", degradation=Degradation(8, upsample=True))
    shown = Bench([make(), enlarging])
    assert shown.outputs("student", image, 8)[1] == 32
    close(shown.outputs("student", image, 8)[3], feed(enlarging, enlarging.degradation(image))[1])


@pytest.mark.parametrize("kernel", ["area", "nearest"])
def test_a_student_that_enlarges_by_another_kernel(kernel):
    seen = Degradation(8, kernel=kernel, upsample=True)
    learned = make(8, 1, learned_from="t", degradation=seen)
    image = tiny.data().test.images[:1]
    found = Bench([make(), learned]).outputs("student", image, 8)[3]
    close(found, feed(learned, seen(image))[1])


@pytest.mark.parametrize(
    "change", [{"kernel": "nearest"}, {"blur": 0.7}, {"noise": 3.0}, {"jpeg": 50}], ids=str
)
def test_networks_of_other_degradations_are_left_out(change):
    """They would be asked about images that they do not know."""
    image = tiny.data().test.images[:1]
    first, other = Degradation(8), Degradation(16, **change)
    models = [
        make(),
        make(8, 1, learned_from="t"),
        make(16, 2, name="student", learned_from="t", degradation=other),
        make(16, 3, name="alone", degradation=other),
        make(16, 4, learned_from="t", degradation=Degradation(16, upsample=True)),
        make(32, 5, learned_from="t"),
    ]
    shown = Bench(models)
    assert shown.left_out == ["student", "alone"]
    assert shown.students == {8: models[1], 16: models[4], 32: models[5]}
    assert shown.alone == {}
    assert torch.equal(shown.reduced(image, 8), first(image))
    # the smallest student says which way it is; those of full resolution have none
    whole = make(32, 6, learned_from="t")
    shown = Bench([models[0], models[2], models[3], make(24, 7, learned_from="t"), whole])
    assert shown.left_out == ["network-24-7"]
    assert shown.students == {16: models[2], 32: whole}
    assert shown.alone == {16: models[3]}
    if not other.noise:
        assert torch.equal(shown.reduced(image, 16), other(image))
        close(shown.outputs("student", image, 16)[3], feed(models[2], other(image))[1])


def test_an_images_answers_do_not_depend_on_what_was_asked_before():
    shown, images = Bench(trio()), tiny.data().test.images[:3]
    first = [shown.answers(images[i : i + 1]) for i in range(3)]
    again = Bench(trio())
    for i in (2, 0, 1, 0):
        found = again.answers(images[i : i + 1].clone())
        for role, size in itertools.product(ROLES, shown.sizes):
            close(found[role][size].logits, first[i][role][size].logits)
    assert shown.answers(images[:1]) is first[0]
    shown.forget()
    found = shown.answers(images[:1])
    assert found is not first[0]
    close(found["student"][8].logits, first[0]["student"][8].logits)


def random_answer(seed: int, scale: float = 1.0, classes: int = 6) -> Answer:
    logits = scale * torch.randn(classes, generator=torch.Generator().manual_seed(seed))
    names = tuple("abcdefghij"[:classes])
    return Answer(make(classes=names), 32, logits.softmax(0), logits, torch.zeros(4))


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 30.0])
@pytest.mark.parametrize("classes", [1, 2, 6])
def test_divergence_and_top_against_other_libraries(scale, classes):
    for seed in range(5):
        p, q = random_answer(seed, scale, classes), random_answer(seed + 50, scale, classes)
        exact = [a.logits.double().softmax(0).numpy() for a in (p, q)]
        assert divergence(p, q) == pytest.approx(entropy(*exact), abs=1e-9)
        kl = torch.nn.functional.kl_div(
            q.logits.double().log_softmax(0), p.logits.double().log_softmax(0),
            reduction="sum", log_target=True,
        )  # fmt: skip
        assert divergence(p, q) == pytest.approx(float(kl), abs=1e-12)
        assert divergence(p, p) == 0
        values = p.probabilities.tolist()
        names = p.model.classes
        pairs = sorted(zip(values, names, strict=True), key=lambda pair: -pair[0])
        for count in (1, 3, 5, 99):
            found = p.top(count)
            assert [v for _, v in found] == [v for v, _ in pairs[:count]]
            assert all(p.of(name) == value for name, value in found)
            assert len({name for name, _ in found}) == min(count, classes)
    with pytest.raises(ValueError):
        p.of("nothing")


def test_logits_far_apart_diverge_finitely():
    for seed in range(20):
        p, q = random_answer(seed, 1e4), random_answer(seed + 50, 1e4)
        assert math.isfinite(divergence(p, q))
        if p.top(1)[0][0] != q.top(1)[0][0]:
            assert divergence(p, q) > 100


@BOTH
def test_costs(data):
    for model in (committed(data)[0].teacher, committed(data)[0].students[8]):
        cost = model.cost
        assert cost["parameters"] == network.parameters(model.network)
        assert cost["parameters"] == sum(p.numel() for p in model.network.parameters())
        assert cost["macs"] == network.macs_of(model.network.spec, model.size)
        assert cost["bytes"] == (FOLDERS[data] / f"{model.name}.safetensors").stat().st_size
        assert 0 < cost["milliseconds"] < 10_000
        assert model.cost is cost
    assert make(degradation=Degradation(8, upsample=True)).cost["macs"] == make().cost["macs"]
    assert make(8).cost["macs"] < make().cost["macs"]


# --- bench: files and folders ----------------------------------------------------------------


def export(path: Path, network: Network | None = None, **changes) -> Path:
    """A file as `horkd export` writes it."""
    header = {
        "key": "k", "learned_from": None, "data": "glyphs", "classes": CHARACTERS[:tiny.CLASSES],
        "size": 32, "degradation": {"size": 32}, "mean": MEAN, "std": STD,
        "test": {"top1": 80.0, "n": 500},
    } | changes  # fmt: skip
    header = {k: v for k, v in header.items() if v is not ...}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(path, network or tiny.network(), bits=16, **header)
    return path


def test_an_export_is_what_was_written(tmp_path):
    network = tiny.network(seed=5)
    seen = {"size": 8, "kernel": "area", "upsample": True}
    path = export(tmp_path / "a b.safetensors", network, degradation=seen, learned_from="t")
    (found,) = load_models(path)
    assert found.name == "a b"
    assert (found.size, found.input, found.full) == (8, 32, 32)
    assert found.degradation == Degradation(8, kernel="area", upsample=True)
    assert (found.mean, found.std) == (MEAN, STD)
    assert (found.data, found.classes, found.key) == ("glyphs", CHARACTERS[: tiny.CLASSES], "k")
    assert (found.learned_from, found.test) == ("t", {"top1": 80.0, "n": 500})
    assert found.bytes == path.stat().st_size
    assert not found.network.training
    for name, value in found.network.state_dict().items():
        kept = network.state_dict()[name]
        assert torch.equal(value, kept.half().float() if kept.is_floating_point() else kept)


def test_a_networks_own_statistics_go_first(tmp_path):
    network = tiny.network()
    network.spec = replace(network.spec, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    (found,) = load_models(export(tmp_path / "a.safetensors", network))
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_folder_of_exports(tmp_path):
    for name in ("b", "a", "c"):
        export(tmp_path / f"{name}.safetensors")
    storage.save_tensors(tmp_path / "reference.safetensors", {}, {})
    (tmp_path / "readme.txt").write_text("…")
    assert [m.name for m in load_models(tmp_path)] == ["a", "b", "c"]
    (tmp_path / "a.safetensors").rename(tmp_path / "a.SAFETENSORS")
    (tmp_path / "._b.safetensors").write_bytes(b"what macOS keeps beside a file")
    assert [m.name for m in load_models(tmp_path)] == ["a", "b", "c"]


def damaged(path: Path) -> None:
    content = bytearray(export(path).read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(export(path).read_bytes()[:-100])


def foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (damaged, "damaged"),
        (cut_off, "damaged"),
        (foreign, "not a file of horkd's"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_text("hello"), "damaged"),
        (lambda p: storage.save_tensors(p, {}, {}), "no model specification"),
        (lambda p: storage.save_tensors(p, {}, {"spec": {"x": 1}}), "no model specification"),
        (lambda p: save_network(p, tiny.network()), "has no header of `horkd export`"),
        (lambda p: export(p, data=...), r"`horkd export` \('data'\): export the run again"),
        (lambda p: export(p, classes=...), r"\('classes'\): export the run again"),
        (lambda p: export(p, size=...), r"\('size'\): export the run again"),
        (lambda p: export(p, degradation=...), r"\('degradation'\): export the run again"),
        (lambda p: export(p, mean=...), r"\('mean'\): export the run again"),
        (lambda p: export(p, std=...), r"\('std'\): export the run again"),
        (lambda p: export(p, degradation={"size": 0}), "at least 1 pixel"),
        (lambda p: None, "there is no file"),
    ],
)
def test_files_that_are_no_networks(write, complaint, tmp_path):
    path = tmp_path / "x.safetensors"
    write(path)
    with pytest.raises(HorkdError, match=complaint) as error:
        load_models(path)
    assert str(path) in tiny.one_line(error, longest=400) or "pixel" in str(error.value)
    if path.exists():
        with pytest.raises(HorkdError, match=complaint):
            load_models(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": CHARACTERS[:3]},
        {"classes": CHARACTERS[:9]},
        {"classes": []},
        {"classes": 6},
        {"classes": [1, 2, 3, 4, 5, 6]},
        {"classes": ["a", "b", "c", "d", "e", None]},
        {"size": 31, "degradation": {"size": 32}},
        {"size": 0},
        {"size": -32},
        {"size": "many"},
        {"size": None},
        {"degradation": {"size": "8"}},
        {"degradation": {"size": 8, "speed": 3}},
        {"degradation": 8},
        {"mean": "abc"},
        {"mean": [None, 0.5, 0.5]},
        {"mean": 0.5},
        {"std": [0.25, 0.0, 0.25]},
        {"std": [0.25, 0.25, -1]},
        {"std": []},
        {"test": "good"},
        {"test": 80.0},
        {"degradation": {"size": 8.5}},
        {"size": math.inf},
        {"mean": [0.5, 0.5]},
        {"std": [0.25, 0.25]},
        {"mean": [math.nan, 0.5, 0.5]},
        {"std": [math.inf, 0.25, 0.25]},
        {"learned_from": ["t"]},
        {"learned_from": 5},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_the_network(changes, tmp_path):
    path = export(tmp_path / "x.safetensors", **changes)
    with pytest.raises(HorkdError, match="export the run again") as error:
        load_models(path)
    assert str(path) in tiny.one_line(error, longest=400)


def test_an_empty_folder(tmp_path):
    storage.save_tensors(tmp_path / "reference.safetensors", {}, {})
    with pytest.raises(HorkdError, match="there is no network in") as error:
        load_models(tmp_path)
    assert str(tmp_path) in tiny.one_line(error, longest=400)


def test_a_runs_folder_brings_what_it_was_distilled_from(run_folders, on_six):
    found = load_models(run_folders["student"])
    assert [m.name for m in found] == [
        run_folders[n].name for n in ("student", "assistant", "teacher")
    ]
    assert [m.size for m in found] == [8, 32, 32]
    assert found[0].learned_from == found[1].key
    assert found[1].learned_from == found[2].key
    assert found[2].learned_from is None
    for model in found:
        record = storage.load_json(run_folders["student"].parent / model.name / "record.json")
        assert (model.key, model.test) == (record["key"], record["results"]["test"])
        assert model.classes == tiny.data().test.classes
        assert (model.mean, model.std) == (tiny.data().mean, tiny.data().std)
        folder = run_folders["student"].parent / model.name
        kept = storage.load_tensors(folder / "model.safetensors")[0]
        assert model.id == storage.tensor_digest(kept)[:16]
    shown = Bench(found)
    assert shown.teacher is found[2]
    assert shown.students == {8: found[0], 32: found[1]}
    # each is tested as its record says
    for model in found:
        logits = predict(model.network, tiny.data().test.images, tiny.data(), model.degradation)
        right = (logits.logits.argmax(1) == tiny.data().test.labels).double().mean()
        assert 100 * float(right) == pytest.approx(model.test["top1"])


def test_runs_and_their_exports_answer_alike(run_folders, on_six):
    image = tiny.data().test.images[:1]
    first = Bench(load_models(run_folders["student"])).answers(image)
    second = Bench(load_models(run_folders["student"].parent / "exports")).answers(image)
    for role, size in itertools.product(("teacher", "teacher small", "student"), (8, 16, 32)):
        torch.testing.assert_close(
            first[role][size].probabilities, second[role][size].probabilities, rtol=0, atol=0.02
        )


def test_an_interrupted_run_and_a_damaged_record(run_folders, on_six, tmp_path):
    folder = tmp_path / run_folders["teacher"].name
    folder.mkdir()
    record = (run_folders["teacher"] / "record.json").read_text()
    (folder / "record.json").write_text(record[:-9])
    with pytest.raises(HorkdError, match="damaged") as error:
        load_models(folder)
    tiny.one_line(error, longest=400)
    (folder / "record.json").unlink()
    (folder / "state.safetensors").write_bytes(b"unfinished")
    with pytest.raises(HorkdError) as error:
        load_models(folder)
    tiny.one_line(error, longest=400)


def test_the_current_folder_is_a_run(run_folders, on_six, monkeypatch):
    monkeypatch.chdir(run_folders["teacher"])
    assert len(load_models(Path())) == 1


def test_a_runs_folder_that_was_renamed(run_folders, on_six, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in run_folders["teacher"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    name = run_folders["teacher"].name
    with pytest.raises(HorkdError, match=f"holds the run {name}: give the folder that") as error:
        load_models(folder)
    assert str(folder) in tiny.one_line(error, longest=400)
    folder.rename(tmp_path / name)
    assert len(load_models(tmp_path / name)) == 1
    folder.symlink_to(tmp_path / name)
    assert [m.name for m in load_models(folder)] == [name]


def test_a_network_is_known_by_its_weights(tmp_path):
    """Whatever it is called and whatever record its file names."""
    paths = [
        export(tmp_path / "a.safetensors", tiny.network(seed=1)),
        export(tmp_path / "b.safetensors", tiny.network(seed=1), key="other", test={}),
        export(tmp_path / "c.safetensors", tiny.network(seed=2)),
    ]
    a, b, c = (load_models(path)[0] for path in paths)
    assert a.id == b.id != c.id
    assert len(a.id) == 16
    assert a.id == storage.tensor_digest(storage.load_tensors(paths[0])[0])[:16]


# --- doubt -----------------------------------------------------------------------------------


def test_nothing_known_of_a_network(tmp_path):
    path = export(tmp_path / "fresh.safetensors", test=..., key=...)
    (found,) = load_models(path)
    assert found.test == {}
    assert found.key == ""
    assert found.doubt == "No test result is known of it: it may be untrained."
    shown = Bench([found, make(8, 1, learned_from="t")])
    exhibit = Exhibit("t", shown, None, "here")
    image = Picture(as_image(tiny.data().test.images[0]))
    answers = shown.answers(image.at(32))
    assert show.doubts(exhibit, answers, 16) == [f"fresh: {found.doubt}"]  # once, not per role
    assert f"fresh: {found.doubt}" in show.as_json(exhibit, image, answers, 16)["notes"]


@pytest.mark.parametrize(
    ("test", "untrained"),
    [
        ({"top1": 1.0, "n": 10_000}, True),
        ({"top1": 0.0, "n": 10_000}, True),
        ({"top1": 1.25, "n": 10_000}, True),  # within three standard deviations of chance
        ({"top1": 1.35, "n": 10_000}, False),
        ({"top1": 60.0, "n": 10_000}, False),
        ({"top1": 10.0, "n": 10}, True),
    ],
)
def test_a_network_that_is_no_better_than_chance(test, untrained):
    model = make(classes=tuple(map(str, range(100))), test=test)
    assert bool(model.doubt) == untrained
    if untrained:
        assert model.doubt.startswith("It is untrained")
        assert f"{test['top1']:.1f} %" in model.doubt


@pytest.mark.parametrize(
    "test",
    [
        {},
        {"top1": 90.0},
        {"n": 600},
        {"accuracy": 91.0, "n": 600},
        {"top1": 90.0, "n": 0},
        {"top1": 90.0, "n": -5},
        {"top1": 90.0, "n": "600"},
        {"top1": 90.0, "n": None},
        {"top1": "90", "n": 600},
        {"top1": None, "n": 600},
        {"top1": [90.0], "n": 600},
        {"top1": math.nan, "n": 600},
    ],
    ids=str,
)
def test_a_network_without_a_whole_test_result(test):
    assert make(test=test).doubt == "No test result is known of it: it may be untrained."
    # a network for faces has another test, and a reference of its own
    assert make(test=test, classes=()).doubt == ""


def test_doubts_go_by_network_and_not_by_name():
    teacher = make(network=tiny.network("resnet8x0.5").eval(), name="twin", test={})
    student, alone = (make(8, i, name="twin", test={}, learned_from=k)
                      for i, k in ((1, "t"), (2, None)))  # fmt: skip
    shown = Bench([teacher, student, alone])
    answers = shown.answers(tiny.data().test.images[:1])
    said = show.doubts(Exhibit("t", shown, None, ""), answers, 8)
    assert said == [f"twin: {teacher.doubt}"] * 3


def test_an_untrained_network_is_found_out(run_folders, on_six):
    """Of random weights, tested: what `horkd` would record of it."""
    data = tiny.data()
    for seed in range(5):
        network = tiny.network(seed=seed).eval()
        logits = predict(network, data.test.images, data, Degradation(32)).logits
        top1 = 100 * (logits.argmax(1) == data.test.labels).double().mean().item()
        assert make(network=network, test={"top1": top1, "n": 30}).doubt
    shown = Bench([*trio()[:1], make(8, 9, learned_from="t", test={"top1": 17.0, "n": 30})])
    answers = shown.answers(data.test.images[:1])
    exhibit = Exhibit("t", shown, None, "")
    (said,) = show.doubts(exhibit, answers, 16)
    assert said.startswith("network-8-9: It is untrained: 17.0 %")


# --- reference -------------------------------------------------------------------------------


@pytest.fixture
def small(run_folders, on_six) -> Bench:
    return Bench(load_models(run_folders["student"]))


def seen_by(shown: Bench, role: str, images: Tensor, size: int, enlarge=()) -> Tensor:
    """Logits by hand."""
    if role == "teacher":
        return feed(shown.teacher, images)[1]
    reduced = Degradation(size)(images)
    if role == "teacher small":
        return feed(shown.teacher, resize(reduced, 32) if size in enlarge else reduced)[1]
    known = sorted(s for s in shown.students if s <= size) or sorted(shown.students)[:1]
    return feed(shown.students[known[-1]], resize(reduced, known[-1]))[1]


def by_loop(features: Tensor, centers: Tensor) -> list[float]:
    found = []
    for f in features.double().tolist():
        nearest = min(math.dist(f, c) for c in centers.double().tolist())
        found.append(-nearest / math.sqrt(sum(v * v for v in f)))
    return found


def test_measuring_equals_explicit_loops(small):
    data, found = tiny.data(), measure(small)
    assert found.n == len(data.test)
    for model in small.models:
        features = feed(model, model.degradation(data.train.images))[0]
        for c in range(tiny.CLASSES):
            expected = features[data.train.labels == c].double().mean(0).float()
            close(found.centers[model.id][c], expected)
    assert set(found.centers) == {m.id for m in small.models}
    # how the teacher takes small images is chosen on validation images
    labels = data.validation.labels
    better = [
        size
        for size in small.sizes[:-1]
        if (seen_by(small, "teacher small", data.validation.images, size, (size,)).argmax(1)
            == labels).sum()
        > (seen_by(small, "teacher small", data.validation.images, size).argmax(1) == labels).sum()
    ]  # fmt: skip
    assert found.enlarge == tuple(better)
    # the rest is of test images
    whole = seen_by(small, "teacher", data.test.images, 32)
    labels = data.test.labels
    right = 100 * float((whole.argmax(1) == labels).double().mean())
    assert found.accuracy["teacher"] == {32: pytest.approx(right)}
    assert set(found.accuracy) == {"teacher", "teacher small", "student"}
    for role in ("teacher small", "student"):
        for table in (found.accuracy, found.divergence, found.same):
            assert tuple(table[role]) == small.sizes
        for size in (4, 8, 14, 32):
            logits = seen_by(small, role, data.test.images, size, found.enlarge)
            right = 100 * float((logits.argmax(1) == labels).double().mean())
            assert found.accuracy[role][size] == pytest.approx(right)
            same = 100 * float((logits.argmax(1) == whole.argmax(1)).double().mean())
            assert found.same[role][size] == pytest.approx(same)
            both = (x.double().softmax(1).numpy() for x in (whole, logits))
            kl = [entropy(p, q) for p, q in zip(*both, strict=True)]
            tenths = np.quantile(kl, np.arange(1, 10) / 10)
            assert found.divergence[role][size] == pytest.approx(tenths.tolist(), abs=1e-4)
    # the limit: five in a hundred validation images are below
    centers = found.centers[small.teacher.id].half().float()
    known = by_loop(feed(small.teacher, data.validation.images)[0], centers)
    assert found.limit == pytest.approx(np.quantile(known, 0.05), abs=1e-5)
    assert sum(k < found.limit for k in known) == 1  # of 18
    new = by_loop(feed(small.teacher, data.test.images)[0], centers)
    assert found.flagged == pytest.approx(100 * np.mean(np.array(new) < found.limit))


def test_measuring_does_not_depend_on_how_the_bench_feeds_its_teacher(small):
    assert_same(measure(Bench(small.models, small.sizes)), measure(small))


def test_a_trial_looks_at_few_images(small):
    found = measure(small, images=25)
    assert found.n == 25
    for by_size in found.accuracy.values():
        for value in by_size.values():
            assert value * 25 / 100 == pytest.approx(round(value * 25 / 100))
    assert_same(measure(small, images=25), found)
    assert_same(measure(small, images=1000), measure(small))


def assert_same(a: reference.Reference, b: reference.Reference) -> None:
    for name in ("accuracy", "divergence", "same", "enlarge", "limit", "flagged", "n"):
        assert getattr(a, name) == getattr(b, name), name
    assert set(a.centers) == set(b.centers)
    for key, value in a.centers.items():
        torch.testing.assert_close(b.centers[key], value, rtol=2**-10, atol=1e-4)


def test_a_reference_is_read_as_it_was_written(small, tmp_path):
    path, found = tmp_path / "reference.safetensors", measure(small)
    assert reference.load(path, small) is None
    reference.save(path, small, found)
    known = reference.load(path, small)
    assert_same(known, found)
    assert all(c.dtype == torch.float32 for c in known.centers.values())
    assert isinstance(known.enlarge, tuple)
    # also by a bench that feeds its teacher otherwise, and in another order
    assert_same(reference.load(path, Bench(small.models[::-1], known.enlarge)), found)
    # of the same picture it says the same as while it was measured
    exhibit = Exhibit("t", small, known, "")
    images = tiny.data().validation.images
    hinted = [show.unfamiliar(exhibit, small.answers(x[None])) for x in images]
    assert sum(hinted) == 1


def test_a_reference_of_other_networks(small, tmp_path):
    path = tmp_path / "reference.safetensors"
    reference.save(path, small, measure(small))
    assert reference.load(path, Bench(small.models[:2])) is None
    more = [*small.models, make(16, 1, classes=small.classes)]
    assert reference.load(path, Bench(more)) is None
    assert reference.load(path, committed("cifar100")[0]) is None
    others = [replace(m, id=m.id[::-1]) for m in small.models]
    assert reference.load(path, Bench(others)) is None
    renamed = [replace(m, key="", name="x") for m in small.models]  # their weights are the same
    assert_same(reference.load(path, Bench(renamed)), reference.load(path, small))
    elsewhere = [replace(m, data="other") for m in small.models]
    assert reference.load(path, Bench(elsewhere)) is None


def test_a_damaged_reference(small, tmp_path):
    path = tmp_path / "reference.safetensors"
    reference.save(path, small, measure(small))
    content = path.read_bytes()
    for bad in (content[:-50], content[:20], b"", b"nothing"):
        path.write_bytes(bad)
        with pytest.raises(HorkdError, match="damaged") as error:
            reference.load(path, small)
        tiny.one_line(error, longest=400)


@pytest.mark.parametrize(
    "content",
    [{}, {"reference": {"accuracy": {}}}, {"reference": 5}, {"reference": {}}, {"reference": None}],
    ids=str,
)
def test_a_reference_of_another_version(content, small, tmp_path):
    path = tmp_path / "reference.safetensors"
    tensors = {m.id: torch.zeros(6, 4) for m in small.models}
    storage.save_tensors(path, tensors, {"data": small.data, **content})
    with pytest.raises(HorkdError, match="is of another version") as error:
        reference.load(path, small)
    assert f"run python -m app.reference {tmp_path}" in tiny.one_line(error, longest=400)


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_reference_of_other_fields(change, small, tmp_path):
    path = tmp_path / "reference.safetensors"
    reference.save(path, small, measure(small))
    tensors, header = storage.load_tensors(path)
    content = header["reference"] | {"speed": 3}
    if change == "fewer":
        content = {k: v for k, v in header["reference"].items() if k != "limit"}
    storage.save_tensors(path, tensors, {"data": small.data, "reference": content})
    with pytest.raises(HorkdError, match="is of another version") as error:
        reference.load(path, small)
    tiny.one_line(error, longest=400)


def keyless(folder: Path, seed: int) -> Bench:
    """Networks whose files say nothing of a record: they may be anybody's."""
    folder = folder / f"keyless-{seed}"
    network = tiny.network("resnet8x0.25", seed)
    export(folder / "t.safetensors", network, key=...)
    student = tiny.network("resnet8x0.25", seed + 1)
    export(folder / "s.safetensors", student, key=..., learned_from="?", degradation={"size": 8})
    return Bench(load_models(folder))


def test_networks_without_a_record_have_their_own_centres(on_six, tmp_path):
    shown = keyless(tmp_path, 0)
    data, found = tiny.data(), measure(shown)
    assert {m.key for m in shown.models} == {""}
    for model in shown.models:
        features = feed(model, model.degradation(data.train.images))[0]
        labels = data.train.labels
        expected = torch.stack([features[labels == c].mean(0) for c in range(tiny.CLASSES)])
        close(found.centers[model.id], expected)


def test_networks_without_a_record_get_no_other_networks_reference(on_six, tmp_path):
    path, shown = tmp_path / "reference.safetensors", keyless(tmp_path, 0)
    reference.save(path, shown, measure(shown))
    assert reference.load(path, keyless(tmp_path, 7)) is None
    assert reference.load(path, keyless(tmp_path, 0)) is not None


@BOTH
def test_committed_references_fit_their_networks(data):
    shown, known = committed(data)
    assert set(known.centers) == {m.id for m in shown.models}
    assert known.n == shown.teacher.test["n"]
    assert known.accuracy["teacher"][32] == pytest.approx(shown.teacher.test["top1"], abs=0.5)
    assert known.accuracy["teacher small"][32] == known.accuracy["teacher"][32]
    assert known.same["teacher small"][32] == 100
    for role, trained in (("student", shown.students), ("alone", shown.alone)):
        for size, model in trained.items():
            assert known.accuracy[role][size] == pytest.approx(model.test["top1"], abs=0.5)
    for role in ROLES[1:]:
        assert tuple(sorted(known.accuracy[role])) == shown.sizes
        assert set(known.divergence[role]) == set(known.same[role]) == set(shown.sizes)
        for deciles in known.divergence[role].values():
            assert len(deciles) == 9
            assert deciles == sorted(deciles)
            assert deciles[0] >= -1e-9
    for model in shown.models:
        width = model(torch.zeros(1, 3, model.input, model.input).byte())[0].shape[1]
        assert known.centers[model.id].shape == (100, width)
        assert known.centers[model.id].isfinite().all()
    assert 3 < known.flagged < 8
    assert set(known.enlarge) <= set(shown.sizes[:-1])


def test_the_committed_accuracy_of_a_student_is_measured_again():
    shown, known = committed("glyphs")
    test = load_dataset("glyphs").test
    logits = torch.cat([shown.outputs("student", x, 8)[3] for x in test.images.split(500)])
    right = 100 * float((logits.argmax(1) == test.labels).double().mean())
    assert right == pytest.approx(known.accuracy["student"][8], abs=0.1)


def test_familiarity_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    x, centers = torch.randn(20, 7, generator=generator), torch.randn(5, 7, generator=generator)
    found = familiarity(x, centers)
    assert found.tolist() == pytest.approx(by_loop(x, centers), abs=1e-5)
    assert (found <= 0).all()
    assert familiarity(centers, centers).abs().max() < 1e-3
    assert familiarity(x[:1], centers[:1]).shape == (1,)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 7.0, 1e3])
def test_familiarity_does_not_depend_on_scale_rotation_or_order(scale):
    generator = torch.Generator().manual_seed(1)
    x, centers = torch.randn(20, 6, generator=generator), torch.randn(5, 6, generator=generator)
    expected = familiarity(x, centers)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    torch.testing.assert_close(familiarity(scale * x, scale * centers), expected)
    torch.testing.assert_close(
        familiarity(x @ turn, centers @ turn), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(familiarity(x.flip(0), centers.flip(0)), expected.flip(0))
    more = torch.cat([centers, 1e3 + centers])  # classes far away change nothing
    torch.testing.assert_close(familiarity(x, more), expected, rtol=1e-3, atol=1e-3)


def test_features_of_zero_are_not_familiar():
    """A network that answers nothing at all: no number may be missing, and no picture known."""
    centers = torch.ones(3, 4)
    found = familiarity(torch.zeros(2, 4), centers)
    assert not found.isnan().any()
    assert (found < -1e6).all()
    assert (familiarity(torch.full((1, 4), 1e-20), centers) < -1e6).all()


# --- the hint, on images unlike those of the data set ----------------------------------------


def colours(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (n, 3, 1, 1)).astype(float)


def strange(n: int = 150, seed: int = 11) -> dict[str, Tensor]:
    """uint8 (n, 3, 32, 32) each, of patterns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1, 1))
    along = np.cos(angle) * x + np.sin(angle) * y
    low = along.min((2, 3), keepdims=True)
    share = (along - low) / (along.max((2, 3), keepdims=True) - low)
    width = rng.integers(2, 9, (n, 1, 1, 1))
    stripes = along // width % 2
    boards = (x // width + y // width) % 2
    first, second = colours(n, rng), colours(n, rng)
    sets = {
        "noise": rng.uniform(0, 255, (n, 3, 32, 32)),
        "colours": first + np.zeros((1, 1, 32, 32)),
        "gradients": first + share * (second - first),
        "stripes": np.where(stripes, first, second),
        "checkerboards": np.where(boards, first, second),
    }
    return {name: torch.from_numpy(v.round().astype(np.uint8)) for name, v in sets.items()}


def hinted(data: str, images: Tensor) -> float:
    """For how many of the images, in percent, the page would show the hint."""
    shown, known = committed(data)
    features = torch.cat([shown.outputs("teacher", x, 32)[2] for x in images.split(250)])
    below = familiarity(features, known.centers[shown.teacher.id]) < known.limit
    return 100 * float(below.double().mean())


@BOTH
def test_most_patterns_get_the_hint(data):
    found = {name: hinted(data, images) for name, images in strange().items()}
    assert min(found.values()) > 50, found
    assert np.mean(list(found.values())) > 75, found


@BOTH
def test_the_page_gives_the_hint_for_the_same_images(data):
    shown, known = committed(data)
    exhibit = Exhibit("t", shown, known, "")
    for images in strange(3).values():
        expected = [hinted(data, x[None]) == 100 for x in images]
        found = [show.unfamiliar(exhibit, shown.answers(x[None])) for x in images]
        assert found == expected
        for x, flagged in zip(images, found, strict=True):
            said = show.doubts(exhibit, shown.answers(x[None]), 16)
            assert len(said) == flagged
            assert all("None of these?" in text and "95 of 100" in text for text in said)


def test_few_glyphs_get_the_hint():
    rate = hinted("glyphs", load_dataset("glyphs").test.images)
    assert rate == pytest.approx(committed("glyphs")[1].flagged, abs=0.2)
    assert hinted("glyphs", load_dataset("glyphs").unseen.images[:300]) > 50


def test_few_photos_get_the_hint():
    held("cifar-100-python")
    test = load_cifar100().test  # not `load_dataset`, which would keep it for all other tests
    rate = hinted("cifar100", test.images[:1000])
    assert rate == pytest.approx(committed("cifar100")[1].flagged, abs=2.1)  # three deviations


def test_drawings_get_the_hint_only_where_they_show_nothing_known():
    shown, known = committed("cifar100")
    exhibit = Exhibit("t", shown, known, "")
    found = {name: show.unfamiliar(exhibit, shown.answers(drawn(name))) for name in EXAMPLES}
    assert [name for name, hinted in found.items() if hinted] == ["a square code"]
    # without a reference nothing is said
    unmeasured = Exhibit("t", shown, None, "")
    answers = shown.answers(drawn("a square code"))
    assert show.unfamiliar(unmeasured, answers) is None
    assert show.doubts(unmeasured, answers, 16) == []


# --- examples --------------------------------------------------------------------------------


def test_the_files_of_the_examples():
    assert len(EXAMPLES) == len(set(EXAMPLES.values())) == 10
    assert {*EXAMPLES.values()} == {*Path(examples.__file__).parent.glob("*.png")}
    for path in EXAMPLES.values():
        picture = read(path)
        assert picture.notes == ()
        assert picture.square.size == (192, 192)
        assert np.asarray(picture.square).std() > 10
    assert sum(path.stat().st_size for path in EXAMPLES.values()) < 100_000


def says(name: str, role: str, size: int) -> str:
    return committed("cifar100")[0].answers(drawn(name))[role][size].top(1)[0][0]


FAIL = ("a bicycle", "a keyboard")


@pytest.mark.parametrize("name", list(EXAMPLES)[:-2])
def test_what_the_page_says_of_the_examples(name):
    label = EXAMPLES[name].stem
    assert says(name, "teacher", 32) == label
    if name in FAIL:
        assert says(name, "student", 16) != label
        return
    assert says(name, "student", 16) == says(name, "student", 8) == label
    assert says(name, "teacher small", 8) != label


def test_both_kinds_of_examples_are_there():
    classes = committed("cifar100")[0].classes
    assert {*FAIL} < {*EXAMPLES}
    assert [name for name, path in EXAMPLES.items() if path.stem not in classes] == [
        "a rainbow", "a square code"
    ]  # fmt: skip


# --- gallery ---------------------------------------------------------------------------------


def test_what_is_at_hand(no_network, monkeypatch, tmp_path):
    monkeypatch.delenv("HORKD_DATA", raising=False)
    assert at_hand("glyphs")
    for name in ("cifar100", "lfw", "cub200", "nonsense"):
        assert not at_hand(name)
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    assert not at_hand("cifar100")
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    assert not at_hand("cifar100")
    (folder / "train").write_bytes(b"not really")
    # whatever is there: one line, and no download
    monkeypatch.setattr(gallery, "load_dataset", lambda name: load_cifar100())
    with pytest.raises(HorkdError, match="incomplete or damaged") as error:
        Gallery(committed("cifar100")[0], lambda *_: None)
    tiny.one_line(error, longest=400)


def test_a_run_whose_class_names_are_not_at_hand(no_network, monkeypatch, tmp_path):
    """They are in the data set, which is not downloaded for that."""
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    records = Path(__file__).parents[1] / "reports" / "cpu-cifar100" / "records"
    record = storage.load_json(next(records.glob("*-resnet14x2-32px-ce-seed0-713eeacdca9f.json")))
    config = config_from_dict(record["config"])
    folder = tmp_path / config.name
    folder.mkdir()
    record.pop("digest", None)
    storage.save_json(folder / "record.json", record)
    with pytest.raises(HorkdError, match="downloads nothing") as error:
        load_models(folder)
    tiny.one_line(error, longest=400)


def test_cifar_is_at_hand_where_its_files_are(no_network):
    held("cifar-100-python")
    assert at_hand("cifar100")


@pytest.fixture
def shown(small, monkeypatch, tmp_path) -> Gallery:
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path / "cache"))
    return Gallery(small, lambda *_: None)


def test_neighbours_equal_brute_force(shown):
    asked, data = shown.bench, tiny.data()
    for i, role, size in itertools.product((0, 7), ("teacher", "teacher small", "student"),
                                           (4, 8, 32)):  # fmt: skip
        answer = asked.answers(data.test.images[i : i + 1])[role][size]
        features = feed(answer.model, answer.model.degradation(data.train.images))[0]
        far = [math.dist(answer.features.tolist(), f) for f in features.half().tolist()]
        expected = sorted(range(len(far)), key=far.__getitem__)[: gallery.NEIGHBOURS]
        found = shown.neighbours(answer)
        mean = sum(far) / len(far)
        assert [n.distance for n in found] == pytest.approx(
            [far[k] / mean for k in expected], abs=1e-3
        )
        gaps = [b - a for a, b in itertools.pairwise(sorted(far)[: gallery.NEIGHBOURS + 1])]
        if min(gaps) > 1e-3 * mean:  # float16: which of two equally near ones comes first is luck
            assert [n.label for n in found] == [
                data.train.classes[data.train.labels[k]] for k in expected
            ]
            for n, k in zip(found, expected, strict=True):
                assert torch.equal(n.image, data.train.images[k])


def test_a_training_image_is_its_own_neighbour(shown):
    data = tiny.data()
    for i in range(0, 48, 7):
        answer = shown.bench.answers(data.train.images[i : i + 1])["teacher"][32]
        first = shown.neighbours(answer)[0]
        assert first.distance < 0.02
        assert first.label == data.train.classes[data.train.labels[i]]


def test_features_are_computed_once(small, monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path))
    told: list[tuple[float, str]] = []
    first = Gallery(small, lambda *news: told.append(news))
    assert [text.rpartition(" as ")[2] for _, text in told] == [
        f"{m.name} sees them" for m in small.models
    ]
    assert [share for share, _ in told] == [i / 3 for i in range(3)]
    (file,) = (tmp_path / "demo").iterdir()
    told.clear()
    second = Gallery(small, lambda *news: told.append(news))
    assert told == []
    for content in (file.read_bytes()[:-9], b""):  # damaged: computed again
        file.write_bytes(content)
        third = Gallery(small, lambda *news: told.append(news))
        assert len(told) == 3
        told.clear()
        storage.load_tensors(file)
        for key, features in first._features.items():
            assert torch.equal(features, second._features[key])
            assert torch.equal(features, third._features[key])
    # other networks have a file of their own
    Gallery(Bench(small.models[:2]), lambda *_: None)
    assert len(list((tmp_path / "demo").iterdir())) == 2


def test_other_images_have_their_own_features(small, monkeypatch, tmp_path):
    """Under the same name, of the same size: a set that was drawn anew."""
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path))
    Gallery(small, lambda *_: None)
    data = tiny.data()
    other = replace(data, train=replace(data.train, images=data.train.images.flip(-1)))
    monkeypatch.setattr(gallery, "load_dataset", lambda name: other)
    made = Gallery(small, lambda *_: None)
    answer = small.answers(other.train.images[:1])["teacher"][32]
    assert torch.equal(made.neighbours(answer)[0].image, other.train.images[0])
    assert made.neighbours(answer)[0].distance < 0.02


def test_networks_without_a_record_have_their_own_features(on_six, monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path))
    data = tiny.data()
    for seed in (0, 7):
        asked = keyless(tmp_path, seed)
        made = Gallery(asked, lambda *_: None)
        for i in range(3):
            answer = asked.answers(data.train.images[i : i + 1])["teacher"][32]
            assert torch.equal(made.neighbours(answer)[0].image, data.train.images[i])


def test_samples_are_drawn_once(small, monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path))
    first, second = (Gallery(small, lambda *_: None, indexed=20, tested=11) for _ in range(2))
    for part, count in (("train", 20), ("test", 11)):
        a, b = getattr(first, part), getattr(second, part)
        assert len(a) == count
        assert torch.equal(a.images, b.images)
        whole = getattr(tiny.data(), part).images
        at = [int((whole == x).flatten(1).all(1).nonzero()[0, 0]) for x in a.images]
        assert at == sorted(set(at))


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_filters_are_what_they_say(shown, size):
    data, asked = tiny.data(), shown.bench
    logits = {role: seen_by(asked, role, data.test.images, size, asked.enlarge)
              for role in ("teacher", "teacher small", "student")}  # fmt: skip
    rule = {
        "student right, teacher fed small wrong": lambda t, s, r: r and not s,
        "teacher right, student wrong": lambda t, s, r: t and not r,
        "student right, teacher wrong": lambda t, s, r: r and not t,
        "all three right": lambda t, s, r: t and s and r,
        "all three wrong": lambda t, s, r: not (t or s or r),
    }
    assert set(rule) == set(FILTERS)
    for which, holds in rule.items():
        expected = []
        for i, label in enumerate(data.test.labels.tolist()):
            right = [int(x[i].argmax()) == label for x in logits.values()]
            if holds(*right):
                expected.append(i)
        found = shown.disagreements(size, which).tolist()
        assert sorted(found) == expected
        sure = [float(logits["student"][i].softmax(0).max()) for i in found]
        assert sure == pytest.approx(sorted(sure, reverse=True), abs=1e-5)
        per_class = [shown.disagreements(size, which, c).tolist() for c in asked.classes]
        for name, part in zip(asked.classes, per_class, strict=True):
            assert part == [i for i in found if data.test.classes[data.test.labels[i]] == name]
        assert Counter(itertools.chain(*per_class)) == Counter(found)


def test_all_answers_of_the_gallery(shown):
    data = tiny.data()
    for role, size in (("teacher", 8), ("teacher small", 8), ("student", 10)):
        classes, sure = shown.answers(role, size)
        p = seen_by(shown.bench, role, data.test.images, size).softmax(1)
        assert torch.equal(classes, p.argmax(1))
        close(sure, p.amax(1))
    assert shown.answers("teacher", 8) is shown.answers("teacher", 32)


def test_the_gallery_of_glyphs(no_network):
    """The real set with the committed networks: one student and few images, so that it is quick."""
    shown = committed("glyphs")[0]
    asked = Bench([shown.teacher, shown.students[16]])
    made = Gallery(asked, lambda *_: None, indexed=1000, tested=300)
    assert (len(made.train), len(made.test)) == (1000, 300)
    right = [len(made.disagreements(16, which)) for which in FILTERS]
    assert right[3] + right[4] < len(made.test)
    share = float((made.answers("student", 16)[0] == made.test.labels).double().mean())
    assert 100 * share == pytest.approx(shown.students[16].test["top1"], abs=7)
    # most neighbours are of the answer's class
    hits = []
    for x in made.test.images[:40]:
        answer = asked.answers(x[None])["teacher"][32]
        hits += [n.label == answer.top(1)[0][0] for n in made.neighbours(answer)]
    assert np.mean(hits) > 0.7


# --- faces -----------------------------------------------------------------------------------


@functools.cache
def known_faces() -> FaceBench:
    found = FaceBench(load_models(FACES))
    found.load(FACES / "reference.safetensors")
    return found


def photo(seed: int, side: int = 250) -> Picture:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return Picture(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def test_the_committed_networks_for_faces():
    shown = known_faces()
    assert list(shown.models) == [16, 32]
    assert shown.full == 112
    assert shown.sizes == faces.SIZES
    for size in shown.sizes:
        assert shown.model_at(size).size == (32 if size >= 32 else 16)
        row = shown.thresholds[shown.model_at(size).id][size]
        assert -1 < row["threshold"] < 1
        assert row["n"] == 300
        for name in ("false_accepts", "false_rejects"):
            assert 0 < row[name] < 50
            assert row[name] * row["n"] / 100 == pytest.approx(round(row[name] * row["n"] / 100))
        verdict = shown.verify(photo(0), photo(1), size, FRAMINGS[0])
        assert verdict == Verdict(shown.model_at(size).name, verdict.similarity, **row)
        assert verdict.same == (verdict.similarity > row["threshold"])


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [8, 16, 20, 32])
def test_verifying(framing, size):
    shown, left, right = known_faces(), photo(2), photo(3)
    found = shown.verify(left, right, size, framing)
    same = shown.verify(left, left, size, framing)
    assert same.similarity == pytest.approx(1, abs=1e-6)
    assert same.same
    other = shown.verify(right, left, size, framing)
    assert other.similarity == pytest.approx(found.similarity, abs=1e-5)
    # by hand
    model = shown.model_at(size)
    features = []
    for picture in (left, right):
        image = Degradation(size)(faces.cut(picture, framing, 112))
        features.append(feed(model, resize(image, model.input))[0][0].double())
    expected = torch.nn.functional.cosine_similarity(*features, dim=0)
    assert found.similarity == pytest.approx(float(expected), abs=1e-5)
    assert torch.equal(shown.seen(left, size, framing),
                       Degradation(size)(faces.cut(left, framing, 112))[0])  # fmt: skip


def test_an_unknown_framing():
    for framing in ("", "whole", None):
        with pytest.raises(HorkdError, match="unknown framing") as error:
            known_faces().verify(photo(0), photo(1), 16, framing)
        assert all(name in tiny.one_line(error, longest=400) for name in FRAMINGS)


def test_what_is_cut_out_is_what_the_networks_learned_from(tmp_path):
    """A photo of LFW's size through the demo and through the data set's own files."""
    for seed in range(3):
        picture = photo(seed)
        picture.square.save(tmp_path / f"{seed}.png")
    files = PhotoFiles(tmp_path, ("0.png", "1.png", "2.png"), torch.zeros(3).long(), ("x",))
    for seed in range(3):
        found = faces.cut(photo(seed), FRAMINGS[0], 112)
        assert found.shape == (1, 3, 112, 112)
        assert found.dtype == torch.uint8
        difference = (found[0].int() - files[seed][0].int()).abs()
        assert difference.max() <= 2
    whole = np.asarray(photo(0).square.resize((112, 112), Image.Resampling.BICUBIC))
    found = faces.cut(photo(0), FRAMINGS[1], 112)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("side", [1, 2, 3, 40, 250, SIDE])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_photos_of_any_size_are_cut(side, framing):
    found = faces.cut(photo(4, side), framing, 112)
    assert found.shape == (1, 3, 112, 112)
    verdict = known_faces().verify(photo(4, side), photo(5, 250), 16, framing)
    assert -1 <= verdict.similarity <= 1


def test_thresholds_are_read_as_they_were_written(tmp_path):
    shown, path = FaceBench(load_models(FACES)), tmp_path / "reference.safetensors"
    assert shown.thresholds == {}
    shown.load(path)  # not there
    assert shown.verify(photo(0), photo(1), 16, FRAMINGS[0]).same is None
    rows = {"a": {8: {"threshold": 0.25, "false_accepts": 1.0, "false_rejects": 2.0, "n": 300}}}
    shown.save(path, rows)
    shown.load(path)
    assert shown.thresholds == rows
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(HorkdError, match="damaged"):
        shown.load(path)


@pytest.mark.parametrize(
    "thresholds", [5, {"a": 5}, {"a": {"many": {}}}, {"MODEL": {"16": {"speed": 3}}}], ids=str
)
def test_thresholds_of_another_version(thresholds, tmp_path):
    shown, path = FaceBench(load_models(FACES)), tmp_path / "reference.safetensors"
    if "MODEL" in str(thresholds):
        thresholds = {shown.model_at(16).id: thresholds["MODEL"]}
    storage.save_tensors(path, {}, {"thresholds": thresholds})
    with suppress(HorkdError):  # one line at the start, or no threshold
        shown.load(path)
        assert shown.verify(photo(0), photo(1), 16, FRAMINGS[0]).same is None


def test_the_threshold_itself_is_not_above():
    found = Verdict("m", 0.5, threshold=0.5)
    assert found.same is False
    assert Verdict("m", 0.5000001, threshold=0.5).same is True
    assert Verdict("m", 1.0).same is None


def test_networks_of_different_photos_are_refused():
    network = Network(ModelSpec("resnet8x0.25", 0, embedding=8)).eval()
    pair = [make(16, full=f, network=network, classes=(), data="lfw") for f in (112, 64)]
    with pytest.raises(HorkdError, match="photos of different sizes") as error:
        FaceBench(pair)
    tiny.one_line(error, longest=400)


def test_a_network_of_large_photos_adds_their_size():
    network = Network(ModelSpec("resnet8x0.25", 0, embedding=8)).eval()
    large = make(112, full=112, network=network, classes=(), data="lfw")
    assert FaceBench([large]).sizes == (*faces.SIZES, 112)
    assert FaceBench([large]).model_at(8) is large
    seen = []
    large.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    shown = FaceBench([large], {large.id: {8: {"threshold": 0.5}}, large.key: {8: {"n": 7}}})
    assert shown.verify(photo(0), photo(0), 8, FRAMINGS[0]).threshold == 0.5
    assert seen == [112]


def test_committed_error_rates_are_measured_again():
    """At 16 pixels, on the tenth of LFW's pairs that the networks have not seen."""
    held("lfw/lfw-deepfunneled")
    lfw, shown = load_lfw(), known_faces()
    model = shown.model_at(16)
    assert model.test["folds"] == [0]
    pairs = of_fold(lfw.pairs, 0)
    used, place = torch.cat([pairs.left, pairs.right]).unique(return_inverse=True)
    images = lfw.faces.load(used)
    features = torch.cat([shown.features(x, 16) for x in images.split(200)])[place]
    left, right = features.split(len(pairs))
    row = shown.thresholds[model.id][16]
    accepted, same = cosine(left, right) > row["threshold"], np.asarray(pairs.same)
    assert int(same.sum()) == row["n"]
    assert 100 * accepted[~same].mean() == pytest.approx(row["false_accepts"], abs=0.4)
    assert 100 * (~accepted)[same].mean() == pytest.approx(row["false_rejects"], abs=0.4)


# --- what is loaded at the start -------------------------------------------------------------


def test_the_default_folders():
    exhibits, found = start.load([REPORTS / name for name in start.DEFAULTS])
    assert [e.bench.data for e in exhibits] == ["cifar100", "glyphs"]
    assert [e.title for e in exhibits] == [start.TITLES[d] for d in ("cifar100", "glyphs")]
    assert list(found.models) == [16, 32]
    assert found.thresholds == known_faces().thresholds
    for exhibit, name in zip(exhibits, start.DEFAULTS, strict=False):
        known = committed(exhibit.bench.data)[1]
        assert_same(exhibit.reference, known)
        assert exhibit.bench.enlarge == set(known.enlarge)
        assert exhibit.source == os.path.relpath(REPORTS / name)


def test_one_folder_several_and_single_files(run_folders, on_six):
    exports = run_folders["student"].parent / "exports"
    ((exhibit,), found) = start.load([exports])
    assert found is None
    assert exhibit.reference is None
    assert exhibit.source == os.path.relpath(exports)
    assert len(exhibit.bench.models) == 3
    ((exhibit,), _) = start.load([exports / "teacher.safetensors", exports / "student.safetensors"])
    assert [m.name for m in exhibit.bench.models] == ["teacher", "student"]
    assert exhibit.source.count("teacher.safetensors, ") == 1
    ((exhibit,), _) = start.load([run_folders["student"]])
    assert [m.size for m in exhibit.bench.models] == [32, 8, 32]
    exhibits, found = start.load([FACES, FOLDERS["glyphs"], FOLDERS["cifar100"]])
    assert [e.bench.data for e in exhibits] == ["glyphs", "cifar100"]
    assert found is not None


def test_a_reference_beside_the_networks_is_used(small, run_folders, tmp_path):
    for file in (run_folders["student"].parent / "exports").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shown = Bench(load_models(tmp_path))
    found = measure(shown)
    reference.save(tmp_path / "reference.safetensors", shown, found)
    ((exhibit,), _) = start.load([tmp_path])
    assert_same(exhibit.reference, found)
    assert exhibit.bench.enlarge == set(found.enlarge)
    (tmp_path / "student.safetensors").unlink()  # then it is of other networks
    ((exhibit,), _) = start.load([tmp_path])
    assert exhibit.reference is None


def test_nothing_to_show(tmp_path):
    for places in ([], [FACES]):
        with pytest.raises(HorkdError, match=r"no classifiers to show.*--models") as error:
            start.load(places)
        tiny.one_line(error, longest=400)
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(HorkdError, match="there is no") as error:
            start.load([place])
        assert str(place) in tiny.one_line(error, longest=400)


def test_a_network_of_metric_learning(tmp_path):
    network = Network(ModelSpec("resnet8x0.25", 0, embedding=8))
    path = tmp_path / "metric.safetensors"
    export(path, network, data="glyphs-disjoint", classes=[], test={"recall": {"1": 50.0}})
    with pytest.raises(HorkdError, match="metric gives features of glyphs-disjoint and no") as e:
        start.load([path])
    tiny.one_line(e, longest=400)
