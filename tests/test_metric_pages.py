"""What pages say of metric learning, on results made up by rules that the tests can compute."""

import functools
import re
import shlex
import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import colors
from matplotlib import pyplot as plt
from records import cell, check_page, judged, make, protocol, recorded

from horkd import paper, paths
from horkd import reproduce as reproduce_
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.looks import Look
from horkd.networks.network import ModelSpec, Network
from horkd.studies import presets as presets_
from horkd.studies import report
from horkd.studies.claims import as_lines
from horkd.studies.results import Results, live
from horkd.studies.retrieval import figures as metric_figures
from horkd.studies.retrieval import page as metric_page
from horkd.studies.retrieval import tables as metric_tables
from horkd.studies.retrieval.tables import RETRIEVAL, TEACHER
from horkd.studies.study import configure, seeds, study

mpl.use("Agg")
PRESETS = ("metric", "quick", "metric-cpu", "metric-paper")
DASH = "–"

get_preset = functools.partial(presets_.get_preset, task="retrieval")

# Results made up for the purpose ------------------------------------------------------------------

#: Recall@1 (%) of the first seed; other arms have 50.
RATE = {
    "teacher": 80.0, "assistant": 75.0, "large": 82.0,
    "student 16": 66.0, "student 16 direct": 64.0, "student 16 alone": 60.0, "RKD 16": 64.5,
    "student 16 for the index": 61.0, "PKT 16": 40.0, "DarkRank 16": 70.0, "MKD 16": 63.0,
    "student 24": 72.0, "student 24 direct": 71.5, "student 24 alone": 68.0,
    "student 12": 58.0, "student 12 direct": 58.5, "student 12 alone": 52.0,
    "student 8": 45.0, "student 8 direct": 44.0, "student 8 alone": 35.0,
    "student 32": 76.0, "student 32 direct": 75.0, "student 32 alone": 73.0,
    "student 96": 66.0, "student 96 direct": 64.0,
}  # fmt: skip
#: What each further seed adds; 0.5 for others.
STEP = {"student 16": 1.0, "student 16 alone": 0.75, "RKD 16": -2.0, "MKD+AT 16": 0.0}
FED = {224: 70.0, 160: 60.0, 128: 55.0, 96: 30.0, 24: 50.0, 16: 20.0, 12: 10.0, 8: 5.0}
RAW = {32: 1.0, 24: 1.25, 16: 1.5, 12: 1.75, 8: 2.0}
PARAMETERS = 1_230_000
QUERIES = 2000


def rate_of(arm: str, seed: int = 0) -> float:
    """The rule: Recall@1 of an arm, which is named as in tables."""
    return RATE.get(arm, 50.0) + STEP.get(arm, 0.5) * seed


def rates(arm: str, count: int = 3) -> np.ndarray:
    return np.array([rate_of(arm, seed) for seed in range(count)])


def found(rate: float) -> dict:
    """What `protocols.retrieval.retrieve` gives."""
    return {
        "recall": {"1": rate, "2": rate + 3, "4": rate + 7, "8": rate + 13},
        "map_at_r": rate / 4, "r_precision": rate / 2, "nmi": rate / 3 + 40,
        "queries": QUERIES, "left_out": 0, "gallery": QUERIES,
    }  # fmt: skip


def crossed(arm: str, seed: int, widths_differ: bool = False) -> dict:
    """What `retrieve_across` gives: only one kind of student can query as it is."""
    rate = rate_of(arm, seed)
    as_is = rate - 1 if arm.endswith("for the index") else 2.0 + seed
    return {
        "as_is": None if widths_differ else found(as_is),
        "aligned": found(rate - 4),
        "aligned_by": 4096,
    }


def made(preset, only=None, leave_out=(), diverged=(), looked=True, widths_differ=False) -> Results:
    """Results whose every arm scores by the rule."""
    preset = get_preset(preset) if isinstance(preset, str) else preset
    names = (None if only is None else tuple(only), tuple(leave_out), tuple(diverged))
    return _made(preset, *names, looked, widths_differ)


def fresh(preset) -> Results:
    """The same for a test that changes them."""
    return _made.__wrapped__(get_preset(preset), None, (), (), True, False)


@functools.lru_cache(maxsize=64)
def _made(preset, only, leave_out, diverged, looked, widths_differ) -> Results:
    data, full = metric_tables.sizes_of(preset).data, metric_tables.full(preset)

    def add(made_, arm, seed, config):
        name, looks = arm.name.removeprefix("metric "), {}
        if name == "teacher":
            for r in metric_tables.sizes_of(preset).lows:
                looks[Look("retrieval", data, Degradation(r, upsample=r < full))] = found(FED[r])
            looks |= {Look("pixels", data, Degradation(r)): found(rate) for r, rate in RAW.items()}
        elif config.frozen is not None:
            look = Look("across", data, config.degradation)
            looks[look] = crossed(name, seed, widths_differ)
        test = found(rate_of(name, seed))
        made_.add(config, test, looks if looked else {}, history=[])

    which = {"only": only, "leave_out": leave_out, "diverged": diverged}
    return make(preset, RETRIEVAL, add, **which)


@pytest.fixture(scope="module")
def whole() -> Results:
    return made("metric")


@pytest.fixture(scope="module")
def papers() -> Results:
    return made("metric-paper")


def in_words(values: np.ndarray) -> str:
    """A difference as claims have it."""
    if len(values) == 1:
        return f"{values[0]:+.2f} points (n = 1)"
    each = ", ".join(f"{v:+.2f}" for v in values)
    spread = f"{values.mean():+.2f} ± {values.std(ddof=1):.2f}"
    return f"{spread} points (n = {len(values)}; {each})"


# Sizes and runs


@pytest.mark.parametrize("name", ["cpu", "paper", "paper-short", "faces", "faces-paper"])
def test_presets_without_the_study_are_refused(name):
    for ask in (metric_tables.sizes_of, metric_tables.full):
        with pytest.raises(HorkdError, match=f"preset {name} on .* no study of metric") as error:
            ask(presets_.get_preset(name))
        assert "\n" not in str(error.value)
        assert "metric-cpu" in str(error.value)


def test_another_set_than_its_own_leaves_a_preset_without_the_study():
    assert get_preset("quick").lows == (16, 8)
    with pytest.raises(HorkdError, match="preset quick on cifar100 has no study of metric"):
        get_preset("quick", "cifar100")


