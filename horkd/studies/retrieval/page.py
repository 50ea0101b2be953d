"""The page of notebook 07."""

import numpy as np
import pandas as pd

from horkd import paper
from horkd.data.retrieval import plain_name
from horkd.studies import report
from horkd.studies.claims import as_lines, verdict
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, failures, gain
from horkd.studies.retrieval.arms import LABELS, METRIC
from horkd.studies.retrieval.tables import (
    Across,
    across_rows,
    across_table,
    full,
    published,
    retrieval_table,
    short,
    sizes_of,
    tested,
)
from horkd.studies.study import study
from horkd.training import Recipe


def questions(preset: Preset) -> dict[str, tuple[str, str]]:
    """The claims in words -> (arm, control)."""
    sizes = sizes_of(preset)
    main, whole = sizes.lows[0], full(preset)
    at = f"{METRIC}student {main}"
    found = {
        f"relations of the teacher help a student at {main} px": (f"{at} direct", f"{at} alone"),
        f"two stages of relations help a student at {main} px": (at, f"{at} alone"),
        f"the assistant helps at {main} px": (at, f"{at} direct"),
        "hybrid orders beat RKD": (f"{at} direct", f"{METRIC}RKD {main}"),
    }
    for name in ("PKT", "DarkRank", "MKD", "MKD absolute", "MKD+AT"):
        found[f"hybrid orders beat {name}"] = (f"{at} direct", f"{METRIC}{name} {main}")
    found["order 1 in place of order C helps"] = (f"{at} for the index", f"{at} direct")
    for r in (*sizes.lows[1:], whole):
        other = f"{METRIC}student {r}"
        helps = f"relations of the teacher help a student at {r} px"
        found[helps] = (f"{other} direct", f"{other} alone")
        found[f"the assistant helps at {r} px"] = (other, f"{other} direct")
    return found


