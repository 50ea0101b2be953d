"""Claims with their verdicts, and what numbers come from, as sentences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from horkd.lab.store import Run, unlike
from horkd.studies.results import Gain, Results, distinct


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`, without a spread for a single value."""
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


@dataclass(frozen=True)
class Claim:
    """A claim "this is better than that".

    Attributes:
        text: in words.
        compared: the two names.
        gain: their difference, with its verdict.
    """

    text: str
    compared: str
    gain: Gain


def claims(
    results: Results,
    questions: Mapping[str, tuple[str, str]],
    column: str = "difference in test top-1",
) -> pd.DataFrame:
    """One row per claim "arm is better than control" whose two arms have a seed in common.

    Args:
        results: runs; a claim about an arm with a seed that diverged is not shown, nor one about
            runs of unequal precision.
        questions: the claim in words -> (arm, control).
        column: what the difference is called.
    """
    found = []
    for text, pair in questions.items():
        gain = results.gain(*pair)
        if gain is not None:
            compared = " − ".join(map(results.label, pair))
            found.append(Claim(text, compared, gain))
    return table(found, column)


def table(found: Iterable[Claim], column: str = "difference") -> pd.DataFrame:
    """One row per claim."""
    rows = [(c.text, c.compared, c.gain.text + c.gain.doubt, c.gain.verdict) for c in found]
    return pd.DataFrame(rows, columns=["claim", "compared", column, "verdict"])


def as_lines(claims: pd.DataFrame) -> str:
    """Claims as a Markdown list; the difference is the column before the verdict."""
    return "\n".join(
        f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: {row[claims.columns[-2]]}."
        for row in claims.to_dict("records")
    )


def provenance(results: Results, about: str, rules: str, threads: bool = True) -> str:
    """What the numbers of a page come from, in a paragraph.

    Args:
        results: the runs.
        about: networks, data, training: the start of a sentence.
        rules: how the numbers were taken, in sentences.
        threads: say how many the runs were trained with.
    """
    runs = results.everything()
    records = [run.record for run in runs]
    trained = [r["machine"] for r in records if r["seconds"]["total"]]
    trained = trained or [r["machine"] for r in records]
    machines = ", ".join(sorted({machine["name"] for machine in trained}))
    counts = sorted({machine["threads"] for machine in trained})
    mixed = unequal(runs)
    with_threads = f" (threads: {', '.join(map(str, counts))})" if threads else ""
    return (
        f"Preset `{results.preset.name}`: {about} {spent(runs)} of training on "
        f"{machines}{with_threads}. {rules}{f' {mixed}' if mixed else ''}"
    )


def spent(runs: Iterable[Run]) -> str:
    """`20 runs, 2.3 hours`: how many different runs there are, and how long they took together."""
    records = [run.record for run in distinct(runs)]
    hours = sum(record["seconds"]["total"] for record in records) / 3600
    time = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return f"{len(records)} run{'s' * (len(records) != 1)}, {time}"


def unequal(runs: Iterable[Run]) -> str:
    """`unlike` of some runs."""
    return unlike([run.trained_in for run in distinct(runs)])
