"""Tables, gains and figures from records made up for the purpose, and the paper's numbers."""

import hashlib

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib import pyplot as plt

from horkd import paper, storage
from horkd.baselines import NAMES
from horkd.errors import HorkdError
from horkd.lab.store import Run
from horkd.losses import ORDERS
from horkd.studies import report
from horkd.studies import results as results_
from horkd.studies.claims import mean_and_spread, verdict
from horkd.studies.classification import figures
from horkd.studies.classification.tables import two_stage_table
from horkd.studies.presets import get_preset
from horkd.studies.study import configure, study

mpl.use("Agg")
PRESET = get_preset("paper-short")
TWO_STAGE = study(PRESET, "two_stage")
TOP1 = {
    "teacher": [77.0],
    "assistant": [75.5],
    "student": [71.0, 72.0, 73.5],
    "student alone": [70.0, 70.5, 73.0],
    "student direct": [70.0, 69.0, 75.0],
    "assistant alone": [76.0],
}


def make_run(folder, arm: str, seed: int, top1: float, best: float | None = None) -> Run:
    config = configure(PRESET, TWO_STAGE[arm], seed)
    history = [
        {
            "epoch": epoch,
            "terms": {"loss": 2.0 / epoch, "cross_entropy": 1.0 / epoch, "order2": 1.0},
            "gradient_shares": {"cross_entropy": 0.25, "order2": 0.75},
            "validation": {"top1": 10.0 * epoch, "top5": 20.0 * epoch, "n": 5},
        }
        for epoch in (1, 2, 3)
    ]
    record = {
        "name": config.name,
        "config": {"model": config.model, "degradation": {"size": config.degradation.size}},
        "results": {"test": {"top1": top1, "top5": 90.0, "n": 1000}},
        "history": history,
        "cost": {"parameters": 11_220_132, "macs": 139_500_000, "latency_ms": 1.0},
        "seconds": {"total": 100.0 + 10 * seed},
    }
    if best is not None:
        record["results"]["best"] = {"epoch": 2, "test": {"top1": best}}
    storage.save_json(folder / config.name / "record.json", record)
    return Run(config, folder / config.name, record)


@pytest.fixture
def arms(tmp_path):
    return {
        arm: [make_run(tmp_path, arm, seed, top1) for seed, top1 in enumerate(values)]
        for arm, values in TOP1.items()
    }


# The paper


def test_the_papers_table_1():
    """Typed again from the paper, not from the module."""
    published = [
        ("Teacher ResNet50", 32, 77.76),
        ("FitNet", 32, 70.08),
        ("Attention (AT)", 32, 72.68),
        ("RKD", 32, 72.97),
        ("KD", 32, 74.26),
        ("OUR-32-V", 32, 73.54),
        ("OUR-16-V", 16, 69.87),
        ("OUR-32-R", 32, 76.68),
        ("OUR-16-R", 16, 74.65),
    ]
    assert [(row.model, row.resolution, row.top1) for row in paper.TABLE_1] == published


def test_the_papers_numbers_by_arm():
    numbers = {name: paper.row(arm.row) for name, arm in TWO_STAGE.items()}
    assert numbers == {
        "teacher": 77.76,
        "assistant": 76.68,
        "student": 74.65,
        "student alone": None,  # the paper has no such controls
        "student direct": None,
        "assistant alone": None,
    }
    with_row = [a.row for a in study(PRESET, "table1").values() if a.row]
    assert sorted(with_row) == sorted(row.model for row in paper.TABLE_1), "each row has one arm"


# Numbers


@pytest.mark.parametrize(
    ("values", "text"),
    [([71.234], "71.23"), ([70, 72], "71.00 ± 1.41"), ([1.0, 2.0, 3.0, 4.0], "2.50 ± 1.29")],
)
def test_mean_and_spread(values, text):
    assert mean_and_spread(values) == text


