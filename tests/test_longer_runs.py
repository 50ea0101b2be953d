"""What long queues of runs need: views, divergence on record, deadlines, locks, fields."""

import fcntl
import itertools
import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from horkd import predict as predict_
from horkd import storage
from horkd.baselines import NAMES
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import runner
from horkd.lab.checkpoint import Control, TimeUp
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.looks import at_resolutions
from horkd.lab.store import Run, diverged, read
from horkd.machine import commit, versions
from horkd.networks.network import ModelSpec, Network, save_network
from horkd.objectives import Frozen, Objective
from horkd.protocols.classification import Classification
from horkd.storage import Busy
from horkd.studies.presets import get_preset
from horkd.studies.study import configure, study
from horkd.training import Diverged

pytestmark = pytest.mark.usefixtures("six_characters")
VIEWS = (Degradation(8), Degradation(16), Degradation(8, "area"), Degradation(4, upsample=True))


@pytest.fixture
def steps() -> Iterator[list[float]]:
    """The ramp of each training step."""
    ramps = []
    with tiny.before(Objective, lambda module, inputs: ramps.append(inputs[3])):
        yield ramps


class Watched(Classification):
    """Notes every degradation that a network is tested on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Degradation] = []

    def score(self, network, images, channels, degradation):
        self.seen.append(degradation)
        return super().score(network, images, channels, degradation)


@pytest.fixture
def scored() -> Iterator[list[Degradation]]:
    """Every degradation that a network is tested on."""
    protocol = Watched()
    with tiny.registered(lambda name, per_class: replace(tiny.load(name), protocol=protocol)):
        yield protocol.seen


@pytest.fixture(scope="module")
def whole(six_characters, tmp_path_factory) -> Run:
    """The student's run (after its teacher's), never interrupted."""
    return tiny.run(tiny.student(), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def with_teacher(whole, tmp_path) -> Path:
    tiny.copy_run(whole.folder.parent, tmp_path, tiny.teacher())
    return tmp_path


@pytest.fixture
def finished(whole, with_teacher) -> Run:
    """A copy of the student's run, to leave views in."""
    tiny.copy_run(whole.folder.parent, with_teacher, tiny.student())
    return read(tiny.student(), with_teacher)


def assert_same(run: Run, whole: Run) -> None:
    """Digests stand for every weight."""
    assert tiny.comparable(run.record) == tiny.comparable(whole.record)
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}


# Views


def expected(finished: Run, degradation: Degradation) -> dict:
    """Counted image by image."""
    data, network, hits = tiny.data(), finished.network(), [0, 0]
    for index, label in enumerate(data.test.labels.tolist()):
        image = data.test.images[index : index + 1]
        logits = predict_.predict(network, image, data, degradation).logits[0].tolist()
        order = sorted(range(tiny.CLASSES), key=lambda c: -logits[c])
        hits[0] += order[0] == label
        hits[1] += label in order[:5]
    n = len(data.test.labels)
    return {"top1": 100 * hits[0] / n, "top5": 100 * hits[1] / n, "n": n}


def test_views_are_what_a_test_on_such_images_gives(finished):
    data, network = tiny.data(), finished.network()
    got = at_resolutions(finished, VIEWS, tiny.SETTINGS)
    assert got == [data.protocol.score(network, data.test, data, view) for view in VIEWS]
    assert got == [pytest.approx(expected(finished, view)) for view in VIEWS]
    assert got[0] == finished.record["results"]["test"]  # its own view


def test_views_are_computed_once_and_then_read(finished, scored):
    first = at_resolutions(finished, VIEWS[:2], tiny.SETTINGS)
    assert scored == list(VIEWS[:2])
    text = (finished.folder / "views.json").read_text()
    scored.clear()
    assert at_resolutions(finished, VIEWS[:2], tiny.SETTINGS) == first
    assert at_resolutions(read(tiny.student(), finished.folder.parent), VIEWS[:2]) == first
    assert not scored
    assert (finished.folder / "views.json").read_text() == text