@pytest.mark.parametrize(
    ("name", "data", "full"),
    [("metric", "", 32), ("smoke", "", 32), ("metric-cpu", "", 32), ("metric-paper", "", 256),
     ("metric-paper", "cub@224", 224), ("metric-paper", "folder:/a/b@128", 128)],
)  # fmt: skip
def test_full_resolution(name, data, full):
    assert metric_tables.full(get_preset(name, data)) == full


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_there_and_nothing_to_be_trained_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    preset = get_preset(name)
    for ask in (
        lambda: recorded(preset, RETRIEVAL, tmp_path),
        lambda: live(preset, RETRIEVAL, train_missing=False),
    ):
        with pytest.raises(HorkdError, match="no run of study metric is finished") as error:
            ask()
        assert "\n" not in str(error.value)
        assert f"horkd work --preset {name}" in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_arms_come_in_the_studys_order_with_their_seeds(name):
    results = made(name)
    assert list(results) == list(results.arms) == list(study(results.preset, "metric"))
    for arm, kind in results.arms.items():
        runs = results.runs(arm)
        assert [run.config.seed for run in runs] == list(seeds(results.preset, kind))
        assert results.label(arm) == arm[len("metric ") :]


# Tables


def macs_by_hooks(name: str, pixels: int, embedding: int) -> int:
    """Multiplications of convolutions and linear layers, counted as they happen."""
    network, total = Network(ModelSpec(name, 0, embedding)).eval(), [0]

    def count(layer, inputs, output):
        if isinstance(layer, torch.nn.Conv2d):
            height, width = layer.kernel_size
            total[0] += output.numel() * layer.in_channels // layer.groups * height * width
        else:
            total[0] += output.numel() * layer.in_features

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, pixels, pixels))
    return total[0]


def test_every_arm_is_a_row_and_the_teacher_is_fed_every_resolution(whole):
    rows = metric_tables.tested(whole)
    fed = [f"teacher fed {r} px, enlarged" for r in (24, 16, 12, 8)]
    own = [name[len("metric ") :] for name in whole.arms]
    raw = [f"raw pixels, {r} px" for r in (32, 24, 16, 12, 8)]
    assert [row.label for row in rows] == ["teacher", *fed, *raw, *own[1:]]
    by = {row.label: row for row in rows}
    for r in (24, 16, 12, 8):
        row = by[f"teacher fed {r} px, enlarged"]
        assert (row.arm, row.pixels, row.rates()) == ("metric teacher", r, [FED[r]])
        assert row.parameters == PARAMETERS
    for label, r in zip(raw, RAW, strict=True):
        assert (by[label].pixels, by[label].rates()) == (r, [RAW[r]])
        assert by[label].parameters == by[label].macs == 0
    assert by["student 12"].pixels == 12
    assert by["teacher"].pixels == by["assistant"].pixels == by["large"].pixels == 32
    for label in ("student 16", "student 16 alone", "RKD 16", "MKD+AT 16"):
        assert by[label].rates() == pytest.approx(rates(label)), label
        assert by[label].rates("8") == pytest.approx(rates(label) + 13)
        assert by[label].mean("map_at_r") == pytest.approx(rates(label).mean() / 4)
        assert by[label].what == whole.arms[f"metric {label}"].what
    assert by["teacher"].rates() == [80.0]


def test_the_teacher_sees_small_images_enlarged_and_full_ones_as_they_are(whole):
    for r in (24, 16, 12, 8):
        assert metric_tables.enlarged(whole.preset, r) == Degradation(r, upsample=True)
    assert metric_tables.enlarged(whole.preset, 32) == Degradation(32)
    large = metric_tables.enlarged(get_preset("metric-paper"), 224)
    assert large == Degradation(224, upsample=True)
    whole.source.asked.clear()
    rows = metric_tables.tested(whole)
    looks = {look for _, look in whole.source.asked if protocol(look) != "pixels"}
    assert len(looks) == 4
    assert {(protocol(look), look.data) for look in looks} == {("retrieval", "glyphs-disjoint")}
    native = [row.label for row in rows if row.label == "teacher"]
    assert native == ["teacher"]  # its own test is in its record


def test_cost_of_a_row_is_of_its_resolution(whole):
    rows = {row.label: row for row in metric_tables.tested(whole)}
    for label, network, pixels in (
        ("teacher", "resnet14", 32), ("teacher fed 8 px, enlarged", "resnet14", 32),
        ("large", "resnet20", 32), ("assistant", "resnet8", 32), ("student 16", "resnet8", 16),
        ("student 8 alone", "resnet8", 8), ("MKD 32", "resnet8", 32),
    ):  # fmt: skip
        assert rows[label].macs == macs_by_hooks(network, pixels, 128), label


def test_the_table_of_retrieval(whole):
    table = metric_tables.retrieval_table(whole).set_index("network")
    assert table.columns.tolist() == [
        "px", "Recall@1 %", "Recall@2 %", "Recall@4 %", "Recall@8 %", "MAP@R %", "R-precision %",
        "NMI %", "seeds", "parameters (M)", "MACs (M)",
    ]  # fmt: skip
    row, mean = table.loc["student 16"], 67.0  # 66, 67, 68
    assert row["Recall@1 %"] == "67.00 ± 1.00"
    further = row[["Recall@2 %", "Recall@4 %", "Recall@8 %"]]
    assert further.tolist() == ["70.00", "74.00", "80.00"]
    assert row["MAP@R %"] == f"{mean / 4:.2f}"
    assert row["R-precision %"] == f"{mean / 2:.2f}"
    assert row["NMI %"] == f"{mean / 3 + 40:.2f}"
    assert row[["px", "seeds", "parameters (M)"]].tolist() == ["16", "3", "1.23"]
    assert row["MACs (M)"] == f"{macs_by_hooks('resnet8', 16, 128) / 1e6:.1f}"
    for label in ("RKD 16", "student 8 alone", "PKT 16"):
        assert table.loc[label, "Recall@1 %"] == cell(rates(label)), label
    row = table.loc["teacher fed 12 px, enlarged"]
    assert row[["px", "Recall@1 %", "seeds"]].tolist() == ["12", "10.00", "1"]
    assert row["MACs (M)"] == table.loc["teacher", "MACs (M)"]
    assert table.loc["assistant", "seeds"] == "1"
    assert all(isinstance(value, str) for value in table.to_numpy().ravel())


def test_one_seed_has_no_spread():
    table = metric_tables.retrieval_table(made("metric-cpu")).set_index("network")
    assert table.loc["student 16", "Recall@1 %"] == "67.00 ± 1.00"
    assert table.loc["student 24", "Recall@1 %"] == "72.00"
    assert table.loc["student 24", "seeds"] == "1"


def test_a_teacher_that_was_not_looked_at_is_one_row():
    labels = [row.label for row in metric_tables.tested(made("quick", looked=False))]
    assert [label for label in labels if label.startswith("teacher")] == ["teacher"]


def test_the_teachers_index(whole):
    table = metric_tables.across_table(whole).set_index("network")
    kinds = whole.arms
    distilled = [name for name, arm in kinds.items() if arm.frozen]
    assert [f"metric {name}" for name in table.index] == distilled
    row = table.loc["student 16"]
    assert row["its own index %"] == "67.00 ± 1.00"
    assert row["teacher's index, as it is %"] == "3.00 ± 1.00"
    assert row["teacher's index, aligned %"] == "63.00 ± 1.00"
    assert row[["px", "seeds"]].tolist() == ["16", "3"]
    row = table.loc["student 16 for the index"]  # 61, 61.5, 62
    assert row["teacher's index, as it is %"] == "60.50 ± 0.50"
    assert table.loc["assistant", "teacher's index, aligned %"] == "71.00"
    assert set(table.columns) == {
        "px", "its own index %", "teacher's index, as it is %", "teacher's index, aligned %",
        "seeds",
    }  # fmt: skip


