"""Every number in a committed report and in the README has a record behind it, and equals it."""

import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from records import Made, Recorded, make, recorded

from horkd import paths, storage
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import config_from_dict
from horkd.studies import report
from horkd.studies.arm import subset_name
from horkd.studies.claims import as_lines, claims, mean_and_spread
from horkd.studies.classification import figures, tables
from horkd.studies.classification import page as pages
from horkd.studies.classification.presets import FULL
from horkd.studies.classification.tables import TABLE1, TWO_STAGE
from horkd.studies.faces import page as face_page
from horkd.studies.faces import tables as face_tables
from horkd.studies.faces.setting import FACES
from horkd.studies.presets import get_preset, get_presets
from horkd.studies.results import gather
from horkd.studies.retrieval import page as metric_page
from horkd.studies.retrieval import tables as metric_tables
from horkd.studies.study import configure, queue, seeds, studies_of, study

mpl.use("Agg")
REPORTS = {
    "quick-glyphs": "quick",
    "cpu-cifar100": "cpu",
    "faces-lfw": "faces",
    "metric-glyphs-disjoint": "metric",
    "metric-cpu-cifar100-disjoint": "metric-cpu",
}
TOURS = ("quick-glyphs", "cpu-cifar100")

#: Of each notebook: its studies, its page, and its tables.
NOTEBOOKS = {
    "02_two_stage_transfer": (TWO_STAGE, pages.two_stage_page, {
        "two_stage_transfer": tables.two_stage_table,
        "two_stage_gains": lambda results: claims(results, pages.TWO_STAGE_CLAIMS),
    }),
    "03_table1": (TABLE1, pages.table1_page, {
        "table1": tables.table1,
        "table1_claims": lambda results: claims(results, pages.TABLE1_CLAIMS),
        "table1_why": tables.reasons,
    }),
    "04_order_ablation": (tables.ORDER_STUDY, pages.orders_page, {
        "orders": tables.order_table, "weights": tables.weight_table,
    }),
    "05_resolution_sweep": (tables.RESOLUTIONS, pages.resolutions_page, {
        "resolutions": tables.resolution_table,
    }),
    "06_faces": (FACES, face_page.faces_page, {
        "faces_verification": face_tables.verification_table,
        "faces_table2": face_tables.published,
        "faces_identification": face_tables.identification_table,
        "faces_mixed": face_tables.mixed_table,
    }),
    "07_metric_learning": (metric_tables.RETRIEVAL, metric_page.metric_page, {
        "retrieval": metric_tables.retrieval_table,
        "retrieval_across": metric_tables.across_table,
        "table4": metric_tables.published,
    }),
}  # fmt: skip
#: What these say was measured by the notebook itself, on its machine.
MEASURED = {"00_tour": "tour", "01_relational_potentials": "potentials"}


def of(folder: str, studies):
    """Results of a committed report, from its records alone."""
    task = "retrieval" if studies == metric_tables.RETRIEVAL else ""
    return recorded(
        get_preset(REPORTS[folder], task=task), studies, paths.root() / "reports" / folder
    )


def committed(part: str):
    """(report, name) of all pages or tables that are committed and made of records."""
    found = [(path.parts[-3], path.stem)
             for path in sorted((paths.root() / "reports").glob(f"*/{part}/*.md"))]  # fmt: skip
    measured = tuple(MEASURED if part == "summaries" else MEASURED.values())
    return [pair for pair in found if not pair[1].startswith(measured) and pair[0] != "tuning"]


