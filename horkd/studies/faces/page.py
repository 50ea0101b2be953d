"""The page of notebook 06: claims, tables, provenance, model card."""

import numpy as np
import pandas as pd

from horkd import paper
from horkd.data.faces import parse
from horkd.lab.looks import Look
from horkd.studies import report
from horkd.studies.arm import subset_name, subsets
from horkd.studies.claims import Claim, as_lines, mean_and_spread, table
from horkd.studies.claims import provenance as provenance_
from horkd.studies.faces.arms import held_out
from horkd.studies.faces.setting import setting
from horkd.studies.faces.tables import (
    Tested,
    all_folds,
    elsewhere_table,
    fed,
    identification_table,
    in_folds,
    mixed_table,
    on_own_fold,
    subset_table,
    tested,
    verification_table,
)
from horkd.studies.preset import Preset
from horkd.studies.results import Gain, Results


def claims(results: Results) -> pd.DataFrame:
    """Claims with differences in accuracy, paired over seeds or over folds, and their verdicts."""
    rows = {row.label: row for row in tested(results)}
    found = []
    for text, arm, control in questions(results.preset):
        gain = None
        if {arm, control} <= rows.keys():
            gain = _by_seed(results, rows[arm], rows[control])
        if gain is not None:
            found.append(Claim(text, f"{arm} − {control}", gain))
    for pixels in setting(results.preset).lows:
        teacher = fed(results, pixels)
        for name in (f"student {pixels}", f"tuned {pixels}"):
            whole = all_folds(results, name)
            if whole is not None and teacher is not None:
                pairs, others = whole.accuracies.items(), in_folds(results, name).values()
                values = tuple(value - teacher.accuracies[fold] for fold, value in pairs)
                found.append(Claim(
                    f"{name} beats the teacher fed {pixels} px, over folds",
                    f"{name} − teacher fed {pixels} px",
                    Gain(values, "folds", results.doubt("teacher", name, *others)),
                ))  # fmt: skip
    return table(found)


def _by_seed(results: Results, a: Tested, b: Tested) -> Gain | None:
    """Paired over seeds; the teacher is one for all of them."""
    controls = dict.fromkeys(a.by_seed, b.accuracies[0]) if b.kind == "teacher" else b.by_seed
    values = [x - controls[seed] for seed, x in a.by_seed.items() if seed in controls]
    return Gain(tuple(values), "seeds", results.doubt(a.arm, b.arm)) if values else None


def questions(preset: Preset) -> list[tuple[str, str, str]]:
    """(claim, network, control), compared on the pairs that all are compared on."""
    here = setting(preset)
    low = here.lows[0]
    if not here.lfw:
        teacher = f"teacher fed {low} px"
        return [
            ("distillation helps to verify what was never seen", "student", "student alone"),
            ("the student beats its teacher fed small images", "student", teacher),
            ("labels are not needed", "student, no labels", "student alone"),
            ("without labels it still beats the teacher", "student, no labels", teacher),
            ("order C to clusters helps", "student, clusters", "student, no labels"),
        ]
    questions = []
    for r in here.lows:
        questions += [
            (f"distillation beats the names at {r} px", f"student {r}", f"student {r} alone"),
            (f"a native student beats the teacher fed {r} px", f"student {r}",
             f"teacher fed {r} px"),
            (f"tuning the teacher to {r} px helps it", f"tuned {r}", f"teacher fed {r} px"),
            (f"the paper's larger network is better at {r} px", f"student {r} slim",
             f"student {r}"),
        ]  # fmt: skip
    return [
        *questions,
        ("names add to the relations", f"student {low} with names", f"student {low}"),
        ("order C to people's centres adds", f"student {low} with classes", f"student {low}"),
        ("order C to clusters adds", f"student {low} with clusters", f"student {low}"),
        ("a teacher trained by others is worth more than a small one trained on the names",
         f"student {low}", f"student {low} of the small teacher"),
        ("a teacher trained by others is worth more than its own network trained on the names",
         f"student {low}", f"student {low} of the scratch teacher"),
        ("the assistant helps", f"student {low} of the assistant", f"student {low}"),
    ]  # fmt: skip


def provenance(results: Results) -> str:
    """What the numbers of the page come from, in a paragraph."""
    return provenance_(
        results,
        f"{_about(results.preset)}.",
        "± after an accuracy is the standard deviation over seeds. A claim needs three seeds or "
        "three folds, and a 95 % interval of the paired differences without zero; otherwise it is "
        "not shown. A claim over seeds is one about the pairs tested: that other pairs would give "
        "another number is not in its interval.",
        threads=False,
    )


def _about(preset: Preset) -> str:
    here = setting(preset)
    if not here.lfw:
        return (
            f"{preset.teacher} → {preset.compact}, {preset.data}. Pairs and galleries are of 40 "
            "characters that no network was trained on: ten folds of pairs, disjoint in "
            "characters; the threshold comes from the other nine"
        )
    weights = ", ".join(f"{o}: {w:g}" for o, w in here.weights.items())
    text = (
        f"teacher {preset.teacher}, trained by others on data that are not here; students "
        f"{preset.compact} with {here.embedding} features, {preset.recipe.epochs} epochs; losses "
        f"between unit-length features with weights {{{weights}}}, without names unless said. "
    )
    if not here.folds:
        return text + (
            f"Trained on {preset.data}, tested on the ten folds of LFW; the threshold for each is "
            "chosen on the other nine"
        )
    return text + (
        "Trained on nine folds of LFW, tested on the pairs of the other one: the first fold for "
        "all arms (600 pairs, so that one pair is 0.17 points and the standard error of one "
        "accuracy about 1 point), others in turn where given (± standard error over folds). The "
        "threshold is chosen on the other nine folds, whose people a student has seen"
    )


