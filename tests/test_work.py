"""Working off a queue, and the time it will take."""

import contextlib
import fcntl
import itertools
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from horkd import paths, storage
from horkd.data import training_images
from horkd.data.glyphs import load_glyphs
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import runner, store, work
from horkd.lab.checkpoint import Control
from horkd.lab.config import RunConfig
from horkd.lab.job import Job
from horkd.lab.pace import (
    Pace,
    answers_bytes,
    estimates,
    frozen_macs,
    images_a_second,
    learner_macs,
    missing,
    pace,
)
from horkd.lab.store import diverged, read
from horkd.machine import duration, has_bf16
from horkd.networks.network import macs_of
from horkd.objectives import Objective

ONE_EPOCH = replace(tiny.RECIPE, epochs=1)
WILD = replace(ONE_EPOCH, learning_rate=1e18)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    """An empty folder of runs on the tiny data."""
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """One entry per training step."""
    taken = []
    forward = Objective.forward

    def counted(self, *args):
        taken.append(1)
        return forward(self, *args)

    monkeypatch.setattr(Objective, "forward", counted)
    return taken


def test_a_study_goes_on_in_the_precision_of_its_finished_runs(folder):
    """All that is compared is trained in one, what it learns from included."""
    jobs = [Job("a study", "an arm", config) for config in (distilled(), alone())]
    exact, rough, open_ = (replace(tiny.SETTINGS, precision=p) for p in ("fp32", "bf16", "auto"))
    assert work.unlike_before(jobs, rough) == ""
    assert work.as_finished(jobs, open_) == open_
    runner.run(tiny.teacher(recipe=ONE_EPOCH), rough)  # what the first one learns from
    assert work.as_finished(jobs, open_) == (rough if has_bf16("cpu") else open_)
    assert work.as_finished(jobs, exact) == exact  # somebody asked
    assert work.as_finished(jobs[1:], open_) == open_  # has nothing to do with it
    assert work.unlike_before(jobs, rough) == ""
    said = work.unlike_before(jobs, exact)
    assert said.startswith("1 finished run is in bf16, and the missing ones will be in fp32: ")
    assert "`--precision bf16` trains the missing ones alike" in said
    runner.run(alone(), exact)
    assert work.as_finished(jobs, open_) == open_  # mixed already, which is said
    assert "1 finished run is in bf16" in work.unlike_before(jobs, open_)
    runner.run(distilled(), exact)
    assert work.unlike_before(jobs, rough) == (
        "2 finished runs are in fp32, and not trained again in bf16"
    )


def jobs_of(*configs: RunConfig) -> list[Job]:
    return [Job("study", f"arm {n}", config) for n, config in enumerate(configs)]


def do(jobs: list[Job], minutes: float | None = None, **seams) -> tuple[work.Shift, list[str]]:
    said = []
    shift = work.work(jobs, minutes, tiny.SETTINGS, said.append, **seams)
    return shift, [line for line in said if ": epoch " not in line]


def alone(**changes) -> RunConfig:
    """A student on labels only."""
    return tiny.student(**{"frozen": None, "orders": (), "recipe": ONE_EPOCH, **changes})


def distilled(**changes) -> RunConfig:
    """One epoch from a teacher of one epoch."""
    frozen = tiny.teacher(recipe=ONE_EPOCH)
    return tiny.student(**{"frozen": frozen, "recipe": ONE_EPOCH, **changes})


# Work


def test_jobs_are_done_in_order_and_finished_ones_skipped(steps):
    jobs = jobs_of(tiny.teacher(recipe=ONE_EPOCH), alone(), distilled())
    runner.run(alone(), tiny.SETTINGS)
    before = read(alone()).record
    assert [job.arm for job in missing(jobs)] == ["arm 0", "arm 2"]
    steps.clear()
    shift, said = do(jobs)
    assert len(steps) == 8
    assert [run.config for run in shift.done] == [jobs[0].config, jobs[2].config]
    assert (shift.diverged, shift.left) == ([], 0)
    assert len(said) == 2
    for line, run, arm in zip(said, shift.done, ("arm 0", "arm 2"), strict=True):
        test = run.record["results"]["test"]["top1"]
        assert line.startswith(f"{arm}, seed {run.config.seed}: test top-1 {test:.2f} %, ")
        assert line.endswith(run.config.name)
        assert read(run.config).record == run.record
    assert read(alone()).record == before
    steps.clear()
    assert do(jobs) == (work.Shift([], [], 0), [])
    assert not steps