@pytest.mark.parametrize(("folder", "name"), committed("summaries"))
def test_a_committed_page_is_what_the_records_say(folder, name):
    studies, page, _ = NOTEBOOKS[name]
    again = page(of(folder, studies))
    out = paths.root() / "reports" / folder
    text = (out / "summaries" / f"{name}.md").read_text(encoding="utf-8")
    assert re.fullmatch(re.escape(again) + r"(\n\n!\[[^]]+\]\(figures/\w+\.png\))+\n", text), (
        "run the notebook again: its page is not of these records"
    )
    assert again in (out / "REPORT.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("folder", "name"), committed("tables"))
def test_a_committed_table_is_what_the_records_say(folder, name):
    studies, table = next(
        (studies, made[name]) for studies, _, made in NOTEBOOKS.values() if name in made
    )
    again = table(of(folder, studies))
    out = paths.root() / "reports" / folder / "tables"
    assert (out / f"{name}.md").read_text(encoding="utf-8") == report.markdown(again) + "\n"
    assert (out / f"{name}.csv").read_text(encoding="utf-8") == again.to_csv(index=False)


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
    out, results = paths.root() / "reports" / folder, of(folder, TWO_STAGE)
    tour = pd.read_csv(out / "tables" / "tour.csv").set_index("model")
    ours = next(c for c in tour.columns if c.startswith("test top-1"))
    for arm in ("teacher", "assistant", "student", "student alone"):
        mean = float(str(tour.loc[arm, ours]).split()[0])
        assert mean == pytest.approx(np.mean(results.values(arm)), abs=0.3), arm


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
    ours = face_tables.verification_table(of("faces-lfw", FACES)).set_index("network")
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
    results = of(folder, metric_tables.RETRIEVAL)
    rows = {row.label: row for row in metric_tables.tested(results)}
    crossed = {row.label: row for row in metric_tables.across_rows(results)}
    for line in found[0]:
        name, value = line["student"].replace("*", ""), line[f"{column}, R@1 %"].replace("*", "")
        index = line[f"{column}, in the teacher's index %"]
        if name not in rows:
            assert value == index == "–", name
            continue
        assert value == mean_and_spread(rows[name].rates()), name
        assert line[f"{column}, n"] == str(len(rows[name].runs)), name
        other = crossed.get(name)
        expected = "–" if other is None else mean_and_spread(other.as_is)
        assert index == expected, name


def test_the_readme_table_is_what_the_records_say():
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    found = [t for t in tables_of(text) if t and {"arm", "top-1 %", "n"} <= t[0].keys()]
    assert len(found) == 1, "the result table is gone"
    results = of("cpu-cifar100", (*TABLE1, "resolutions"))
    seen = tables.fed(results)
    for row in found[0]:
        name, value = row["arm"].replace("*", ""), row["top-1 %"].replace("*", "")
        if name in seen:
            assert value == f"{seen[name]['test']['top1']:.2f}", name
            continue
        assert value == mean_and_spread(results.values(name)), name
        assert int(row["n"]) == len(results.runs(name)), name
        assert int(row["pixels"]) == results.config(name).degradation.size, name
        alone = row["over labels only"].replace("*", "")
        control = tables.control_of(results, name)
        if control is None:
            assert alone == "–", name
        else:
            assert alone == results.gain(name, control).short, name


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


def pages_of(folder):
    """Of a report: its pages, each a function of results, with the results."""
    return [
        (name, page, of(folder, studies))
        for name, (studies, page, _) in NOTEBOOKS.items()
        if (folder, name) in committed("summaries")
    ]


def records_of(folder) -> dict[str, dict]:
    """The records of a report by key, read from its files alone."""
    files = sorted((paths.root() / "reports" / folder / "records").glob("*.json"))
    contents = [storage.load_json(path) for path in files]
    return {content["key"]: content for content in contents if "seconds" in content}


def hours_of(records) -> str:
    """As pages have it."""
    hours = sum(record["seconds"]["total"] for record in records) / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


@pytest.mark.parametrize(("folder", "name"), committed("summaries"))
def test_a_committed_page_counts_every_run_once(folder, name):
    """Its hours are the sum over these records."""
    text = (paths.root() / "reports" / folder / "summaries" / f"{name}.md").read_text("utf-8")
    results, records = of(folder, NOTEBOOKS[name][0]), records_of(folder)
    arms = list(results)
    if name.startswith("04"):  # the page is about these alone
        arms = [subset_name(o, r) for r, known in tables.ablations(results).items() for o in known]
    keys = {run.config.key for arm in arms for run in results.runs(arm)}
    assert f" {len(keys)} runs, {hours_of(records[key] for key in keys)} of training" in text
    for part, whole in re.findall(r"In (\d+) of (\d+) runs", text):
        assert int(part) <= int(whole) == len(keys)


def shifted(content):
    """The same JSON with all measured numbers that are no whole ones a little larger."""
    if isinstance(content, dict):
        return {n: v if n == "far" else shifted(v) for n, v in content.items()}
    if isinstance(content, list):
        return [shifted(value) for value in content]
    return content * 1.01 + 0.03 if isinstance(content, float) else content


def with_other_numbers(results, arm):
    """The same results, but for what the runs of an arm gave."""
    source, keys = results.source, {run.config.key for run in results.runs(arm)}

    class Shifted:
        find, failed = source.find, source.failed

        def at_resolutions(self, run, degradations):
            found = source.at_resolutions(run, degradations)
            return shifted(found) if run.config.key in keys else found

        def ask(self, run, looks):
            found = source.ask(run, looks)
            return shifted(found) if run.config.key in keys else found

    def other(run):
        parts = {name: shifted(run.record[name]) for name in ("results", "history")}
        return replace(run, record={**run.record, **parts}) if run.config.key in keys else run

    found = {name: [other(run) for run in runs] for name, runs in results.found.items()}
    return replace(results, source=Shifted(), found=found)


@pytest.mark.parametrize("folder", REPORTS)
def test_every_committed_record_is_shown_by_a_page(folder):
    """Other numbers of an arm make another page: no network was trained for nothing."""
    shown = set()
    for _, page, results in pages_of(folder):
        text = page(results)
        for arm in results:
            keys = {run.config.key for run in results.runs(arm)}
            if not keys <= shown and page(with_other_numbers(results, arm)) != text:
                shown |= keys
    unseen = [record["name"] for key, record in records_of(folder).items() if key not in shown]
    assert not unseen


@pytest.mark.parametrize("folder", ["tuning", "cpu-cifar100/trials", "paper-short-cifar100/trials"])
def test_every_committed_trial_is_named_by_its_key(folder):
    out = paths.root() / "reports" / folder
    text = "".join(path.read_text("utf-8") for path in out.rglob("*.md"))
    records = records_of(folder)
    assert records
    assert not [record["name"] for key, record in records.items() if key not in text]


def test_the_tuned_network_of_one_fold_is_named():
    text = face_page.faces_page(of("faces-lfw", FACES))
    assert "In no table, as there are fewer: tuned 16, fold 2: 92.17 %." in text


def test_the_readme_counts_what_is_on_record_or_planned():
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    rows = [row for t in tables_of(text) if t and {"preset", "time"} <= t[0].keys() for row in t]
    counted = 0
    for row in rows:
        name = row["preset"].strip("`")
        for runs in re.findall(r"(\d+) runs", row["time"]):
            counted += 1
            folder = next(f for f, preset in REPORTS.items() if preset == name)
            records = records_of(folder)
            if int(runs) == len(records):
                hours = sum(record["seconds"]["total"] for record in records.values()) / 3600
                assert f"{hours:.1f} h of training" in row["time"]
            else:
                assert int(runs) == len(queue(get_presets(name))), name
    assert counted >= 3


# What is not equal in all runs is said beside the numbers -----------------------------------------


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [("settings", {"precision": "bf16"}, "precision: bf16 (1), fp32 ("),
     ("machine", {"device": "cuda"}, "device: cpu ("),
     ("versions", {"torch": "2.9.1"}, "version of torch: 2.15.0 (")],
)  # fmt: skip
def test_every_page_says_that_its_runs_are_not_alike(part, value, said):
    assert len(pages_of("quick-glyphs")) == 6
    for name, page, results in pages_of("quick-glyphs"):
        assert "trained alike" not in page(results)
        arm = next(arm for arm in results if name[:2] != "04" or arm.startswith("{"))
        run = results.runs(arm)[0]
        run.record[part] = run.record[part] | value
        assert said in page(results), name
        assert page(results).count("**Not all runs were trained alike**") == 1


