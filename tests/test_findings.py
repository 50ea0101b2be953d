"""Every number in a committed report and in the README has a record behind it, and equals it."""

import json
import re
from dataclasses import asdict, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from horkd import paths, storage
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import config_from_dict
from horkd.lab.store import Run
from horkd.losses import ORDERS as TERMS
from horkd.studies import claims as claims_
from horkd.studies import results as results_
from horkd.studies.arm import FULL
from horkd.studies.claims import as_lines, mean_and_spread
from horkd.studies.classification import figures, tables
from horkd.studies.classification.page import (
    TABLE1,
    TABLE1_CLAIMS,
    _closeness,
    _slopes,
    order_claims,
    orders_page,
    resolution_claims,
    resolutions_page,
    table1_page,
    two_stage_page,
)
from horkd.studies.classification.tables import (
    _control,
    at_resolution,
    effects,
    fed,
    main_effect,
    order_arms,
    order_table,
    resolution_table,
    resolutions,
    short,
    table1,
    weight_table,
)
from horkd.studies.faces import page as face_page
from horkd.studies.faces import tables as face_tables
from horkd.studies.presets import get_preset, get_presets
from horkd.studies.results import gain, gather, recorded, save_records
from horkd.studies.retrieval import page as metric_page
from horkd.studies.retrieval import tables as metric_tables
from horkd.studies.study import collect, configure, seeds, studies_of, study

mpl.use("Agg")
REPORTS = {
    "quick-glyphs": "quick",
    "cpu-cifar100": "cpu",
    "faces-lfw": "faces",
    "metric-glyphs-disjoint": "metric",
    "metric-cpu-cifar100-disjoint": "metric-cpu",
}
TOURS = ("quick-glyphs", "cpu-cifar100")


def page(name: str, folder, preset) -> str:
    """What a notebook's summary says, made again from the records alone."""
    source = recorded(folder)
    if name == "02_two_stage_transfer":
        arms = collect(preset, "two_stage", source.find)
        return two_stage_page(preset, arms, source)
    if name == "03_table1":
        arms = gather(preset, TABLE1, source)
        return table1_page(preset, arms, source)
    if name == "04_order_ablation":
        return orders_page(preset, order_arms(preset, source), source)
    if name == "05_resolution_sweep":
        arms = gather(preset, ("two_stage", "resolutions"), source)
        return resolutions_page(preset, arms, source)
    if name == "07_metric_learning":
        arms = metric_tables.metric_arms(preset, source)
        return metric_page.metric_page(preset, arms, source)
    return face_page.faces_page(preset, face_tables.face_arms(preset, source), source)


PAGES = {
    "02_two_stage_transfer": TOURS,
    "03_table1": TOURS,
    "04_order_ablation": TOURS,
    "05_resolution_sweep": TOURS,
    "06_faces": ("quick-glyphs", "faces-lfw"),
    "07_metric_learning": (
        "quick-glyphs",
        "metric-glyphs-disjoint",
        "metric-cpu-cifar100-disjoint",
    ),
}


@pytest.mark.parametrize(
    ("folder", "name"), [(folder, name) for name in PAGES for folder in PAGES[name]]
)
def test_a_committed_page_is_what_the_records_say(folder, name):
    out = paths.root() / "reports" / folder
    task = "retrieval" if name == "07_metric_learning" else ""
    again = page(name, out, get_preset(REPORTS[folder], task=task))
    committed = (out / "summaries" / f"{name}.md").read_text(encoding="utf-8")
    assert committed.startswith(again), "run the notebook again: its page is not of these records"
    assert again in (out / "REPORT.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", REPORTS)
def test_a_committed_record_is_of_its_configuration_and_of_a_study(folder):
    out = paths.root() / "reports" / folder
    asked = {
        configure(preset, arm, seed).key
        for preset in get_presets(REPORTS[folder])
        for name in studies_of(preset)
        for arm in study(preset, name).values()
        for seed in seeds(preset, arm)
    }
    for path in sorted((out / "records").glob("*.json")):
        content = storage.load_json(path)
        if "config" in content:
            config = config_from_dict(content["config"])
            assert config.key == content["key"]
            assert path.name.startswith(config.name)
        assert content["key"] in asked, f"{path.name} belongs to no study"