def test_two_stage_table(arms):
    table = two_stage_table(arms, PRESET).set_index("arm")
    ours = "test top-1 % (cifar100, resnet50 → resnet18)"
    theirs = "paper % (CIFAR-100, ResNet50 → ResNet18)"
    assert list(table.index) == list(TWO_STAGE)
    assert table[ours].to_dict() == {
        "teacher": "77.00",
        "assistant": "75.50",
        "student": "72.17 ± 1.26",
        "student alone": "71.17 ± 1.61",
        "student direct": "71.33 ± 3.21",
        "assistant alone": "76.00",
    }
    assert table[theirs].tolist() == ["77.76", "76.68", "74.65", "–", "–", "–"]
    assert table["n"].tolist() == [1, 1, 3, 3, 3, 1]
    assert table["pixels"].tolist() == [32, 32, 16, 16, 16, 32]
    assert table["network"].tolist() == ["resnet50"] + ["resnet18"] * 5
    assert set(table["best epoch %"]) == {"–"}
    assert set(table["parameters (M)"]) == {"11.22"}
    assert set(table["MACs (M)"]) == {"139.5"}
    assert table["training (s)"].tolist() == ["100", "100", "110", "110", "110", "100"]


def test_the_best_epoch_stands_beside_the_last_never_instead(tmp_path):
    runs = [make_run(tmp_path, "student", seed, 70.0 + seed, 75.0 + seed) for seed in (0, 1)]
    row = two_stage_table({"student": runs}, PRESET).iloc[0]
    assert row["best epoch %"] == "75.50 ± 0.71"
    assert row["test top-1 % (cifar100, resnet50 → resnet18)"] == "70.50 ± 0.71"
    assert results_.top1(runs) == [70.0, 71.0]


def test_gain_is_paired_over_seeds(arms):
    gain = results_.gain(arms, "student", "student alone")
    assert gain["values"] == [1.0, 1.5, 0.5]
    assert (gain["mean"], gain["std"], gain["n"]) == pytest.approx((1.0, 0.5, 3))
    assert gain["text"] == "+1.00 ± 0.50 points (n = 3; +1.00, +1.50, +0.50)"
    shuffled = {**arms, "student alone": [arms["student alone"][i] for i in (2, 0, 1)]}
    assert results_.gain(shuffled, "student", "student alone") == gain


def test_gain_of_one_pair_and_of_unequal_seeds(arms):
    one = results_.gain(arms, "assistant", "assistant alone")
    assert one["values"] == [-0.5]
    assert one["std"] is None
    assert one["text"] == "-0.50 points (n = 1)"
    fewer = {**arms, "student alone": arms["student alone"][1:]}
    assert results_.gain(fewer, "student", "student alone")["values"] == [1.5, 0.5]


def difference(values) -> dict:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"values": values, "mean": float(np.mean(values)), "std": std, "n": len(values)}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 1.2, 0.8], "holds"),  # standard error 0.115, and 4.303 of them are 0.50
        ([-1.0, -1.2, -0.8], "does not hold"),
        ([1.0, 1.5, 0.5], "not shown"),  # 1.0 is within 4.303 standard errors of 0.29
        ([1.0, 1.5, 0.5, 1.0, 1.5, 0.5], "holds"),  # and not within 2.571 of 0.18
        ([5.0], "not shown"),  # one seed shows nothing
        ([5.0, 5.1], "not shown"),
        ([0.0, 0.0, 0.0], "not shown"),
        ([0.3, 0.3, 0.3], "holds"),
    ],
)
def test_verdict(values, said):
    assert verdict(difference(values)) == said


# Files