def test_a_run_that_went_on_elsewhere_is_counted_with_both():
    results = pretend(TABLE1)
    first, second = results.everything()[:2]
    first.record["trained_in"] = [
        {"precision": "fp32", "device": "cpu", "torch": "2.9.1"},
        {"precision": "fp32", "device": "cuda", "torch": "2.9.1"},
    ]
    second.record["settings"] = {"precision": "fp32"}
    second.record["machine"] |= {"device": "cpu"}
    text = pages.table1_page(results)
    assert "(in parentheses, how many): device: cpu (2), cuda (1). Part of" in text


@pytest.mark.parametrize("folder", [f for f in REPORTS if f != "quick-glyphs"])
def test_no_claim_is_shown_between_runs_of_unequal_precision(folder):
    """Every second run in bf16: each arm of three seeds has both."""
    judged = 0
    for name, page, results in pages_of(folder):
        judged += len(re.findall(r": (?:holds|does not hold)\.\*\*", page(results)))
        for runs in results.found.values():
            for number, run in enumerate(runs):
                run.record["settings"] = {"precision": ("fp32", "bf16")[number % 2]}
        if name.startswith("06"):  # folds are one run each
            for number, run in enumerate(results.everything()):
                run.record["settings"] = {"precision": ("fp32", "bf16")[number % 2]}
        text = page(results)
        assert not re.findall(r": (?:holds|does not hold)\.\*\*", text), name
    assert judged or folder != "metric-glyphs-disjoint"