def test_only_what_is_missing_is_computed_in_any_order(finished, scored):
    a, b = at_resolutions(finished, (VIEWS[1], VIEWS[0]), tiny.SETTINGS)
    assert at_resolutions(finished, VIEWS[:3], tiny.SETTINGS)[:2] == [b, a]
    assert scored == [VIEWS[1], VIEWS[0], VIEWS[2]]
    assert at_resolutions(finished, [VIEWS[0]] * 2, tiny.SETTINGS) == [b, b]
    assert at_resolutions(finished, [], tiny.SETTINGS) == []
    content = storage.load_json(finished.folder / "views.json")
    assert content["key"] == finished.config.key
    assert len(content["views"]) == 3


@pytest.mark.parametrize("damage", ["half", "digit", "list"])
def test_damaged_views_are_set_aside_and_done_again(finished, scored, damage):
    want = at_resolutions(finished, VIEWS[:2], tiny.SETTINGS)
    path = finished.folder / "views.json"
    text = path.read_text()
    changed = text.replace('"top1": ', '"top1": 9', 1)
    path.write_text({"half": text[: len(text) // 2], "digit": changed, "list": "[]\n"}[damage])
    damaged = path.read_text()
    scored.clear()
    with pytest.warns(UserWarning, match=r"set aside as views\.json\.damaged") as warned:
        assert at_resolutions(finished, VIEWS[:2], tiny.SETTINGS) == want
    assert len(warned) == 1
    assert scored == list(VIEWS[:2])
    assert path.read_text() == text
    assert (finished.folder / "views.json.damaged").read_text() == damaged


def test_views_of_other_weights_are_ignored(finished, scored):
    """The same configuration trained again elsewhere: views.json is whole but stale."""
    at_resolutions(finished, VIEWS[:2], tiny.SETTINGS)
    network = Network(ModelSpec("resnet8x0.25", tiny.CLASSES))
    save_network(finished.folder / "model.safetensors", network, key=finished.config.key)
    record = storage.load_json(finished.folder / "record.json")
    record["files"]["model.safetensors"] = storage.tensor_digest(network.state_dict())
    storage.save_json(finished.folder / "record.json", record)
    again = read(finished.config, finished.folder.parent)
    scored.clear()
    (got,) = at_resolutions(again, VIEWS[:1], tiny.SETTINGS)
    assert scored == [VIEWS[0]]
    assert got == pytest.approx(expected(again, VIEWS[0]))
    content = storage.load_json(finished.folder / "views.json")
    assert content["files"] == record["files"]
    assert len(content["views"]) == 1


def test_looking_leaves_the_run_as_it_was(finished):
    before = {p.name: p.read_bytes() for p in finished.folder.iterdir()}
    at_resolutions(finished, VIEWS, tiny.SETTINGS)
    after = {p.name: p.read_bytes() for p in finished.folder.iterdir()}
    assert after.pop("views.json")
    assert after == before
    assert read(finished.config, finished.folder.parent).record == finished.record
    assert not list(finished.folder.glob(".*"))


def test_a_view_above_the_datas_resolution_is_one_line_and_keeps_the_others(finished):
    want = at_resolutions(finished, VIEWS[:1], tiny.SETTINGS)
    with pytest.raises(HorkdError) as caught:
        at_resolutions(finished, (VIEWS[0], Degradation(33)), tiny.SETTINGS)
    assert "\n" not in str(caught.value)
    assert at_resolutions(finished, VIEWS[:1], tiny.SETTINGS) == want


# Divergence


HOT = replace(tiny.RECIPE, learning_rate=1e18)


def test_a_run_that_diverged_is_on_record_and_is_not_tried_again(with_teacher, steps):
    config = tiny.student(recipe=HOT)
    assert diverged(config, with_teacher) is None
    with pytest.raises(Diverged, match="the loss is not finite in epoch") as first:
        tiny.run(config, with_teacher)
    folder = with_teacher / config.name
    assert [p.name for p in folder.iterdir()] == ["diverged.json"]  # no state is left
    note = diverged(config, with_teacher)
    assert note == storage.load_json(folder / "diverged.json")
    assert (note["key"], note["name"]) == (config.key, config.name)
    assert note["epoch"] == first.value.epoch
    assert config_from_dict(note["config"]) == config
    values = {name: float(value) for name, value in note["terms"].items()}
    assert set(values) == {"loss", "cross_entropy", "order1", "order2", "order3", "order_c"}
    assert not all(map(math.isfinite, values.values()))
    assert {"machine", "versions", "commit"} <= set(note)
    steps.clear()
    with pytest.raises(Diverged) as second:
        tiny.run(config, with_teacher)
    assert not steps
    assert second.value.epoch == first.value.epoch
    assert repr(sorted(second.value.terms.items())) == repr(sorted(first.value.terms.items()))
    assert read(config, with_teacher) is None


def nan_from(step: int):
    """A loss that is no number from a step on."""
    left = [step]

    def spoilt(module, inputs, terms):
        left[0] -= 1
        return {**terms, "loss": terms["loss"] * math.nan} if left[0] < 0 else terms

    return tiny.after(Objective, spoilt)


def test_divergence_after_a_saved_epoch_leaves_no_state(with_teacher):
    with nan_from(9), pytest.raises(Diverged) as caught:
        tiny.run(tiny.student(), with_teacher)
    assert caught.value.epoch == 3
    folder = with_teacher / tiny.student().name
    assert [p.name for p in folder.iterdir()] == ["diverged.json"]
    assert diverged(tiny.student(), with_teacher)["terms"]["loss"] == "nan"


def test_without_its_note_a_run_is_tried_again(whole, with_teacher):
    with nan_from(2), pytest.raises(Diverged):
        tiny.run(tiny.student(), with_teacher)
    (with_teacher / tiny.student().name / "diverged.json").unlink()
    assert_same(tiny.run(tiny.student(), with_teacher), whole)


def test_a_teacher_that_diverged_stops_its_students_at_once(tmp_path, steps):
    teacher = tiny.teacher(recipe=HOT)
    for seed in (3, 4):
        with pytest.raises(Diverged):
            tiny.run(tiny.student(frozen=teacher, seed=seed), tmp_path)
    assert len(steps) <= 12
    assert diverged(teacher, tmp_path)
    assert diverged(tiny.student(frozen=teacher), tmp_path) is None


def test_a_finished_run_has_not_diverged(whole):
    assert diverged(whole.config, whole.folder.parent) is None


def test_the_note_of_another_configuration_does_not_count(whole, with_teacher):
    folder = with_teacher / tiny.student().name
    folder.mkdir()
    note = {"key": "0" * 12, "epoch": 1, "terms": {"loss": "nan"}}
    storage.save_json(folder / "diverged.json", note)
    assert diverged(tiny.student(), with_teacher) is None
    run = tiny.run(tiny.student(), with_teacher)
    assert tiny.comparable(run.record) == tiny.comparable(whole.record)


def test_a_damaged_note_is_set_aside_and_the_run_tried_again(whole, with_teacher):
    folder = with_teacher / tiny.student().name
    folder.mkdir()
    (folder / "diverged.json").write_text('{"epoch": 1')
    with pytest.warns(UserWarning, match=r"set aside as diverged\.json\.damaged"):
        run = tiny.run(tiny.student(), with_teacher)
    assert tiny.comparable(run.record) == tiny.comparable(whole.record)


# Deadlines


def test_a_run_stops_at_its_deadline_and_goes_on_later(whole, with_teacher, steps):
    """Even without time an epoch is done: every call gets further."""
    past, config = time.monotonic() - 1, tiny.student()
    folder = with_teacher / config.name
    for epoch in (1, 2):
        with pytest.raises(TimeUp, match=f"time is up after epoch {epoch} of 3 of") as caught:
            runner.run(config, tiny.SETTINGS, with_teacher, control=Control(deadline=past))
        assert "\n" not in str(caught.value)
        assert len(steps) == 4 * epoch
        assert [p.name for p in folder.iterdir()] == ["state.safetensors"]
        assert storage.load_tensors(folder / "state.safetensors")[1]["epoch"] == epoch
        assert read(config, with_teacher) is None
    run = runner.run(config, tiny.SETTINGS, with_teacher, control=Control(deadline=past))
    assert len(steps) == 12
    assert_same(run, whole)
    assert len(run.record["seconds"]["epochs"]) == 3


def test_the_state_is_saved_at_a_deadline_however_recent_the_last_one(whole, with_teacher, steps):
    with pytest.raises(TimeUp):
        tiny.run(tiny.student(), with_teacher, deadline=time.monotonic(), save_every=1e9)
    steps.clear()
    assert_same(tiny.run(tiny.student(), with_teacher), whole)
    assert len(steps) == 8


def test_a_deadline_far_away_changes_nothing(whole, with_teacher):
    later = time.monotonic() + 1e6
    assert_same(
        runner.run(tiny.student(), tiny.SETTINGS, with_teacher, control=Control(deadline=later)),
        whole,
    )


@pytest.mark.parametrize(("deadline", "done"), [(9.9, 1), (10.0, 3)])
def test_an_epoch_that_would_not_end_by_the_deadline_is_not_begun(
    with_teacher, monkeypatch, steps, deadline, done
):
    """By a clock that stands still, with epochs of ten seconds."""
    epochs = itertools.count(0, 10)
    monkeypatch.setattr(
        "horkd.training.time", SimpleNamespace(perf_counter=lambda: float(next(epochs)))
    )
    with pytest.raises(TimeUp, match="after epoch 1 of 3") if done == 1 else nullcontext():
        tiny.run(tiny.student(), with_teacher, deadline=deadline, clock=lambda: 0.0)
    assert len(steps) == 4 * done


def test_a_finished_run_is_read_after_the_deadline(whole):
    run = runner.run(
        whole.config, tiny.SETTINGS, whole.folder.parent, control=Control(deadline=0.0)
    )
    assert run.record == whole.record


def test_a_deadline_also_holds_for_the_teacher(whole, tmp_path, steps):
    for done in (4, 8):
        with pytest.raises(TimeUp, match=tiny.teacher().name):
            runner.run(tiny.student(), tiny.SETTINGS, tmp_path, control=Control(deadline=0.0))
        assert len(steps) == done
    with pytest.raises(TimeUp, match=tiny.student().name):
        runner.run(tiny.student(), tiny.SETTINGS, tmp_path, control=Control(deadline=0.0))
    assert_same(tiny.run(tiny.student(), tmp_path), whole)


@pytest.mark.parametrize(
    "change",
    [
        {"balance": True, "warmup": 2.5},
        {"orders": (), "baselines": (("fitnet", 1.0), ("at", 10.0)), "warmup": 0.5},
    ],
    ids=["balance", "maps"],
)
def test_factors_regressor_and_ramp_go_on_where_they_were(change, with_teacher, tmp_path, steps):
    config = tiny.student(**change)
    source, parts = with_teacher, tmp_path / "parts"
    tiny.copy_run(source, parts, tiny.teacher())
    run = tiny.run(config, source)
    ramps = steps.copy()
    steps.clear()
    for _ in (1, 2):
        with pytest.raises(TimeUp):
            runner.run(config, tiny.SETTINGS, parts, control=Control(deadline=0.0))
    assert_same(tiny.run(config, parts), run)
    assert steps == ramps
    extras, _ = storage.load_tensors(run.folder / "objective.safetensors")
    assert {"factor_order2", "baselines.regressor.weight"} & set(extras)


# Locks


def held(folder: Path, config: RunConfig):
    """The lock of a configuration, as another process would hold it."""
    path = folder / ".locks" / f"{config.key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_a_run_that_is_at_work_elsewhere_is_busy(whole, with_teacher, steps):
    config = tiny.student()
    with held(with_teacher, config):
        with pytest.raises(Busy, match=f"another process is at work on {config.key}") as caught:
            runner.run(config, tiny.SETTINGS, with_teacher, control=Control(wait=False))
        assert "\n" not in str(caught.value)
        assert not steps
        assert not (with_teacher / config.name).exists()
    assert_same(runner.run(config, tiny.SETTINGS, with_teacher, control=Control(wait=False)), whole)


def test_a_run_whose_teacher_is_at_work_elsewhere_is_busy(tmp_path, steps):
    with (
        held(tmp_path, tiny.teacher()),
        pytest.raises(Busy, match=tiny.teacher().key),
    ):
        runner.run(tiny.student(), tiny.SETTINGS, tmp_path, control=Control(wait=False))
    assert not steps


def test_another_configuration_is_not_busy(with_teacher):
    with held(with_teacher, tiny.student(seed=99)):
        config = tiny.student(recipe=replace(tiny.RECIPE, epochs=1))
        runner.run(config, tiny.SETTINGS, with_teacher, control=Control(wait=False))


def test_a_lock_is_given_back_after_time_is_up_or_divergence(with_teacher):
    with pytest.raises(TimeUp):
        runner.run(tiny.student(), tiny.SETTINGS, with_teacher, control=Control(deadline=0.0))
    runner.run(tiny.student(), tiny.SETTINGS, with_teacher, control=Control(wait=False))
    for _ in (1, 2):
        with pytest.raises(Diverged):
            runner.run(
                tiny.student(recipe=HOT), tiny.SETTINGS, with_teacher, control=Control(wait=False)
            )


def test_what_is_raised_is_a_line_for_users():
    assert issubclass(TimeUp, HorkdError)
    assert issubclass(Busy, HorkdError)
    assert issubclass(Diverged, HorkdError)


# Fields of a configuration


def test_keys_are_as_before_the_new_fields():
    """Hours of training are found by these."""
    preset = get_preset("cpu")
    arms = study(preset, "two_stage")
    assert configure(preset, arms["teacher"]).key == "713eeacdca9f"
    assert configure(preset, arms["student"]).key == "01830f9f5c89"


NEW_FIELDS = {
    "baselines": (("kd", 0.9),),
    "temperature": 3.0,
    "balance": True,
    "warmup": 1.5,
}


def test_every_new_field_changes_the_key_unless_at_its_default():
    base = tiny.student()
    defaults = {"baselines": (), "temperature": None, "balance": False, "warmup": 0.0}
    assert tiny.student(**defaults) == base
    assert tiny.student(**defaults).key == base.key
    keys = [replace(base, **{name: value}).key for name, value in NEW_FIELDS.items()]
    assert len({base.key, *keys}) == 1 + len(keys)
    assert replace(base, warmup=0).key == base.key
    both = [tiny.student(baselines=(("kd", w),), warmup=w, temperature=w) for w in (2, 2.0)]
    assert both[0].key == both[1].key


def test_new_fields_round_trip_through_json():
    config = tiny.student(**NEW_FIELDS)
    text = json.dumps(asdict(config))
    again = config_from_dict(json.loads(text))
    assert again == config
    assert again.key == config.key
    old = {n: v for n, v in asdict(tiny.student()).items() if n not in NEW_FIELDS}
    assert config_from_dict(json.loads(json.dumps(old))) == tiny.student()


@pytest.mark.parametrize(
    ("change", "role"),
    [
        ({"orders": (), "baselines": (("kd", 0.9),)}, "kd"),
        ({"orders": (), "baselines": (("fitnet", 1.0), ("at", 1.0))}, "fitnet+at"),
        ({"orders": (("2", 1.0), ("C", 1.0)), "baselines": (("kd", 0.9),)}, "2C+kd"),
        ({}, "123C"),
        ({"orders": ()}, "ce"),
    ],
)
def test_a_runs_name_says_what_it_distils(change, role):
    config = tiny.student(**change)
    assert config.name == f"glyphs-resnet8x0.25-8px-{role}-seed3-{config.key}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"frozen": None, "orders": (), "baselines": (("kd", 1.0),)}, "needs a frozen model"),
        ({"baselines": (("crd", 1.0),)}, "unknown baseline 'crd': choose from kd"),
        ({"baselines": (("kd", -1.0),)}, "the weight of kd is -1.0; it must be 0 or more"),
        ({"temperature": 0.0}, "the temperature must be positive, got 0.0"),
        (
            {"orders": (), "baselines": (("kd", 0.0),), "cross_entropy": 0.0},
            "nothing to minimise: give cross_entropy, an order or a baseline a weight",
        ),
        ({"balance": True, "cross_entropy": 0.0}, "balance needs a cross-entropy"),
        ({"warmup": -0.5}, "warmup must lie in 0 to 3 epochs, got -0.5"),
        ({"warmup": 3.5}, "warmup must lie in 0 to 3 epochs, got 3.5"),
        ({"warmup": math.nan}, "warmup must lie in 0 to 3 epochs, got nan"),
    ],
)
def test_bad_configurations(change, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        tiny.student(**change)
    assert "\n" not in str(caught.value)


def test_a_baseline_alone_is_something_to_minimise():
    tiny.student(orders=(), baselines=(("kd", 1.0),), cross_entropy=0.0)
    tiny.student(warmup=3)


# What the fields do


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.5, 3.0])
def test_the_ramp_rises_linearly_over_the_warm_up(warmup, with_teacher, steps):
    """Twelve steps, four an epoch; full from the warm-up's last step on."""
    run = tiny.run(tiny.student(orders=(("2", 25.0),), warmup=warmup), with_teacher)
    last = 4 * warmup
    expected = [min(1.0, step / last) if last else 1.0 for step in range(1, 13)]
    assert steps == pytest.approx(expected)
    for epoch, entry in enumerate(run.record["history"]):
        mine, terms = steps[4 * epoch : 4 * epoch + 4], entry["terms"]
        least = terms["cross_entropy"] + 25 * min(mine) * terms["order2"]
        most = terms["cross_entropy"] + 25 * max(mine) * terms["order2"]
        assert least - 1e-5 <= terms["loss"] <= most + 1e-5