def model_card(preset: Preset) -> str:
    """What these networks are for and what not, as Markdown."""
    if not setting(preset).lfw:
        return (
            "These networks read drawn characters. They stand in for faces, so that both protocols "
            "run without any data set; nothing about faces follows from their numbers."
        )
    trained = (
        "news photos of 5,749 mostly public people, 2002 to 2004, mostly men, mostly "
        "light-skinned, adults; small and biased"
        if parse(preset.data)[0] == "lfw"
        else "photos of celebrities from the web, with that set's biases"
    )
    return "\n\n".join((
        "**Made for** research on cross-resolution distillation: comparing losses, orders and "
        "resolutions. **Not for** deciding who a person is: no claim of fitness for identifying "
        "people is made.",
        f"**Trained on** {preset.data}: {trained}. The teacher was trained by others, on "
        "celebrities, some of whom are in LFW, too: no student has seen a tested person, its "
        "teacher may have.",
        "**Tested on** pairs of LFW, whose authors ask that results on it are not taken as proof "
        "that a system is fit for use. Errors by sex, age or skin were not measured, and are known "
        "to differ in systems of this kind.",
        "**Known limits**: no alignment by landmarks; one kernel of reduction, while real small "
        "faces are blurred, noisy and compressed as well.",
    ))  # fmt: skip


def aims(results: Results) -> str:
    """What became of the paper's numbers for faces, as sentences; empty for characters."""
    here = setting(results.preset)
    if not here.lfw:
        return ""
    printed = {row.resolution: row.accuracy for row in paper.TABLE_2 if row.model.startswith("OUR")}
    ablated = {subset_name(orders, here.lows[0]) for orders in subsets()}
    students = [r for r in tested(results) if r.kind == "student" and r.arm not in ablated]
    lines = []
    for pixels in sorted(here.lows, reverse=True):
        there = [row for row in students if row.pixels == pixels]
        if not there:
            continue
        best = max(there, key=lambda row: np.mean(row.accuracies))
        where = "the first fold" if here.folds else "all of LFW"
        text = f"{np.mean(best.accuracies):.2f} % on {where} (n = {len(best.runs)})"
        whole, teacher = all_folds(results, best.arm), fed(results, pixels)
        text += f", {whole.text} % over folds" if whole else ""
        if teacher:
            text += f"; the teacher fed {pixels} px {teacher.mean:.2f} % over ten folds"
        theirs = printed.get(f"{pixels}×{pixels}")
        lines.append(
            f"- Best student at {pixels} px: {best.label}, {text}."
            + ("" if theirs is None else f" The paper prints {theirs:.2f} % for a student trained "
               "on UMDFaces with another teacher.")
        )  # fmt: skip
    return "\n".join(lines)


def faces_page(results: Results) -> str:
    """What notebook 06 says: verdicts, tables, provenance."""
    here = setting(results.preset)
    parts = [
        as_lines(claims(results)),
        aims(results),
        "**Verification.** " + provenance(results),
        report.markdown(verification_table(results)),
        _pairs_behind(results),
        few_folds(results),
    ]
    fold = ", first fold" if here.folds else ""
    tables = [
        (f"**Identification** ({_subjects(results)}), not Table 3's UCCS, which is given out on "
         "request only:", identification_table(results)),
        *((f"**Identification on {name}:**", identification_table(results, data))
          for name, data in here.other_people.items()),
        ("**The teacher, one image small or both**, accuracy:", mixed_table(results)),
        *((f"**Verification on {name}:**", elsewhere_table(results, data))
          for name, data in here.other_pairs.items()),
        (f"**Orders without names**, {here.lows[0]} px{fold}. All subsets have the weights of the "
         "whole, at which order 1, the feature itself, gives most of the gradient: subsets "
         "without it are also trained by a smaller loss, and differ by that, too. The share is "
         "order 1's in the gradient at the features, last epoch.", subset_table(results)),
    ]  # fmt: skip
    for title, found in tables:
        if len(found):
            parts += [title, report.markdown(found)]
    parts += [results.missing(), "**Model card.** " + model_card(results.preset)]
    return "\n\n".join(part for part in parts if part)


def few_folds(results: Results) -> str:
    """What networks of further folds give where they are too few for the tables; or empty."""
    said = []
    for name in results:
        fold = results.arms[name].fold
        if not fold or all_folds(results, name.removesuffix(held_out(fold))) is not None:
            continue
        known = [on_own_fold(results, run) for run in results.runs(name)]
        values = [value for value in known if value is not None]
        if values:
            said.append(f"{name}: {mean_and_spread(values)} %")
    if not said:
        return ""
    return (
        "The table has folds in turn from three networks on. In no table, as there are fewer: "
        f"{'; '.join(said)}."
    )


def _pairs_behind(results: Results) -> str:
    """How many pairs the rates of the table are about."""
    rows = tested(results)
    if not rows:
        return ""
    rates = rows[0].results[0]["tar"]
    same, different = rates[0]["n_same"], rates[0]["n_different"]
    counts = ", ".join(f"{int(r['far'] * different + 1e-9)} at {r['far']:g}" for r in rates)
    return (
        f"AUC and TAR are of {same} same and {different} different pairs, so that a FAR allows so "
        f"many false accepts: {counts}. Where it allows none, the TAR in parentheses is the one "
        "without any false accept, which so few pairs do not show to be a rate."
    )


def _subjects(results: Results) -> str:
    """What identification was about, in words."""
    compared = setting(results.preset).compared
    looks = (
        results.look(row.runs[0], Look("identification", compared, row.runs[0].config.degradation))
        for row in tested(results)
    )
    return next((found["what"] for found in looks if found is not None), compared)