# The functions, on records made up for the purpose ------------------------------------------------

PRESET = replace(get_preset("paper-short"), seeds=3, sweep=(16, 8))
BASE = {
    "teacher": 80.0, "student": 74.0, "student alone": 72.0, "KD": 75.0, "assistant": 76.0,
    "assistant alone": 76.5, "horkd+": 75.5,
}  # fmt: skip


def score(arm: str, seed: int) -> float:
    """The rule: top-1 (%) of an arm."""
    return BASE.get(arm, 70.0) + 0.1 * seed * (1 if arm == "student" else 2)


def pretend(studies, preset=PRESET, rule=score, **which):
    """Results whose every arm scores by a rule that the tests can compute."""

    def add(made, arm, seed, config):
        top1 = rule(arm.name, seed)
        if top1 is not None:
            made.add(config, {"top1": top1, "top5": 90.0, "n": 10_000}, validation=top1 - 1)

    return make(preset, studies, add, **which)


def table1_of(results) -> pd.DataFrame:
    return tables.table1(results).set_index("arm")


def test_table1_has_every_arm_with_gain_paper_and_difference():
    table = table1_of(pretend(TABLE1))
    assert list(table.index) == [*study(PRESET, "table1"), *study(PRESET, "plus")]
    student = table.loc["student"]
    assert student["cifar100 top-1 %"] == "74.10 ± 0.10"
    assert student["gain over labels only"] == "+1.90 ± 0.10"
    assert student["shown?"] == "holds"
    assert student["ours − paper"] == "-0.55"  # 74.10 - 74.65
    assert table.loc["assistant", "gain over labels only"] == "-0.50"
    assert table.loc["assistant", "shown?"] == "not shown"  # one seed
    assert table.loc["KD 32", "paper's row"] == "KD"
    assert table.loc["KD 32", "paper %"] == "74.26"
    assert table.loc["KD 32", "ours − paper"] == "–"  # the paper's was a VGG11
    assert table.loc["student V", "ours − paper"] == "+0.13"  # 70.00 - 69.87
    assert table.loc["KD patient", "gain over labels only"] == "+0.00"  # of the same epochs: 70
    assert table.loc["student, paper's weights, clipped", "gain over labels only"] == "–"
    assert table.loc["teacher", "gain over labels only"] == "–"


