"""Claims with their verdicts, as sentences."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from horkd.lab.store import Run
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, failures, gain
from horkd.studies.study import studies_of, study


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`, without a spread for a single value."""
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


#: Two-sided 95 % quantile of Student's t for n values; more than ten are treated as ten.
STUDENT_T = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def verdict(difference: Mapping[str, object]) -> str:
    """The claim that a difference is positive "holds", "does not hold" or is "not shown".

    It needs at least three seeds, and a 95 % confidence interval (Student's t) without zero.
    """
    n, mean, std = difference["n"], difference["mean"], difference["std"]
    if n < 3 or abs(mean) <= STUDENT_T.get(n, 2.262) * std / np.sqrt(n):
        return "not shown"
    return "holds" if mean > 0 else "does not hold"


def claims(
    preset: Preset, arms: Arms, questions: Mapping[str, tuple[str, str]], source: Source
) -> pd.DataFrame:
    """One row per claim "arm is better than control" whose two arms are there.

    Args:
        preset: sizes.
        arms: finished runs.
        questions: the claim in words -> (arm, control).
        source: knows the seeds that failed; a claim about an arm with such a seed is not shown,
            nor one about runs of unequal precision.
    """
    kinds = {name: arm for one in studies_of(preset) for name, arm in study(preset, one).items()}
    rows = []
    for claim, (arm, control) in questions.items():
        if arm in arms and control in arms:
            difference = gain(arms, arm, control)
            lost = [n for n in (arm, control) if failures(preset, kinds[n], source)]
            mixed = precisions([*arms[arm], *arms[control]])
            rows.append({
                "claim": claim,
                "compared": f"{arm} − {control}",
                "difference in test top-1": difference["text"]
                + "".join(f", and seeds of {name} diverged" for name in lost)
                + (f", in unequal precision ({', '.join(mixed)})" if len(mixed) > 1 else ""),
                "verdict": "not shown" if lost or len(mixed) > 1 else verdict(difference),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "compared", "difference in test top-1", "verdict"])


def precisions(found: Iterable[Run]) -> list[str]:
    """The precisions that some runs were trained in; comparable ones have one."""
    settings = (run.record.get("settings", {}) for run in found if not run.config.weights)
    return sorted({s["precision"] for s in settings if "precision" in s})


def as_lines(table: pd.DataFrame) -> str:
    """Claims as a Markdown list; the difference is the column before the verdict."""
    return "\n".join(
        f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: {row[table.columns[-2]]}."
        for row in table.to_dict("records")
    )


def provenance(preset: Preset, arms: Arms) -> str:
    """What the numbers of a page come from, in a paragraph."""
    records = [run.record for found in arms.values() for run in found]
    machines = sorted({r["machine"]["name"] for r in records})
    threads = sorted({r["machine"]["threads"] for r in records})
    hours = sum(r["seconds"]["total"] for r in records) / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return (
        f"Preset `{preset.name}`: {preset.teacher} → {preset.compact}, {preset.data}, "
        f"{preset.recipe.epochs} epochs ({preset.teacher_recipe.epochs} for the teacher), "
        f"{len(records)} runs, {spent} of training on {', '.join(machines)} "
        f"(threads: {', '.join(map(str, threads))}). Accuracy is test top-1 of the last epoch; "
        "± is the standard deviation over seeds of the student. A claim needs three seeds and a "
        "95 % interval of the paired differences without zero; otherwise it is not shown."
    )
