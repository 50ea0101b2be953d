"""The pages of notebooks 02 to 05."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from horkd import paper
from horkd.lab.store import Run
from horkd.studies import report
from horkd.studies.arm import FULL, ORDERS, subsets
from horkd.studies.claims import as_lines, claims, mean_and_spread, provenance, verdict
from horkd.studies.classification.tables import (
    _is_papers,
    _over,
    _paired,
    at_resolution,
    crossed,
    effects,
    main_effect,
    order_table,
    reasons,
    resolution_table,
    resolutions,
    short,
    swapped,
    table1,
    two_stage_table,
    weight_table,
)
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, gain, top1
from horkd.studies.study import study

TABLE1 = ("table1", "plus")


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


def table1_page(preset: Preset, arms: Arms, source: Source) -> str:
    """The notebook's section of the report."""
    parts = [
        as_lines(claims(preset, arms, TABLE1_CLAIMS, source)) + "\n" + _closeness(preset, arms),
        report.markdown(table1(preset, arms, source)),
        TABLE1_NOTE,
    ]
    if own := dict(preset.orders_of).get("assistant"):
        weights = ", ".join(f"{order}: {weight:g}" for order, weight in own)
        parts.append(
            f"The assistant was trained with other weights than the students ({weights}), before "
            "those were chosen; the second network's assistant was not."
        )
    parts += [
        "Scale and target of some arms (seed 0; FitNet has no gradient at the features):\n\n"
        + report.markdown(reasons(arms)),
        provenance(preset, arms),
    ]
    return "\n\n".join(parts)


def _closeness(preset: Preset, arms: Arms) -> str:
    """How far the student stays behind its teacher, beside the same gap in the paper."""
    if not {"teacher", "student"} <= arms.keys():
        return "- **A low-resolution student comes close to its teacher: not shown** (not run)."
    gaps = [top1(arms["teacher"])[0] - value for value in top1(arms["student"])]
    theirs = paper.row("Teacher ResNet50") - paper.row("OUR-16-R")
    same = _is_papers(preset, study(preset, "table1")["student"])
    word = verdict(_over([theirs - gap for gap in gaps])) if same else "not shown"
    return (
        f"- **A {preset.low} px student comes as close to its {FULL} px teacher as in the paper: "
        f"{word}.** The gap is {mean_and_spread(gaps)} points here (n = {len(gaps)}), {theirs:.2f} "
        f"in the paper{'' if same else ', whose networks are others'}."
    )


def order_claims(found: Mapping[int, Mapping[str, list[Run]]]) -> str:
    """The paper's claims on orders, tested on the subsets that are there, as a Markdown list."""
    lines = []
    for pixels, arms in found.items():
        at, pairs = f"At {pixels} px", effects(arms)
        if len(arms) < len(subsets()):
            lines.append(
                f"- {at}, {len(arms)} of the {len(subsets())} subsets were run; what follows is "
                "about those."
            )
        main = {order: main_effect(values) for order, values in pairs.items()}
        for order, effect in main.items():
            values = list(pairs[order].values())
            lines.append(
                f"- **{at}, adding order {order} helps: {verdict(effect)}.** {short(effect)} "
                f"points (mean of {len(values)} pairs of runs that differ in it only, from "
                f"{min(values):+.2f} to {max(values):+.2f}; n = {effect['n']})."
            )
        lines += [
            _claim(f"{at}, more orders help", _slopes(arms), "points for each order added"),
            _claim(
                f"{at}, among equal numbers higher orders help more",
                _high_over_low(main),
                "points, mean effect of orders 3 and C minus that of 1 and 2",
            ),
            *_best_subset(at, arms),
        ]
        if {"23C", "123C"} <= arms.keys():
            hurt = _paired(arms, "23C", "123C")
            lines.append(_claim(f"{at}, adding order 1 to {{2,3,C}} hurts", hurt, "points lost"))
    return "\n".join(filter(None, lines))


