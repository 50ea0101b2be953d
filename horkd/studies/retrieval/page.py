"""The page of notebook 07: claims, cautions, tables, provenance."""

import numpy as np
import pandas as pd

from horkd import paper
from horkd.data.retrieval import plain_name
from horkd.studies import claims as claims_
from horkd.studies import report
from horkd.studies.claims import as_lines
from horkd.studies.preset import Preset
from horkd.studies.results import Results
from horkd.studies.retrieval.arms import LABELS, METRIC
from horkd.studies.retrieval.tables import (
    Across,
    across_rows,
    across_table,
    full,
    published,
    retrieval_table,
    sizes_of,
    tested,
)
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


def claims(results: Results) -> pd.DataFrame:
    """One row per claim whose two arms are there, on Recall@1 paired over seeds."""
    return claims_.claims(results, questions(results.preset), "difference in Recall@1")


def cautions(results: Results) -> str:
    """What the claims do not say for themselves: unfinished, failed and unequally tuned arms."""
    said = [line for line in (_untuned(results), _unfinished(results), *_poor(results)) if line]
    return f"**To be read with care.** {' '.join(said)}" if said else ""


def _untuned(results: Results) -> str:
    if not any(results.config(name).baselines for name in results):
        return ""
    return (
        "Weights and optimiser of the relations were searched, the weights of the other methods "
        "were not: losing here says little of a method."
    )


def _unfinished(results: Results) -> str:
    chosen = [
        (run.record["results"]["selected"], run.config.recipe.epochs)
        for run in results.everything()
        if run.record["results"].get("selected")
    ]
    last = sum(selected["epoch"] == epochs for selected, epochs in chosen)
    if last <= len(chosen) / 2:
        return ""
    return (
        f"In {last} of {len(chosen)} runs the last epoch was the best: networks were still "
        "learning, so that a difference is one of speed as much as of where they end."
    )


def _poor(results: Results) -> list[str]:
    """Runs that are no better than raw pixels, and arms behind the student alone."""
    rows = tested(results)
    raw = {row.pixels: row for row in rows if row.line == "raw"}
    alone = {row.pixels: row for row in rows if row.line == "alone"}
    stuck, behind = [], []
    for row in rows:
        if row.pixels not in raw or row.line == "raw":
            continue
        limit = raw[row.pixels].rates()[0]
        pairs = zip(row.runs, row.rates(), strict=False)
        seeds = [str(run.config.seed) for run, rate in pairs if rate <= limit]
        if seeds:
            stuck.append(f"{row.label} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
        control, distilled = alone.get(row.pixels), row.runs[0].config.frozen is not None
        if control and distilled and np.mean(row.rates()) < np.mean(control.rates()):
            behind.append(row.label)
    return [
        f"{what}: {mark.join(found)}."
        for what, found, mark in (
            ("No better than the raw pixels", stuck, "; "),
            ("Behind the student alone at their resolution", behind, ", "),
        )
        if found
    ]


def assistant_effect(results: Results) -> str:
    """Stage 1's worth over the resolutions that were run, beside the paper's."""
    preset, gains = results.preset, {}
    for r in sorted({*sizes_of(preset).lows, full(preset)}, reverse=True):
        found = results.gain(f"{METRIC}student {r}", f"{METRIC}student {r} direct")
        if found is not None:
            gains[r] = found
    if not gains:
        return ""
    each = ", ".join(f"{g.mean:+.2f} at {r} px (n = {g.n})" for r, g in gains.items())
    mean = np.mean([g.mean for g in gains.values()])
    overall = f"; mean {mean:+.2f}" if len(gains) > 1 else ""
    return (
        f"**The assistant's effect** (student − student direct, points of Recall@1): {each}"
        f"{overall}. The "
        f"paper says {paper.FIG_3_ASSISTANT:+.2f}, without saying over what. All students have "
        "the same assistant, trained once; two stages train twice as long."
    )


def index_line(results: Results) -> str:
    """What a system with the teacher's index gets, in a sentence; empty where not known."""
    main = sizes_of(results.preset).lows[0]
    rows = {row.arm: row for row in across_rows(results)}
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


def provenance(results: Results) -> str:
    """What the numbers of a page come from, in a paragraph."""
    sizes = sizes_of(results.preset)
    test = results.everything()[0].record["results"]["test"]
    teacher = f"{sizes.teacher_recipe.epochs} for the teacher"
    if sizes.weights:
        teacher = "the teacher was trained elsewhere"
    epoch = {
        "validation": "the best epoch on validation classes, which are neither trained on nor "
        "tested",
        "test": "the best epoch on the test images, as published code has it: too good",
        "last": "the last epoch",
    }[sizes.select]
    return claims_.provenance(
        results,
        f"{sizes.teacher} → {sizes.compact}, {plain_name(sizes.data)}, "
        f"{sizes.embedding} dimensions, {sizes.recipe.epochs} epochs ({teacher}),",
        f"{test['queries']} queries among {test['gallery']} images of test classes, each left out "
        f"of its own gallery; Euclidean distance. The result of a run is {epoch}; ± is the "
        "standard deviation over seeds of the student. A claim needs three seeds and a 95 % "
        "interval of the paired differences without zero; otherwise it is not shown."
        + _recipes(results.preset),
    )


def _recipes(preset: Preset) -> str:
    """How relations and labels are learnt, where that is not one and the same."""
    sizes, said = sizes_of(preset), ""
    if sizes.recipe != sizes.other_recipe:
        said = (
            f" Orders of relations, RKD's among them, are learnt by {_recipe(sizes.recipe)}, all "
            f"else by {_recipe(sizes.other_recipe)}, as tried on validation classes of the "
            "embedded set (reports/tuning)."
        )
    if sizes.labels != "triplet":
        said += (
            f" Labels are learnt by {sizes.labels}, a {LABELS[sizes.labels]}, where the protocol "
            "has triplets: the better on validation classes."
        )
    return said


def _recipe(recipe: Recipe) -> str:
    clip = f", gradients of at most {recipe.clip:g}" if recipe.clip else ""
    name = {"sgd": "SGD", "adam": "Adam"}[recipe.optimizer]
    return f"{name} at {recipe.learning_rate:g}{clip}"


def metric_page(results: Results) -> str:
    """What notebook 07 says: verdicts, tables, provenance."""
    parts = [
        as_lines(claims(results)),
        cautions(results),
        assistant_effect(results),
        index_line(results),
        "**Retrieval.** " + provenance(results),
        report.markdown(retrieval_table(results)),
    ]
    crossed = across_table(results)
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
        report.markdown(published(results)),
        results.missing(),
    ]
    return "\n\n".join(part for part in parts if part)