def test_where_widths_differ_queries_cannot_be_asked_as_they_are():
    results = made("quick", widths_differ=True)
    rows = metric_tables.across_rows(results)
    assert rows
    assert {row.as_is for row in rows} == {None}
    table = metric_tables.across_table(results)
    assert set(table["teacher's index, as it is %"]) == {DASH}
    assert table.set_index("network").loc["student 16", "teacher's index, aligned %"] == (
        "63.00 ± 1.00"
    )
    assert metric_page.index_line(results) == ""


def test_arms_whose_queries_are_not_known_are_left_out():
    results = made("quick", looked=False)
    assert metric_tables.across_table(results).empty
    other = fresh("quick")
    config = configure(other.preset, other.arms["metric student 16"], 1)
    other.source.looks[config.key] = {}
    names = [row.label for row in metric_tables.across_rows(other)]
    assert "student 16" not in names  # of some seeds it would be another mean
    assert "student 16 direct" in names


PRINTED = [
    ("PKT", "256", "46.90", "53.10", DASH),
    ("DarkRank", "256", "74.30", "56.20", DASH),
    ("MKD", "256", "76.60", "58.00", "68.00"),
    ("MKD+AT", "256", "76.40", "58.10", DASH),
    ("OUR-256-R", "256", "82.23", "57.82", "68.13"),
    ("OUR-224-R", "224", "80.03", "57.14", "69.90"),
    ("OUR-160-R", "160", "79.04", "57.19", "68.87"),
    ("OUR-128-R", "128", "77.85", "55.37", "67.66"),
    ("OUR-96-R", "96", "73.41", "53.53", "66.42"),
    ("Student alone (ResNet18)", "256", "46.70", "51.70", "61.70"),
    ("Teacher (ResNet50)", "256", "75.91", "58.96", "72.62"),
    ("ResNet101", "256", "74.80", "58.90", "69.50"),
]
STANDS = {
    "metric": ("PKT 32", "DarkRank 32", "MKD 32", "MKD+AT 32", "student 32", DASH, DASH,
               "student 16", "student 12", "student 32 alone", "teacher", "large"),
    "quick": (*[DASH] * 7, "student 16", DASH, DASH, "teacher", DASH),
    "metric-paper": ("PKT 256", "DarkRank 256", "MKD 256", "MKD+AT 256", "student 256",
                     "student 224", "student 160", "student 128", "student 96",
                     "student 256 alone", "teacher", "large"),
}  # fmt: skip
STANDS["metric-cpu"] = STANDS["metric"]


@pytest.mark.parametrize("name", PRESETS)
def test_table_4_as_printed_and_what_stands_for_its_rows(name):
    results = made(name)
    table = metric_tables.published(results)
    columns = ["model", "px", "Cars196 %", "CUB-200-2011 %", "SOP %"]
    assert [tuple(row) for row in table[columns].to_numpy()] == PRINTED
    assert tuple(table["arm here"]) == STANDS[name]
    ours = f"here: {metric_tables.sizes_of(results.preset).data} %"
    for row in table.to_dict("records"):
        there = row["network"], row["px here"], row[ours], row["n"]
        if row["arm here"] == DASH:
            assert there == (DASH, DASH, "no such arm", DASH)
            continue
        pixels = re.findall(r"\d+", row["arm here"]) or [str(metric_tables.full(results.preset))]
        assert [row["px here"]] == pixels, row["model"]
        runs = results.runs(f"metric {row['arm here']}")
        expected = [run.record["results"]["test"]["recall"]["1"] for run in runs]
        assert (row[ours], row["n"]) == (cell(expected), str(len(runs))), row["model"]
        assert row["network"] == runs[0].config.model


def test_photos_of_another_size_stand_for_the_same_rows():
    for data in ("cub@224", "folder:/a/birds@128", "sop"):
        arms = study(get_preset("metric-paper", data), "metric").values()
        rows = {arm.row for arm in arms if arm.row}
        assert rows == {row[0] for row in PRINTED}, data


def test_rows_whose_arms_are_missing_were_not_run():
    results = made("metric-paper", only=("student 96", "large"))
    table = metric_tables.published(results).set_index("model")
    assert table.loc["OUR-96-R", "here: cub %"] == "66.00"
    assert table.loc["OUR-96-R", "network"] == "torchvision:resnet18"
    assert table.loc["OUR-96-R", "px here"] == "96"
    assert table.loc["Teacher (ResNet50)", "here: cub %"] == "not run"
    assert table.loc["Teacher (ResNet50)", ["arm here", "network", "px here", "n"]].tolist() == [
        *("teacher", DASH, DASH, DASH)
    ]
    assert (table["here: cub %"] == "not run").sum() == 10


def test_an_arm_that_was_not_run_is_no_arm_that_there_is_not():
    results = made("metric", only=["teacher"])
    table = metric_tables.published(results).set_index("model")["here: glyphs-disjoint %"]
    assert table["Teacher (ResNet50)"] == "80.00"
    for model, arm in zip([row[0] for row in PRINTED], STANDS["metric"], strict=True):
        if arm != "teacher":
            assert table[model] == ("no such arm" if arm == DASH else "not run"), model


def test_what_the_text_says_of_the_assistant():
    assert paper.FIG_3_ASSISTANT == 3.03


# Claims


def claims_of(made_: Results) -> pd.DataFrame:
    return metric_page.claims(made_).set_index("claim")


def test_claims_are_paired_over_seeds(whole):
    table = claims_of(whole)
    questions = metric_page.questions(whole.preset)
    assert list(table.index) == list(questions)  # every one is asked, once
    for claim, (arm, control) in questions.items():
        one, other = arm[len("metric ") :], control[len("metric ") :]
        count = min(len(whole.runs(arm)), len(whole.runs(control)))
        values = [
            a.record["results"]["test"]["recall"]["1"] - b.record["results"]["test"]["recall"]["1"]
            for a, b in zip(whole.runs(arm), whole.runs(control), strict=True)
        ]
        assert count == len(values) == 3
        row = table.loc[claim]
        assert row["compared"] == f"{one} − {other}"
        assert row["difference in Recall@1"] == in_words(np.array(values)), claim
        assert row["verdict"] == judged(np.array(values)), claim


