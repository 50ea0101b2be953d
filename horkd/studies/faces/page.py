"""The page of notebook 06."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from horkd.data.faces import parse
from horkd.lab.looks import Look
from horkd.studies import report
from horkd.studies.claims import as_lines, verdict
from horkd.studies.faces.tables import (
    ELSEWHERE,
    Tested,
    _over_folds,
    all_folds,
    at_size,
    elsewhere_table,
    fed,
    identification_table,
    lows,
    mixed_table,
    of_people,
    subset_table,
    tested,
    tested_on,
    verification_table,
)
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, failures
from horkd.studies.study import study


def _difference(values: Sequence[float], unit: str) -> dict:
    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    spread = f" ± {std:.2f}" if std is not None else ""
    unit = unit if len(values) > 1 else unit.removesuffix("s")
    text = f"{mean:+.2f}{spread} points (n = {len(values)} {unit})"
    return {"values": values, "mean": mean, "std": std, "n": len(values), "text": text}


def _by_seed(rows: Mapping[str, Tested], arm: str, control: str) -> list[float]:
    a, b = rows[arm], rows[control]
    if b.kind == "teacher":
        return [x - b.accuracies[0] for x in a.accuracies]
    other = {run.config.seed: x for run, x in zip(b.runs, b.accuracies, strict=True)}
    return [
        x - other[run.config.seed]
        for run, x in zip(a.runs, a.accuracies, strict=True)
        if run.config.seed in other
    ]


def claims(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Claims with differences in accuracy, paired over seeds or over folds, and their verdicts."""
    rows = {row.label: row for row in tested(preset, arms, source)}
    found = []

    def add(claim: str, compared: str, difference: Mapping) -> None:
        found.append({
            "claim": claim,
            "compared": compared,
            "difference": difference["text"],
            "verdict": verdict(difference),
        })  # fmt: skip

    for claim, arm, control in _questions(preset):
        if arm in rows and control in rows:
            values = _by_seed(rows, arm, control)
            if values:
                add(claim, f"{arm} − {control}", _difference(values, "seeds"))
    for pixels in lows(preset):
        teacher = fed(preset, source, arms, pixels)
        for name in (f"student {pixels}", f"tuned {pixels}"):
            whole = all_folds(preset, source, arms, name)
            if whole is not None and teacher is not None:
                beside = dict(zip(teacher["folds"], teacher["accuracies"], strict=True))
                pairs = zip(whole["folds"], whole["accuracies"], strict=True)
                values = [value - beside[fold] for fold, value in pairs]
                add(
                    f"{name} beats the teacher fed {pixels} px, over folds",
                    f"{name} − teacher fed {pixels} px",
                    _difference(list(values), "folds"),
                )
    columns = ["claim", "compared", "difference", "verdict"]
    return pd.DataFrame(found, columns=columns)


def _questions(preset: Preset) -> list[tuple[str, str, str]]:
    """(claim, arm, control), compared on the pairs of `tested_on`."""
    low = lows(preset)[0]
    if not of_people(preset):
        teacher = f"teacher fed {low} px"
        return [
            ("distillation helps to verify what was never seen", "student", "student alone"),
            ("the student beats its teacher fed small images", "student", teacher),
            ("labels are not needed", "student, no labels", "student alone"),
            ("without labels it still beats the teacher", "student, no labels", teacher),
            ("order C to clusters helps", "student, clusters", "student, no labels"),
        ]
    questions = []
    for r in lows(preset):
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


def provenance(preset: Preset, arms: Arms) -> str:
    """What the numbers of the page come from, in a paragraph."""
    records = [run.record for found in arms.values() for run in found]
    machines = sorted({r["machine"]["name"] for r in records})
    hours = sum(r["seconds"]["total"] for r in records) / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    if of_people(preset):
        about = _about_faces(preset)
    else:
        about = (
            f"{preset.teacher} → {preset.compact}, {preset.data}. Pairs and galleries are of 40 "
            "characters that no network was trained on: ten folds of pairs, disjoint in "
            "characters; the threshold comes from the other nine"
        )
    return (
        f"Preset `{preset.name}`: {about}. {len(records)} runs, {spent} of training on "
        f"{', '.join(machines)}. ± after an accuracy is the standard deviation over seeds. A claim "
        "needs three seeds or three folds, and a 95 % interval of the paired differences without "
        "zero; otherwise it is not shown. A claim over seeds is one about the pairs tested: that "
        "other pairs would give another number is not in its interval."
    )