def claims(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """One row per claim whose two arms are there, on Recall@1 paired over seeds."""
    kinds, rows = study(preset, "metric"), []
    for claim, (arm, control) in questions(preset).items():
        difference = _gain(arms, arm, control)
        if difference is not None:
            lost = [n for n in (arm, control) if failures(preset, kinds[n], source)]
            rows.append({
                "claim": claim,
                "compared": f"{short(arm)} − {short(control)}",
                "difference in Recall@1": difference["text"]
                + "".join(f", and seeds of {short(name)} diverged" for name in lost),
                "verdict": "not shown" if lost else verdict(difference),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "compared", "difference in Recall@1", "verdict"])


def _gain(arms: Arms, arm: str, control: str) -> dict | None:
    """`report.gain`, or None where the two have no seed in common."""
    seeds = [{run.config.seed for run in arms.get(name, ())} for name in (arm, control)]
    return gain(arms, arm, control) if seeds[0] & seeds[1] else None


def cautions(preset: Preset, arms: Arms, source: Source) -> str:
    """What the claims do not say for themselves: unfinished, failed and unequally tuned arms."""
    said = []
    if any(found[0].config.baselines for found in arms.values()):
        said.append(
            "Weights and optimiser of the relations were searched, the weights of the other "
            "methods were not: losing here says little of a method."
        )
    chosen = [
        (run.record["results"]["selected"], run.config.recipe.epochs)
        for found in arms.values()
        for run in found
        if run.record["results"].get("selected")
    ]
    last = sum(selected["epoch"] == epochs for selected, epochs in chosen)
    if last > len(chosen) / 2:
        said.append(
            f"In {last} of {len(chosen)} runs the last epoch was the best: networks were still "
            "learning, so that a difference is one of speed as much as of where they end."
        )
    rows = {row.label: row for row in tested(preset, arms, source)}
    stuck, behind = [], []
    for label, row in rows.items():
        raw = rows.get(f"raw pixels, {row.pixels} px")
        if raw is None or row is raw:
            continue
        seeds = [
            str(run.config.seed)
            for run, rate in zip(row.runs, row.rates(), strict=True)
            if rate <= raw.rates()[0]
        ]
        if seeds:
            stuck.append(f"{label} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
        control = rows.get(f"student {row.pixels} alone")
        distilled = row.runs[0].config.frozen is not None
        if control is not None and distilled and np.mean(row.rates()) < np.mean(control.rates()):
            behind.append(label)
    if stuck:
        said.append(f"No better than the raw pixels: {'; '.join(stuck)}.")
    if behind:
        said.append(f"Behind the student alone at their resolution: {', '.join(behind)}.")
    return " ".join(said) and f"**To be read with care.** {' '.join(said)}"


def assistant_effect(preset: Preset, arms: Arms) -> str:
    """Stage 1's worth over the resolutions that were run, beside the paper's."""
    gains = {}
    for r in sorted({*sizes_of(preset).lows, full(preset)}, reverse=True):
        found = _gain(arms, f"{METRIC}student {r}", f"{METRIC}student {r} direct")
        if found is not None:
            gains[r] = found
    if not gains:
        return ""
    each = ", ".join(f"{g['mean']:+.2f} at {r} px (n = {g['n']})" for r, g in gains.items())
    mean = np.mean([g["mean"] for g in gains.values()])
    overall = f"; mean {mean:+.2f}" if len(gains) > 1 else ""
    return (
        f"**The assistant's effect** (student − student direct, points of Recall@1): {each}"
        f"{overall}. The "
        f"paper says {paper.FIG_3_ASSISTANT:+.2f}, without saying over what. All students have "
        "the same assistant, trained once; two stages train twice as long."
    )


def index_line(preset: Preset, arms: Arms, source: Source) -> str:
    """What a system with the teacher's index gets, in a sentence; empty where not known."""
    main = sizes_of(preset).lows[0]
    rows = {row.arm: row for row in across_rows(preset, arms, source)}
    direct = rows.get(f"{METRIC}student {main} direct")
    trained = rows.get(f"{METRIC}student {main} for the index")
    if direct is None or trained is None or direct.as_is is None or trained.as_is is None:
        return ""

    both = set(direct.seeds) & set(trained.seeds)
    if not both:
        return ""

    def mean(row: Across, name: str) -> str:
        pairs = zip(row.seeds, getattr(row, name), strict=True)
        return f"{np.mean([value for seed, value in pairs if seed in both]):.2f}"

    return (
        f"**In the teacher's index** at {main} px (n = {len(both)}): the student of relations "
        f"finds {mean(direct, 'as_is')} % as it is and {mean(direct, 'aligned')} % after a "
        f"rotation, scale and offset fitted on training images ({mean(direct, 'alone')} % in its "
        "own index); the one that learns the teacher's features as well (order 1) "
        f"{mean(trained, 'as_is')} %, {mean(trained, 'aligned')} % and {mean(trained, 'alone')} %."
    )


def provenance(preset: Preset, arms: Arms) -> str:
    """What the numbers of a page come from, in a paragraph."""
    # one run may stand for two arms
    unique = {run.config.key: run.record for found in arms.values() for run in found}
    records = list(unique.values())
    trained = [r for r in records if r["seconds"]["total"]] or records
    machines = sorted({r["machine"]["name"] for r in trained})
    threads = sorted({r["machine"]["threads"] for r in trained})
    hours = sum(r["seconds"]["total"] for r in records) / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    sizes = sizes_of(preset)
    recipes = ""
    if sizes.recipe != sizes.other_recipe:
        recipes = (
            f" Orders of relations, RKD's among them, are learnt by {_recipe(sizes.recipe)}, all "
            f"else by {_recipe(sizes.other_recipe)}, as tried on validation classes of the "
            "embedded set (reports/tuning)."
        )
    if sizes.labels != "triplet":
        recipes += (
            f" Labels are learnt by {sizes.labels}, a {LABELS[sizes.labels]}, where the protocol "
            "has triplets: the better on validation classes."
        )
    test = records[0]["results"]["test"]
    teacher = f"{sizes.teacher_recipe.epochs} for the teacher"
    if sizes.weights:
        teacher = "the teacher was trained elsewhere"
    epoch = {
        "validation": "the best epoch on validation classes, which are neither trained on nor "
        "tested",
        "test": "the best epoch on the test images, as published code has it: too good",
        "last": "the last epoch",
    }[sizes.select]
    return (
        f"Preset `{preset.name}`: {sizes.teacher} → {sizes.compact}, {plain_name(sizes.data)}, "
        f"{sizes.embedding} dimensions, {sizes.recipe.epochs} epochs "
        f"({teacher}), {len(records)} run{'' if len(records) == 1 else 's'}, {spent} of "
        f"training on {', '.join(machines)} (threads: {', '.join(map(str, threads))}). "
        f"{test['queries']} queries among {test['gallery']} images of test classes, each left out "
        f"of its own gallery; Euclidean distance. The result of a run is {epoch}; ± is the "
        "standard deviation over seeds of the student. A claim needs three seeds and a 95 % "
        f"interval of the paired differences without zero; otherwise it is not shown.{recipes}"
    )


def _recipe(recipe: Recipe) -> str:
    clip = f", gradients of at most {recipe.clip:g}" if recipe.clip else ""
    name = {"sgd": "SGD", "adam": "Adam"}[recipe.optimizer]
    return f"{name} at {recipe.learning_rate:g}{clip}"


def metric_page(preset: Preset, arms: Arms, source: Source) -> str:
    """The summary of notebook 07: verdicts, tables, provenance."""
    parts = [
        as_lines(claims(preset, arms, source)),
        cautions(preset, arms, source),
        assistant_effect(preset, arms),
        index_line(preset, arms, source),
        "**Retrieval.** " + provenance(preset, arms),
        report.markdown(retrieval_table(preset, arms, source)),
    ]
    crossed = across_table(preset, arms, source)
    if len(crossed):
        parts += [
            "**Symmetric and asymmetric**, Recall@1: queries and gallery by the student, and "
            "queries by the student in the index that the teacher made of the sharp images.",
            report.markdown(crossed),
        ]
    parts += [
        "**Table 4 as printed**, Recall@1, and the arms that stand for its rows here, on other "
        "data and networks unless they are named alike; a resolution stands for the same share of "
        "the full one. OUR-256-R is taken for stage 2 at full resolution; the assistant is stage 1 "
        "alone. PKT, DarkRank, both MKD rows and ResNet101 come from a study with a "
        "ResNet101 as teacher, which the paper's authors did not run again:",
        report.markdown(published(preset, arms)),
        missing(preset, arms, source),
    ]
    return "\n\n".join(part for part in parts if part)


def missing(preset: Preset, arms: Arms, source: Source) -> str:
    """A sentence on arms that diverged and arms that were not run; empty if there are none."""
    kinds = study(preset, "metric")
    lost = [short(name) for name, arm in kinds.items() if failures(preset, arm, source)]
    left = [short(n) for n in kinds if n not in arms and short(n) not in lost]
    said = []
    if lost:
        said.append(f"Diverged: {', '.join(lost)}.")
    if left:
        said.append(f"Not run: {', '.join(left)}.")
    return " ".join(said)