def test_claims_in_numbers(whole):
    table = claims_of(whole)
    row = table.loc["two stages of relations help a student at 16 px"]
    # 66, 67, 68 against 60, 60.75, 61.5
    assert row["difference in Recall@1"] == "+6.25 ± 0.25 points (n = 3; +6.00, +6.25, +6.50)"
    assert row["verdict"] == "holds"
    assert table.loc["the assistant helps at 16 px", "verdict"] == "holds"  # 2, 2.5, 3
    row = table.loc["hybrid orders beat RKD"]  # -0.5, 2, 4.5
    assert row["difference in Recall@1"].startswith("+2.00 ± 2.50 ")
    assert row["verdict"] == "not shown"
    assert table.loc["hybrid orders beat DarkRank", "verdict"] == "does not hold"
    assert table.loc["the assistant helps at 12 px", "verdict"] == "does not hold"
    verdicts = set(table["verdict"])
    assert verdicts == {"holds", "does not hold", "not shown"}


@pytest.mark.parametrize("name", ["smoke", *PRESETS])
def test_questions_are_about_arms_that_there_are(name):
    preset = replace(get_preset(name), omit=())
    known = study(preset, "metric")
    for claim, (arm, control) in metric_page.questions(preset).items():
        assert {arm, control} <= set(known), claim
        assert arm != control


@pytest.mark.parametrize("name", ["smoke", *PRESETS])
def test_the_order_in_place_of_another_is_all_that_differs(name):
    preset = replace(get_preset(name), omit=())
    kinds = study(preset, "metric")
    claim = metric_page.questions(preset)["order 1 in place of order C helps"]
    arm, control = (configure(preset, kinds[one], 0) for one in claim)
    assert {order for order, _ in control.orders} == {"2", "3", "C"}
    assert {order for order, _ in arm.orders} == {"1", "2", "3"}
    shared = {order: weight for order, weight in control.orders if order != "C"}
    assert shared.items() <= dict(arm.orders).items()
    assert replace(arm, orders=control.orders) == control


def test_fewer_than_three_seeds_show_nothing(papers):
    table = claims_of(papers)
    assert set(table["verdict"]) == {"not shown"}
    assert table["difference in Recall@1"].str.endswith(" points (n = 1)").all()
    assert table.loc["the assistant helps at 96 px", "difference in Recall@1"] == (
        "+2.00 points (n = 1)"
    )
    two = claims_of(made(get_preset("metric", seeds=2)))
    assert set(two["verdict"]) == {"not shown"}


def test_seeds_that_are_missing_are_not_compared():
    made_ = made("metric", leave_out=[("student 16 alone", 0), ("student 16 alone", 2)])
    row = claims_of(made_).loc["two stages of relations help a student at 16 px"]
    assert row["difference in Recall@1"] == "+6.25 points (n = 1)"
    assert row["verdict"] == "not shown"


def test_a_claim_about_seeds_that_diverged_is_not_shown():
    made_ = made("metric", diverged=[("student 16 alone", 1)])
    table = claims_of(made_)
    row = table.loc["two stages of relations help a student at 16 px"]
    text = "+6.25 ± 0.35 points (n = 2; +6.00, +6.50), and seeds of student 16 alone diverged"
    assert row["difference in Recall@1"] == text
    assert row["verdict"] == "not shown"
    assert table.loc["the assistant helps at 16 px", "verdict"] == "holds"  # not about it
    # with four seeds, three of them finished, it would have been shown
    four = made(get_preset("metric", seeds=4), diverged=[("student 16 alone", 3)])
    row = claims_of(four).loc["two stages of relations help a student at 16 px"]
    assert "n = 3" in row["difference in Recall@1"]
    assert row["verdict"] == "not shown"


def test_without_a_control_there_is_no_claim():
    made_ = made("metric", leave_out=["student 16 alone", "PKT 16"])
    index = claims_of(made_).index
    assert "two stages of relations help a student at 16 px" not in index
    assert "hybrid orders beat PKT" not in index
    assert "the assistant helps at 16 px" in index
    alone = metric_page.claims(made("metric", only=["teacher"]))
    assert alone.empty
    assert as_lines(alone) == ""


def no_seed_in_common() -> Results:
    out = [("student 24 direct", 1), ("student 24 direct", 2)]
    return made("metric", leave_out=out, diverged=[("student 24", 0)])


def test_arms_without_a_seed_in_common_make_no_claim(whole):
    """As of faces: a seed diverged, and the worker has not come to the others yet."""
    made_ = no_seed_in_common()
    assert {"metric student 24", "metric student 24 direct"} <= set(made_)
    index, every = claims_of(made_).index, claims_of(whole).index
    assert [claim for claim in every if claim not in index] == ["the assistant helps at 24 px"]
    text = metric_page.metric_page(made_)
    check_page(text)
    assert "the assistant helps at 24 px" not in text
    assert text.endswith("Diverged: student 24.")


def test_resolutions_without_a_seed_in_common_are_left_out_of_the_effect():
    text = metric_page.assistant_effect(no_seed_in_common())
    assert "24 px" not in text
    assert "+1.00 at 32 px (n = 3), +2.50 at 16 px (n = 3), -0.50 at 12 px" in text
    assert "; mean +1.00. The paper says" in text  # of 1, 2.5, -0.5, 1


# Sentences


def test_the_assistants_effect_over_resolutions():
    results = made("metric")
    # student 32 direct and the assistant are one run of seed 0, which scores as the assistant
    means = {
        32: rates("student 32").mean() - rates("student 32 direct").mean(),
        24: rates("student 24").mean() - rates("student 24 direct").mean(),
        16: rates("student 16").mean() - rates("student 16 direct").mean(),
        12: rates("student 12").mean() - rates("student 12 direct").mean(),
        8: rates("student 8").mean() - rates("student 8 direct").mean(),
    }
    assert rate_of("assistant") == rate_of("student 32 direct")
    assert list(means.values()) == pytest.approx([1.0, 0.5, 2.5, -0.5, 1.0])
    assert metric_page.assistant_effect(results) == (
        "**The assistant's effect** (student − student direct, points of Recall@1): +1.00 at 32 px "
        "(n = 3), +0.50 at 24 px (n = 3), +2.50 at 16 px (n = 3), -0.50 at 12 px (n = 3), +1.00 at "
        "8 px (n = 3); mean +0.90. The paper says +3.03, without saying over what. All students "
        "have the same assistant, trained once; two stages train twice as long."
    )


def test_the_effect_says_how_many_seeds_each_resolution_has():
    out = [("student 16 direct", 2), ("student 12", 0), ("student 12 direct", 1)]
    results = made("metric", leave_out=out)
    text = metric_page.assistant_effect(results)
    # at 16 px 2 and 2.5; at 12 px the third seed alone; resolutions count alike
    assert "+0.50 at 24 px (n = 3), +2.25 at 16 px (n = 2), -0.50 at 12 px (n = 1), " in text
    assert "; mean +0.85. The paper says" in text