def test_the_first_epoch_weighs_terms_by_its_steps(with_teacher):
    logged = []

    def seen(module, inputs, terms):
        logged.append({name: term.item() for name, term in terms.items()})

    with tiny.after(Objective, seen):
        tiny.run(tiny.student(orders=(), baselines=(("kd", 3.0),), warmup=2.0), with_teacher)
    for step, terms in enumerate(logged[:8], 1):
        whole = terms["cross_entropy"] + step / 8 * 3.0 * terms["kd"]
        assert terms["loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_trains_a_student_from_logged_terms(name, with_teacher):
    # mkd_absolute compares features of equal width, and is refused elsewhere in one line
    model = "resnet8x0.5" if name == "mkd_absolute" else "resnet8x0.25"
    config = tiny.student(
        model=model, orders=(), baselines=((name, 2.0),), recipe=replace(tiny.RECIPE, epochs=1)
    )
    run = tiny.run(config, with_teacher)
    (entry,) = run.record["history"]
    terms = entry["terms"]
    assert set(terms) == {"loss", "cross_entropy", name}
    assert terms["loss"] == pytest.approx(terms["cross_entropy"] + 2 * terms[name], rel=1e-5)
    assert terms[name] > 0
    assert set(entry["gradient_shares"]) == {"cross_entropy", name}
    assert (entry["gradient_shares"][name] == 0) == (name in ("fitnet", "at"))
    assert set(run.network().state_dict()) == set(tiny.network().state_dict())
    assert (run.folder / "objective.safetensors").exists() == (name == "fitnet")


def test_the_regressor_joins_middle_maps_of_unlike_networks(tmp_path):
    """Five stages against three: the middle one of the last three, counted from the end."""
    recipe = replace(tiny.RECIPE, epochs=1)
    teacher = tiny.teacher(model="vgg11x0.05", recipe=recipe)
    config = tiny.student(
        frozen=teacher, orders=(), baselines=(("fitnet", 1.0), ("at", 1.0)), recipe=recipe
    )
    run = tiny.run(config, tmp_path)
    extras, _ = storage.load_tensors(run.folder / "objective.safetensors")
    weight = extras["baselines.regressor.weight"]
    frozen = Network(ModelSpec("vgg11x0.05", 2)).channels
    assert weight.shape == (frozen[3], tiny.network().channels[1], 1, 1)
    back = tiny.student(
        model="vgg11x0.05", frozen=tiny.teacher(recipe=recipe), recipe=recipe,
        orders=(), baselines=(("fitnet", 1.0), ("at", 1.0)),
    )  # fmt: skip
    extras, _ = storage.load_tensors(tiny.run(back, tmp_path).folder / "objective.safetensors")
    assert extras["baselines.regressor.weight"].shape[:2] == (16, frozen[3])


def test_the_temperature_reaches_the_loss(with_teacher):
    recipe = replace(tiny.RECIPE, epochs=1, learning_rate=1e-12)
    found = {}
    for temperature in (None, 4.0, 0.1):
        config = tiny.student(
            orders=(), baselines=(("kd", 1.0),), temperature=temperature, recipe=recipe
        )
        run = tiny.run(config, with_teacher)
        found[temperature] = run.record["history"][0]["terms"]["kd"]
    assert found[None] == pytest.approx(found[4.0], rel=1e-3)  # a small number after T²
    # With small logits T² KL hardly depends on a T of 1 or above, so take one far below.
    assert found[None] != pytest.approx(found[0.1], rel=0.1)


def test_balanced_orders_have_the_share_of_the_gradient_that_they_are_given(with_teacher):
    """Beside a loss whose weight is its own."""
    recipe = replace(tiny.RECIPE, epochs=1)
    config = tiny.student(
        orders=(("2", 0.5), ("3", 2.0)), baselines=(("kd", 2.0),), balance=True, recipe=recipe
    )
    run = tiny.run(config, with_teacher)
    shares = run.record["history"][0]["gradient_shares"]
    own = shares["cross_entropy"]
    assert shares["order2"] == pytest.approx(0.5 * own, rel=1e-4)
    assert shares["order3"] == pytest.approx(2 * own, rel=1e-4)
    assert 0 < shares["kd"] != pytest.approx(2 * own, rel=0.1)
    extras, _ = storage.load_tensors(run.folder / "objective.safetensors")
    assert set(extras) == {"factor_order2", "factor_order3"}
    assert all(factor > 0 for factor in extras.values())


def test_the_same_fields_train_the_same_network_twice(with_teacher, tmp_path):
    config = tiny.student(
        baselines=(("kd", 0.9),), balance=True, warmup=1.0, recipe=replace(tiny.RECIPE, epochs=2)
    )
    other = tmp_path / "other"
    tiny.copy_run(with_teacher, other, tiny.teacher())
    assert_same(tiny.run(config, other), tiny.run(config, with_teacher))


def test_a_frozen_model_that_is_only_a_start_is_not_asked(tmp_path):
    """Labels only, from the frozen weights: nothing depends on what it would say."""
    teacher = tiny.teacher()
    config = tiny.teacher(frozen=teacher, start="frozen", degradation=Degradation(8))
    tiny.run(teacher, tmp_path)
    calls = []
    with tiny.before(Frozen, lambda *_: calls.append(1)):
        record = tiny.run(config, tmp_path).record
    assert calls == []
    assert set(record["history"][0]["gradient_shares"]) == {"cross_entropy"}


# States of other commits and in other precision


def half_way(folder: Path) -> Path:
    with pytest.raises(TimeUp):
        runner.run(tiny.teacher(), tiny.SETTINGS, folder, Control(deadline=0.0))
    return folder / tiny.teacher().name / "state.safetensors"


def test_a_state_from_before_a_field_was_added_is_taken_up(tmp_path, whole, steps):
    path = half_way(tmp_path)
    tensors, metadata = storage.load_tensors(path)
    del metadata["config"]["trial"], metadata["config"]["recipe"]["progressive"]
    storage.save_tensors(path, tensors, metadata)
    steps.clear()
    run = tiny.run(tiny.teacher(), tmp_path)
    assert len(steps) == 8  # of 12
    assert run.record["files"] == read(tiny.teacher(), whole.folder.parent).record["files"]


@pytest.mark.parametrize("change", [{"seed": 5}, {"colour": "red"}])
def test_a_state_of_another_configuration_is_set_aside(tmp_path, steps, change):
    path = half_way(tmp_path)
    tensors, metadata = storage.load_tensors(path)
    storage.save_tensors(path, tensors, {**metadata, "config": {**metadata["config"], **change}})
    steps.clear()
    with pytest.warns(UserWarning, match="the state of another configuration"):
        tiny.run(tiny.teacher(), tmp_path)
    assert len(steps) == 12


def test_a_run_goes_on_in_the_precision_that_it_began_in(tmp_path, whole):
    half_way(tmp_path)
    other = replace(tiny.SETTINGS, precision="bf16")
    with pytest.warns(UserWarning, match="was begun in fp32 and goes on in it, not in bf16"):
        run = runner.run(tiny.teacher(), other, tmp_path)
    assert run.record["settings"]["precision"] == "fp32"
    assert run.record["files"] == read(tiny.teacher(), whole.folder.parent).record["files"]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_run_that_goes_on_on_another_device_keeps_its_precision(tmp_path, device):
    """The GPU that it began on is gone, or another device is asked for; the record knows both."""
    path = half_way(tmp_path)
    tensors, metadata = storage.load_tensors(path)
    begun = {"precision": "bf16", "device": "cuda", "torch": "2.9.1"}
    settings = {**metadata["settings"], "device": "cuda", "precision": "bf16", "compile": "on"}
    storage.save_tensors(path, tensors, metadata | {"settings": settings, "trained_in": [begun]})
    run = runner.run(
        tiny.teacher(), replace(tiny.SETTINGS, device=device, precision="auto"), tmp_path
    )
    used = run.record["settings"]
    assert (used["device"], used["precision"], used["compile"]) == ("cpu", "bf16", "off")
    now = {"precision": "bf16", "device": "cpu", "torch": versions()["torch"]}
    assert run.record["trained_in"] == run.trained_in == [begun, now]


def test_a_run_that_was_trained_in_one_way_says_so_once(tmp_path):
    half_way(tmp_path)
    run = tiny.run(tiny.teacher(), tmp_path)
    assert "trained_in" not in run.record
    assert run.trained_in == [{"precision": "fp32", "device": "cpu", "torch": versions()["torch"]}]


def test_all_commits_that_trained_a_run_are_named(tmp_path):
    path = half_way(tmp_path)
    tensors, metadata = storage.load_tensors(path)
    storage.save_tensors(path, tensors, {**metadata, "commits": ["aaa"]})
    record = tiny.run(tiny.teacher(), tmp_path).record
    assert (record["commits"], record["commit"]) == (["aaa", commit()], commit())
    assert "commits" not in tiny.run(tiny.teacher(seed=9), tmp_path).record


# Stopping within an epoch


def stop_after(count: int) -> Control:
    """Stops a run after that many steps, or an epoch's end for its last one, of this call."""
    steps = itertools.count(1)
    return Control(going=lambda: next(steps) < count)


WITHIN = {
    "all orders": {},
    "noise on what the learner sees": {"degradation": Degradation(8, noise=8.0)},
    "noise on what the frozen model sees": {
        "frozen": tiny.teacher(degradation=Degradation(16, noise=8.0))
    },
    "balanced, Adam": {
        "balance": True,
        "recipe": replace(tiny.RECIPE, optimizer="adam", learning_rate=0.003),
    },
    "progressive": {"recipe": replace(tiny.RECIPE, progressive=((1, 4), (1, 6)))},
    "fixed views": {"recipe": replace(tiny.RECIPE, views=2)},
    "few classes in a batch": {"recipe": replace(tiny.RECIPE, per_class=4, batches=3)},
    "a head that draws": {
        "head": "triplet",
        "recipe": replace(tiny.RECIPE, per_class=4, batches=3, learning_rate=0.01),
        "orders": (("2", 1.0),),
        "baselines": (("kd", 0.5),),
    },
}


@pytest.mark.parametrize("cache", ["off", "on"])
@pytest.mark.parametrize("what", WITHIN)
def test_a_run_that_stops_within_an_epoch_ends_as_one_that_never_did(what, cache, tmp_path):
    settings = replace(tiny.SETTINGS, cache=cache)
    config = tiny.student(**WITHIN[what])
    whole = runner.run(config, settings, tmp_path / "whole")
    tiny.copy_run(tmp_path / "whole", tmp_path / "parts", config.frozen)
    stops, within = 0, 0
    while True:
        try:
            run = runner.run(config, settings, tmp_path / "parts", stop_after(2))
            break
        except KeyboardInterrupt:
            stops += 1
            path = tmp_path / "parts" / config.name / "state.safetensors"
            tensors, state = storage.load_tensors(path)
            if state["step"]:
                within += 1
                assert {"random.cpu", "random.learner", "random.frozen"} <= tensors.keys()
    assert stops >= 3
    assert within >= 2
    read_ = [r.record["seconds"]["frozen_answers_read"] for r in (run, whole)]
    assert read_[0] == read_[1]
    assert tiny.comparable(run.record) == tiny.comparable(whole.record)
