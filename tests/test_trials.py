"""Trials: runs that settings are chosen by. They never see the test images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from records import Recorded, record_of
from scipy import stats

from horkd import cli, paths, storage
from horkd import predict as predict_
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import looks as looks_
from horkd.lab import runner
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.looks import Look, ask, features
from horkd.lab.store import export
from horkd.studies.classification import trials_page
from horkd.studies.presets import get_preset
from horkd.studies.study import choose, configure, queue, seeds, studies_of, study
from horkd.studies.task import TRIALS, tasks

REPORTS = paths.root() / "reports"
SHORT = get_preset("paper-short")
CLASSIFYING = tasks()["classification"].presets
WITH_TRIALS = [preset for preset in CLASSIFYING if preset.trial is not None]


def arms(preset, name: str):
    return study(preset, name).values()


# A run that is a trial


@pytest.fixture
def small(monkeypatch, tmp_path):
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    return tmp_path


def hidden(name: str, per_class: int | None = None):
    """The six characters with test images that give an error as soon as they are touched."""
    return replace(tiny.data(), name=name, test=Untouchable())


class Untouchable:
    size = 32

    def __getattr__(self, name):
        raise AssertionError("a trial looked at the test images")


@pytest.mark.parametrize("changes", [{}, {"select": "validation"}, {"frozen": None, "orders": ()}])
def test_a_trial_is_read_on_the_validation_split_and_touches_no_test_image(
    small, monkeypatch, changes
):
    tiny.patch(monkeypatch, hidden)
    asked = tiny.student(trial=True, **{"frozen": tiny.teacher(trial=True), **changes})
    run = runner.run(asked, tiny.SETTINGS)
    results = run.record["results"]
    found = predict_.predict(run.network(), tiny.data().validation.images, tiny.data(),
                             asked.degradation).logits.argmax(1)  # fmt: skip
    right = (found == tiny.data().validation.labels).double().mean().item()
    assert results["validation"]["top1"] == pytest.approx(100 * right)
    assert set(results) <= {"validation", "selected"}
    assert run.record["config"]["trial"] is True


def test_what_would_look_at_the_test_images_of_a_trial_is_refused(small):
    run = runner.run(tiny.teacher(trial=True), tiny.SETTINGS)
    for look in (
        lambda: looks_.at_resolutions(run, [Degradation(8)], tiny.SETTINGS),
        lambda: ask(run, [Look("verification", "glyphs", Degradation(8))]),
        lambda: features(run, tiny.SETTINGS),
        lambda: export(run, small / "x.safetensors"),
    ):
        with pytest.raises(HorkdError, match="is a trial, by which settings are chosen"):
            look()
    assert not (small / "x.safetensors").exists()


@pytest.mark.parametrize("changes", [{"validation": False}, {"select": "test"}])
def test_a_trial_needs_the_validation_split(changes):
    with pytest.raises(HorkdError, match="a trial is read on the validation split"):
        RunConfig("resnet8", Degradation(8), trial=True, **changes)


def test_what_a_trial_learns_from_is_a_trial():
    for frozen in (tiny.teacher(), tiny.teacher(trial=False, seed=4)):
        with pytest.raises(HorkdError, match="what a trial learns from must be a trial, too"):
            tiny.student(frozen=frozen, trial=True)


# The trials of a preset


@pytest.mark.parametrize("preset", WITH_TRIALS, ids=lambda preset: preset.name)
def test_every_run_of_a_study_of_trials_is_one(preset):
    for one in studies_of(preset, TRIALS):
        for arm in arms(preset, one):
            for seed in seeds(preset, arm):
                config = configure(preset, arm, seed)
                while config is not None:
                    assert (config.trial, config.validation) == (True, True), arm.name
                    config = config.frozen


def test_trials_are_run_when_they_are_asked_for():
    assert not any(job.config.trial for preset in CLASSIFYING for job in queue(preset))
    jobs = choose(SHORT, ("recipe", "losses"))
    assert len(jobs) == sum(len(study(SHORT, name)) for name in studies_of(SHORT, TRIALS))
    assert all(job.config.trial for job in jobs)


def test_trials_of_the_recipe_differ_in_what_they_name():
    base, *others = (configure(SHORT, arm) for arm in arms(SHORT, "recipe"))
    assert base.recipe == SHORT.trial
    for config, arm in zip(others, list(arms(SHORT, "recipe"))[1:], strict=True):
        if arm.name == "trial teacher's network":
            assert config.model == SHORT.teacher
            continue
        changed = {
            field
            for field in ("learning_rate", "weight_decay", "batch_size", "climb", "epochs")
            if getattr(config.recipe, field) != getattr(base.recipe, field)
        }
        words = {"learning_rate": "rate", "weight_decay": "decay", "batch_size": "batch"}
        assert {words.get(f, f) for f in changed} == {
            part.split()[0] for part in arm.name.removeprefix("trial ").split(", ")
        }
        assert replace(config, recipe=base.recipe) == base


def test_every_method_has_as_many_trials_and_nothing_else_differs():
    counts: dict[str, int] = {}
    bare = set()
    for arm in arms(SHORT, "losses"):
        config = configure(SHORT, arm, arm.seed)
        if not arm.method:
            continue
        assert arm.name == f"trial {arm.label}" == f"trial {arm.method}: {arm.setting}"
        counts[arm.method] = counts.get(arm.method, 0) + 1
        assert config.frozen == configure(SHORT, study(SHORT, "losses")["trial assistant"], 100)
        bare.add(
            replace(config, orders=(), baselines=(), cross_entropy=1.0, balance=False, frozen=None)
        )
    assert set(counts) == {"{2,3,C}", "{1,2,3,C}", "KD", "KD standardised"}
    assert len(set(counts.values())) == 1
    alone = configure(SHORT, study(SHORT, "losses")["trial alone"], 100)
    assert bare == {alone}
    assert alone.recipe == SHORT.weight_trial


def test_trials_of_losses_use_no_seed_of_the_study():
    ours = {job.config.seed for job in queue(SHORT)}
    theirs = {job.config.seed for job in choose(SHORT, ("losses",))}
    assert not ours & theirs


def test_the_recipe_of_the_trials_of_losses_is_the_presets_in_fewer_epochs():
    assert replace(SHORT.weight_trial, epochs=SHORT.recipe.epochs) == SHORT.recipe
    teacher = replace(SHORT.teacher_recipe, epochs=1, progressive=(), views=0)
    assert teacher == replace(SHORT.recipe, epochs=1, views=0)


def test_runs_that_distil_wait_for_the_files_of_the_campaign():
    jobs = queue(SHORT)
    free = {job.arm for job in jobs if not job.waits}
    assert {"teacher", "student alone", "assistant alone", "student V alone"} <= free
    assert not free & {"assistant", "student", "student direct", "KD"}
    teacher = replace(SHORT, given=(("teacher", "0" * 16),))
    free = {job.arm for job in queue(teacher) if not job.waits}
    assert {"assistant", "student direct", "KD"} <= free
    assert "student" not in free
    both = replace(SHORT, given=(("teacher", "0" * 16), ("assistant", "1" * 16)))
    assert "student" in {job.arm for job in queue(both) if not job.waits}
    assert not any(job.waits for job in choose(SHORT, ("losses",)))
    assert not any(job.waits for job in queue(get_preset("cpu")))


def test_what_the_plan_promises_later_has_its_arms():
    long = study(SHORT, "long")
    for name in ("student alone", "student", "student direct", "KD"):
        assert configure(SHORT, long[f"{name}, 100 epochs"]).recipe.epochs == 100
    nested = study(SHORT, "nested")
    for seed in (1, 2):
        assistant = configure(SHORT, nested[f"assistant {seed}"], seed)
        student = nested[f"student of assistant {seed}"]
        assert assistant.seed == seed
        assert list(seeds(SHORT, student)) == [0, 1, 2]
        assert configure(SHORT, student, 2).frozen == assistant
    assert all(name not in {job.arm for job in queue(SHORT)} for name in (*long, *nested))


def test_arms_of_the_campaign_are_those_of_the_plan():
    plan = (REPORTS / "paper-short-cifar100" / "PLAN.md").read_text()
    found = study(SHORT, "campaign")
    repeated = [arm.name for arm in found.values() if arm.repeated]
    assert repeated == ["student alone", "student", "student direct", "KD"]
    for name in repeated:
        assert name in plan
    equal = configure(SHORT, found["student alone, equal compute"])
    assert equal.recipe.epochs == 5 * SHORT.recipe.epochs == 150
    assert "150 epochs" in plan
    assert [job.arm for job in queue(SHORT)][: len(found)] == list(found)


# The page


def fake(
    config: RunConfig, percent: float, folder: Path, seconds: float = 50.0, precision: str = "bf16"
) -> None:
    record = record_of(
        config,
        {},
        results={"validation": {"top1": percent, "top5": 90.0, "n": 5000}},
        history=[{"epoch": 1, "gradient_shares": {"cross_entropy": 0.75, "order_c": 0.25}}],
        seconds={"total": seconds, "epochs": [seconds], "frozen_answers_read": []},
        settings={"precision": precision},
    )
    storage.save_json(folder / "records" / f"{config.name}.json", record)


def test_the_page_says_what_was_found_and_what_is_missing(tmp_path):
    for number, arm in enumerate(list(arms(SHORT, "recipe"))[:3]):
        fake(configure(SHORT, arm), 45.0 + number, tmp_path)
    for number, arm in enumerate(list(arms(SHORT, "losses"))[:6]):
        fake(configure(SHORT, arm, 100), 40.0 + number, tmp_path)
    text = trials_page.page(SHORT, Recorded(tmp_path))
    assert f"3 of {len(study(SHORT, 'recipe'))} runs." in text
    assert f"6 of {len(study(SHORT, 'losses'))} runs." in text
    error = 100 * (0.47 * 0.53 / 5000) ** 0.5
    assert f"near 47 % on 5,000 images has a standard error of {error:.1f} points" in text
    assert "cross-entropy 75.0, order C 25.0" in text
    assert "- {2,3,C}: 2.5, 5, 10 (42.00 %), best of 1 of 4 trials" in text
    table = trials_page.table(trials_page.gather_trials(SHORT, Recorded(tmp_path))["recipe"])
    assert list(table["validation top-1 %"]) == ["45.00", "46.00", "47.00"]


def test_trials_that_were_not_run_alike_are_named(tmp_path):
    preset = get_preset("cpu")
    for name in ("progressive", "full"):
        for seed, precision in enumerate(("bf16", "bf16", "fp32")):
            config = configure(preset, study(preset, "recipe")[f"trial {name}"], seed)
            fake(config, 45.0 + seed, tmp_path, precision=precision)
    text = trials_page.page(preset, Recorded(tmp_path))
    assert "6 of 9 runs. **Not all runs were trained alike** " in text
    assert "precision: bf16 (4), fp32 (2)." in text
    assert "took 50 and 50 s, in unequal precision (bf16, fp32)." in text


def test_of_equal_settings_the_first_is_taken(tmp_path):
    for arm in arms(SHORT, "losses"):
        fake(configure(SHORT, arm, 100), 46.0, tmp_path)
    text = trials_page.page(SHORT, Recorded(tmp_path))
    plan = (REPORTS / "paper-short-cifar100" / "PLAN.md").read_text()
    for method, first in (("{2,3,C}", "2.5, 5, 10"), ("{1,2,3,C}", "1, 2.5, 5, 10")):
        assert f"- {method}: {first} (46.00 %), best of 4 of 4 trials" in text
        assert f"| {method}, cross-entropy 1 | {first};" in plan
    assert "- KD: 0.9, labels 0.1 (46.00 %)" in text
    assert "| KD, T = 4; weight, cross-entropy | 0.9, 0.1;" in plan


def test_progressive_resolution_is_judged_over_seeds(tmp_path):
    preset = get_preset("cpu")
    values = {"progressive": [50.0, 51.0, 52.0], "full": [50.5, 51.5, 50.0],
              "full, equal time": [40.0, 41.0, 42.5]}  # fmt: skip
    for name, percents in values.items():
        arm = study(preset, "recipe")[f"trial {name}"]
        for seed, percent in enumerate(percents):
            seconds = 300.0 if name == "progressive" else 400.0
            fake(configure(preset, arm, seed), percent, tmp_path, seconds)
    text = trials_page.page(preset, Recorded(tmp_path))
    a, b = (np.array(values[n]) for n in ("progressive", "full"))
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)  # Welch and Satterthwaite
    half = stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    expected = f"progressive − full: {a.mean() - b.mean():+.2f} ± {half:.2f} points"
    assert expected in text
    pixels = (2 * 16**2 + 2 * 24**2 + 2 * 32**2) / (6 * 32**2)  # the last layers are too few
    assert f"with {pixels:.2f} times the multiply-accumulates" in text
    assert "the fastest runs took 300 and 400 s. The interval holds zero." in text
    assert "progressive − full, equal time: +9.83" in text


def test_without_a_trial_the_page_is_one_line(tmp_path):
    with pytest.raises(HorkdError, match="no trial of preset paper-short is finished") as error:
        trials_page.page(SHORT, Recorded(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["quick", "metric"])  # without trials, and of a task without any
def test_a_preset_whose_recipe_is_not_searched_has_no_page(name):
    with pytest.raises(HorkdError, match=f"preset {name} has no trials: its recipe is not"):
        cli.trials_(name)


@pytest.mark.parametrize("folder", sorted(REPORTS.glob("*/trials")), ids=lambda f: f.parent.name)
def test_committed_pages_are_made_of_their_records(folder):
    preset = get_preset(folder.parent.name.removesuffix("-cifar100"))
    assert (folder / "TRIALS.md").read_text() == trials_page.page(preset, Recorded(folder))
    for path in folder.glob("records/*.json"):
        record = storage.load_json(path)
        config = config_from_dict(record["config"])
        assert config.key == record["key"]
        assert "test" not in record["results"]
