"""Tables, gains and figures from records made up for the purpose, and the paper's numbers."""

import hashlib
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib import pyplot as plt
from records import make

from horkd import paper, storage
from horkd.baselines import NAMES
from horkd.errors import HorkdError
from horkd.losses import ORDERS
from horkd.studies import report
from horkd.studies.claims import mean_and_spread
from horkd.studies.classification import figures
from horkd.studies.classification.tables import two_stage_table
from horkd.studies.presets import get_preset
from horkd.studies.results import Gain
from horkd.studies.study import study

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
HISTORY = [
    {
        "epoch": epoch,
        "gradient_shares": {"cross_entropy": 0.25, "order2": 0.75},
        "validation": {"top1": 10.0 * epoch, "top5": 20.0 * epoch, "n": 5},
    }
    for epoch in (1, 2, 3)
]


def made(kind: str = "top1", only=None, leave_out=(), best: float | None = None):
    """Results of the two-stage study; of another `kind` of test with the same numbers."""

    def add(source, arm, seed, config):
        value = TOP1[arm.name][seed]
        test = {"top1": value, "top5": 90.0} if kind == "top1" else {"recall": {"1": value}}
        run = source.add(config, test, history=HISTORY, seconds={"total": 100.0 + 10 * seed},
                         cost={"parameters": 11_220_132, "macs": 139_500_000})  # fmt: skip
        if best is not None:
            run.record["results"]["best"] = {"epoch": 2, "test": {"top1": best + seed}}

    preset = replace(PRESET, seeds=3)
    return make(preset, ("two_stage",), add, only=only, leave_out=leave_out)


@pytest.fixture
def results():
    return made()


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


def test_two_stage_table(results):
    table = two_stage_table(results).set_index("arm")
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


def test_the_best_epoch_stands_beside_the_last_never_instead():
    results = made(only=["student"], leave_out=[("student", 2)], best=75.0)
    row = two_stage_table(results).iloc[0]
    assert row["best epoch %"] == "75.50 ± 0.71"
    assert row["test top-1 % (cifar100, resnet50 → resnet18)"] == "71.50 ± 0.71"
    assert results.values("student") == [71.0, 72.0]


@pytest.mark.parametrize("kind", ["top1", "recall"])
def test_gain_is_paired_over_seeds(kind):
    """Of both kinds of test, whatever the order of runs."""
    results = made(kind)
    gain = results.gain("student", "student alone")
    assert gain.values == (1.0, 1.5, 0.5)
    assert (gain.mean, gain.std, gain.n) == pytest.approx((1.0, 0.5, 3))
    assert gain.text == "+1.00 ± 0.50 points (n = 3; +1.00, +1.50, +0.50)"
    assert gain.short == "+1.00 ± 0.50"
    alone = results.runs("student alone")
    shuffled = replace(results, found={**results.found, "student alone": alone[::-1]})
    assert shuffled.gain("student", "student alone") == gain


def test_gain_of_one_pair_of_unequal_seeds_and_of_none(results):
    one = results.gain("assistant", "assistant alone")
    assert (one.values, one.std) == ((-0.5,), None)
    assert one.text == "-0.50 points (n = 1)"
    fewer = made(leave_out=[("student alone", 0)])
    assert fewer.gain("student", "student alone").values == (1.5, 0.5)
    assert results.gain("student", "not an arm") is None
    apart = made(leave_out=[("student alone", 0), ("student", 1), ("student", 2)])
    assert apart.runs("student")
    assert apart.gain("student", "student alone") is None


def test_gain_over_what():
    assert Gain((1.0, 2.0), "folds").text == "+1.50 ± 0.71 points (n = 2 folds)"
    assert Gain((1.0,), "seeds").text == "+1.00 points (n = 1 seed)"


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
    assert Gain(tuple(values)).verdict == said


# Files


def test_nothing_is_written_without_a_folder(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure, _ = plt.subplots()
    report.save_figure(figure, "", "f")
    report.save_table(pd.DataFrame({"a": [1]}), "", "t")
    results.save_records("")
    report.save_summary("", "s", "text")
    plt.close(figure)
    assert not list(tmp_path.rglob("*"))


def test_tables_are_text_in_both_forms(results, tmp_path):
    table = two_stage_table(results)
    assert report.save_table(table, tmp_path / "out", "two_stage") is table
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


def test_a_summary_ends_in_its_figures(tmp_path):
    report.save_summary(tmp_path, "02", "text\n", {"a": "What a shows", "b": "Another"})
    text = (tmp_path / "summaries" / "02.md").read_text()
    assert text == "text\n\n![What a shows](figures/a.png)\n\n![Another](figures/b.png)\n"


def test_records_are_copied_whole(results, tmp_path):
    """With what was asked of the networks."""
    runs = [replace(run, folder=tmp_path / run.config.name) for run in results.runs("student")]
    for run in runs:
        storage.save_json(run.folder / "record.json", run.record)
        storage.save_json(run.folder / "views.json", {"key": run.config.key})
    replace(results, found={"student": runs}).save_records(tmp_path / "out")
    names = [run.config.name for run in runs]
    copies = sorted(path.name for path in (tmp_path / "out" / "records").iterdir())
    assert copies == sorted(f"{name}{end}" for name in names for end in (".json", ".views.json"))
    for run in runs:
        copy = tmp_path / "out" / "records" / f"{run.config.name}.json"
        assert storage.load_json(copy) == run.record


def draw(results):
    """All plots in one figure."""
    report.style()
    figure, axes = plt.subplots(1, 4, figsize=(16, 4))
    figures.plot_two_stage(results, axes[0])
    figures.plot_learning_curves(results, axes[1])
    report.plot_gradient_shares(results.runs("student")[0], axes[2])
    image = tiny.data().train.images[:1].permute(0, 2, 3, 1).numpy()
    report.plot_images([axes[3]], image, ["A"])
    return figure, axes


def test_figures_are_the_same_bytes_every_time(results, tmp_path):
    digests = set()
    for name in ("a", "b"):
        figure, _ = draw(results)
        report.save_figure(figure, tmp_path / "out", name)
        plt.close(figure)
        content = (tmp_path / "out" / "figures" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_the_plots_show_the_records(results):
    figure, (bars, curves, shares, image) = draw(results)
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