def test_nothing_is_written_without_a_folder(arms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    figure, _ = plt.subplots()
    report.save_figure(figure, "", "f")
    report.save_table(pd.DataFrame({"a": [1]}), "", "t")
    report.save_records(arms["student"], "")
    report.save_summary("", "s", "text")
    plt.close(figure)
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_are_text_in_both_forms(arms, tmp_path):
    table = two_stage_table(arms, PRESET)
    report.save_table(table, tmp_path / "out", "two_stage")
    folder = tmp_path / "out" / "tables"
    read = pd.read_csv(folder / "two_stage.csv", dtype=str)
    assert read.columns.tolist() == table.columns.tolist()
    assert read.to_numpy().tolist() == table.astype(str).to_numpy().tolist()
    lines = (folder / "two_stage.md").read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[0] == table.columns.tolist()
    assert [row[0] for row in cells[2:]] == list(TWO_STAGE)
    ours = table.columns.get_loc("test top-1 % (cifar100, resnet50 → resnet18)")
    assert cells[4][ours] == "72.17 ± 1.26"
    assert cells[2][ours] in ("77.00", "77")  # a number may lose its zeros


def test_records_are_copied_whole(arms, tmp_path):
    report.save_records(arms["student"], tmp_path / "out")
    copies = sorted((tmp_path / "out" / "records").iterdir())
    assert [p.stem for p in copies] == sorted(run.config.name for run in arms["student"])
    for run in arms["student"]:
        copy = tmp_path / "out" / "records" / f"{run.config.name}.json"
        assert storage.load_json(copy) == run.record


def draw(arms):
    """All plots in one figure."""
    report.style()
    figure, axes = plt.subplots(1, 4, figsize=(16, 4))
    figures.plot_two_stage(arms, axes[0])
    figures.plot_learning_curves(arms, axes[1])
    report.plot_gradient_shares(arms["student"][0], axes[2])
    image = tiny.data().train.images[:1].permute(0, 2, 3, 1).numpy()
    report.plot_images([axes[3]], image, ["A"])
    return figure, axes


def test_figures_are_the_same_bytes_every_time(arms, tmp_path):
    digests = set()
    for name in ("a", "b"):
        figure, _ = draw(arms)
        report.save_figure(figure, tmp_path / "out", name)
        plt.close(figure)
        content = (tmp_path / "out" / "figures" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_the_plots_show_the_records(arms):
    figure, (bars, curves, shares, image) = draw(arms)
    means = [patch.get_width() for patch in bars.patches]
    assert means == pytest.approx([np.mean(TOP1[arm]) for arm in reversed(TWO_STAGE)])
    dots = [line.get_xdata().tolist() for line in bars.lines]
    assert dots == [TOP1[arm] for arm in reversed(TWO_STAGE)]
    labels = [label.get_text() for label in bars.get_yticklabels()]
    assert labels[-1] == "teacher, 32 px"
    assert labels[-3] == "student, 16 px"
    assert len(curves.lines) == sum(map(len, TOP1.values()))
    assert list(curves.lines[0].get_ydata()) == [10, 20, 30]
    assert [t.get_text() for t in curves.get_legend().get_texts()] == list(TWO_STAGE)
    heights = [[p.get_height() for p in c.patches] for c in shares.containers]
    assert heights == [[25.0] * 3, [75.0] * 3]
    assert image.images[0].get_array().shape == (32, 32, 3)
    plt.close(figure)


def test_every_arm_and_term_has_a_colour_of_its_own():
    assert set(report.COLORS) == set(TWO_STAGE)
    assert len(set(report.COLORS.values())) == len(TWO_STAGE)
    assert set(report.TERM_COLORS) == set(report.TERM_NAMES)
    what = report.describe_arms({"teacher": TWO_STAGE["teacher"]})["what it is"].tolist()
    assert what == ["teacher at full resolution"]
    assert set(report.TERM_COLORS) == {"cross_entropy", "triplet", *ORDERS.values(), *NAMES}


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "out").write_text("a file")
    figure, _ = plt.subplots()
    with pytest.raises(HorkdError, match=r"could not write .*f\.png"):
        report.save_figure(figure, tmp_path / "out", "f")
    plt.close(figure)