def test_a_claim_about_runs_of_unequal_precision_is_not_shown():
    results = pretend(TABLE1)
    question = {"it helps": ("student", "student alone")}
    for number, run in enumerate((*results.runs("student"), *results.runs("student alone"))):
        run.record["settings"] = {"precision": "bf16" if number < 1 else "fp32"}
    row = claims(results, question).iloc[0]
    assert row["verdict"] == "not shown"
    assert row.iloc[2].endswith("in unequal precision (bf16, fp32)")
    for run in results.runs("student"):
        run.record["settings"] = {"precision": "fp32"}
    row = claims(results, question).iloc[0]
    assert row["verdict"] == "holds"
    assert "precision" not in row.iloc[2]


def test_small_networks_have_no_difference_to_the_paper():
    small = replace(PRESET, compact="resnet8", teacher="resnet14", second="vgg11x0.25")
    results = pretend(TABLE1, small, only=("student", "teacher"))
    row = table1_of(results).loc["student"]
    assert row["paper %"] == "74.65"
    assert row["ours − paper"] == "–"
    assert "whose networks are others" in pages.closeness(results)


def test_failures_and_gaps_stay_in_the_tables(tmp_path):
    """And a report keeps the failures on record."""
    lost = ("student, paper's weights", ("student direct", 1))
    results = pretend(TABLE1, diverged=lost, leave_out=("AT",))
    table = table1_of(results)
    assert table.loc["student, paper's weights", "cifar100 top-1 %"] == "diverged in epoch 2"
    assert table.loc["AT", "cifar100 top-1 %"] == "not run"
    assert table.loc["student direct", "n"] == "2, 1 diverged"
    assert table.loc["student direct", "shown?"] == "not shown"
    found = claims(results, pages.TABLE1_CLAIMS).set_index("claim")
    assert found.loc["the assistant helps", "verdict"] == "not shown"
    assert "diverged" in found.loc["the assistant helps", "difference in test top-1"]
    results.save_records("")
    results.save_records(tmp_path)
    for arm, seed in (("student, paper's weights", 0), ("student direct", 1)):
        config = configure(PRESET, results.arms[arm], seed)
        assert Recorded(tmp_path).failed(config)["epoch"] == 2


def test_networks_fed_small_images_are_rows_of_their_own():
    results = pretend(TABLE1)
    views = [Degradation(16, upsample=enlarged) for enlarged in (False, True)]
    results.source.tests[results.config("teacher").key] = {
        view: {"top1": 30.0 + view.upsample} for view in views
    }
    seen = tables.fed(results)
    assert list(seen) == ["teacher fed 16 px", "teacher fed 16 px, enlarged"]
    assert [s["test"]["top1"] for s in seen.values()] == [30.0, 31.0]
    assert seen["teacher fed 16 px, enlarged"]["macs"] > 3.9 * seen["teacher fed 16 px"]["macs"]
    assert table1_of(results).loc["teacher fed 16 px", "cifar100 top-1 %"] == "30.00"


def test_claims_name_both_arms_and_leave_out_what_is_not_there():
    found = claims(pretend(TABLE1, leave_out=("FitNet",)), pages.TABLE1_CLAIMS)
    table = found.set_index("claim")
    two_stages = table.loc["two stages beat KD of the teacher in one"]
    assert two_stages["verdict"] == "does not hold"  # -1.1 ± 0.1
    assert two_stages["compared"] == "student − KD"
    assert "hybrid orders beat FitNet, both of the teacher" not in table.index
    assert ": does not hold.** student − KD: -1.10 ± 0.10" in as_lines(found)


def test_methods_are_compared_at_one_teacher_and_one_recipe():
    kinds = {**study(PRESET, "table1"), **study(PRESET, "plus")}
    for claim, pair in pages.TABLE1_CLAIMS.items():
        configs = [configure(PRESET, kinds[name]) for name in pair]
        if "both of the teacher" in claim or "both of the assistant" in claim:
            assert configs[0].frozen == configs[1].frozen is not None, claim
            assert configs[0].recipe == configs[1].recipe, claim
        assert configs[0].degradation == configs[1].degradation, claim
        assert configs[0].model == configs[1].model, claim


