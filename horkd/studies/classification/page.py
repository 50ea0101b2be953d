"""The pages of notebooks 02 to 05: claims, tables, provenance."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from horkd import paper
from horkd.studies import report
from horkd.studies.arm import ORDERS, subset_name, subsets
from horkd.studies.claims import as_lines, claims, mean_and_spread
from horkd.studies.claims import provenance as provenance_
from horkd.studies.classification.presets import FULL
from horkd.studies.classification.tables import (
    ablations,
    at_resolution,
    crossed,
    effects,
    in_braces,
    is_papers,
    main_effect,
    order_table,
    reasons,
    resolution_table,
    resolutions,
    swapped,
    table1,
    two_stage_table,
    weight_runs,
    weight_table,
)
from horkd.studies.results import Gain, Results


def provenance(results: Results) -> str:
    """What the numbers of a page come from, in a paragraph."""
    preset = results.preset
    return provenance_(
        results,
        f"{preset.teacher} → {preset.compact}, {preset.data}, "
        f"{preset.recipe.epochs} epochs ({preset.teacher_recipe.epochs} for the teacher),",
        "Accuracy is test top-1 of the last epoch; ± is the standard deviation over seeds of the "
        "student. A claim needs three seeds and a 95 % interval of the paired differences without "
        "zero; otherwise it is not shown.",
    )


TWO_STAGE_CLAIMS = {
    "stage 2 helps": ("student", "student alone"),
    "the assistant helps": ("student", "student direct"),
    "distillation without an assistant helps": ("student direct", "student alone"),
    "stage 1 helps": ("assistant", "assistant alone"),
}


def two_stage_page(results: Results) -> str:
    """What notebook 02 says."""
    return "\n\n".join([
        as_lines(claims(results, TWO_STAGE_CLAIMS)),
        report.markdown(two_stage_table(results)),
        provenance(results),
    ])  # fmt: skip


#: The paper's claims on classification. Methods are compared at one teacher and one stage
#: ("student direct"), and the whole two-stage transfer, which trains twice, with each of them.
TABLE1_CLAIMS = {
    "two stages of hybrid orders beat no distillation": ("student", "student alone"),
    "two stages beat labels only with the epochs of both": (
        "student",
        "student alone, equal epochs",
    ),
    "hybrid orders beat labels only, both with the epochs of two stages": (
        "student direct, equal epochs",
        "student alone, equal epochs",
    ),
    "stage 1 beats no distillation": ("assistant", "assistant alone"),
    "hybrid orders of the teacher beat no distillation": ("student direct", "student alone"),
    "KD beats no distillation": ("KD", "student alone"),
    "standardised KD beats no distillation": ("KD standardised", "student alone"),
    "hybrid orders beat KD, both of the teacher": ("student direct", "KD"),
    "hybrid orders beat standardised KD, both of the teacher": (
        "student direct",
        "KD standardised",
    ),
    "hybrid orders beat RKD, both of the teacher": ("student direct", "RKD"),
    "hybrid orders beat FitNet, both of the teacher": ("student direct", "FitNet"),
    "hybrid orders beat AT, both of the teacher": ("student direct", "AT"),
    "hybrid orders beat KD, both of the assistant": ("student", "KD from the assistant"),
    "two stages beat KD of the teacher in one": ("student", "KD"),
    "two stages beat standardised KD of the teacher in one": ("student", "KD standardised"),
    "the assistant helps": ("student", "student direct"),
    "the assistant helps at equal epochs": ("student", "student direct, equal epochs"),
    "starting from the assistant's weights helps": (
        "student from the assistant's weights",
        "student",
    ),
    "relations help a student that starts from the assistant": (
        "student from the assistant's weights",
        "assistant fine-tuned on small images",
    ),
    "more epochs help labels": ("student alone, equal epochs", "student alone"),
    "the assistant's weights help as much as more epochs on labels": (
        "assistant fine-tuned on small images",
        "student alone, equal epochs",
    ),
    "patience helps KD more than more epochs help labels": ("KD patient", "student alone, patient"),
    "horkd+ beats the paper's losses, both of the teacher": ("horkd+", "student direct"),
    "horkd+ beats standardised KD: the relations add to it": ("horkd+", "KD standardised"),
}


#: What the marks of `table1` mean.
TABLE1_NOTE = (
    "The paper's numbers are of ResNet50 → ResNet18 (its FitNet, AT, RKD and KD rows equal RKD's "
    "own table, whose student is a VGG11), and stand in columns of their own; a difference is "
    "formed only on the same network. Labels only: the same network, resolution and recipe, paired "
    "by seed. † some runs read the frozen model's answers from disk, which an earlier run of the "
    "same seed had computed, so their seconds do not count it."
)


def table1_page(results: Results) -> str:
    """What notebook 03 says."""
    parts = [
        as_lines(claims(results, TABLE1_CLAIMS)) + "\n" + closeness(results),
        report.markdown(table1(results)),
        TABLE1_NOTE,
    ]
    own = dict(results.preset.orders_of).get("assistant")
    if own:
        weights = ", ".join(f"{order}: {weight:g}" for order, weight in own)
        parts.append(
            f"The assistant was trained with other weights than the students ({weights}), before "
            "those were chosen; the second network's assistant was not."
        )
    parts += [
        "Scale and target of some arms (seed 0; FitNet has no gradient at the features):\n\n"
        + report.markdown(reasons(results)),
        provenance(results),
    ]
    return "\n\n".join(parts)


def closeness(results: Results) -> str:
    """How far the student stays behind its teacher, beside the same gap in the paper."""
    if "teacher" not in results or "student" not in results:
        return "- **A low-resolution student comes close to its teacher: not shown** (not run)."
    gaps = [results.values("teacher")[0] - value for value in results.values("student")]
    theirs = paper.row("Teacher ResNet50") - paper.row("OUR-16-R")
    same = is_papers(results, results.arms["student"])
    doubt = results.doubt("teacher", "student")
    closer = Gain(tuple(theirs - gap for gap in gaps), doubt=doubt)
    word = closer.verdict if same else "not shown"
    return (
        f"- **A {results.preset.low} px student comes as close to its {FULL} px teacher as in the "
        f"paper: {word}.** The gap is {mean_and_spread(gaps)} points here (n = {len(gaps)}), "
        f"{theirs:.2f} in the paper{'' if same else ', whose networks are others'}{doubt}."
    )


def order_claims(results: Results) -> str:
    """The paper's claims on orders, tested on the subsets that are there, as a Markdown list."""
    return "\n".join(line for pixels in ablations(results) for line in _at(results, pixels))