@pytest.mark.parametrize("name", PRESETS)
def test_all_students_have_one_assistant_and_train_twice_as_long_with_it(name):
    """What the sentence on the assistant says of the study."""
    results = made(name)
    (assistant,) = results.runs("metric assistant")
    for r in (*metric_tables.sizes_of(results.preset).lows, metric_tables.full(results.preset)):
        for run in results.runs(f"metric student {r}"):
            assert run.config.frozen.key == assistant.config.key
            assert run.config.recipe.epochs == assistant.config.recipe.epochs


def test_the_assistants_effect_at_one_resolution():
    results = made("quick")
    assert "metric student 8 direct" not in results
    text = metric_page.assistant_effect(results)
    assert text.startswith("**The assistant's effect**")
    assert ", points of Recall@1): +2.50 at 16 px (n = 3). The paper says +3.03" in text
    assert text.count(" px") == 1
    assert "mean" not in text


def test_without_pairs_there_is_no_effect():
    for only in (["teacher"], ["student 16", "student 24 direct"], ["assistant"]):
        results = made("metric", only=only)
        assert metric_page.assistant_effect(results) == ""


def test_what_a_system_with_an_index_gets():
    text = metric_page.index_line(made("metric"))
    # direct: 64, 64.5, 65; for the index: 61, 61.5, 62
    assert text == (
        "**In the teacher's index** at 16 px (n = 3): the student of relations finds 3.00 % as it "
        "is and 60.50 % after a rotation, scale and offset fitted on training images (64.50 % in "
        "its own index); the one that learns the teacher's features as well (order 1) "
        "60.50 %, 57.50 % and 61.50 %."
    )
    assert " at 96 px (n = 1): " in metric_page.index_line(made("metric-paper"))


def test_the_index_is_asked_by_equally_many_seeds_of_both():
    text = metric_page.index_line(made("metric", leave_out=[("student 16 direct", 2)]))
    # of the first two seeds: direct 64, 64.5; for the index 61, 61.5
    assert text.startswith("**In the teacher's index** at 16 px (n = 2): the student of relations ")
    assert " finds 2.50 % as it is and 60.25 % after " in text
    assert "(64.25 % in its own index)" in text
    assert text.endswith(" (order 1) 60.25 %, 57.25 % and 61.25 %.")


def test_the_index_is_asked_by_the_same_seeds_of_both():
    """The first seed diverged: what is left of it is the last two seeds, and so of the other."""
    text = metric_page.index_line(made("metric", diverged=[("student 16 direct", 0)]))
    assert "(n = 2)" in text
    assert "(64.75 % in its own index)" in text  # 64.5, 65
    assert text.endswith(" (order 1) 60.75 %, 57.75 % and 61.75 %.")  # 61.5, 62


def test_the_index_is_asked_by_seeds_that_both_have():
    """One lacks the first seed and the other the last: the one in between is compared."""
    lost = [("student 16 direct", 0), ("student 16 for the index", 2)]
    text = metric_page.index_line(made("metric", diverged=lost))
    assert "(n = 1): the student of relations finds 3.00 % as it is and 60.50 % after " in text
    assert "(64.50 % in its own index)" in text
    assert text.endswith(" (order 1) 60.50 %, 57.50 % and 61.50 %.")


def test_without_a_seed_in_common_nothing_is_said_of_the_index():
    lost = [("student 16 direct", 0), ("student 16 direct", 1), ("student 16 for the index", 2)]
    made_up = made("metric", diverged=lost)
    rows = {row.arm: row.seeds for row in metric_tables.across_rows(made_up)}
    assert rows["metric student 16 direct"] == [2]
    assert rows["metric student 16 for the index"] == [0, 1]
    assert metric_page.index_line(made_up) == ""


@pytest.mark.parametrize("out", ["student 16 direct", "student 16 for the index"])
def test_without_both_students_nothing_is_said_of_the_index(out):
    assert metric_page.index_line(made("metric", leave_out=[out])) == ""
    assert metric_page.index_line(made("metric", looked=False)) == ""


@pytest.mark.parametrize(
    ("select", "epoch"),
    [("", "the best epoch on validation classes, which are neither"),
     ("validation", "the best epoch on validation classes, which are neither"),
     ("last", "the last epoch; ± is "),
     ("test", "the best epoch on the test images, as published code has it: too good; ± is ")],
)  # fmt: skip
def test_provenance_says_which_epoch_counts(select, epoch):
    results = made(get_preset("metric", select=select), only=("teacher", "student 16"))
    text = metric_page.provenance(results)
    before, result, text = text.partition("The result of a run is ")
    assert result
    assert text.startswith(epoch)
    text = before + text.split("; ± is ")[0]  # recipes were chosen by validation classes, always
    others = {"validation classes", "the last epoch", "test images, as"} - {
        {"": "validation classes", "last": "the last epoch", "test": "test images, as"}.get(
            select, "validation classes"
        )
    }
    assert not any(other in text for other in others)


def test_provenance(whole):
    text = metric_page.provenance(whole)
    count = len({run.config.key for run in whole.everything()})
    assert text.startswith(
        "Preset `metric`: resnet14 → resnet8, glyphs-disjoint, 128 dimensions, 6 epochs (8 for the "
        f"teacher), {count} runs, "
    )
    assert "training on a machine (threads: 1)." in text
    assert f"{QUERIES} queries among {QUERIES} images of test classes" in text
    paper_text = metric_page.provenance(made("metric-paper"))
    assert "torchvision:resnet50 → torchvision:resnet18, cub, 512 dimensions, 80 epochs" in (
        paper_text
    )


def with_sizes(results, **changes):
    """Results of a preset with other sizes."""
    preset = results.preset
    return replace(results, preset=replace(preset, **changes))


def test_provenance_names_both_recipes_where_they_differ():
    results = made("metric-cpu", only=("teacher", "student 16"))
    sizes = metric_tables.sizes_of(results.preset)
    assert (sizes.recipe.optimizer, sizes.other_recipe.optimizer) == ("sgd", "adam")
    assert (sizes.recipe.clip, sizes.other_recipe.clip) == (1.0, None)
    text = metric_page.provenance(results)
    by_sgd, by_adam = (f"{r.learning_rate:g}" for r in (sizes.recipe, sizes.other_recipe))
    assert by_sgd != by_adam
    assert (
        " Orders of relations, RKD's among them, are learnt by SGD at "
        f"{by_sgd}, gradients of at most 1, all else by Adam at {by_adam}, as tried on "
    ) in text
    one = with_sizes(results, other_recipe=sizes.recipe)
    text = metric_page.provenance(one)
    assert "Orders of relations" not in text
    assert text.endswith("Labels are learnt by cosface, a margin softmax, where the protocol has "
                         "triplets: the better on validation classes.")  # fmt: skip
    plain = with_sizes(one, labels="triplet")
    assert metric_page.provenance(plain).endswith("otherwise it is not shown.")