def _about_faces(preset: Preset) -> str:
    sizes = preset
    weights = ", ".join(f"{o}: {w:g}" for o, w in sizes.orders if o in sizes.main)
    text = (
        f"teacher {preset.teacher}, trained by others on data that are not here; students "
        f"{preset.compact} with {sizes.embedding} features, {preset.recipe.epochs} epochs; losses "
        f"between unit-length features with weights {{{weights}}}, without names unless said. "
    )
    if not sizes.folds:
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
    if not of_people(preset):
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


def aims(preset: Preset, arms: Arms, source: Source) -> str:
    """What became of the paper's numbers for faces, as sentences; empty on the embedded set."""
    if not of_people(preset):
        return ""
    lines = []
    printed = {32: 93.83, 16: 90.03}
    for pixels in sorted(lows(preset), reverse=True):
        said = []
        for row in tested(preset, arms, source):
            if row.pixels == pixels and row.kind == "student" and not row.arm.startswith("{"):
                whole = all_folds(preset, source, arms, row.arm)
                said.append((row.label, np.mean(row.accuracies), len(row.runs), whole))
        if not said:
            continue
        label, value, n, whole = max(said, key=lambda s: s[1])
        where = "the first fold" if preset.folds else "all of LFW"
        text = f"{value:.2f} % on {where} (n = {n})"
        if whole is not None:
            text += f", {_over_folds(whole)} % over folds"
        teacher = fed(preset, source, arms, pixels)
        beside = (
            ""
            if teacher is None
            else f"; the teacher fed {pixels} px {teacher['mean']:.2f} % over ten folds"
        )
        lines.append(
            f"- Best student at {pixels} px: {label}, {text}{beside}. The paper prints "
            f"{printed[pixels]:.2f} % for a student trained on UMDFaces with another teacher."
            if pixels in printed
            else f"- Best student at {pixels} px: {label}, {text}{beside}."
        )
    return "\n".join(lines)


def faces_page(preset: Preset, arms: Arms, source: Source) -> str:
    """The summary of notebook 06: verdicts, tables, provenance."""
    parts = [
        as_lines(claims(preset, arms, source)),
        aims(preset, arms, source),
        "**Verification.** " + provenance(preset, arms),
        report.markdown(verification_table(preset, arms, source)),
        _pairs_behind(preset, arms, source),
    ]
    identified = identification_table(preset, arms, source)
    if len(identified):
        parts += [f"**Identification** ({_setting(preset, arms, source)}), not Table 3's UCCS, "
                  "which is given out on request only:", report.markdown(identified)]  # fmt: skip
    for data in ELSEWHERE if of_people(preset) else ():
        table = identification_table(preset, arms, source, at_size(preset, data))
        if len(table):
            parts += [f"**Identification on {data}:**", report.markdown(table)]
    mixed = mixed_table(preset, arms, source)
    if len(mixed):
        parts += ["**The teacher, one image small or both**, accuracy:", report.markdown(mixed)]
    for data in ("xqlfw",) if of_people(preset) else ():
        table = elsewhere_table(preset, arms, source, at_size(preset, data))
        if len(table):
            parts += [f"**Verification on {data}:**", report.markdown(table)]
    subsets_ = subset_table(preset, arms, source)
    if len(subsets_):
        parts += [
            f"**Orders without names**, {lows(preset)[0]} px"
            f"{', first fold' if preset.folds else ''}. All subsets have the weights of the "
            "whole, at which order 1, the feature itself, gives most of the gradient: subsets "
            "without it are also trained by a smaller loss, and differ by that, too. The share is "
            "order 1's in the gradient at the features, last epoch.",
            report.markdown(subsets_),
        ]
    parts += [missing(preset, arms, source), "**Model card.** " + model_card(preset)]
    return "\n\n".join(part for part in parts if part)


def _pairs_behind(preset: Preset, arms: Arms, source: Source) -> str:
    """How many pairs the rates of the table are about."""
    rows = tested(preset, arms, source)
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


def _setting(preset: Preset, arms: Arms, source: Source) -> str:
    """What identification was about, in words."""
    for row in tested(preset, arms, source):
        view = row.runs[0].config.degradation
        found = source.looks(row.runs[0], [Look("identification", tested_on(preset), view)])[0]
        if found is not None:
            return found["what"]
    return tested_on(preset)


def missing(preset: Preset, arms: Arms, source: Source) -> str:
    """A sentence on arms that diverged and arms that were not run; empty if there are none."""
    kinds = study(preset, "faces")
    lost = [name for name, arm in kinds.items() if failures(preset, arm, source)]
    left = [name for name in kinds if name not in arms and name not in lost]
    said = []
    if lost:
        said.append(f"Diverged: {', '.join(lost)}.")
    if left:
        said.append(f"Not run: {', '.join(left)}.")
    return " ".join(said)