def _at(results: Results, pixels: int) -> list[str]:
    """The claims at one resolution."""
    at, lines = f"At {pixels} px", []
    known, pairs = ablations(results)[pixels], effects(results, pixels)
    if len(known) < len(subsets()):
        lines.append(
            f"- {at}, {len(known)} of the {len(subsets())} subsets were run; what follows is "
            "about those."
        )
    doubt = results.doubt(*(subset_name(orders, pixels) for orders in known))
    main = {order: replace(main_effect(v), doubt=doubt) for order, v in pairs.items()}
    for order, effect in main.items():
        values = list(pairs[order].values())
        lines.append(
            f"- **{at}, adding order {order} helps: {effect.verdict}.** {effect.short} "
            f"points (mean of {len(values)} pairs of runs that differ in it only, from "
            f"{min(values):+.2f} to {max(values):+.2f}; n = {effect.n}){doubt}."
        )
    hurt = results.gain(subset_name("23C", pixels), subset_name("123C", pixels))
    lines += [
        _claim(
            f"{at}, more orders help",
            slopes(results, pixels, doubt),
            "points for each order added",
        ),
        _claim(
            f"{at}, among equal numbers higher orders help more",
            _high_over_low(main, doubt),
            "points, mean effect of orders 3 and C minus that of 1 and 2",
        ),
        _best_subset(results, pixels),
        _claim(f"{at}, adding order 1 to {{2,3,C}} hurts", hurt, "points lost"),
    ]
    return [line for line in lines if line]


def _claim(text: str, gain: Gain | None, unit: str) -> str:
    if gain is None:
        return ""
    return f"- **{text}: {gain.verdict}.** {gain.short} {unit} (n = {gain.n}){gain.doubt}."


def slopes(results: Results, pixels: int, doubt: str = "") -> Gain | None:
    """For each seed that all subsets have, the regression of accuracy on the number of orders."""
    known = ablations(results)[pixels]
    by_subset = []
    for orders in known:
        name = subset_name(orders, pixels)
        seeds = [run.config.seed for run in results.runs(name)]
        by_subset.append(dict(zip(seeds, results.values(name), strict=True)))
    counts = [len(orders) for orders in known]
    common = sorted(set.intersection(*(set(values) for values in by_subset)))
    found = [float(np.polyfit(counts, [v[seed] for v in by_subset], 1)[0]) for seed in common]
    return Gain(tuple(found), doubt=doubt) if found else None