def test_a_model_that_is_needed_is_trained_first():
    shift, said = do(jobs_of(distilled()))
    assert len(said) == len(shift.done) == 1
    assert read(tiny.teacher(recipe=ONE_EPOCH)) is not None


@pytest.mark.parametrize("minutes", [0, -1, -0.5, float("nan")])
def test_minutes_must_be_positive(minutes, folder):
    with pytest.raises(HorkdError, match=r"minutes must be positive, got ") as caught:
        do(jobs_of(tiny.teacher()), minutes)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


class Clock:
    """Time that only training steps take: one minute each."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock, forward = Clock(), Objective.forward

    def slow(self, *args):
        clock.now += 60
        return forward(self, *args)

    monkeypatch.setattr(Objective, "forward", slow)
    monkeypatch.setattr("horkd.training.time", clock)
    return clock


@pytest.mark.parametrize(("minutes", "epochs"), [(0.1, 1), (7.9, 1), (8.1, 2), (11.9, 2)])
def test_work_stops_before_an_epoch_that_would_end_too_late(
    clock, monkeypatch, tmp_path, minutes, epochs
):
    """An epoch takes four minutes; the state is saved although the last save was just now."""
    config, other = tiny.teacher(), tiny.teacher(seed=1)
    shift, said = do(jobs_of(config, other), minutes, control=Control(clock=clock.monotonic))
    assert shift == work.Shift([], [], 2)
    assert said == [f"time is up after epoch {epochs} of 3 of {config.name}; 2 runs to go"]
    _, metadata = storage.load_tensors(paths.runs_dir() / config.name / "state.safetensors")
    assert metadata["epoch"] == epochs
    assert read(config) is None
    assert not (paths.runs_dir() / other.name).exists()
    before = clock.now
    shift, said = do(jobs_of(config))
    assert clock.now - before == 60 * 4 * (3 - epochs)
    assert shift.left == 0
    whole = tiny.run(config, tmp_path / "whole")
    assert tiny.comparable(shift.done[0].record) == tiny.comparable(whole.record)


def test_work_stops_between_two_runs(clock):
    jobs = jobs_of(alone(), alone(seed=4), alone(seed=5))
    shift, said = do(jobs, 8, control=Control(clock=clock.monotonic))  # each takes four minutes
    assert [run.config.seed for run in shift.done] == [3, 4]
    assert shift.left == 1
    assert said[2:] == ["time is up; 1 runs to go"]
    shift, said = do(jobs, 8, control=Control(clock=clock.monotonic))
    assert [run.config.seed for run in shift.done] == [5]
    assert (shift.left, len(said)) == (0, 1)


def test_work_stops_also_while_a_needed_model_is_trained(clock):
    student, teacher = tiny.student(), tiny.teacher()
    shift, said = do(jobs_of(student), 5, control=Control(clock=clock.monotonic))
    assert shift == work.Shift([], [], 1)
    assert said == [f"time is up after epoch 1 of 3 of {teacher.name}; 1 runs to go"]
    assert do(jobs_of(student))[0].left == 0


@contextmanager
def held(config: RunConfig):
    """As if another process were training it."""
    path = paths.runs_dir() / ".locks" / f"{config.key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_what_another_worker_has_is_waited_for_when_nothing_else_is_left():
    """Until then the other jobs are done, in their order."""
    teacher = tiny.teacher(recipe=ONE_EPOCH)
    jobs = jobs_of(teacher, distilled(), alone())
    with contextlib.ExitStack() as other:
        other.enter_context(held(teacher))
        waits = []

        def wait(seconds: float) -> None:
            assert store.read(alone()), "there was something else to do"
            waits.append(seconds)
            if len(waits) == 3:
                other.close()  # the other worker gives up

        shift, _ = do(jobs, pause=wait)
    assert [run.config for run in shift.done] == [alone(), teacher, distilled()]
    assert (waits, shift.left) == ([work.POLL_SECONDS] * 3, 0)


def test_what_another_worker_finished_meanwhile_is_not_done_again():
    teacher = tiny.teacher(recipe=ONE_EPOCH)
    with contextlib.ExitStack() as other:
        other.enter_context(held(teacher))

        def finish(seconds: float) -> None:
            other.close()
            runner.run(teacher, tiny.SETTINGS)

        shift, _ = do(jobs_of(teacher), pause=finish)
    assert shift == work.Shift([], [], 0)


def test_a_worker_that_waits_for_others_stops_in_time():
    teacher = tiny.teacher(recipe=ONE_EPOCH)
    clock = [100.0]

    def wait(seconds: float) -> None:
        clock[0] += seconds

    with held(teacher):
        shift, said = do(jobs_of(teacher), 1, control=Control(clock=lambda: clock[0]), pause=wait)
    assert (shift.done, shift.left) == ([], 1)
    assert said == ["time is up; 1 runs to go"]
    assert clock[0] == 160.0


def test_a_job_that_diverges_is_recorded_and_the_rest_goes_on(steps):
    bad = alone(recipe=WILD)
    jobs = jobs_of(bad, alone())
    shift, said = do(jobs)
    assert [run.config for run in shift.done] == [alone()]
    assert (shift.diverged, shift.left) == ([bad.name], 0)
    assert said[0].startswith("arm 0, seed 3: the loss is not finite in epoch 1 (")
    assert len(said) == 2
    assert read(bad) is None
    assert diverged(bad)["epoch"] == 1
    steps.clear()
    assert missing(jobs) == []
    assert do(jobs) == (work.Shift([], [], 0), [])
    assert not steps


def test_what_needs_a_model_that_diverges_is_not_trained_and_the_rest_goes_on(steps):
    teacher = tiny.teacher(recipe=WILD)
    jobs = jobs_of(distilled(frozen=teacher), alone())
    shift, said = do(jobs)
    assert [run.config for run in shift.done] == [alone()]
    assert said[0].startswith("arm 0, seed 3: the loss is not finite in epoch 1 (")
    assert diverged(teacher) is not None
    steps.clear()
    assert do(jobs)[0].done == []
    assert not steps


def test_what_needs_a_model_that_diverged_is_not_missing():
    """It can never be trained, so no queue should go on asking for it."""
    teacher = tiny.teacher(recipe=WILD)
    jobs = jobs_of(teacher, distilled(frozen=teacher))
    do(jobs)
    assert missing(jobs) == []


def test_missing_data_end_the_shift(monkeypatch):
    def refuse(name, per_class=None):
        raise HorkdError("CIFAR-100 is not there")

    tiny.patch(monkeypatch, refuse)
    with pytest.raises(HorkdError, match="CIFAR-100 is not there"):
        do(jobs_of(alone()))


# Multiply-accumulates


def counted_macs(name: str, size: int, classes: int) -> int:
    """By hooks on every convolution and linear layer of a real network."""
    network, total = tiny.network(name, classes=classes).eval(), 0

    def convolution(module, inputs, output):
        nonlocal total
        total += (
            output[0].numel() * module.in_channels // module.groups * module.weight[0, 0].numel()
        )

    def linear(module, inputs, output):
        nonlocal total
        total += module.in_features * module.out_features

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolution)
        if isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    with torch.no_grad():
        network(torch.randn(1, 3, size, size))
    return total


@pytest.mark.parametrize("name", ["resnet8x0.25", "resnet14x0.5", "vgg11x0.05"])
@pytest.mark.parametrize("size", [4, 8, 32])
def test_work_of_a_run_is_three_passes_of_the_learner_for_each_image_and_epoch(name, size):
    config = RunConfig(name, Degradation(size), per_class=7, recipe=replace(tiny.RECIPE, epochs=5))
    one = counted_macs(name, size, 100)
    assert learner_macs(config) == 3 * one * 700 * 5
    assert frozen_macs(config) == 0


def test_an_enlarged_image_costs_what_a_full_one_does():
    full, small = (RunConfig("resnet8x0.25", d) for d in (Degradation(32), Degradation(8)))
    enlarged = RunConfig("resnet8x0.25", Degradation(8, upsample=True))
    assert learner_macs(enlarged) == learner_macs(full) > learner_macs(small)


def test_the_frozen_model_is_passed_once_for_each_image_and_epoch_if_it_is_asked():
    config = distilled(recipe=replace(tiny.RECIPE, epochs=4))
    one = counted_macs("resnet8x0.5", 16, 100)
    assert frozen_macs(config) == one * 100 * 100 * 4  # as many classes as glyphs has, 100 each
    assert frozen_macs(replace(config, orders=(), baselines=(("kd", 1.0),))) == frozen_macs(config)
    assert frozen_macs(replace(config, orders=())) == 0
    everything = replace(config, frozen=replace(config.frozen, validation=False), validation=False)
    assert frozen_macs(everything) == frozen_macs(config) * 120 / 100
    assert learner_macs(everything) == learner_macs(config) * 120 / 100


def test_stages_of_progressive_resolution_cost_by_their_pixels():
    recipe = replace(tiny.RECIPE, epochs=6, progressive=((3, 8), (1, 16)))
    config = RunConfig("resnet8x0.25", Degradation(32), per_class=7, recipe=recipe)
    macs = {side: counted_macs("resnet8x0.25", side, 100) for side in (8, 16, 32)}
    assert learner_macs(config) == 3 * 700 * (3 * macs[8] + macs[16] + 2 * macs[32])
    pace = Pace({("resnet8x0.25", side): 10.0**n for n, side in enumerate((8, 16, 32))}, "a test")
    seconds = 3 * 700 * (3 * macs[8] / 1 + macs[16] / 10 + 2 * macs[32] / 100)
    assert pace.seconds(config) == pytest.approx(seconds)


def test_to_fixed_views_the_frozen_model_looks_once():
    config = distilled(recipe=replace(tiny.RECIPE, epochs=7, views=3))
    one = counted_macs("resnet8x0.5", 16, 100)
    assert frozen_macs(config) == one * 100 * 100 * 3
    maps = replace(config, baselines=(("at", 1.0),))
    assert frozen_macs(maps) == one * 100 * 100 * 7  # never kept
    fewer = replace(config, recipe=replace(config.recipe, epochs=2))
    assert frozen_macs(fewer) == one * 100 * 100 * 2


def test_a_frozen_models_passes_have_a_pace_of_their_own():
    config = distilled()
    rates = {("resnet8x0.25", 8): 10.0}
    known = Pace(rates, "a test", {("resnet8x0.5", 16): 1000.0})
    own = learner_macs(config) / 10
    assert known.seconds(config) == pytest.approx(own + frozen_macs(config) / 1000)
    assert Pace(rates, "a test").seconds(config) == pytest.approx(own + frozen_macs(config) / 10)


def test_only_the_first_run_waits_for_fixed_views_whatever_its_seed():
    recipe = replace(ONE_EPOCH, views=2)
    first, second = (distilled(recipe=recipe, seed=seed) for seed in (0, 1))
    found = estimates(jobs_of(first.frozen, first, second), UNIT, cached=False)
    assert found[first.key] == pytest.approx(learner_macs(first) + frozen_macs(first))
    assert found[second.key] == pytest.approx(learner_macs(second))


@pytest.mark.parametrize("half", [True, False])
def test_what_fixed_views_take_on_disk_is_known_beforehand(half):
    recipe = replace(ONE_EPOCH, epochs=5, views=4)
    configs = [distilled(recipe=recipe, seed=seed) for seed in (0, 1)]
    numbers = 100 * 100 * (32 + 100)  # features and logits
    found = answers_bytes(jobs_of(*configs, distilled()), half)
    assert found == (2 if half else 4) * 4 * numbers


@pytest.mark.parametrize("field", ["precision", "threads"])
def test_runs_of_another_precision_or_number_of_threads_say_nothing(field):
    runner.run(alone(), tiny.SETTINGS)
    forged(alone(), seconds={"total": 5.0})
    assert pace([], tiny.SETTINGS).seconds(alone()) == pytest.approx(5.0)
    if field == "precision":
        forged(alone(), settings={"precision": "bf16"})
    else:
        forged(alone(), machine={"threads": 64})
    assert pace([], tiny.SETTINGS).source == "a few steps of each network"


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (1.5, True)])
def test_a_machine_with_other_work_is_recognised(load, busy):
    assert Pace({}, "a test", load=load).busy is busy


def test_macs_of_a_network_that_is_not_built_leave_random_numbers_alone():
    macs_of.cache_clear()
    before = torch.random.get_rng_state()
    learner_macs(alone())
    assert torch.equal(torch.random.get_rng_state(), before)


# Estimates

#: A machine that does one multiply-accumulate a second.
UNIT = Pace({("any", 0): 1.0}, "a test")


def total(*configs: RunConfig) -> float:
    return sum(learner_macs(c) + frozen_macs(c) for c in configs)


@pytest.mark.parametrize("cached", [True, False])
def test_a_missing_teacher_counts_once_on_its_own(cached):
    teacher, first, second = distilled().frozen, distilled(), distilled(seed=4)
    found = estimates(jobs_of(first, second), UNIT, cached)
    assert list(found) == [teacher.key, first.key, second.key]
    assert [found[c.key] for c in (teacher, first, second)] == [
        pytest.approx(total(c)) for c in (teacher, first, second)
    ]
    found = estimates(jobs_of(teacher, first), UNIT, cached)
    assert found == {teacher.key: total(teacher), first.key: pytest.approx(total(first))}
    runner.run(teacher, tiny.SETTINGS)
    assert estimates(jobs_of(first), UNIT, cached) == {first.key: pytest.approx(total(first))}


def test_a_chain_counts_every_missing_model_of_it():
    assistant = distilled(seed=0, degradation=Degradation(16))
    student = distilled(frozen=assistant)
    found = estimates(jobs_of(student), UNIT, False)
    assert sum(found.values()) == pytest.approx(total(student, assistant, assistant.frozen))
    runner.run(assistant.frozen, tiny.SETTINGS)
    found = estimates(jobs_of(student), UNIT, False)
    assert sum(found.values()) == pytest.approx(total(student, assistant))


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_was_trained_for_an_earlier_job_is_not_counted_again(cached):
    """As in study orders alone: `{1} 16` needs the assistant, which comes later as `{2,3,C} 32`."""
    teacher, student = distilled().frozen, distilled()
    found = estimates(jobs_of(student, teacher), UNIT, cached)
    assert sum(found.values()) == pytest.approx(total(teacher, student))


def test_with_kept_answers_a_frozen_model_seed_and_batch_size_is_passed_once():
    larger = replace(ONE_EPOCH, batch_size=24)
    first = distilled(orders=(("2", 1.0),))
    again = [distilled(orders=(("3", 1.0),)), distilled(orders=(), baselines=(("kd", 1.0),))]
    anew = [
        distilled(seed=4),
        distilled(recipe=larger),
        distilled(frozen=tiny.teacher(recipe=ONE_EPOCH, seed=1)),
        distilled(orders=(), baselines=(("fitnet", 1.0),)),  # needs maps, which are not kept
        distilled(orders=(), baselines=(("at", 1.0), ("kd", 1.0))),
    ]
    teachers = [distilled().frozen, anew[2].frozen]
    jobs = jobs_of(*teachers, first, *again, *anew)
    found = estimates(jobs, UNIT, cached=True)
    for config in (first, *anew):
        assert found[config.key] == pytest.approx(total(config))
    for config in again:
        assert found[config.key] == pytest.approx(learner_macs(config))
    found = estimates(jobs, UNIT, cached=False)
    assert found == {job.config.key: pytest.approx(total(job.config)) for job in jobs}


def test_what_needs_maps_leaves_no_answers_to_others():
    mapped = distilled(orders=(), baselines=(("fitnet", 1.0),))
    found = estimates(jobs_of(mapped.frozen, mapped, distilled()), UNIT, cached=True)
    assert found[distilled().key] == pytest.approx(total(distilled()))


# Pace


def test_the_pace_of_a_finished_run_gives_its_own_seconds():
    student = runner.run(distilled(), tiny.SETTINGS)
    teacher = read(distilled().frozen)
    found = pace([], tiny.SETTINGS)
    assert found.source == "finished runs"
    assert set(found.rates) == {("resnet8x0.5", 16), ("resnet8x0.25", 8)}
    for run in (student, teacher):
        assert found.seconds(run.config) == pytest.approx(whole(run))
    longer = replace(student.config, recipe=replace(ONE_EPOCH, epochs=3))
    assert found.seconds(longer) == pytest.approx(3 * whole(student))


def whole(run) -> float:
    """Seconds of all epochs, if each were as fast as the fastest."""
    epochs = run.record["seconds"]["epochs"]
    return min(epochs) * len(epochs)


def forged(config: RunConfig, **changes) -> None:
    """Alter the record of a finished run and write it as horkd would."""
    path = paths.runs_dir() / config.name / "record.json"
    record = storage.load_json(path)
    for name, value in changes.items():
        record[name] = {**record[name], **value}
        if name == "seconds":
            epochs = record["config"]["recipe"]["epochs"]
            record[name]["epochs"] = [record[name]["total"] / epochs] * epochs
    storage.save_json(path, record)


def test_the_pace_of_a_network_is_the_median_of_its_runs():
    for seed, seconds in ((0, 1.0), (1, 100.0), (2, 4.0)):
        runner.run(alone(seed=seed), tiny.SETTINGS)
        forged(alone(seed=seed), seconds={"total": seconds})
    assert pace([], tiny.SETTINGS).seconds(alone(seed=7)) == pytest.approx(4.0)


def test_a_network_without_runs_is_taken_to_work_as_fast_as_the_others():
    found = Pace({("a", 8): 10.0, ("b", 8): 1000.0, ("c", 8): 20.0}, "a test")
    assert found.seconds(alone()) == pytest.approx(learner_macs(alone()) / 20)
    found = Pace({("resnet8x0.25", 8): 5.0, ("resnet8x0.25", 16): 7.0, ("b", 8): 9.0}, "a test")
    assert found.seconds(alone()) == pytest.approx(learner_macs(alone()) / 5)


def test_runs_of_other_machines_and_those_that_read_answers_say_nothing():
    other, reader, plain = (alone(seed=seed) for seed in range(3))
    for config in (other, reader, plain):
        runner.run(config, tiny.SETTINGS)
    forged(other, machine={"name": "another"}, seconds={"total": 1e6})
    forged(reader, seconds={"total": 1e6, "frozen_answers_read": [1]})
    forged(plain, seconds={"total": 5.0})
    assert pace([], tiny.SETTINGS).seconds(alone()) == pytest.approx(5.0)


def test_a_run_that_really_read_its_frozen_models_answers_is_recorded_as_such():
    keep = replace(tiny.SETTINGS, cache="on")
    first = runner.run(distilled(orders=(("2", 1.0),)), keep)
    second = runner.run(distilled(orders=(("3", 1.0),)), keep)
    read_ = [run.record["seconds"]["frozen_answers_read"] for run in (first, second)]
    assert read_ == [[], [1]]  # the epochs
    forged(second.config, seconds={"total": 1e6})
    forged(first.config, seconds={"total": 5.0})
    assert pace([], tiny.SETTINGS).seconds(distilled()) == pytest.approx(5.0)


@pytest.mark.parametrize("content", ["", "{", "[]\n", "{}\n"])
def test_records_that_cannot_be_read_are_skipped(folder, content):
    runner.run(alone(), tiny.SETTINGS)
    forged(alone(), seconds={"total": 5.0})
    (folder / "a").mkdir()
    (folder / "a" / "record.json").write_text(content)
    assert pace([], tiny.SETTINGS).seconds(alone()) == pytest.approx(5.0)


@pytest.mark.parametrize("part", ["config", "seconds"])
def test_records_of_another_version_are_skipped(folder, part):
    for seed in (0, 1):
        runner.run(alone(seed=seed), tiny.SETTINGS)
        forged(alone(seed=seed), seconds={"total": 5.0})
    path = folder / alone(seed=1).name / "record.json"
    record = storage.load_json(path)
    if part == "config":
        record["config"]["colour"] = "red"
    else:
        del record["seconds"]
    storage.save_json(path, record)
    assert pace([], tiny.SETTINGS).seconds(alone()) == pytest.approx(5.0)


def test_without_runs_a_few_steps_of_each_network_are_timed(folder):
    ticks = partial(next, itertools.count(0.0, 0.5))
    probe = partial(images_a_second, clock=ticks)
    found = pace([distilled(), distilled().frozen, distilled(seed=4)], tiny.SETTINGS, probe)
    assert found.source == "a few steps of each network"
    assert found.rates == {  # a step of 12 images takes half a second
        (name, size): 3 * counted_macs(name, size, 100) * 12 / 0.5
        for name, size in (("resnet8x0.25", 8), ("resnet8x0.5", 16))
    }
    assert not folder.exists()


def test_every_network_is_timed_in_the_memory_format_that_it_is_trained_in(folder):
    """One narrow network's format for all made a ResNet50 look half as slow again."""
    seen = {}

    def spied(step, side, batch, settings):
        seen[side] = settings.channels_last
        return images_a_second(step, side, batch, settings)

    settings = replace(tiny.SETTINGS, channels_last="auto")
    wide = RunConfig("resnet8", Degradation(16), recipe=ONE_EPOCH)
    pace([alone(), wide], settings, spied)
    for config, side in ((alone(), 8), (wide, 16)):
        network = tiny.network(config.model)
        assert seen[side] == settings.resolve(network).channels_last
    assert seen[8] == "off"


