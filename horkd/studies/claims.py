"""Claims with their verdicts, and what numbers come from, as sentences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from horkd.studies.results import Gain, Results


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
        gain: their difference.
        doubt: why it is not shown whatever the difference, as the end of a sentence; or empty.
    """

    text: str
    compared: str
    gain: Gain
    doubt: str = ""

    @property
    def verdict(self) -> str:
        """That of the difference, unless there is a doubt."""
        return "not shown" if self.doubt else self.gain.verdict


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
            found.append(Claim(text, compared, gain, _doubt(results, pair)))
    return table(found, column)


def _doubt(results: Results, arms: Sequence[str]) -> str:
    said = [
        f", and seeds of {results.label(arm)} diverged" for arm in arms if results.failures(arm)
    ]
    mixed = results.precisions(*arms)
    return "".join(said) + (f", in unequal precision ({', '.join(mixed)})" if mixed[1:] else "")


def table(found: Iterable[Claim], column: str = "difference") -> pd.DataFrame:
    """One row per claim."""
    rows = [(c.text, c.compared, c.gain.text + c.doubt, c.verdict) for c in found]
    return pd.DataFrame(rows, columns=["claim", "compared", column, "verdict"])


def as_lines(claims: pd.DataFrame) -> str:
    """Claims as a Markdown list; the difference is the column before the verdict."""
    return "\n".join(
        f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: {row[claims.columns[-2]]}."
        for row in claims.to_dict("records")
    )


def provenance(
    results: Results, about: str, rules: str, once: bool = False, threads: bool = True
) -> str:
    """What the numbers of a page come from, in a paragraph.

    Args:
        results: the runs.
        about: networks, data, training: the start of a sentence.
        rules: how the numbers were taken, in sentences.
        once: count a run once that stands for two arms.
        threads: say how many the runs were trained with.
    """
    runs = results.everything()
    if once:
        runs = list({run.config.key: run for run in runs}.values())
    records = [run.record for run in runs]
    trained = [r["machine"] for r in records if r["seconds"]["total"]]
    trained = trained or [r["machine"] for r in records]
    machines = ", ".join(sorted({machine["name"] for machine in trained}))
    counts = sorted({machine["threads"] for machine in trained})
    hours = sum(r["seconds"]["total"] for r in records) / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    with_threads = f" (threads: {', '.join(map(str, counts))})" if threads else ""
    return (
        f"Preset `{results.preset.name}`: {about} {len(records)} run{'s' * (len(records) != 1)}, "
        f"{spent} of training on {machines}{with_threads}. {rules}"
    )