def _high_over_low(main: Mapping[str, Gain], doubt: str) -> Gain | None:
    if len(main) < len(ORDERS) or len({effect.n for effect in main.values()}) > 1:
        return None
    values = {order: np.array(effect.values) for order, effect in main.items()}
    differences = (values["3"] + values["C"] - values["1"] - values["2"]) / 2
    return Gain(tuple(differences), doubt=doubt)


def _best_subset(results: Results, pixels: int) -> str:
    """{2,3,C} against the best of the others."""
    known = ablations(results)[pixels]
    mean = {o: np.mean(results.values(subset_name(o, pixels))) for o in known}
    others = [orders for orders in known if orders != "23C"]
    if "23C" not in known or not others:
        return ""
    best = max(others, key=mean.get)
    ahead = results.gain(subset_name("23C", pixels), subset_name(best, pixels))
    if ahead is None:
        return ""
    place = sorted(known, key=lambda orders: -mean[orders]).index("23C") + 1
    return (
        f"- **At {pixels} px, {{2,3,C}} is the best subset: {ahead.verdict}.** It is number "
        f"{place} of {len(known)} on the test set, {ahead.short} points from the best other, "
        f"{in_braces(best)} (n = {ahead.n}){ahead.doubt}."
    )


def orders_page(results: Results) -> str:
    """What notebook 04 says."""
    shown = [subset_name(o, pixels) for pixels, known in ablations(results).items() for o in known]
    counted, weights = results.only(shown), weight_table(results)
    sweep = "The weights were not swept at this size."
    if not weights.empty:
        held = weights["validation top-1 %"].astype(float)
        swept = {name: [run] for name, run in weight_runs(results).items()}
        counted = replace(counted, found={**counted.found, **swept})
        sweep = (
            "Weights around those of the preset, one seed, judged on the validation split. The "
            f"best is `{weights['weights'][held.idxmax()]}`; the preset's weights were fixed "
            f"before and stay.\n\n{report.markdown(weights)}"
        )
    return "\n\n".join([
        order_claims(results),
        report.markdown(order_table(results)),
        sweep,
        provenance(counted),
    ])  # fmt: skip


def resolution_claims(results: Results) -> str:
    """Where the high-resolution image helps, as a Markdown list."""
    lines, means = [], {}
    for r in resolutions(results):
        names = at_resolution(results, r)
        helped = results.gain(names["student"], names["alone"])
        if helped is None:
            continue
        means[r] = helped.mean
        text = f"- **At {r} px distillation helps: {helped.verdict}.** {helped.text}{helped.doubt}"
        part = results.gain(names["student"], names["direct"])
        if part is not None:
            text += f"; assistant instead of teacher: {part.text}{part.doubt}"
        lines.append(text + ".")
    if means:
        best = max(means, key=means.get)
        none = [str(r) for r, mean in means.items() if mean <= 0]
        lines.append(
            f"- The gain measured is largest at {best} px ({means[best]:+.2f} points); "
            + (f"none was seen at {', '.join(none)} px" if none else "it is positive everywhere")
            + ". Most resolutions have one seed, so this is a lead, not a result."
        )
    return "\n".join(lines)


def _matrix(table: pd.DataFrame) -> str:
    shown = table.map(lambda x: f"{x:.2f}")
    shown.insert(0, "trained on", [str(i) for i in table.index])
    return report.markdown(shown.rename(columns=str))


def resolutions_page(results: Results) -> str:
    """What notebook 05 says."""
    parts = [resolution_claims(results), report.markdown(resolution_table(results))]
    matrix, kernels = crossed(results), swapped(results)
    if not matrix.empty:
        parts.append(
            "Students trained at r (rows), tested on images of r′ pixels as they are (columns), "
            f"top-1 %:\n\n{_matrix(matrix)}"
        )
    if not kernels.empty:
        parts.append(
            f"Students at {results.preset.low} px trained on one kernel (rows), tested on another "
            f"(columns), top-1 %:\n\n{_matrix(kernels)}"
        )
    return "\n\n".join([*parts, provenance(results)])