def test_a_gap_to_the_teacher_needs_three_seeds():
    text = pages.closeness(pretend(TWO_STAGE))  # gaps of 6.0, 5.9 and 5.8 against 3.11
    assert "does not hold" in text
    assert "5.90 ± 0.10" in text
    one = pretend(TWO_STAGE, leave_out=(("student", 1), ("student", 2)))
    assert "not shown" in pages.closeness(one)


def additive(noise=0.0, count=1):
    """Subsets whose accuracy is a sum of what each order is worth."""
    worth = {"1": -0.5, "2": 1.0, "3": 0.25, "C": 2.0}

    def rule(name, seed):
        return 60 + sum(value for o, value in worth.items() if o in name.split()[0]) + noise * seed

    preset = replace(PRESET, repeat_all=True, seeds=count)
    return worth, pretend(tables.ORDER_STUDY, preset, rule)


def test_main_effects_are_means_over_all_pairs():
    """Additive accuracies give back exactly what each order adds."""
    worth, results = additive()
    assert list(tables.ablations(results)) == [16, FULL]
    for pixels, known in tables.ablations(results).items():
        assert len(known) == 16
        pairs = tables.effects(results, pixels)
        main = {order: tables.main_effect(values) for order, values in pairs.items()}
        assert {o: e.mean for o, e in main.items()} == pytest.approx(worth)
        assert {len(values) for values in pairs.values()} == {8}
        assert {e.n for e in main.values()} == {1}
        slope = pages.slopes(results, pixels)
        assert slope.values == pytest.approx([np.mean(list(worth.values()))])
    table = tables.order_table(results)
    assert len(table) == 32
    assert table.loc[0, "orders"] == "{2,3,C}"
    assert table.loc[0, "over labels only"] == "+3.25"


def test_one_seed_of_the_ablation_shows_nothing_and_three_give_verdicts():
    text = pages.order_claims(additive()[1])
    assert not re.search("holds|does not hold", text)
    assert "At 16 px, {2,3,C} is the best subset: not shown.** It is number 1 of 16" in text
    text = pages.order_claims(additive(noise=0.3, count=3)[1])
    assert "At 16 px, adding order C helps: holds.** +2.00 ± 0.00" in text
    assert "At 16 px, adding order 1 helps: does not hold.** -0.50 ± 0.00" in text
    assert "At 16 px, more orders help: holds.** +0.69" in text  # mean of the four
    assert "higher orders help more: holds.** +0.88" in text  # (0.25 + 2 + 0.5 - 1) / 2
    assert "{2,3,C} is the best subset: holds" in text
    assert "adding order 1 to {2,3,C} hurts: holds.** +0.50" in text


def test_the_ablation_is_sorted_by_number_not_by_text():
    scores = {subset_name(o, 16): v for o, v in {"2": 9.5, "3": 43.0, "C": 10.2, "": 5.0}.items()}
    results = pretend(tables.ORDER_STUDY, rule=lambda name, seed: scores.get(name))
    found = tables.order_table(results)["test top-1 %"].tolist()
    assert found == ["43.00", "10.20", "9.50", "5.00"]


def test_weights_are_judged_on_the_validation_split():
    assert not study(PRESET, "weights"), "no validation split, no choice of weights"
    preset = replace(PRESET, validation=True)
    table = tables.weight_table(pretend(("two_stage", "weights"), preset)).set_index("weights")
    assert table.loc["as they are", "validation top-1 %"] == "73.00"  # the test has 74
    assert table.loc["order 2 × 10", "order 2"] == "1"
    assert table.loc["order 2 × 10", "change"] == "-4.00"
    assert tables.weight_table(gather(preset, TWO_STAGE, Made(), required=False)).empty


