"""The benchmarks run, and what is printed of them is what their records say."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "reports" / "benchmarks").glob("losses-*.json"))
ROW = re.compile(r"^\| *[23C] *\| *\d+ *\|.*$", re.MULTILINE)


def cells(text: str) -> list[list[str]]:
    """Rows of a Markdown table that begin with an order and a batch size."""
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in ROW.findall(text)]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "losses.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)  # to which a script adds what it needs
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_the_table_is_made_of_the_record(record, benchmark):
    rows = json.loads(record.read_text())["rows"]
    rows = [{k: float("nan") if v is None else v for k, v in row.items()} for row in rows]
    assert len(rows) > 20
    expected = cells(benchmark.report.markdown(benchmark.table(rows)))
    assert cells(record.with_suffix(".md").read_text()) == expected


def test_the_readme_quotes_the_table():
    quoted = cells((ROOT / "README.md").read_text())
    table = cells((ROOT / "reports" / "benchmarks" / "losses-cpu.md").read_text())
    assert len(quoted) >= 3
    for row in quoted:
        assert any(row == full[: len(row)] for full in table), row


def test_the_benchmark_of_the_losses_runs(tmp_path):
    command = [sys.executable, "benchmarks/losses.py", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--rows", "16", "32", "--widths", "8", "--seconds", "0.1"],
        cwd=ROOT, env={**os.environ, "HORKD_REPORTS": str(tmp_path)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "benchmarks" / "losses-cpu.json").read_text())
    assert [(row["order"], row["N"]) for row in written["rows"]] == [
        (order, n) for order in "23C" for n in (16, 32)
    ]
    for row in written["rows"]:
        assert row["gradient difference"] < 1e-4
        assert row["loss difference"] < 1e-5
        assert row["ours ms"] > 0
        assert row["published ms"] > 0
    assert (tmp_path / "benchmarks" / "losses-cpu.png").stat().st_size > 10_000


def test_the_readme_quotes_the_demos_record():
    record = json.loads((ROOT / "reports" / "benchmarks" / "demo-cpu.json").read_text())
    text = (ROOT / "README.md").read_text()
    slider, together, memory = (record[name] for name in ("slider", "together", "memory"))
    assert together["answered"] == together["requests"]
    rows = {int(number): mib for number, mib in memory["mib"].items()}
    last = max(rows)
    for quoted in (
        f"first answer of a new server after {record['first_answer_s']:.1f} s",
        f"{slider['median_ms']:.0f} ms (median of {slider['moves']}, 95 % within "
        f"{slider['p95_ms']:.0f} ms)",
        f"{together['clients']} clients at once with {together['requests']} requests all had their "
        f"answers, after {together['median_s']:.1f} s (median) and at most "
        f"{together['worst_s']:.1f} s",
        f"{rows[0]} MiB at first, {rows[last // 2]} after {last // 2} and {rows[last]} after "
        f"{last:,} requests",
    ):
        assert quoted in text, quoted


def test_the_readme_quotes_the_record_of_the_hint():
    record = json.loads((ROOT / "reports" / "benchmarks" / "unknown.json").read_text())
    chosen = record["scores"][record["chosen"]]
    flagged, text = chosen["flagged"], (ROOT / "README.md").read_text()
    stripes, pages, plots, shuffled, faces = (
        f"{flagged[name]:.0f}" for name in ("stripes", "text pages", "plots", "shuffled", "faces")
    )
    for quoted in (
        f"of the test images {chosen['test']:.1f} % get it",
        f"{chosen['dev_mean']:.0f} % flagged) and flags {chosen['test_mean']:.1f} % of four others",
        f"(stripes {stripes}, text pages {pages}, plots {plots}, CIFAR-100 in shuffled blocks "
        f"{shuffled})",
        f"it flags {faces} %",
    ):
        assert quoted in text, quoted


def test_estimates_are_within_a_factor_of_one_and_a_half_of_what_was_measured():
    found = json.loads((ROOT / "reports" / "benchmarks" / "estimate.json").read_text())
    text = (ROOT / "reports" / "benchmarks" / "estimate.md").read_text()
    assert found["load"] <= 0.5  # an idle machine
    assert {row["what"] for row in found["rows"]} == {"training", "frozen"}
    for row in found["rows"]:
        ratio = row["estimate"] / row["measured"]
        assert 1 / 1.5 <= ratio <= 1.5, row
        (line,) = (
            line
            for line in text.splitlines()
            if [cell.strip() for cell in line.split("|")[1:4]]
            == [row["what"], row["network"], str(row["pixels"])]
        )
        assert f"{ratio:.2f}" in line