def test_pages_do_not_tell_where_a_folder_lies(tmp_path):
    for name in "abcde":
        (tmp_path / "secret" / "birds" / name).mkdir(parents=True)
        (tmp_path / "secret" / "birds" / name / "0.png").touch()
    preset = get_preset("metric-paper", f"folder:{tmp_path}/secret/birds@256")
    results = made(preset, only=["teacher"])
    columns = " ".join(metric_tables.published(results).columns)
    for text in (metric_page.provenance(results), columns, metric_page.metric_page(results)):
        assert "folder-birds@256-" in text
        assert "secret" not in text


def test_provenance_counts_every_run_once(whole):
    """`student 32 direct` of the first seed is the assistant."""
    named = [run for name in whole for run in whole.runs(name)]
    once = {run.config.key for run in named}
    assert len(once) == len(named) - 1 == len(whole.everything())
    text = metric_page.provenance(whole)
    assert f" {len(once)} runs, {len(once) * 90 / 3600:.1f} hours" in text
    two = {name: whole.runs(name)[:1] for name in ("metric assistant", "metric student 32 direct")}
    assert " 1 run, 2 minutes of training " in metric_page.provenance(
        replace(whole, found=two)
    )  # 90 s


def test_provenance_of_a_teacher_that_was_trained_elsewhere():
    text = metric_page.provenance(with_sizes(made("metric-paper"), weights="0" * 16))
    assert "for the teacher" not in text
    assert " 80 epochs (the teacher was trained elsewhere), " in text
    own = metric_page.provenance(made("metric-paper"))
    assert " 80 epochs (40 for the teacher), " in own
    assert "elsewhere" not in own


def test_what_is_missing():
    assert made("metric").missing() == ""
    some = made("quick", leave_out=["assistant", "student 16 alone"])
    assert some.missing() == "Not run: assistant, student 16 alone."
    lost = made("quick", diverged=["student 16 alone"])
    assert lost.missing() == "Diverged: student 16 alone."
    lost = ["student 16 alone", ("student 16", 2)]
    both = made("quick", diverged=lost, leave_out=["student 16 direct"])
    text = both.missing()
    assert text == "Diverged: student 16, student 16 alone. Not run: student 16 direct."


# The page


@pytest.mark.parametrize("name", ["smoke", *PRESETS])
def test_the_page_shows_everything(name):
    results = made(name)
    text = metric_page.metric_page(results)
    check_page(text)
    for table in (
        metric_tables.retrieval_table(results),
        metric_tables.across_table(results),
        metric_tables.published(results),
    ):
        assert report.markdown(table) in text
    for _, row in metric_page.claims(results).iterrows():
        assert f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: " in text
    assert metric_page.assistant_effect(results) in text
    assert metric_page.index_line(results) in text
    assert f"**Retrieval.** {metric_page.provenance(results)}" in text
    assert "Not run" not in text
    assert "Diverged" not in text


def test_what_has_to_be_read_with_care(whole):
    text = metric_page.cautions(whole)
    assert "the weights of the other methods were not" in text
    assert "No better" not in text
    assert "last epoch" not in text
    behind = text.partition("Behind the student alone at their resolution: ")[2].rstrip(".")
    worse = [
        name
        for name in map(whole.label, whole)
        if name not in ("teacher", "large") and not name.endswith("alone")
        for pixels in [whole.runs(f"metric {name}")[0].config.degradation.size]
        if rates(name).mean() < rates(f"student {pixels} alone").mean()
    ]
    assert behind.split(", ") == worse

    def changed(name, seed, **results):
        found = [
            replace(run, record=run.record | {"results": run.record["results"] | results})
            if run.config.seed == seed else run
            for run in whole.runs(f"metric {name}")
        ]  # fmt: skip
        return replace(whole, found={**whole.found, f"metric {name}": found})

    test = whole.runs("metric RKD 16")[0].record["results"]["test"]
    for rate, said in ((1.5, True), (1.51, False)):
        low = {**test, "recall": {k: rate for k in "1248"}}
        text = metric_page.cautions(changed("RKD 16", 1, test=low))
        assert ("No better than the raw pixels: RKD 16 (seed 1)." in text) == said
        assert ("No better" in text) == said
    text = metric_page.cautions(changed("teacher", 0, selected={"epoch": 8}).only([TEACHER]))
    assert "In 1 of 1 runs the last epoch was the best" in text
    assert "other methods" not in text
    early = changed("teacher", 0, selected={"epoch": 7})
    assert metric_page.cautions(early.only([TEACHER])) == ""


def test_the_page_of_the_teacher_alone():
    results = made("metric", only=["teacher"])
    text = metric_page.metric_page(results)
    check_page(text)
    assert text.startswith("**Retrieval.**")
    assert "**Symmetric and asymmetric**" not in text
    assert "**The assistant's effect**" not in text
    left = [name[len("metric ") :] for name in results.arms][1:]
    assert text.endswith(f"Not run: {', '.join(left)}.")


@pytest.mark.parametrize("only", [["student 16"], ["student 16 alone"], ["large"], ["assistant"]])
def test_the_page_without_a_teacher(only):
    results = made("metric-cpu", only=only)
    text = metric_page.metric_page(results)
    check_page(text)
    assert "teacher fed" not in text


def test_the_page_with_seeds_that_diverged():
    results = made("quick", diverged=[("student 16", 0), "student 16 for the index"])
    text = metric_page.metric_page(results)
    check_page(text)
    assert "and seeds of student 16 diverged" in text
    assert text.endswith("Diverged: student 16, student 16 for the index.")


def test_looking_at_all_is_enough_for_every_table(whole):
    """Networks are loaded once, where all questions are asked in one go."""
    asked = whole.source.asked
    asked.clear()
    metric_tables.look_at_all(whole)
    first = {(config.key, look) for config, look in asked}
    metric_page.metric_page(whole)
    assert {(config.key, look) for config, look in asked} == first
    assert {protocol(look) for _, look in first} == {"retrieval", "pixels", "across"}


# Figures


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield ax
        figure.canvas.draw()
    plt.close(figure)


def legend_of(ax) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def ticks(axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def hides_nothing(ax) -> bool:
    """Whether the legend lies below the axes and what is written along them."""
    ax.figure.canvas.draw()
    top = ax.get_legend().get_window_extent().y1
    return top < ax.get_window_extent().y0 and top < ax.xaxis.get_tightbbox().y0


KINDS = ["from the assistant", "from the teacher", "labels only"]
PIXELS = "raw pixels, no network"


def test_the_figure_of_resolutions(whole, ax):
    metric_figures.plot_metric(whole, ax)
    assert ax.get_xlabel() == "resolution (px); bars: lowest to highest seed"
    assert ax.get_ylabel() == "Recall@1 (%)"
    assert ticks(ax.xaxis) == ["8", "12", "16", "24", "32"]
    assert legend_of(ax) == ["teacher, fed enlarged images", *KINDS, PIXELS]
    assert hides_nothing(ax)
    assert ax.get_ylim()[0] == 0
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == legend_of(ax)
    assert lines[PIXELS].get_ydata() == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0])
    teacher = lines["teacher, fed enlarged images"]
    assert teacher.get_ydata() == pytest.approx([5.0, 10.0, 20.0, 50.0, 80.0])
    assert teacher.get_xdata() == pytest.approx(range(5))
    bars = {}
    for label, ending in zip(KINDS, ("", " direct", " alone"), strict=True):
        expected = [rates(f"student {r}{ending}") for r in (8, 12, 16, 24, 32)]
        assert lines[label].get_ydata() == pytest.approx([one.mean() for one in expected]), label
        for at, one in enumerate(expected):
            bars[at, float(one.min()), float(one.max())] = colors.to_rgba(lines[label].get_color())
    drawn = {}
    for bar in ax.collections:
        ((x, low), (same, high)) = bar.get_segments()[0]
        assert (x, len(bar.get_segments())) == (same, 1)
        drawn[x, low, high] = tuple(bar.get_color()[0])
    assert drawn == bars
    assert len(ax.collections) == 15  # the teacher has one seed
    assert len({line.get_color() for line in lines.values()}) == 5