def _claim(text: str, values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    over = _over(values)
    return f"- **{text}: {verdict(over)}.** {short(over)} {unit} (n = {over['n']})."


def _slopes(arms: Mapping[str, list[Run]]) -> list[float]:
    """For each seed that all subsets have, the regression of accuracy on the number of orders."""
    seeds_of = set.intersection(*({run.config.seed for run in runs} for runs in arms.values()))
    slopes = []
    for seed in sorted(seeds_of):
        y = [v for r in arms.values() for x, v in zip(r, top1(r), strict=True)
             if x.config.seed == seed]  # fmt: skip
        slopes.append(float(np.polyfit([len(orders) for orders in arms], y, 1)[0]))
    return slopes


def _high_over_low(main: Mapping[str, dict]) -> list[float]:
    if len(main) < len(ORDERS) or len({effect["n"] for effect in main.values()}) > 1:
        return []
    values = {order: np.array(effect["values"]) for order, effect in main.items()}
    return list((values["3"] + values["C"] - values["1"] - values["2"]) / 2)


def _best_subset(at: str, arms: Mapping[str, list[Run]]) -> list[str]:
    """{2,3,C} against the best of the others."""
    others = [orders for orders in arms if orders != "23C"]
    if "23C" not in arms or not others:
        return []
    ranked = sorted(arms, key=lambda orders: -np.mean(top1(arms[orders])))
    best = max(others, key=lambda orders: np.mean(top1(arms[orders])))
    ahead = _over(_paired(arms, "23C", best))
    return [
        f"- **{at}, {{2,3,C}} is the best subset: {verdict(ahead)}.** It is number "
        f"{ranked.index('23C') + 1} of {len(arms)} on the test set, {short(ahead)} points from the "
        f"best other, {{{','.join(best)}}} (n = {ahead['n']})."
    ]


def orders_page(
    preset: Preset, found: Mapping[int, Mapping[str, list[Run]]], source: Source
) -> str:
    """The notebook's section of the report."""
    weights = weight_table(preset, source)
    sweep = "The weights were not swept at this size."
    if not weights.empty:
        held = weights["validation top-1 %"].astype(float)
        sweep = (
            "Weights around those of the preset, one seed, judged on the validation split. The "
            f"best is `{weights['weights'][held.idxmax()]}`; the preset's weights were fixed "
            f"before and stay.\n\n{report.markdown(weights)}"
        )
    arms = {f"{p} {o}": list(r) for p, by in found.items() for o, r in by.items()}
    return "\n\n".join(
        [order_claims(found), report.markdown(order_table(found)), sweep, provenance(preset, arms)]
    )


def resolution_claims(preset: Preset, arms: Arms) -> str:
    """Where the high-resolution image helps, as a Markdown list."""
    lines = []
    for r in resolutions(preset):
        names = at_resolution(r, preset)
        if {names["student"], names["alone"]} <= arms.keys():
            helped = gain(arms, names["student"], names["alone"])
            text = f"- **At {r} px distillation helps: {verdict(helped)}.** {helped['text']}"
            if names["direct"] in arms and names["direct"] != names["student"]:
                part = gain(arms, names["student"], names["direct"])
                text += f"; assistant instead of teacher: {part['text']}"
            lines.append(text + ".")
    measured = {
        r: gain(arms, names["student"], names["alone"])["mean"]
        for r in resolutions(preset)
        if {(names := at_resolution(r, preset))["student"], names["alone"]} <= arms.keys()
    }
    if measured:
        best = max(measured, key=measured.get)
        none = [str(r) for r, mean in measured.items() if mean <= 0]
        lines.append(
            f"- The gain measured is largest at {best} px ({measured[best]:+.2f} points); "
            + (f"none was seen at {', '.join(none)} px" if none else "it is positive everywhere")
            + ". Most resolutions have one seed, so this is a lead, not a result."
        )
    return "\n".join(lines)


def _matrix(table: pd.DataFrame) -> str:
    shown = table.map(lambda x: f"{x:.2f}")
    shown.insert(0, "trained on", [str(i) for i in table.index])
    return report.markdown(shown.rename(columns=str))


def resolutions_page(preset: Preset, arms: Arms, source: Source) -> str:
    """The notebook's section of the report."""
    parts = [resolution_claims(preset, arms), report.markdown(resolution_table(preset, arms))]
    matrix, kernels = crossed(preset, arms, source), swapped(preset, arms, source)
    if not matrix.empty:
        parts.append(
            "Students trained at r (rows), tested on images of r′ pixels as they are (columns), "
            f"top-1 %:\n\n{_matrix(matrix)}"
        )
    if not kernels.empty:
        parts.append(
            f"Students at {preset.low} px trained on one kernel (rows), tested on another "
            f"(columns), top-1 %:\n\n{_matrix(kernels)}"
        )
    return "\n\n".join([*parts, provenance(preset, arms)])


TWO_STAGE_CLAIMS = {
    "stage 2 helps": ("student", "student alone"),
    "the assistant helps": ("student", "student direct"),
    "distillation without an assistant helps": ("student direct", "student alone"),
    "stage 1 helps": ("assistant", "assistant alone"),
}


def two_stage_page(preset: Preset, arms: Arms, source: Source) -> str:
    """The notebook's section of the report."""
    table = claims(preset, arms, TWO_STAGE_CLAIMS, source)
    return "\n\n".join([
        as_lines(table),
        report.markdown(two_stage_table(arms, preset)),
        provenance(preset, arms),
    ])  # fmt: skip