def test_the_resolution_table_pairs_each_student_with_its_control():
    results = pretend(tables.RESOLUTIONS)
    table = tables.resolution_table(results).set_index("px")
    assert list(table.index) == ["32", "16", "8"]
    row = table.loc["16"]
    assert row["from the assistant %"] == "74.10 ± 0.10"
    assert row["gain, assistant"] == "+1.90 ± 0.10"
    assert row["assistant over teacher"] == "+3.90 ± 0.10"
    assert row["n"] == "3/3/3"
    assert table.loc["8", "n"] == "1/1/1"
    assert table.loc["32", "from the teacher %"] == "76.00"
    text = pages.resolution_claims(results)
    assert "At 16 px distillation helps: holds" in text
    assert "none was seen at 32, 8 px" in text  # 70 - 76.5 and 70 - 70


def test_matrices_need_the_views_of_every_cell():
    results = pretend(tables.RESOLUTIONS)
    assert tables.crossed(results).empty
    sizes = tables.resolutions(results)
    for r in sizes:
        key = results.config(tables.at_resolution(results, r)["student"]).key
        results.source.tests[key] = {Degradation(s): {"top1": 10.0 * r + s} for s in sizes}
    matrix = tables.crossed(results)
    assert matrix.loc[16, 8] == 168.0
    assert matrix.shape == (3, 3)


def test_results_say_what_to_train_when_nothing_is_there(tmp_path):
    with pytest.raises(HorkdError, match=r"no run of study table1 .*horkd work --preset"):
        recorded(PRESET, TABLE1, tmp_path)


def test_records_of_a_report_say_what_was_asked_of_them(tmp_path):
    """Everything that pages read comes back from the files of a report."""
    results = pretend(TWO_STAGE, diverged=[("student", 2)])
    teacher, view = results.runs("teacher")[0], Degradation(8)
    results.source.tests[teacher.config.key] = {view: {"top1": 12.5}}
    again = recorded(PRESET, TWO_STAGE, results.source.save(tmp_path))
    assert list(again) == list(results)
    assert {name: again.values(name) for name in again} == {n: results.values(n) for n in results}
    assert again.at_resolutions(teacher, [view]) == [{"top1": 12.5}]
    assert again.at_resolutions(teacher, [view, Degradation(9)]) is None
    assert len(again.failures("student")) == 1
    assert pages.two_stage_page(again) == pages.two_stage_page(results)


def test_the_figures_show_every_arm():
    results = pretend(TABLE1)
    figure, axes = plt.subplots(2, 2)
    figures.plot_methods(results, 16, axes[0, 0])
    figures.plot_methods(results, FULL, axes[0, 1])
    figures.plot_cost(results, axes[1, 0])
    figures.plot_paper(axes[1, 1])
    shown = [t.get_text() for ax in axes[0] for t in ax.get_yticklabels()]
    assert sorted(shown) == sorted(results)
    best = axes[0, 0].get_yticklabels()[-1].get_text()
    small = (n for n in results if results.config(n).degradation.size == 16)
    assert best == max(small, key=lambda n: np.mean(results.values(n)))
    assert [t.get_text() for t in axes[1, 1].get_yticklabels()][-1] == "Teacher ResNet50, 32 px"
    plt.close(figure)
    figure, axes = plt.subplots(1, 3)
    figures.plot_subsets(pretend(tables.ORDER_STUDY), 16, axes)
    assert len(axes[0].get_yticklabels()) == 16
    assert {ax.get_ylim() for ax in axes} == {axes[0].get_ylim()}, "rows are aligned"
    plt.close(figure)
    figure, axes = plt.subplots(1, 2)
    figures.plot_resolutions(pretend(tables.RESOLUTIONS), axes)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["8", "16", "32"]
    plt.close(figure)


def test_every_family_is_told_from_its_configuration():
    results = pretend(TABLE1)
    kinds = {name: figures.family(results, name) for name in results}
    assert kinds["teacher"] == "teacher"
    assert kinds["student alone"] == kinds["assistant V alone"] == "labels only"
    assert kinds["student"] == kinds["student, paper's weights"] == "hybrid orders"
    assert kinds["KD"] == kinds["RKD 32"] == kinds["AT"] == "other distillation"
    assert {kinds[name] for name in study(PRESET, "plus")} == {"horkd+ and its parts"}