def test_the_figure_of_few_resolutions_and_seeds(ax):
    metric_figures.plot_metric(made("metric-cpu"), ax)
    places = {bar.get_segments()[0][0][0] for bar in ax.collections}
    assert {ticks(ax.xaxis)[int(x)] for x in places} == {"16"}  # others have a seed each
    ax.clear()
    metric_figures.plot_metric(made("quick"), ax)
    assert ticks(ax.xaxis) == ["8", "16", "32"]
    assert legend_of(ax) == ["teacher, fed enlarged images", *KINDS, PIXELS]


def test_the_figure_of_one_arm_draws(ax):
    metric_figures.plot_metric(made("metric", only=["student 16"]), ax)
    assert ticks(ax.xaxis) == ["16"]
    assert KINDS[0] in legend_of(ax)


def test_the_legend_has_what_is_drawn(ax):
    metric_figures.plot_metric(made("metric", only=["student 16"]), ax)
    assert legend_of(ax) == KINDS[:1]


def test_the_figure_of_no_resolution_draws(ax):
    metric_figures.plot_metric(made("metric", only=[]), ax)
    assert legend_of(ax) == []


@pytest.mark.parametrize("only", ["large", "RKD 16"])
def test_the_figure_of_arms_that_it_does_not_show_draws(ax, only):
    metric_figures.plot_metric(made("metric", only=[only]), ax)
    assert legend_of(ax) == []


def test_the_papers_figure(ax):
    metric_figures.plot_table4(ax)
    assert ticks(ax.xaxis) == ["96", "128", "160", "224", "256"]
    assert ax.get_xlabel().startswith("resolution (px)")
    assert ax.get_ylabel() == "Recall@1 (%)"
    assert legend_of(ax) == ["Cars196", "CUB-200-2011", "SOP"]
    assert hides_nothing(ax)
    assert ax.get_ylim()[0] == 0
    lines = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
    assert lines["Cars196"] == [73.41, 77.85, 79.04, 80.03, 82.23]
    assert lines["CUB-200-2011"] == [53.53, 55.37, 57.19, 57.14, 57.82]
    assert lines["SOP"] == [66.42, 67.66, 68.87, 69.90, 68.13]
    teachers = {line.get_ydata()[0]: line.get_color() for line in ax.get_lines()
                if line.get_linestyle() == ":"}  # fmt: skip
    students = {line.get_label(): line.get_color() for line in ax.get_lines()}
    assert teachers == {75.91: students["Cars196"], 58.96: students["CUB-200-2011"],
                        72.62: students["SOP"]}  # fmt: skip


def test_the_figure_of_the_index(whole, ax):
    rows = [row for row in metric_tables.across_rows(whole) if row.pixels == 16]
    metric_figures.plot_across(rows, ax)
    assert ax.get_xlabel() == "Recall@1 (%)"
    assert ticks(ax.yaxis) == [f"{row.label} (n = 3)" for row in rows]
    assert ax.yaxis_inverted()
    assert legend_of(ax) == ["its own index", "teacher's, aligned", "teacher's, as it is"]
    assert hides_nothing(ax)
    lines = {line.get_label(): line for line in ax.get_lines()}
    names = [row.label for row in rows]
    expected = {
        "its own index": [rates(name) for name in names],
        "teacher's, aligned": [rates(name) - 4 for name in names],
        "teacher's, as it is": [
            rates(name) - 1 if name.endswith("for the index") else np.arange(3) + 2.0
            for name in names
        ],
    }
    assert list(lines) == list(expected)
    for label, values in expected.items():
        assert lines[label].get_xdata() == pytest.approx([one.mean() for one in values]), label
    heights = np.array([line.get_ydata() for line in lines.values()])
    assert np.array_equal(heights.round(), [range(len(rows))] * 3)  # each in its own row,
    assert (np.diff(heights, axis=0) > 0.1).all()  # where equal numbers do not hide each other


def test_the_figure_of_the_index_says_how_many_seeds_there_are(ax):
    results = made("metric", leave_out=[("student 16 direct", 2)])
    rows = metric_tables.across_rows(results)
    metric_figures.plot_across([row for row in rows if row.label.startswith("student 16")], ax)
    assert ticks(ax.yaxis)[:2] == ["student 16 (n = 3)", "student 16 direct (n = 2)"]


def test_the_figure_of_one_query(ax):
    rows = metric_tables.across_rows(made("metric", only=["student 16"], widths_differ=True))
    metric_figures.plot_across(rows, ax)
    assert legend_of(ax) == ["its own index", "teacher's, aligned"]


def test_the_legend_has_what_any_row_has(ax):
    first = metric_tables.Across("a", "metric a", 16, [0], [1.0], [2.0], None)
    second = metric_tables.Across("b", "metric b", 16, [0], [1.0], [2.0], [3.0])
    metric_figures.plot_across([first, second], ax)
    assert legend_of(ax) == ["its own index", "teacher's, aligned", "teacher's, as it is"]
    lines = {line.get_label(): line for line in ax.get_lines()}
    as_is = lines["teacher's, as it is"]
    assert (list(as_is.get_xdata()), [round(y) for y in as_is.get_ydata()]) == ([3.0], [1])
    assert list(lines["its own index"].get_xdata()) == [1.0, 1.0]


def test_the_figure_of_no_query_draws(ax):
    metric_figures.plot_across([], ax)
    assert legend_of(ax) == []


def titles_of(ax):
    """The title and what is written in its place."""
    return ax.get_title() + "".join(t.get_text() for t in ax.texts if t.get_text() not in "✓✗")