@pytest.mark.parametrize("folder", TOURS)
def test_the_tour_shows_accuracies_that_are_on_record(folder):
    """The tour measures again, on its own machine: an image or two may differ."""
    out, preset = paths.root() / "reports" / folder, get_preset(REPORTS[folder])
    arms = collect(preset, "two_stage", recorded(out).find)
    tour = pd.read_csv(out / "tables" / "tour.csv").set_index("model")
    ours = next(c for c in tour.columns if c.startswith("test top-1"))
    for arm in ("teacher", "assistant", "student", "student alone"):
        mean = float(str(tour.loc[arm, ours]).split()[0])
        assert mean == pytest.approx(np.mean(results_.top1(arms[arm])), abs=0.3), arm


def tables_of(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, each a list of rows."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def test_the_readme_table_of_faces_is_what_the_records_say():
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    first = "first fold %"
    found = [t for t in tables_of(text) if t and {"network", first} <= t[0].keys()]
    assert len(found) == 1, "the table of faces is gone"
    preset, out = get_preset("faces"), paths.root() / "reports" / "faces-lfw"
    source = recorded(out)
    arms = face_tables.face_arms(preset, source)
    ours = face_tables.verification_table(preset, arms, source).set_index("network")
    for row in found[0]:
        name = row["network"].replace("*", "")
        assert row["px"] == ours.loc[name, "px"], name
        assert row[first].replace("*", "") == ours.loc[name, "LFW, first held-out fold %"], name
        assert row["seeds"] == ours.loc[name, "seeds"], name
        assert row["folds in turn %"] == ours.loc[name, "LFW, folds in turn %"], name


@pytest.mark.parametrize(
    ("column", "folder"),
    [("characters", "metric-glyphs-disjoint"), ("CIFAR-100", "metric-cpu-cifar100-disjoint")],
)
def test_the_readme_table_of_retrieval_is_what_the_records_say(column, folder):
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    found = [t for t in tables_of(text) if t and {"student", "characters, R@1 %"} <= t[0].keys()]
    assert len(found) == 1, "the table of retrieval is gone"
    preset, out = get_preset(REPORTS[folder]), paths.root() / "reports" / folder
    source = recorded(out)
    arms = metric_tables.metric_arms(preset, source)
    rows = {row.label: row for row in metric_tables.tested(preset, arms, source)}
    crossed = {row.arm: row for row in metric_tables.across_rows(preset, arms, source)}
    for line in found[0]:
        name, value = line["student"].replace("*", ""), line[f"{column}, R@1 %"].replace("*", "")
        index = line[f"{column}, in the teacher's index %"]
        if name not in rows:
            assert value == index == "–", name
            continue
        assert value == mean_and_spread(rows[name].rates()), name
        assert line[f"{column}, n"] == str(len(rows[name].runs)), name
        other = crossed.get(f"metric {name}")
        expected = "–" if other is None else mean_and_spread(other.as_is)
        assert index == expected, name


def test_the_readme_table_is_what_the_records_say():
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    results = [t for t in tables_of(text) if t and {"arm", "top-1 %", "n"} <= t[0].keys()]
    assert len(results) == 1, "the result table is gone"
    preset, out = get_preset("cpu"), paths.root() / "reports" / "cpu-cifar100"
    source = recorded(out)
    arms = gather(preset, (*TABLE1, "resolutions"), source)
    seen = fed(preset, arms, source)
    for row in results[0]:
        name, value = row["arm"].replace("*", ""), row["top-1 %"].replace("*", "")
        if name in seen:
            assert value == f"{seen[name]['test']['top1']:.2f}", name
            continue
        assert value == mean_and_spread(results_.top1(arms[name])), name
        assert int(row["n"]) == len(arms[name]), name
        assert int(row["pixels"]) == arms[name][0].config.degradation.size, name
        alone = row["over labels only"].replace("*", "")
        control = _control(arms[name][0], arms)
        if control is None:
            assert alone == "–", name
        else:
            assert alone == short(gain(arms, name, control)), name


def test_every_number_of_the_results_in_the_readme_is_on_record():
    """All numbers with two decimals: accuracies, spreads, differences."""
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    results = text[text.index("## What came out") : text.index("## Notebooks")]
    prose = "\n".join(line for line in results.splitlines() if not line.startswith("|"))
    known = "".join(
        (paths.root() / "reports" / folder / "REPORT.md").read_text(encoding="utf-8")
        for folder in REPORTS
    )
    numbers = re.findall(r"[+−-]?\d+\.\d\d\b", prose)
    assert len(numbers) > 10
    for number in numbers:
        assert number.replace("−", "-") in known, f"{number} is in no report"


# The functions, on records made up for the purpose ------------------------------------------------

PRESET = replace(get_preset("paper-short"), seeds=3, sweep=(16, 8))
STUDIES = tuple(name for name in studies_of(PRESET) if name != "campaign")


def fake(config, top1: float, folder, shares=None) -> Run:
    """A finished run without a network."""
    names = ["cross_entropy", *(TERMS[o] for o, _ in config.orders)]
    shares = shares or {name: 1 / len(names) for name in names}
    record = {
        "key": config.key,
        "config": json.loads(json.dumps(asdict(config))),
        "results": {"test": {"top1": top1, "top5": 90.0, "n": 10_000}},
        "history": [
            {"epoch": e, "gradient_shares": shares, "validation": {"top1": top1 - 1}}
            for e in (1, 2)
        ],
        "cost": {"parameters": 11_000_000, "macs": 10**6 * config.degradation.size},
        "seconds": {"total": 60.0, "frozen_answers_read": []},
        "machine": {"name": "a machine", "threads": 2},
    }
    storage.save_json(folder / "records" / f"{config.name}.json", record)
    return Run(config, folder, record)


def pretend(folder, studies=STUDIES, leave_out=()):
    """A report whose every arm scores by a rule that the tests can compute."""
    for name in studies:
        for arm in study(PRESET, name).values():
            for seed in seeds(PRESET, arm):
                config = configure(PRESET, arm, seed)
                there = (folder / "records" / f"{config.name}.json").exists()  # in two studies
                if arm.name not in leave_out and not there:
                    fake(config, score(arm.name, seed), folder)
    return recorded(folder)


def score(arm: str, seed: int) -> float:
    base = {"teacher": 80.0, "student": 74.0, "student alone": 72.0, "KD": 75.0}
    base |= {"assistant": 76.0, "assistant alone": 76.5, "horkd+": 75.5}
    return base.get(arm, 70.0) + 0.1 * seed * (1 if arm == "student" else 2)


def test_table1_has_every_arm_with_gain_paper_and_difference(tmp_path):
    source = pretend(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    table = table1(PRESET, arms, source).set_index("arm")
    assert list(table.index) == [*study(PRESET, "table1"), *study(PRESET, "plus")]
    assert table.loc["student", "cifar100 top-1 %"] == "74.10 ± 0.10"
    assert table.loc["student", "gain over labels only"] == "+1.90 ± 0.10"
    assert table.loc["student", "shown?"] == "holds"
    assert table.loc["student", "ours − paper"] == "-0.55"  # 74.10 - 74.65
    assert table.loc["assistant", "gain over labels only"] == "-0.50"
    assert table.loc["assistant", "shown?"] == "not shown"  # one seed
    assert table.loc["KD 32", "paper's row"] == "KD"
    assert table.loc["KD 32", "paper %"] == "74.26"
    assert table.loc["KD 32", "ours − paper"] == "–"  # the paper's was a VGG11
    assert table.loc["student V", "ours − paper"] == "+0.13"  # 70.00 - 69.87
    assert table.loc["KD patient", "gain over labels only"] == "+0.00"  # of the same epochs: 70
    assert table.loc["student, paper's weights, clipped", "gain over labels only"] == "–"
    assert table.loc["teacher", "gain over labels only"] == "–"


def test_a_claim_about_runs_of_unequal_precision_is_not_shown(tmp_path):
    source = pretend(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    question = {"it helps": ("student", "student alone")}
    for number, run in enumerate((*arms["student"], *arms["student alone"])):
        run.record["settings"] = {"precision": "bf16" if number < 1 else "fp32"}
    row = claims_.claims(PRESET, arms, question, source).iloc[0]
    assert row["verdict"] == "not shown"
    assert row.iloc[2].endswith("in unequal precision (bf16, fp32)")
    for run in arms["student"]:
        run.record["settings"] = {"precision": "fp32"}
    row = claims_.claims(PRESET, arms, question, source).iloc[0]
    assert row["verdict"] == "holds"
    assert "precision" not in row.iloc[2]


def test_small_networks_have_no_difference_to_the_paper(tmp_path):
    small = replace(PRESET, compact="resnet8", teacher="resnet14", second="vgg11x0.25")
    arm = study(small, "table1")["student"]
    run = fake(configure(small, arm), 50.0, tmp_path)
    table = table1(small, {"student": [run]}, recorded(tmp_path))
    row = table.set_index("arm").loc["student"]
    assert row["paper %"] == "74.65"
    assert row["ours − paper"] == "–"
    assert "whose networks are others" in _closeness(small, {"student": [run], "teacher": [run]})


def test_failures_and_gaps_stay_in_the_table(tmp_path):
    source = pretend(tmp_path, leave_out=("student, paper's weights", "AT"))
    config = configure(PRESET, study(PRESET, "table1")["student, paper's weights"])
    note = {"key": config.key, "epoch": 2, "config": {}}
    storage.save_json(tmp_path / "records" / f"{config.name}.diverged.json", note)
    source = recorded(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    table = table1(PRESET, arms, source).set_index("arm")["cifar100 top-1 %"]
    assert table["student, paper's weights"] == "diverged in epoch 2"
    assert table["AT"] == "not run"
    save_records(PRESET, ("table1",), {}, source, tmp_path / "copy")
    assert recorded(tmp_path / "copy").failed(config)["epoch"] == 2


def test_networks_fed_small_images_are_rows_of_their_own(tmp_path):
    source = pretend(tmp_path)
    run = source.find(configure(PRESET, study(PRESET, "table1")["teacher"]))
    views = [
        {"degradation": asdict(Degradation(16, upsample=up)), "test": {"top1": 30.0 + up}}
        for up in (False, True)
    ]
    content = {"key": run.config.key, "files": {}, "views": views}
    storage.save_json(tmp_path / "records" / f"{run.config.name}.views.json", content)
    source = recorded(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    seen = fed(PRESET, arms, source)
    assert list(seen) == ["teacher fed 16 px", "teacher fed 16 px, enlarged"]
    assert [s["test"]["top1"] for s in seen.values()] == [30.0, 31.0]
    assert seen["teacher fed 16 px, enlarged"]["macs"] > 3.9 * seen["teacher fed 16 px"]["macs"]
    table = table1(PRESET, arms, source).set_index("arm")
    assert table.loc["teacher fed 16 px", "cifar100 top-1 %"] == "30.00"


def test_claims_name_both_arms_and_leave_out_what_is_not_there(tmp_path):
    source = pretend(tmp_path, leave_out=("FitNet",))
    arms = gather(PRESET, TABLE1, source)
    table = claims_.claims(PRESET, arms, TABLE1_CLAIMS, source).set_index("claim")
    two_stages = table.loc["two stages beat KD of the teacher in one"]
    assert two_stages["verdict"] == "does not hold"  # -1.1 ± 0.1
    assert two_stages["compared"] == "student − KD"
    assert "hybrid orders beat FitNet, both of the teacher" not in table.index
    lines = as_lines(table.reset_index())
    assert ": does not hold.** student − KD: -1.10 ± 0.10" in lines


def test_methods_are_compared_at_one_teacher_and_one_recipe():
    kinds = {**study(PRESET, "table1"), **study(PRESET, "plus")}
    for claim, pair in TABLE1_CLAIMS.items():
        configs = [configure(PRESET, kinds[name]) for name in pair]
        if "both of the teacher" in claim or "both of the assistant" in claim:
            assert configs[0].frozen == configs[1].frozen is not None, claim
            assert configs[0].recipe == configs[1].recipe, claim
        assert configs[0].degradation == configs[1].degradation, claim
        assert configs[0].model == configs[1].model, claim


def test_a_seed_that_diverged_is_counted_and_no_claim_is_shown(tmp_path):
    source = pretend(tmp_path)
    config = configure(PRESET, study(PRESET, "table1")["student direct"], 1)
    (tmp_path / "records" / f"{config.name}.json").unlink()
    note = {"key": config.key, "epoch": 3, "config": {}}
    storage.save_json(tmp_path / "records" / f"{config.name}.diverged.json", note)
    source = recorded(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    table = table1(PRESET, arms, source).set_index("arm")
    assert table.loc["student direct", "n"] == "2, 1 diverged"
    assert table.loc["student direct", "shown?"] == "not shown"
    claims = claims_.claims(PRESET, arms, TABLE1_CLAIMS, source).set_index("claim")
    assert claims.loc["the assistant helps", "verdict"] == "not shown"
    assert "diverged" in claims.loc["the assistant helps", "difference in test top-1"]
    save_records(PRESET, ("table1",), {}, source, tmp_path / "copy")
    assert recorded(tmp_path / "copy").failed(config)["epoch"] == 3


def test_a_gap_to_the_teacher_needs_three_seeds(tmp_path):
    arms = gather(PRESET, ("two_stage",), pretend(tmp_path))
    text = _closeness(PRESET, arms)  # gaps of 6.0, 5.9 and 5.8 against 3.11
    assert "does not hold" in text
    assert "5.90 ± 0.10" in text
    one = {name: found[:1] for name, found in arms.items()}
    assert "not shown" in _closeness(PRESET, one)


def additive(folder, noise=0.0, count=1):
    """Subsets whose accuracy is a sum of what each order is worth."""
    worth = {"1": -0.5, "2": 1.0, "3": 0.25, "C": 2.0}
    preset = replace(PRESET, repeat_all=True, seeds=count)
    for arm in study(preset, "orders").values():
        for seed in range(count):
            total = 60 + sum(worth[o] for o in arm.orders) + noise * seed
            fake(configure(preset, arm, seed), total, folder)
    return worth, order_arms(preset, recorded(folder))


def test_main_effects_are_means_over_all_pairs(tmp_path):
    """Additive accuracies give back exactly what each order adds."""
    worth, found = additive(tmp_path)
    assert list(found) == [16, FULL]
    for arms in found.values():
        assert len(arms) == 16
        pairs = effects(arms)
        main = {order: main_effect(values) for order, values in pairs.items()}
        assert {o: e["mean"] for o, e in main.items()} == pytest.approx(worth)
        assert {len(values) for values in pairs.values()} == {8}
        assert {e["n"] for e in main.values()} == {1}
        assert _slopes(arms) == pytest.approx([np.mean(list(worth.values()))])
    table = order_table(found)
    assert len(table) == 32
    assert table.loc[0, "orders"] == "{2,3,C}"
    assert table.loc[0, "over labels only"] == "+3.25"


def test_one_seed_of_the_ablation_shows_nothing(tmp_path):
    text = order_claims(additive(tmp_path)[1])
    assert "holds" not in text.replace("does not hold", "")
    assert "does not hold" not in text
    assert "At 16 px, {2,3,C} is the best subset: not shown.** It is number 1 of 16" in text


def test_three_seeds_of_the_ablation_give_verdicts(tmp_path):
    text = order_claims(additive(tmp_path, noise=0.3, count=3)[1])
    assert "At 16 px, adding order C helps: holds.** +2.00 ± 0.00" in text
    assert "At 16 px, adding order 1 helps: does not hold.** -0.50 ± 0.00" in text
    assert "At 16 px, more orders help: holds.** +0.69" in text  # mean of the four
    assert "higher orders help more: holds.** +0.88" in text  # (0.25 + 2 + 0.5 - 1) / 2
    assert "{2,3,C} is the best subset: holds" in text
    assert "adding order 1 to {2,3,C} hurts: holds.** +0.50" in text


def test_the_ablation_is_sorted_by_number_not_by_text(tmp_path):
    scores = {"2": 9.5, "3": 43.0, "C": 10.2, "": 5.0}
    for arm in study(PRESET, "orders").values():
        if arm.orders in scores and arm.pixels == 16:
            fake(configure(PRESET, arm), scores[arm.orders], tmp_path)
    table = order_table(order_arms(PRESET, recorded(tmp_path)))
    assert table["test top-1 %"].tolist() == ["43.00", "10.20", "9.50", "5.00"]


def test_weights_are_judged_on_the_validation_split(tmp_path):
    assert not study(PRESET, "weights"), "no validation split, no choice of weights"
    preset = replace(PRESET, validation=True)
    for name in ("two_stage", "weights"):
        for arm in study(preset, name).values():
            fake(configure(preset, arm), score(arm.name, 0), tmp_path)
    source = recorded(tmp_path)
    table = weight_table(preset, source).set_index("weights")
    assert table.loc["as they are", "validation top-1 %"] == "73.00"  # the test has 74
    assert table.loc["order 2 × 10", "order 2"] == "250"
    assert table.loc["order 2 × 10", "change"] == "-4.00"
    assert weight_table(preset, recorded(tmp_path / "empty")).empty


def test_the_resolution_table_pairs_each_student_with_its_control(tmp_path):
    source = pretend(tmp_path)
    arms = gather(PRESET, ("two_stage", "resolutions"), source)
    table = resolution_table(PRESET, arms).set_index("px")
    assert list(table.index) == ["32", "16", "8"]
    assert table.loc["16", "from the assistant %"] == "74.10 ± 0.10"
    assert table.loc["16", "gain, assistant"] == "+1.90 ± 0.10"
    assert table.loc["16", "assistant over teacher"] == "+3.90 ± 0.10"
    assert table.loc["16", "n"] == "3/3/3"
    assert table.loc["8", "n"] == "1/1/1"
    assert table.loc["32", "from the teacher %"] == "76.00"
    text = resolution_claims(PRESET, arms)
    assert "At 16 px distillation helps: holds" in text
    assert "none was seen at 32, 8 px" in text  # 70 - 76.5 and 70 - 70


def test_matrices_need_the_views_of_every_cell(tmp_path):
    source = pretend(tmp_path)
    arms = gather(PRESET, ("two_stage", "resolutions"), source)
    assert tables.crossed(PRESET, arms, source).empty
    sizes = resolutions(PRESET)
    for r in sizes:
        run = arms[at_resolution(r, PRESET)["student"]][0]
        views = [
            {"degradation": asdict(Degradation(s)), "test": {"top1": 10.0 * r + s}} for s in sizes
        ]
        content = {"key": run.config.key, "files": {}, "views": views}
        storage.save_json(tmp_path / "records" / f"{run.config.name}.views.json", content)
    matrix = tables.crossed(PRESET, arms, recorded(tmp_path))
    assert matrix.loc[16, 8] == 168.0
    assert matrix.shape == (3, 3)


def test_gather_says_what_to_train_when_nothing_is_there(tmp_path):
    with pytest.raises(HorkdError, match=r"no run of study table1 .*horkd work --preset"):
        gather(PRESET, TABLE1, recorded(tmp_path))


def test_the_figures_show_every_arm(tmp_path):
    source = pretend(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    figure, axes = plt.subplots(2, 2)
    figures.plot_methods(PRESET, arms, source, 16, axes[0, 0])
    figures.plot_methods(PRESET, arms, source, FULL, axes[0, 1])
    figures.plot_cost(PRESET, arms, source, axes[1, 0])
    figures.plot_paper(axes[1, 1])
    shown = [t.get_text() for ax in axes[0] for t in ax.get_yticklabels()]
    assert sorted(shown) == sorted(arms)
    best = axes[0, 0].get_yticklabels()[-1].get_text()
    assert best == max(
        (n for n in arms if arms[n][0].config.degradation.size == 16),
        key=lambda n: np.mean(results_.top1(arms[n])),
    )
    assert [t.get_text() for t in axes[1, 1].get_yticklabels()][-1] == "Teacher ResNet50, 32 px"
    plt.close(figure)
    found = order_arms(PRESET, source)
    figure, axes = plt.subplots(1, 3)
    figures.plot_subsets(found[16], axes)
    assert len(axes[0].get_yticklabels()) == 16
    assert {ax.get_ylim() for ax in axes} == {axes[0].get_ylim()}, "rows are aligned"
    plt.close(figure)
    figure, axes = plt.subplots(1, 2)
    figures.plot_resolutions(PRESET, gather(PRESET, STUDIES, source), axes)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["8", "16", "32"]
    plt.close(figure)


def test_every_family_is_told_from_its_configuration(tmp_path):
    source = pretend(tmp_path)
    arms = gather(PRESET, TABLE1, source)
    kinds = {name: figures.family(name, found[0]) for name, found in arms.items()}
    assert kinds["student alone"] == kinds["assistant V alone"] == "labels only"
    assert kinds["student"] == kinds["student, paper's weights"] == "hybrid orders"
    assert kinds["KD"] == kinds["RKD 32"] == kinds["AT"] == "other distillation"
    assert {kinds[name] for name in study(PRESET, "plus")} == {"horkd+ and its parts"}
