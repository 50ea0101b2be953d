"""Studies: which runs a question is made of, and in which order they are worth having."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.lab.store import Run, diverged
from horkd.studies.arm import Arm, subset_name, subsets
from horkd.studies.classification.presets import FULL
from horkd.studies.presets import get_preset, get_presets
from horkd.studies.study import (
    choose,
    collect,
    configure,
    queue,
    seeds,
    studies_of,
    study,
    trainer,
)
from horkd.studies.task import tasks

#: Studies of faces have tests of their own.
EACH = [(task, p) for task in ("classification", "retrieval") for p in tasks()[task].presets]
each_preset = pytest.mark.parametrize(
    "preset", [p for _, p in EACH], ids=[f"{task} {p.name}" for task, p in EACH]
)
each_that_classifies = pytest.mark.parametrize(
    "preset", tasks()["classification"].presets, ids=lambda preset: preset.name
)


def arms_of(preset) -> list[tuple[str, Arm]]:
    """(study, arm) of all studies."""
    return [(n, arm) for n in studies_of(preset) for arm in study(preset, n).values()]


def named(preset, name: str, seed: int = 0) -> RunConfig:
    """The configuration of an arm, from whichever study has it."""
    arm = next(arm for _, arm in arms_of(preset) if arm.name == name)
    return configure(preset, arm, seed)


# Arms


@each_preset
def test_every_arm_of_every_study_can_be_configured(preset):
    for _, arm in arms_of(preset):
        assert arm.what
        config = configure(preset, arm, 1)
        assert (config.data, config.per_class) == (preset.data, preset.per_class)
        held_out = preset.select == "validation" if hasattr(preset, "select") else preset.validation
        assert config.validation == held_out
        assert config.seed == 1
        assert config.degradation.size == (preset.low if arm.pixels is None else arm.pixels)


@each_preset
def test_what_an_arm_is_distilled_from_is_an_arm_trained_once_with_seed_0(preset):
    for name, arm in arms_of(preset):
        config = configure(preset, arm, 2)
        if arm.frozen is None:
            assert config.frozen is None
            assert (config.orders, config.baselines) == ((), ())
        else:
            frozen = study(preset, "metric" if name == "metric" else "table1")[arm.frozen]
            assert config.frozen == configure(preset, frozen, 0)
            assert frozen.once
            assert list(seeds(preset, frozen)) == [0]


@each_preset
def test_one_name_is_one_run(preset):
    found = {}
    for _, arm in arms_of(preset):
        key = configure(preset, arm).key
        assert found.setdefault(arm.name, key) == key


@each_that_classifies
def test_two_stage_is_the_papers_chain_with_its_controls(preset):
    names = [
        *("teacher", "assistant", "student"),
        *("student alone", "student direct", "assistant alone"),
    ]
    assert list(study(preset, "two_stage")) == names
    arms = {name: configure(preset, arm) for name, arm in study(preset, "two_stage").items()}
    teacher, assistant, student = (arms[a] for a in names[:3])
    assert (teacher.frozen, assistant.frozen, student.frozen) == (None, teacher, assistant)
    assert arms["student direct"].frozen == teacher
    assert student.teacher == teacher
    assert {o for o, _ in student.orders} == {"2", "3", "C"}  # the paper's best subset
    assert [arms[a].degradation for a in names] == [
        Degradation(s) for s in (32, 32, 16, 16, 16, 32)
    ]
    assert teacher.model == preset.teacher
    assert {arms[a].model for a in names[1:]} == {preset.compact}
    assert teacher.recipe == preset.teacher_recipe
    assert {arms[a].recipe for a in names[1:]} == {preset.recipe}
    for control in ("student alone", "assistant alone"):
        assert (arms[control].frozen, arms[control].orders) == (None, ())
    alone = arms["student alone"]
    told = {"frozen": assistant, "orders": student.orders, "balance": preset.balance}
    assert replace(alone, **told) == student


def test_keys_of_preset_cpu_are_what_they_were():
    """Hours of training lie under these keys."""
    cpu = get_preset("cpu")
    keys = {
        ("teacher", 0): "713eeacdca9f",
        ("assistant", 0): "e005d64ac3e7",
        ("student", 0): "01830f9f5c89",
        ("student", 1): "4f648c585a9e",
        ("student alone", 0): "0dcfa8660182",
        ("student direct", 0): "daa3e8ac3f7e",
    }
    assert {at: named(cpu, *at).key for at in keys} == keys


BARE = {
    "frozen": None,
    "orders": (),
    "reduction": "mean",
    "baselines": (),
    "temperature": None,
    "cross_entropy": 1.0,
    "balance": False,
    "warmup": 0.0,
    "start": "scratch",
    "unit": False,
    "clusters": 0,
}
#: Their labels come through another softmax.
MARGINS = {"student, margin", "student alone, margin"}
OTHER_RECIPE = {"student, paper's weights, clipped", "student direct, equal epochs", "KD patient"}


@each_that_classifies
def test_arms_differ_from_their_control_only_in_what_is_distilled(preset):
    """Every distilled arm has a control on labels only with its network, images and recipe."""
    controls, compared = {}, set()
    arms = [(n, arm) for n, arm in arms_of(preset) if arm.name not in MARGINS]
    for _, arm in arms:
        config = configure(preset, arm, 1)
        if config.frozen is None:
            controls[config.model, config.degradation] = config
    for _, arm in arms:
        config = configure(preset, arm, 1)
        if config.frozen is None or arm.name in ("student area", "student nearest"):
            continue
        bare, control = replace(config, **BARE), controls[config.model, config.degradation]
        assert (bare == control) == (arm.name not in OTHER_RECIPE), arm.name
        compared.add(arm.name)
    assert {"student", "assistant", "student direct", "KD", "{1} 16"} <= compared


@each_that_classifies
def test_students_of_other_kernels_differ_in_the_kernel_only(preset):
    for kernel in ("area", "nearest"):
        if f"student {kernel}" not in study(preset, "resolutions"):
            assert preset.name == "quick"  # too long for it
            continue
        other = named(preset, f"student {kernel}")
        assert other.degradation == Degradation(preset.low, kernel)
        assert replace(other, degradation=Degradation(preset.low)) == named(preset, "student")


def test_variants_of_the_student_differ_in_what_they_name():
    preset = get_preset("cpu")
    student, direct = named(preset, "student"), named(preset, "student direct")
    warm = named(preset, "student, warm-up")
    assert warm == replace(student, warmup=1.0)
    assert named(preset, "student from the assistant's weights") == replace(student, start="frozen")
    balanced = named(preset, "student, balanced")
    assert balanced.balance
    assert {w for _, w in balanced.orders} == {0.1}
    assert replace(balanced, balance=False, orders=student.orders) == student
    literal = named(preset, "student, paper's weights")
    assert (literal.reduction, dict(literal.orders)) == ("sum", {"2": 0.02, "3": 0.01, "C": 1.0})
    assert replace(literal, reduction="mean", orders=student.orders) == student
    clipped = named(preset, "student, paper's weights, clipped")
    assert clipped == replace(literal, recipe=replace(literal.recipe, clip=1.0))
    softened = {"baselines": (("kd", 0.9),), "cross_entropy": 0.1}
    standardised = {"baselines": (("kd_standardised", 9.0),), "cross_entropy": 0.1}
    assert named(preset, "student + KD") == replace(student, **softened)
    assert named(preset, "student + KD standardised") == replace(student, **standardised)
    assert named(preset, "horkd+") == replace(direct, **standardised)
    assert named(preset, "KD") == replace(direct, orders=(), **softened)
    assert named(preset, "KD standardised") == replace(direct, orders=(), **standardised)


@each_that_classifies
def test_methods_at_full_resolution_are_those_of_the_low_one(preset):
    for name, arm in study(preset, "table1").items():
        if name.endswith(" 32"):
            low = named(preset, name.removesuffix(" 32"))
            assert configure(preset, arm) == replace(low, degradation=Degradation(32))
            assert low.frozen == named(preset, "teacher")


@each_that_classifies
def test_the_second_network_goes_through_the_same_two_stages(preset):
    if "student V" not in study(preset, "table1"):
        assert "* V" in preset.omit
        return
    arms = {name: configure(preset, arm) for name, arm in study(preset, "table1").items()}
    student, assistant = arms["student V"], arms["assistant V"]
    assert student.frozen == assistant
    assert assistant.frozen == arms["teacher"]
    assert student.model == assistant.model == preset.second != preset.compact
    assert student == replace(arms["student"], model=preset.second, frozen=assistant)
    assert arms["student V alone"] == replace(arms["student alone"], model=preset.second)
    assert arms["assistant V alone"] == replace(arms["assistant alone"], model=preset.second)


def test_rows_of_the_papers_table_stand_for_one_arm_each_at_full_resolution_or_ours():
    rows = [arm.row for arm in study(get_preset("paper"), "table1").values() if arm.row]
    assert len(set(rows)) == len(rows)
    assert {"Teacher ResNet50", "OUR-32-R", "OUR-16-R", "OUR-32-V", "OUR-16-V", "KD"} <= set(rows)


# Subsets of orders


def test_subsets_are_all_sixteen_the_small_ones_first():
    found = subsets()
    assert len(found) == len(set(found)) == 16
    assert {frozenset(s) for s in found} >= {frozenset(), frozenset("123C"), frozenset("2C")}
    assert [len(s) for s in found] == sorted(len(s) for s in found)
    assert all("".join(o for o in "123C" if o in s) == s for s in found)
    assert subset_name("23C", 16) == "{2,3,C} 16"
    assert subset_name("", 32) == "{} 32"


@pytest.mark.parametrize("name", ["cpu", "paper-short", "paper", "smoke"])
def test_orders_has_every_subset_at_both_resolutions(name):
    preset = get_preset(name)
    arms = study(preset, "orders")
    assert len(arms) == 32
    for pixels, frozen in ((16, "assistant"), (32, "teacher")):
        of_size = [a for a in arms.values() if a.pixels == pixels]
        found = {frozenset(o for o, _ in configure(preset, a).orders) for a in of_size}
        assert len(of_size) == len(found) == 16
        for arm in of_size:
            config = configure(preset, arm)
            assert config.degradation == Degradation(pixels)
            assert config.frozen == (named(preset, frozen) if config.orders else None)
            assert arm.name == subset_name("".join(o for o, _ in config.orders), pixels)


@each_that_classifies
def test_some_subsets_are_the_students_and_assistants_very_runs(preset):
    assert named(preset, "{} 16").key == named(preset, "student alone").key
    assert named(preset, "{2,3,C} 16").key == named(preset, "student").key
    if "{2,3,C} 32" in study(preset, "orders"):
        assert named(preset, "{} 32").key == named(preset, "assistant alone").key
        same = named(preset, "{2,3,C} 32").key == named(preset, "assistant").key
        assert same == ("assistant" not in dict(preset.orders_of))


# Weights, epochs


@each_that_classifies
def test_weights_are_the_presets_and_order_1_has_weight_1(preset):
    weights, own = {"1": 1.0, **dict(preset.orders)}, dict(preset.orders_of)
    everything = {name: tuple((o, weights[o]) for o in "123C") for name in ("{1,2,3,C} 16",)} | own
    assert named(preset, "{1} 16").orders == (("1", weights["1"]),)
    assert named(preset, "{1,2,3,C} 16").orders == everything["{1,2,3,C} 16"]
    assert named(preset, "{1,2,3,C} 16").balance == (preset.balance and "{1,2,3,C} 16" not in own)
    of_three = tuple((order, weights[order]) for order in "23C")
    assert named(preset, "student").orders == of_three
    assert named(preset, "student").balance == preset.balance
    assert named(preset, "assistant").orders == own.get("assistant", of_three)


def test_scale_multiplies_one_weight():
    preset = replace(get_preset("smoke"), orders=(("2", 3.0), ("3", 5.0), ("C", 7.0)))
    arm = Arm("x", "", frozen="assistant", orders="13C", scale={"3": 2.0, "1": 0.5})
    assert configure(preset, arm).orders == (("1", 0.5), ("3", 10.0), ("C", 7.0))


@pytest.mark.parametrize("name", ["smoke", "cpu"])
def test_the_study_of_weights_changes_one_at_a_time(name):
    preset = get_preset(name)
    arms = study(preset, "weights").values()
    student, changes = named(preset, "student"), set()
    for arm in arms:
        config = configure(preset, arm)
        assert replace(config, orders=student.orders) == student
        pairs = zip(config.orders, student.orders, strict=True)
        ((order, factor),) = [(o, round(w / v, 6)) for (o, w), (_, v) in pairs if w != v]
        assert arm.name == f"order {order} × {factor:g}"
        changes.add((order, factor))
    assert changes == {(o, f) for o in "23C" for f in (0.1, 10.0)}
    assert len(arms) == 6


@pytest.mark.parametrize("name", ["smoke", "cpu", "paper-short", "paper"])
def test_long_schedules(name):
    preset = get_preset(name)
    epochs = preset.recipe.epochs
    direct, equal = named(preset, "student direct"), named(preset, "student direct, equal epochs")
    assert equal == replace(direct, recipe=replace(preset.recipe, epochs=2 * epochs))
    patient = named(preset, "KD patient")
    recipe = replace(preset.recipe, epochs=preset.patience * epochs, schedule="cosine")
    assert patient == replace(
        direct, orders=(), balance=False, baselines=(("kd", 1.0),), cross_entropy=0.0,
        recipe=recipe,
    )  # fmt: skip
    more = replace(preset, patience=7)
    assert named(more, "KD patient").recipe.epochs == 7 * epochs


# Sizes


def test_the_resolutions_are_the_presets_sweep_without_its_low_one():
    preset = replace(get_preset("cpu"), sweep=(24, 16, 8))
    assert list(study(preset, "resolutions")) == [
        "student 32",
        *("student 24", "student 24 alone", "student 24 direct"),
        *("student 8", "student 8 alone", "student 8 direct"),
        *("student area", "student nearest"),
    ]
    assert named(preset, "student 8").frozen == named(preset, "assistant")
    assert named(preset, "student 8 direct").frozen == named(preset, "teacher")
    for kind in ("", " direct", " alone"):
        other, here = named(preset, f"student 8{kind}"), named(preset, f"student{kind}")
        assert other == replace(here, degradation=Degradation(8))


METRIC_OF_QUICK = (
    *("metric teacher", "metric assistant"),
    *("metric student 16", "metric student 16 alone", "metric student 16 direct"),
    "metric student 16 for the index",
)


def test_quick_leaves_out_what_its_patterns_say():
    quick, all_of_it = get_preset("quick"), replace(get_preset("quick"), omit=())
    left_out = {a.name for _, a in arms_of(all_of_it)} - {a.name for _, a in arms_of(quick)}
    methods = ("KD", "KD standardised", "RKD", "RKD distances", "RKD angles", "FitNet", "AT")
    assert left_out == {
        *(f"{method} 32" for method in methods),
        *(subset_name(orders, 32) for orders in subsets()),
        "student 32",
        *("assistant V", "student V", "student V alone", "assistant V alone"),
        *("KD patient", "student direct, equal epochs"),
        *("RKD distances", "RKD angles", "student, paper's weights, clipped"),
        "student from the assistant's weights",
        *("student alone, equal epochs", "student alone, patient", "KD from the assistant"),
        *("assistant fine-tuned on small images", "AT"),
        *("student 24 direct", "student 4 direct", "student area"),
        *(f"{{1,{rest}}} 16" for rest in ("2", "3", "C", "2,3", "2,C", "3,C")),
        *(a.name for a in study(all_of_it, "plus").values()),
        *(f"order {order} × {factor}" for order in "23C" for factor in ("0.1", "10")),
    }
    assert list(study(get_preset("quick", task="retrieval"), "metric")) == list(METRIC_OF_QUICK)


def test_patterns_are_of_whole_names():
    preset = replace(get_preset("smoke"), omit=("student", "KD*"))
    names = {arm.name for _, arm in arms_of(preset)}
    assert "student" not in names
    assert not any(name.startswith("KD") for name in names)
    assert {"student alone", "student + KD", "RKD"} <= names


# The queue


@each_preset
def test_the_queue_has_every_run_of_every_study_once(preset):
    jobs = queue(preset)
    keys = [job.config.key for job in jobs]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {
        configure(preset, arm, seed).key
        for _, arm in arms_of(preset)
        for seed in seeds(preset, arm)
    }
    for job in jobs:
        assert job.config == configure(preset, study(preset, job.study)[job.arm], job.config.seed)


@each_preset
def test_within_a_study_every_arm_comes_once_before_any_is_repeated(preset):
    preset = replace(preset, seeds=3)
    for name in studies_of(preset):
        check_order(preset, name)


def check_order(preset, name: str) -> None:
    jobs, arms = queue(preset, name), study(preset, name)
    order = [job.config.seed for job in jobs]
    assert order == sorted(order)
    once: dict[str, str] = {}  # one run under two names is in the queue under the first
    for arm in arms.values():
        once.setdefault(configure(preset, arm).key, arm.name)
    assert [job.arm for job in jobs if job.config.seed == 0] == list(once.values())
    repeated = [a.name for a in arms.values() if len(seeds(preset, a)) > 1]
    assert [job.arm for job in jobs if job.config.seed == 2] == repeated


@each_preset
def test_studies_come_in_their_order_and_frozen_models_before_their_learners(preset):
    jobs = queue(preset)
    order = [studies_of(preset).index(job.study) for job in jobs]
    assert order == sorted(order)
    done = set()
    for job in jobs:
        assert job.config.frozen is None or job.config.frozen.key in done, job.arm
        done.add(job.config.key)


def test_the_central_comparison_is_repeated_the_rest_trained_once():
    counts = {}
    for job in queue(get_preset("cpu", seeds=3)):
        counts[job.arm] = counts.get(job.arm, 0) + 1
    central = {"student", "student alone", "student direct", "KD", "KD standardised", "horkd+"}
    assert {arm for arm, n in counts.items() if n == 3} == central
    assert {n for arm, n in counts.items() if arm not in central} == {1}


def test_a_preset_may_repeat_all_but_what_is_distilled_from():
    preset = get_preset("paper")
    assert preset.repeat_all
    once = {arm.name for _, arm in arms_of(preset) if len(seeds(preset, arm)) == 1}
    assert once == {"teacher", "assistant", "assistant V"}
    assert all(list(seeds(preset, a)) in ([0], [0, 1, 2]) for _, a in arms_of(preset))


@each_preset
def test_seeds_are_paired(preset):
    """A repetition differs in its seed only, so arms of one seed can be compared."""
    preset = replace(preset, seeds=3)
    for _, arm in arms_of(preset):
        first = configure(preset, arm)
        for seed in seeds(preset, arm):
            assert configure(preset, arm, seed) == replace(first, seed=seed)


def test_unknown_studies_and_arms_list_the_choices():
    preset = get_preset("smoke")
    with pytest.raises(
        HorkdError, match="unknown study 'three': choose from campaign, two_stage, "
    ):
        study(preset, "three")
    with pytest.raises(HorkdError, match="unknown study 'three'"):
        queue(preset, "three")
    with pytest.raises(HorkdError, match="unknown study 'three'"):
        choose(preset, ["three"])
    with pytest.raises(HorkdError, match=r"unknown arm 'pupil': choose from AT, .*teacher") as one:
        choose(preset, (), ["student", "pupil"])
    assert "\n" not in str(one.value)
    with pytest.raises(HorkdError, match=r"unknown arm 'teacher': choose from horkd\+, "):
        choose(preset, ["plus"], ["teacher"])
    with pytest.raises(HorkdError, match="unknown arm 'KD 32'"):  # left out of this preset
        choose(get_preset("quick"), (), ["KD 32"])


def test_choose():
    preset = get_preset("cpu")
    assert choose(preset) == queue(preset)
    assert choose(preset, ["plus", "weights"]) == queue(preset, "plus", "weights")
    jobs = choose(preset, ["two_stage"], ["student", "teacher"])
    found = [(job.study, job.arm, job.config.seed) for job in jobs]
    students = [("two_stage", "student", seed) for seed in range(3)]
    assert found == [("two_stage", "teacher", 0), *students]
    (same,) = choose(preset, (), ["{2,3,C} 16"])  # by its other name
    assert (same.arm, same.config) == ("student", named(preset, "student"))


def test_of_several_presets_the_main_one_comes_first():
    both = get_presets("smoke")
    assert [preset.task for preset in both] == ["classification", "retrieval"]
    assert get_preset("smoke") == both[0]
    assert queue(both) == [*queue(both[0]), *queue(both[1])]
    assert {job.study for job in choose(both, ["metric"])} == {"metric"}
    (job,) = choose(both, (), ["metric assistant"])
    assert job.config.data == "glyphs-disjoint"
    assert get_presets("smoke", "glyphs") == both
    assert [preset.task for preset in get_presets("smoke", "cifar100")] == ["classification"]
    (alone,) = get_presets("smoke", "glyphs-disjoint")
    assert alone == both[1]


# Collecting


def known(config: RunConfig) -> Run:
    return Run(config, Path(), {})


def test_collect_gives_runs_by_arm_with_seeds_in_order():
    preset = get_preset("cpu")
    arms = collect(preset, "two_stage", known)
    assert list(arms) == list(study(preset, "two_stage"))
    for name, found in arms.items():
        assert [run.config for run in found] == [
            named(preset, name, seed) for seed in range(3 if name.startswith("student") else 1)
        ]
    assert list(collect(preset, "two_stage", known, ["student", "teacher"])) == [
        *("teacher", "student")
    ]


def test_collect_leaves_out_what_is_not_there():
    preset = get_preset("cpu")
    there = {named(preset, "student", seed).key for seed in (0, 2)}
    arms = collect(preset, "two_stage", lambda c: known(c) if c.key in there else None)
    assert {name: [r.config.seed for r in found] for name, found in arms.items()} == {
        "student": [0, 2]
    }
    with pytest.raises(HorkdError) as caught:
        collect(preset, "two_stage", lambda config: None)
    assert str(caught.value) == (
        "no run of study two_stage is finished: train them first (horkd work --preset cpu --data "
        "cifar100 --study two_stage)"
    )


def test_a_study_without_arms_says_so():
    with pytest.raises(HorkdError, match="study plus has no arm in preset quick"):
        collect(get_preset("quick"), "plus", lambda config: None)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A preset of a few steps and an empty folder of runs."""
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    recipe = replace(tiny.RECIPE, epochs=1)
    return replace(
        get_preset("smoke"),
        teacher="resnet8x0.5",
        compact="resnet8x0.25",
        low=8,
        recipe=recipe,
        teacher_recipe=recipe,
    )


def test_a_reader_trains_nothing_and_a_trainer_what_is_missing(small, tmp_path):
    reader = trainer(small, tiny.SETTINGS, train_missing=False)
    with pytest.raises(HorkdError, match="no run of study two_stage is finished"):
        collect(small, "two_stage", reader)
    assert list(tmp_path.iterdir()) == []
    trained = collect(small, "two_stage", trainer(small, tiny.SETTINGS), ["assistant"])
    assert [run.config for run in trained["assistant"]] == [named(small, "assistant")]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    arms = collect(small, "two_stage", reader)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written
    assert list(arms) == ["teacher", "assistant"]
    assert arms["assistant"][0].record == trained["assistant"][0].record


def test_a_trainer_leaves_out_what_diverges(small):
    wild = replace(small, recipe=replace(small.recipe, learning_rate=1e18))
    arms = collect(wild, "two_stage", trainer(wild, tiny.SETTINGS), ["teacher", "student alone"])
    assert list(arms) == ["teacher"]
    assert diverged(named(wild, "student alone"))["epoch"] == 1


def test_full_resolution_is_that_of_the_data():
    assert tiny.data().size == FULL