def test_with_nothing_to_estimate_nothing_is_timed():
    assert pace([], tiny.SETTINGS).source == "a few steps of each network"
    assert estimates([], pace([], tiny.SETTINGS), True) == {}


def test_the_pace_of_an_unknown_device_is_one_line():
    with pytest.raises(HorkdError, match="cannot use device 'tpu9000'"):
        pace([], replace(tiny.SETTINGS, device="tpu9000"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 s"), (0.4, "0 s"), (40, "40 s"), (89, "89 s")],
        *[(90, "2 min"), (720, "12 min"), (5399, "90 min")],
        *[(5400, "1.5 h"), (3.4 * 3600, "3.4 h"), (360000, "100.0 h")],
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# Images


@pytest.mark.parametrize("per_class", [1, 2])
def test_images_are_counted_as_the_glyphs_that_are_drawn(per_class, tmp_path):
    data = load_glyphs(per_class, cache=tmp_path)
    assert training_images("glyphs", per_class) == len(data.train)
    both = len(data.train) + len(data.validation)
    assert training_images("glyphs", per_class, validation=False) == both


@pytest.mark.parametrize("per_class", [24, 25, 26, 30, 100])
def test_images_are_counted_as_the_glyphs_that_would_be_drawn(per_class):
    """More than a few take long to draw: from the plan of the drawing."""
    from horkd.data.glyphs import _plan

    sizes = {split: len(c) * n for split, (c, n) in _plan(per_class).items()}
    assert training_images("glyphs", per_class) == sizes["train"]
    both = sizes["train"] + sizes["validation"]
    assert training_images("glyphs", per_class, validation=False) == both


def test_without_a_number_a_hundred_glyphs_of_each_class_count():
    assert training_images("glyphs") == 100 * 100
    assert training_images("glyphs", validation=False) == 100 * 120