def test_neighbours_are_framed_by_whether_they_are_right():
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    small = rng.integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)
    right = np.array([[True, False, True], [False, False, False]])
    also = np.array([[False, True], [True, True]])
    found_ = [("teacher, 32 px", large, right), ("student 16, 16 px", small, also)]
    figure, axes = plt.subplots(2, 8, squeeze=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric_figures.plot_neighbours(queries, found_, axes)
        figure.canvas.draw()
    for row in range(2):
        assert np.array_equal(axes[row][0].get_images()[0].get_array(), queries[row])
        assert not axes[row][0].texts
        assert not any(spine.get_visible() for spine in axes[row][0].spines.values())
        for empty in (axes[row][1], axes[row][5]):
            assert not empty.axison
            assert not empty.get_images()
            assert not empty.texts
        images = [*large[row], *small[row]]
        marks = [*right[row], *also[row]]
        shown = [*axes[row][2:5], *axes[row][6:]]
        for one, image, mark in zip(shown, images, marks, strict=True):
            assert one.axison
            assert np.array_equal(one.get_images()[0].get_array(), image)
            color = colors.to_rgba(metric_figures.RIGHT if mark else metric_figures.WRONG)
            for spine in one.spines.values():
                assert spine.get_visible()
                assert spine.get_edgecolor() == color
            sign = next(text for text in one.texts if text.get_text() in "✓✗")
            assert sign.get_text() == ("✓" if mark else "✗")
            assert sign.get_bbox_patch().get_facecolor() == color
    titles = [titles_of(one) for one in axes[0]]
    assert titles == ["query, 16 px", "", "teacher, 32 px", *[""] * 3, "student 16, 16 px", ""]
    assert not any(titles_of(one) for one in axes[1])
    plt.close(figure)


def test_queries_of_a_network_without_the_other():
    figure, axes = plt.subplots(1, 3, squeeze=False)
    image = np.zeros((1, 8, 8, 3), np.uint8)
    metric_figures.plot_neighbours(image, [("teacher", image[:, None], np.array([[True]]))], axes)
    assert axes[0][0].get_title() == "query, 8 px"
    assert axes[0][2].texts[0].get_text() == "✓"
    assert titles_of(axes[0][2]) == "teacher"
    plt.close(figure)


# Notebooks


def notebooks() -> list[str]:
    folder = paths.root() / "notebooks"
    names = sorted(path.stem for path in folder.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        pytest.skip("no notebooks here: an installed package")
    return names


@pytest.fixture
def batch():
    """`reproduce` with a kernel that does nothing."""
    pytest.importorskip("papermill")
    done = {"seconds": 0.0, "files": []}
    return functools.partial(reproduce_.reproduce, run=lambda notebook, out: done)


SPECIAL = {"06_faces", "07_metric_learning"}


@pytest.mark.parametrize(
    ("preset", "data", "left"),
    [
        ("metric", "", {"07_metric_learning"}),
        ("metric-cpu", "", {"07_metric_learning"}),
        ("metric-paper", "", {"07_metric_learning"}),
        ("metric-paper", "folder:/a/b", {"07_metric_learning"}),
        ("faces", "", {"06_faces"}),
        ("faces-paper", "", {"06_faces"}),
        ("cpu", "", None),
        ("paper-short", "", None),
        ("quick", "", SPECIAL),
        ("smoke", "", SPECIAL),
        ("quick", "cifar100", None),
    ],
)
def test_a_preset_runs_the_notebooks_that_it_has_runs_for(preset, data, left, batch, tmp_path):
    """`left` is the notebooks on a study of their own: those alone, beside all others, or none."""
    usual = [name for name in notebooks() if name not in SPECIAL]
    result = batch(preset, data, out=tmp_path)
    if left is None:
        expected = set(usual)
    elif left == SPECIAL:
        expected = set(notebooks())
    else:
        expected = left
    assert set(result.done) == expected
    assert (result.fresh, result.failed) == ((), {})


@pytest.mark.parametrize(("preset", "only"), [("metric", "02"), ("cpu", "07"), ("faces", "07")])
def test_a_notebook_that_is_asked_for_is_run(preset, only, batch, tmp_path):
    (name,) = (name for name in notebooks() if name.startswith(only))
    result = batch(preset, only=[only], out=tmp_path)
    assert result.done == (name,)


@pytest.mark.parametrize(
    ("preset", "data", "name"),
    [
        ("quick", "", "quick-glyphs"),
        ("cpu", "", "cpu-cifar100"),
        ("faces", "", "faces-lfw"),
        ("faces-paper", "", "faces-paper-umdfaces@224"),
        ("metric", "", "metric-glyphs-disjoint"),
        ("metric-cpu", "", "metric-cpu-cifar100-disjoint"),
        ("metric-paper", "", "metric-paper-cub"),
        ("metric-paper", "cub@224", "metric-paper-cub@224"),
        ("metric-paper", "folder:/a/b c", "metric-paper-folder-b-c-????"),
        ("metric-paper", "folder:/a/b/", "metric-paper-folder-b-????"),
        ("metric-paper", "folder:cub", "metric-paper-folder-cub-????"),  # not the set of that name
        ("metric-paper", "folder:../birds@128", "metric-paper-folder-birds@128-????"),
    ],
)
def test_names_of_reports(preset, data, name, batch, tmp_path, monkeypatch):
    monkeypatch.setenv("HORKD_REPORTS", str(tmp_path))
    (first, *_) = (one for one in notebooks() if one.startswith("07"))
    result = batch(preset, data, only=[first])
    assert result.out.parent == tmp_path
    pattern = re.escape(name).replace(re.escape("????"), "[0-9a-f]{4}")
    assert re.fullmatch(pattern, result.out.name)
    assert result.report.is_file()


def test_folders_of_one_name_have_reports_of_their_own(batch, tmp_path, monkeypatch):
    monkeypatch.setenv("HORKD_REPORTS", str(tmp_path))
    found_ = [
        batch("metric-paper", data, only=["07"])
        for data in ("folder:/a/birds", "folder:/b/birds", "folder:/a/birds")
    ]
    assert found_[0].out == found_[2].out != found_[1].out


def test_the_command_of_a_report_can_be_pasted():
    own = {"preset": "metric-paper", "data": "folder:/a/b c", "out": "x"}
    start = ["python", "-m", "horkd", "reproduce", "--preset", "metric-paper"]
    start += ["--data", "folder:/a/b c"]
    assert shlex.split(reproduce_._command(own, {})) == start
    extra = {"title": "it's $HOME; *", "teacher_weights": "/my own/net 1.pth", "count": 3}
    assert shlex.split(reproduce_._command(own, extra)) == [
        *start, "--teacher-weights", "net 1.pth", "-p", "count=3", "-p", "title=it's $HOME; *",
    ]  # fmt: skip
    plain = reproduce_._command({"preset": "quick", "data": "glyphs", "out": "x"}, {"count": 3})
    assert plain == "python -m horkd reproduce --preset quick --data glyphs -p count=3"


def test_the_report_shows_the_command(batch, tmp_path):
    result = batch("metric-paper", "folder:/a/b c", only=["07"], out=tmp_path)
    (line,) = (x for x in result.report.read_text().splitlines() if x.startswith("python -m horkd"))
    words = shlex.split(line)
    assert words[words.index("--data") + 1] == "folder:/a/b c"
