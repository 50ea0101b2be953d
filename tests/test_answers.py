"""The frozen model's answers kept on disk: the same run, with fewer passes of the frozen model."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from horkd import answers, storage
from horkd.answers import Answers, Remembered
from horkd.data import Batches
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import runner
from horkd.lab.config import RunConfig
from horkd.lab.store import Run
from horkd.networks.network import Output, save_network
from horkd.objectives import Frozen, Objective
from horkd.preprocess import Preprocess
from horkd.training import Diverged

pytestmark = pytest.mark.usefixtures("six_characters")
ON = replace(tiny.SETTINGS, cache="on")
EPOCHS = tiny.RECIPE.epochs
STEPS = EPOCHS * 4


@pytest.fixture(scope="module")
def plain(six_characters, tmp_path_factory) -> Run:
    """The student's run (after its teacher's) without a cache."""
    return tiny.run(tiny.student(), tmp_path_factory.mktemp("plain"))


@pytest.fixture
def with_teacher(plain, tmp_path) -> Path:
    tiny.copy_run(plain.folder.parent, tmp_path, tiny.teacher())
    return tmp_path


def with_cache(config: RunConfig, folder: Path) -> Run:
    return runner.run(config, ON, folder, tiny.CONTROL)


def kept(folder: Path) -> list[Path]:
    return sorted((folder / ".frozen").glob("*/*"))


def assert_same(run: Run, other: Run) -> None:
    """Digests stand for every weight; only settings and seconds may differ."""
    differing = {"settings", "seconds"}
    mine, theirs = (
        {n: v for n, v in tiny.comparable(record).items() if n not in differing}
        for record in (run.record, other.record)
    )
    assert mine == theirs
    a, b = run.network().state_dict(), other.network().state_dict()
    assert all(torch.equal(t, b[name]) for name, t in a.items())


def kd_student(**changes) -> RunConfig:
    return tiny.student(**{"orders": (), "baselines": (("kd", 0.9),), **changes})


# One epoch


def answer(crops: torch.Tensor) -> Output:
    x = crops.float()
    return Output(x.mean((1, 2, 3))[:, None].repeat(1, 3), x[:, :2, 0, 0] * 2)


def batches(n: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (5, 3, 4, 4), generator=generator) for _ in range(n)]


def refuse(crops):
    raise AssertionError("the frozen model was asked")


def test_answers_of_an_epoch_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "deep" / "0.safetensors"
    first = Remembered(path, answer)
    assert not first.read
    given = [first(crops) for crops in batches()]
    assert not path.exists()  # not before the epoch is done
    first.keep()
    again = Remembered(path, refuse)
    assert again.read
    for crops, want in zip(batches(), given, strict=True):
        got = again(crops)
        assert torch.equal(got.features, want.features)
        assert torch.equal(got.logits, want.logits)
        assert torch.equal(want.features, answer(crops).features)
    before = path.read_bytes()
    again.keep()
    assert path.read_bytes() == before


def test_precision_is_kept(tmp_path):
    """Under autocast logits are bf16, features are not."""

    def look(crops):
        return Output(answer(crops).features / 3, (answer(crops).logits / 3).bfloat16())

    path = tmp_path / "0.safetensors"
    first = Remembered(path, look)
    want = [first(crops) for crops in batches()]
    first.keep()
    again = Remembered(path, refuse)
    for crops, w in zip(batches(), want, strict=True):
        got = again(crops)
        assert (got.features.dtype, got.logits.dtype) == (torch.float32, torch.bfloat16)
        assert torch.equal(got.features, w.features)
        assert torch.equal(got.logits, w.logits)


def test_without_a_path_nothing_is_kept():
    answers = Remembered(None, answer)
    for crops in batches():
        assert torch.equal(answers(crops).logits, answer(crops).logits)
    answers.keep()
    assert not answers.read
    assert answers.new == []


@pytest.mark.parametrize("damage", ["half", "bit", "text", "another file of ours"])
def test_a_damaged_file_is_set_aside_and_computed_again(tmp_path, damage):
    path = tmp_path / "0.safetensors"
    first = Remembered(path, answer)
    want = [first(crops) for crops in batches()]
    first.keep()
    whole, digest = path.read_bytes(), storage.tensor_digest(storage.load_tensors(path)[0])
    if damage == "another file of ours":
        storage.save_tensors(path, {"network.weight": torch.ones(3)}, {})
    else:
        flipped = whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]
        path.write_bytes({"half": whole[: len(whole) // 2], "bit": flipped, "text": b"x"}[damage])
    with pytest.warns(UserWarning, match=r"set aside as 0\.safetensors\.damaged") as warned:
        again = Remembered(path, answer)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert not again.read
    for crops, w in zip(batches(), want, strict=True):
        assert torch.equal(again(crops).logits, w.logits)
    again.keep()
    assert storage.tensor_digest(storage.load_tensors(path)[0]) == digest


def test_a_disk_that_refuses_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    answers = Remembered(tmp_path / "file" / "0.safetensors", answer)
    for crops in batches():
        answers(crops)
    with pytest.warns(UserWarning, match="going on without the frozen model's answers: could not"):
        answers.keep()


def noisy(folder: Path | None = None) -> Answers:
    """Answers of a frozen model that sees noise."""
    frozen = Frozen(tiny.network("resnet8x0.5"))
    see = Preprocess.of(frozen.network, tiny.data(), Degradation(16, noise=8))
    return Answers(frozen, see, tiny.SETTINGS, folder)


def of_epoch(told: Answers, seed: int, number: int, maps: bool = False) -> Remembered:
    every = Batches(tiny.data().train, 12, 2, False)
    return told.epoch(number, seed, maps, every, torch.Generator().manual_seed(seed))


def test_answers_are_kept_where_they_are_told_to_and_never_maps(tmp_path):
    assert of_epoch(noisy(), 0, 0).path is None
    told = noisy(tmp_path)
    assert of_epoch(told, 0, 7).path == tmp_path / "7.safetensors"
    assert of_epoch(told, 0, 7, maps=True).path is None
    crops = tiny.data().train.images[:5]
    assert len(of_epoch(told, 0, 7, maps=True)(crops).maps) == 3
    assert of_epoch(told, 0, 7)(crops).maps == ()


def test_remembered_answers_are_those_of_the_frozen_models_own_view(tmp_path):
    """Noise included: it is drawn from the seed of the epoch."""
    told = noisy(tmp_path)
    first = of_epoch(told, 5, 0)
    every = Batches(tiny.data().train, 12, 2, False)
    want = [first(crops) for crops, _ in every.epoch(5)]
    first.keep()
    again = of_epoch(told, 5, 0)
    assert again.read
    noise = torch.Generator().manual_seed(5)
    for (crops, _), w in zip(every.epoch(5), want, strict=True):
        got, seen = again(crops), told.frozen(told.preprocess(crops, noise))
        assert torch.equal(got.features, w.features)
        assert torch.equal(got.features, seen.features)
        assert torch.equal(got.logits, seen.logits)


# Runs


def test_a_run_with_a_cache_ends_as_one_without(plain, with_teacher, passes):
    run = with_cache(tiny.student(), with_teacher)
    assert_same(run, plain)
    assert passes == [12] * STEPS
    assert run.record["seconds"]["frozen_answers_read"] == []
    assert [p.name for p in kept(with_teacher)] == [f"{e}.safetensors" for e in range(EPOCHS)]
    tensors, _ = storage.load_tensors(kept(with_teacher)[0])
    assert tensors["features"].shape == (48, 32)
    assert tensors["logits"].shape == (48, tiny.CLASSES)


def test_a_run_that_reads_ends_as_one_that_looks(plain, with_teacher, passes):
    with_cache(kd_student(), with_teacher)
    before = {p: p.read_bytes() for p in kept(with_teacher)}
    passes.clear()
    run = with_cache(tiny.student(), with_teacher)
    assert_same(run, plain)
    assert passes == []
    assert run.record["seconds"]["frozen_answers_read"] == [1, 2, 3]
    assert {p: p.read_bytes() for p in kept(with_teacher)} == before


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet8x0.5"},
        {"degradation": Degradation(4)},
        {"baselines": (("kd_standardised", 9.0), ("kd", 1.0))},
        {"orders": (("2", 25.0), ("3", 50.0)), "reduction": "rkd"},
        {"temperature": 2.0},
        {"warmup": 1.0},
        {"balance": True},
        {"recipe": replace(tiny.RECIPE, learning_rate=0.05, schedule="cosine")},
    ],
    ids=str,
)
def test_whatever_else_the_learner_does_answers_are_shared(change, with_teacher, passes, tmp_path):
    with_cache(kd_student(), with_teacher)
    passes.clear()
    run = with_cache(kd_student(**change), with_teacher)
    assert run.record["seconds"]["frozen_answers_read"] == [1, 2, 3]
    assert not passes


def test_more_epochs_read_what_is_there(with_teacher, passes):
    with_cache(kd_student(), with_teacher)
    passes.clear()
    longer = kd_student(recipe=replace(tiny.RECIPE, epochs=EPOCHS + 1))
    run = with_cache(longer, with_teacher)
    assert run.record["seconds"]["frozen_answers_read"] == [1, 2, 3]
    assert len(passes) == 4
    assert len(kept(with_teacher)) == EPOCHS + 1


SHORT = replace(tiny.RECIPE, epochs=1)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"recipe": replace(SHORT, batch_size=16)},
        {"recipe": replace(SHORT, crop=1)},
        {"frozen": tiny.teacher(seed=1, recipe=SHORT)},
        {"frozen": tiny.teacher(degradation=Degradation(16, "area"), recipe=SHORT)},
        {"frozen": tiny.teacher(validation=False, recipe=SHORT), "validation": False},
    ],
    ids=["seed", "batch size", "crop", "frozen weights", "frozen view", "images"],
)
def test_answers_to_other_crops_or_of_other_weights_are_not_shared(change, tmp_path, passes):
    teacher = tiny.teacher(recipe=SHORT)
    base = {"frozen": teacher, "recipe": SHORT}
    with_cache(kd_student(**base), tmp_path)
    other = kd_student(**{**base, **change})
    with_cache(other.frozen, tmp_path)
    passes.clear()
    run = with_cache(other, tmp_path)
    assert run.record["seconds"]["frozen_answers_read"] == []
    assert sum(passes) == run.record["training_images"] // other.recipe.batch_size * (
        other.recipe.batch_size
    )
    assert len(kept(tmp_path)) == 2
    assert len({p.parent for p in kept(tmp_path)}) == 2


def test_the_very_weights_count_and_not_the_configuration(with_teacher, passes):
    """A teacher that was trained again on another machine may have other ones."""
    with_cache(kd_student(), with_teacher)
    folder = with_teacher / tiny.teacher().name
    record = storage.load_json(folder / "record.json")
    network = tiny.network("resnet8x0.5", seed=7)
    save_network(folder / "model.safetensors", network, key=tiny.teacher().key)
    record["files"]["model.safetensors"] = storage.tensor_digest(network.state_dict())
    storage.save_json(folder / "record.json", record)
    passes.clear()
    run = with_cache(tiny.student(), with_teacher)
    assert run.record["seconds"]["frozen_answers_read"] == []
    assert len(passes) == STEPS


@pytest.mark.parametrize("field", ["precision", "channels_last"])
def test_answers_of_another_machines_arithmetic_are_not_shared(field, with_teacher, passes):
    config = kd_student(recipe=SHORT)
    with_cache(config, with_teacher)
    passes.clear()
    other = {"precision": "bf16", "channels_last": "off"}[field]
    settings = replace(ON, **{field: other})
    run = runner.run(kd_student(recipe=SHORT, temperature=2.0), settings, with_teacher)
    assert run.record["seconds"]["frozen_answers_read"] == []
    assert len(passes) == 4


@pytest.mark.parametrize("name", ["fitnet", "at"])
def test_losses_on_maps_never_use_the_cache(name, with_teacher, passes):
    config = kd_student(baselines=((name, 1.0), ("kd", 0.9)), recipe=SHORT)
    with_cache(kd_student(recipe=SHORT), with_teacher)  # there would be something to read
    before = kept(with_teacher)
    passes.clear()
    run = with_cache(config, with_teacher)
    assert run.record["seconds"]["frozen_answers_read"] == []
    assert passes == [12] * 4
    assert kept(with_teacher) == before


def test_a_damaged_answer_is_set_aside_and_the_run_ends_the_same(plain, with_teacher, passes):
    with_cache(kd_student(), with_teacher)
    path = kept(with_teacher)[1]
    whole, digest = path.read_bytes(), storage.tensor_digest(storage.load_tensors(path)[0])
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    passes.clear()
    with pytest.warns(UserWarning, match=r"set aside as 1\.safetensors\.damaged"):
        run = with_cache(tiny.student(), with_teacher)
    assert_same(run, plain)
    assert run.record["seconds"]["frozen_answers_read"] == [1, 3]
    assert len(passes) == 4
    assert storage.tensor_digest(storage.load_tensors(path)[0]) == digest


def test_a_full_disk_is_only_a_warning(plain, with_teacher, monkeypatch):
    real = storage.save_file

    def full(tensors, path, metadata=None):
        if ".frozen" in path.parts:
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.warns(UserWarning, match="going on without .* the disk is full"):
        run = with_cache(tiny.student(), with_teacher)
    assert_same(run, plain)
    assert kept(with_teacher) == []


@pytest.mark.parametrize("step", [3, 6, 11])
def test_an_interrupted_run_keeps_whole_epochs_only(plain, with_teacher, step):
    with tiny.before(Objective, tiny.Stop(step)), pytest.raises(KeyboardInterrupt):
        with_cache(tiny.student(), with_teacher)
    whole = (step - 1) // 4
    assert [p.name for p in kept(with_teacher)] == [f"{e}.safetensors" for e in range(whole)]
    run = with_cache(tiny.student(), with_teacher)
    assert_same(run, plain)
    assert len(kept(with_teacher)) == EPOCHS


def test_epochs_that_were_read_are_remembered_over_an_interruption(with_teacher):
    with_cache(kd_student(), with_teacher)
    with tiny.before(Objective, tiny.Stop(10)), pytest.raises(KeyboardInterrupt):
        with_cache(tiny.student(), with_teacher)
    kept(with_teacher)[2].unlink()
    run = with_cache(tiny.student(), with_teacher)
    assert run.record["seconds"]["frozen_answers_read"] == [1, 2]


def test_a_diverging_epoch_is_not_kept(with_teacher):
    recipe = replace(tiny.RECIPE, learning_rate=1e18)
    with pytest.raises(Diverged) as caught:
        with_cache(kd_student(recipe=recipe), with_teacher)
    assert len(kept(with_teacher)) == caught.value.epoch - 1


def test_a_run_without_a_frozen_model_keeps_nothing(tmp_path):
    run = with_cache(tiny.teacher(recipe=SHORT), tmp_path)
    assert run.record["seconds"]["frozen_answers_read"] == []
    assert not (tmp_path / ".frozen").exists()


def test_the_folder_may_be_deleted(plain, with_teacher):
    with_cache(kd_student(), with_teacher)
    for path in kept(with_teacher):
        path.unlink()
        if not list(path.parent.iterdir()):
            path.parent.rmdir()
    (with_teacher / ".frozen").rmdir()
    assert_same(with_cache(tiny.student(), with_teacher), plain)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto keeps nothing beside a GPU")
@pytest.mark.parametrize(
    ("cache", "largest", "keeps"),
    [("off", 2**30, False), ("on", 0, True), ("auto", 2**30, True), ("auto", 0, False)],
)
def test_auto_keeps_what_is_not_too_large(cache, largest, keeps):
    settings = replace(tiny.SETTINGS, cache=cache)
    assert answers.keeps(settings, 2**30, False, largest) is keeps
    assert not answers.keeps(replace(settings, cache="auto"), largest + 1, False, largest)
    assert answers.keeps(replace(settings, cache="auto"), largest + 1, True, largest)


@pytest.mark.parametrize("cache", ["off", "auto"])
def test_a_run_keeps_the_bytes_of_all_its_epochs(cache, with_teacher):
    size = 4 * EPOCHS * 48 * (32 + tiny.CLASSES) if cache == "auto" else 0
    runner.run(tiny.student(), replace(tiny.SETTINGS, cache=cache), with_teacher)
    tensors = [storage.load_tensors(p)[0] for p in kept(with_teacher)]
    assert sum(4 * t.numel() for each in tensors for t in each.values()) == size


# Fixed views


VIEWS = replace(tiny.RECIPE, views=2)


def views_of(folder: Path) -> dict[str, torch.Tensor]:
    return {path.name: storage.load_tensors(path)[0]["features"] for path in kept(folder)
            if path.suffix == ".safetensors"}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_views_are_kept_in_the_precision_that_is_worth_keeping(with_teacher, precision):
    settings = replace(ON, precision=precision)
    runner.run(tiny.student(recipe=VIEWS), settings, with_teacher)
    found = views_of(with_teacher)
    assert sorted(found) == ["view-0.safetensors", "view-1.safetensors"]
    kinds = {features.dtype for features in found.values()}
    assert kinds == {torch.float16 if precision == "bf16" else torch.float32}


def test_numbers_too_large_for_float16_stay_float32(tmp_path):
    big = torch.tensor([[7e4, 1.0]])
    got = answers.of_view(
        tmp_path / "view-0.safetensors", lambda a, b: Output(big, big / 1e4), 1, half=True
    )
    assert (got.features.dtype, got.logits.dtype) == (torch.float32, torch.float16)
    assert torch.equal(got.features, big)


def test_a_view_is_computed_in_parts_and_goes_on_from_the_last_one(tmp_path):
    path, asked = tmp_path / "view-0.safetensors", []
    numbers = torch.arange(37.0)[:, None]

    def look(first: int, last: int, fail: int = -1) -> Output:
        asked.append((first, last))
        if first == fail:
            raise KeyboardInterrupt
        return Output(numbers[first:last] * 2, numbers[first:last])

    with pytest.raises(KeyboardInterrupt):
        answers.of_view(path, lambda a, b: look(a, b, 20), 37, half=False, part=10)
    assert not path.exists()
    got = answers.of_view(path, look, 37, half=False, part=10)
    assert asked == [(0, 10), (10, 20), (20, 30), (20, 30), (30, 37)]
    assert torch.equal(got.features, numbers * 2)
    assert torch.equal(got.logits, numbers)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["view-0.lock", "view-0.safetensors"]


def test_a_damaged_part_is_computed_again(tmp_path):
    path, numbers = tmp_path / "v.safetensors", torch.arange(4.0)[:, None]

    def broken(first: int, last: int) -> Output:
        if first:
            raise KeyboardInterrupt
        return Output(numbers[first:last], numbers[first:last])

    with pytest.raises(KeyboardInterrupt):
        answers.of_view(path, broken, 4, half=False, part=2)
    (part,) = tmp_path.glob("v.0-2.safetensors")
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="damaged"):
        got = answers.of_view(
            path, lambda a, b: Output(numbers[a:b], numbers[a:b]), 4, half=False, part=2
        )
    assert torch.equal(got.features, numbers)


def test_too_small_a_disk_is_refused_before_anything_is_computed(with_teacher, monkeypatch, passes):
    monkeypatch.setattr(answers, "free_bytes", lambda folder: 1000)
    with pytest.raises(HorkdError, match=r"take .* GB in .*, and the disk has 0\.00 GB") as error:
        runner.run(tiny.student(recipe=VIEWS), ON, with_teacher)
    assert "\n" not in str(error.value)
    assert passes == []
    assert not kept(with_teacher)
    assert runner.run(tiny.student(recipe=VIEWS), tiny.SETTINGS, with_teacher)  # cache off


def test_the_size_that_is_asked_of_the_disk_is_that_of_the_files(with_teacher):
    runner.run(tiny.student(recipe=VIEWS), replace(ON, precision="bf16"), with_teacher)
    numbers = sum(t.nbytes for path in kept(with_teacher) if path.suffix == ".safetensors"
                  for t in storage.load_tensors(path)[0].values())  # fmt: skip
    assert 2 * answers.view_size(48, 32 + tiny.CLASSES, half=True) == numbers


def test_what_is_there_already_needs_no_room(tmp_path):
    (tmp_path / "a").write_bytes(bytes(10**6))
    free = answers.free_bytes(tmp_path / "not there yet")
    answers.require_space(tmp_path, free + 10**6)
    with pytest.raises(HorkdError, match="make room"):
        answers.require_space(tmp_path, 2 * free + 10**9)
