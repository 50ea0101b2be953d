"""What the runs of the study of faces say: tables of verification and identification, claims, page.

Functions of finished runs and of a `findings.Source`, as in `horkd.findings`. On the embedded set
the "faces" are characters never trained on. On LFW networks are trained on nine folds and tested on
the tenth; accuracies on one fold are of 600 pairs, those on all ten of 6,000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from horkd import paper, report
from horkd.data.open_set import SIZE, parse
from horkd.errors import HorkdError
from horkd.findings import Source, as_lines, failures, gather
from horkd.models import ModelSpec, macs_of
from horkd.presets import Preset
from horkd.report import Arms, mean_and_spread, verdict
from horkd.resolution import Degradation
from horkd.runs import Look, Run
from horkd.studies import FULL, Arm, held_out, study, subset_name, subsets

FARS = (1e-1, 1e-2, 1e-3)


def side(preset: Preset) -> int:
    """Pixels of the full-resolution images."""
    return parse(preset.data)[1] if preset.faces else FULL


def lows(preset: Preset) -> tuple[int, ...]:
    """Resolutions that students are trained at, the most important first."""
    return preset.faces.lows if preset.faces else (preset.low,)


def ladder(preset: Preset) -> tuple[int, ...]:
    """Resolutions that the teacher is fed, the full one first."""
    full = side(preset)
    return (full, *(r for r in ((64, 32, 16, 8) if preset.faces else (24, 16, 12, 8)) if r < full))


def tested_on(preset: Preset) -> str:
    """The data set of the pairs that arms are compared on: the first held-out fold, if any."""
    if not preset.faces:
        return preset.data
    folds = preset.faces.folds
    return at_size(preset, f"lfw-{folds[0]}" if folds else "lfw")


def face_arms(preset: Preset, source: Source) -> dict[str, list[Run]]:
    """The finished runs that this study is about, and on the embedded set those it shares.

    Raises:
        HorkdError: if there are none.
    """
    if preset.data == "cifar100":
        raise HorkdError("CIFAR-100 has no classes that are never trained on: take preset quick")
    if preset.faces:
        return gather(preset, ("faces",), source)
    return gather(preset, ("two_stage", "faces"), source)


def view_of(preset: Preset, run: Run, pixels: int) -> Degradation:
    """What a network sees in the tables: teachers images of any size enlarged, others their own."""
    if run.config.weights or run.config.degradation.size == side(preset):
        return Degradation(pixels, upsample=pixels < side(preset))
    return run.config.degradation


def look_at_all(preset: Preset, arms: Arms, source: Source) -> None:
    """Ask every network all that the page needs, in one go: features are then computed once."""
    for name, found in tqdm(arms.items(), "networks", leave=False, disable=None):
        for run in found:
            steps = ladder(preset) if name == "teacher" else (run.config.degradation.size,)
            wanted = [
                Look(task, data, view_of(preset, run, r))
                for r in steps
                for task, data in _tasks(preset, run)
            ]
            if name == "teacher":
                wanted += [look for look, _ in mixed_looks(preset, run)]
                wanted += [Look("verification", _all_lfw(preset), view_of(preset, run, r))
                           for r in steps if preset.faces]  # fmt: skip
            source.looks(run, wanted)


def _tasks(preset: Preset, run: Run) -> list[tuple[str, str]]:
    """(task, data) that a network is asked in the tables."""
    compared = tested_on(preset)
    held = parse(run.config.data)[0].startswith("lfw-")
    data = run.config.data if held else compared  # an arm on another fold is tested on that one
    tasks = [("verification", data)]
    if searched(preset):
        tasks.append(("identification", data))
    if preset.faces:
        if not held:  # XQLFW shows the people of LFW, nine tenths of whom that network has seen
            tasks += [("verification", at_size(preset, "xqlfw"))]
        tasks += [("identification", at_size(preset, other)) for other in ELSEWHERE]
    return tasks


#: Sets for identification beside the compared pairs'.
ELSEWHERE = ("uccs", "tinyface")


def searched(preset: Preset) -> bool:
    """Whether the compared set has people to identify: a fold of LFW has, the whole has not."""
    return not preset.faces or parse(tested_on(preset))[0] != "lfw"


def at_size(preset: Preset, data: str) -> str:
    """A data set at the preset's size."""
    return data if side(preset) == SIZE else f"{data}@{side(preset)}"


def _all_lfw(preset: Preset) -> str:
    return at_size(preset, "lfw")


@dataclass(frozen=True)
class Tested:
    """A network and view with what it does: a row of the tables.

    Attributes:
        label: for tables and legends.
        arm: whose runs these are.
        kind: "teacher" (fed images of some resolution), "alone" (labels only) or "student".
        pixels: what it sees.
        runs: one per seed.
        results: of `evaluate.verify`, one per run.
        macs: of one image.
        what: what the arm is, in a line.
    """

    label: str
    arm: str
    kind: str
    pixels: int
    runs: Sequence[Run]
    results: Sequence[Mapping]
    macs: int
    what: str = field(default="", repr=False)

    @property
    def accuracies(self) -> list[float]:
        """Accuracy (%) on the compared pairs, one per seed."""
        return [found["accuracy"] for found in self.results]


def tested(preset: Preset, arms: Arms, source: Source) -> list[Tested]:
    """Every arm on the compared pairs, and the teacher fed every resolution of `ladder`."""
    data, full = tested_on(preset), side(preset)
    kinds = {**study(preset, "two_stage"), **study(preset, "faces")}
    rows = []
    for name, found in arms.items():
        arm = kinds[name]
        if arm.fold:
            continue
        steps = ladder(preset) if name == "teacher" else (found[0].config.degradation.size,)
        for pixels in steps:
            view = view_of(preset, found[0], pixels) if name == "teacher" else None
            view = view or found[0].config.degradation
            look = Look("verification", data, view)
            results = [source.looks(run, [look])[0] for run in found]
            if None in results:
                continue
            label = name
            if name == "teacher":
                label = f"teacher, {full} px" if pixels == full else f"teacher fed {pixels} px"
            spec = ModelSpec(found[0].config.model, 0, found[0].config.embedding)
            cost = macs_of(spec, full if view.upsample else view.size)
            rows.append(Tested(label, name, _kind(arm), pixels, found, results, cost, arm.what))
    return rows


def _kind(arm: Arm) -> str:
    if arm.name == "teacher":
        return "teacher"
    return "student" if arm.frozen else "alone"


def _rate(results: Sequence[Mapping], far: float) -> str:
    """Mean TAR (%) at a false accept rate, in parentheses where too few pairs show that rate."""
    rows = [next(r for r in found["tar"] if np.isclose(r["far"], far)) for found in results]
    text = f"{100 * np.mean([row['tar'] for row in rows]):.1f}"
    return text if far * rows[0]["n_different"] >= 1 else f"({text})"


def all_folds(preset: Preset, source: Source, arms: Arms, name: str) -> dict | None:
    """An arm on the folds of LFW that it was trained without, each in turn; None for fewer than 3.

    Returns:
        `folds` (from 1), `accuracies` by fold, `mean` and `standard_error`.
    """
    if not preset.faces:
        return None
    if not preset.faces.folds:  # one network for all folds
        found = arms.get(name)
        return found and _own_folds(source, found[0], _all_lfw(preset))
    values = {}
    for fold in preset.faces.folds:
        found = arms.get(name if fold == preset.faces.folds[0] else name + held_out(fold))
        if found:
            run = found[0]
            look = Look("verification", run.config.data, run.config.degradation)
            result = source.looks(run, [look])[0]
            if result is not None:
                values[fold] = result["accuracy"]
    return _folds(values) if len(values) > 2 else None


def _folds(values: Mapping[int, float]) -> dict:
    numbers = list(values.values())
    error = float(np.std(numbers, ddof=1) / np.sqrt(len(numbers)))
    return {
        "folds": list(values),
        "accuracies": numbers,
        "mean": float(np.mean(numbers)),
        "standard_error": error,
    }


def _over_folds(found: Mapping | None) -> str:
    """Mean ± standard error over folds, with their number where it is not ten."""
    if found is None:
        return "–"
    text = f"{found['mean']:.2f} ± {found['standard_error']:.2f}"
    count = len(found["folds"])
    return text if count == 10 else f"{text} ({count} folds)"


def fed(preset: Preset, source: Source, arms: Arms, pixels: int) -> dict | None:
    """The teacher on all pairs of LFW, fed images of so many pixels; None where not known."""
    if not preset.faces or "teacher" not in arms:
        return None
    view = Degradation(pixels, upsample=pixels < side(preset))
    return _own_folds(source, arms["teacher"][0], _all_lfw(preset), view)


def _own_folds(source: Source, run: Run, data: str, view: Degradation | None = None) -> dict | None:
    """One network on every fold of a set of pairs."""
    look = Look("verification", data, view or run.config.degradation)
    found = source.looks(run, [look])[0]
    if found is None:
        return None
    return _folds({k + 1: x for k, x in zip(found["folds"], found["accuracies"], strict=True)})


def verification_table(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """One row per network and view: accuracy, rates at few false accepts, cost."""
    rows = []
    folds = preset.faces and preset.faces.folds
    compared = "LFW, first held-out fold %" if folds else "accuracy %"
    for row in tested(preset, arms, source):
        first = row.results[0]
        line = {
            "network": row.label,
            "px": str(row.pixels),
            "architecture": row.runs[0].config.model,
            compared: mean_and_spread(row.accuracies),
            "seeds": str(len(row.runs)),
            "AUC": f"{np.mean([r['auc'] for r in row.results]):.4f}",
            **{f"TAR % at FAR {far:g}": _rate(row.results, far) for far in FARS},
            "parameters (M)": f"{row.runs[0].record['cost']['parameters'] / 1e6:.2f}",
            "MACs (M)": f"{row.macs / 1e6:.1f}",
        }
        if preset.faces:
            whole = (
                fed(preset, source, arms, row.pixels)
                if row.kind == "teacher"
                else all_folds(preset, source, arms, row.arm)
            )
            line["LFW, folds in turn %" if folds else "mean ± error over folds"] = _over_folds(
                whole
            )
        elif first["standard_error"] is not None:
            line["± over folds"] = f"{first['standard_error']:.2f}"
        rows.append(line)
    return pd.DataFrame(rows).fillna("–")


def identification_table(
    preset: Preset, arms: Arms, source: Source, data: str = ""
) -> pd.DataFrame:
    """Rank-1 and rank-5 errors, and open-set rates; empty where nothing is known.

    Args:
        preset: sizes.
        arms: finished runs.
        source: knows the results.
        data: the set with the subjects; the one of the compared pairs if empty.
    """
    if not data and not searched(preset):
        return pd.DataFrame()
    data, rows = data or tested_on(preset), []
    for row in tested(preset, arms, source):
        view = row.runs[0].config.degradation
        if row.kind == "teacher":
            view = Degradation(row.pixels, upsample=row.pixels < side(preset))
        look = Look("identification", data, view)
        found = [source.looks(run, [look])[0] for run in row.runs]
        if None in found:
            continue
        rates = {
            f"DIR % at FAR {entry['far']:g}": (
                f"{100 * np.mean([f['dir'][i]['dir'] for f in found]):.1f}"
            )
            for i, entry in enumerate(found[0].get("dir", ()))
        }
        rows.append({
            "network": row.label,
            "px": str(row.pixels),
            "rank-1 error %": mean_and_spread([f["rank1_error"] for f in found]),
            "rank-5 error %": mean_and_spread([f["rank5_error"] for f in found]),
            "seeds": str(len(found)),
            **rates,
            "subjects / gallery / probes": (
                f"{found[0]['subjects']} / {found[0]['gallery']} / {found[0]['probes']}"
            ),
        })  # fmt: skip
    return pd.DataFrame(rows).fillna("–")


def elsewhere_table(preset: Preset, arms: Arms, source: Source, data: str) -> pd.DataFrame:
    """Verification on another set of pairs, with each network's own view; empty if not known."""
    rows = []
    for row in tested(preset, arms, source):
        if parse(row.runs[0].config.data)[0].startswith("lfw-"):
            continue  # these are the people it was trained on
        view = row.runs[0].config.degradation
        if row.kind == "teacher":
            view = Degradation(row.pixels, upsample=row.pixels < side(preset))
        found = [source.looks(run, [Look("verification", data, view)])[0] for run in row.runs]
        if None not in found:
            rows.append({
                "network": row.label,
                "px": str(row.pixels),
                "accuracy %": mean_and_spread([f["accuracy"] for f in found]),
                "seeds": str(len(found)),
            })  # fmt: skip
    return pd.DataFrame(rows)


def mixed_table(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """The teacher on pairs with one image small, with both small, and with mirrored images."""
    if "teacher" not in arms:
        return pd.DataFrame()
    run, rows = arms["teacher"][0], {}
    for look, label in mixed_looks(preset, run):
        found = source.looks(run, [look])[0]
        row = rows.setdefault(look.degradation.size, {"px": str(look.degradation.size)})
        row[label] = "–" if found is None else f"{found['accuracy']:.2f}"
    return pd.DataFrame(list(rows.values()))


def mixed_looks(preset: Preset, run: Run) -> list[tuple[Look, str]]:
    """Looks of `mixed_table` with their columns."""
    found = []
    for pixels in lows(preset):
        small, sharp = Degradation(pixels, upsample=True), run.config.degradation
        look = Look("verification", tested_on(preset), small)
        found += [
            (look, "both small %"),
            (replace(look, other=sharp), f"one small, one at {side(preset)} px %"),
        ]
        if preset.faces:  # a mirrored character is another one
            found.append((replace(look, flip=True), "both small, mirror images added %"))
    return found


def subset_table(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Subsets of orders at the first resolution, without labels; empty where none were run."""
    rows = []
    for row in tested(preset, arms, source):
        orders = next(
            (o for o in subsets() if preset.faces and row.arm == subset_name(o, lows(preset)[0])),
            None,
        )
        if preset.faces and orders == preset.faces.main:
            continue  # the student itself, with all its seeds
        if preset.faces and row.arm == f"student {lows(preset)[0]}":
            orders = preset.faces.main
        if orders is not None:
            rows.append({
                "orders": f"{{{','.join(orders)}}}",
                "accuracy %": mean_and_spread(row.accuracies),
                "seeds": str(len(row.runs)),
                "AUC": f"{np.mean([r['auc'] for r in row.results]):.4f}",
                "share of order 1 %": _first_share(row),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _first_share(row: Tested) -> str:
    """Order 1's share (%) of the gradient at the features in the last epoch, mean over seeds."""
    last = [run.record["history"][-1]["gradient_shares"] for run in row.runs]
    return f"{100 * np.mean([shares.get('order1', 0) for shares in last]):.0f}"


def published(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Table 2 as printed, and below it what was measured here, with what differs in its name."""
    rows = [
        {
            "model": row.model,
            "source": "paper",
            "LFW accuracy %": f"{row.accuracy:.2f}",
            "resolution": row.resolution,
            "parameters": row.parameters,
            "trained on": "UMDFaces" if row.model.startswith("OUR") else "–",
        }
        for row in paper.TABLE_2
    ]
    for row in tested(preset, arms, source) if preset.faces else ():
        whole = (
            fed(preset, source, arms, row.pixels)
            if row.kind == "teacher"
            else all_folds(preset, source, arms, row.arm)
        )
        alone = f"{mean_and_spread(row.accuracies)} (fold 1 alone)"
        if not row.label.startswith("{"):
            count = row.runs[0].record["cost"]["parameters"]
            rows.append({
                "model": f"ours: {row.label}",
                "source": f"here, {row.runs[0].config.model}",
                "LFW accuracy %": alone if whole is None else _over_folds(whole),
                "resolution": f"{row.pixels}×{row.pixels}",
                "parameters": f"{count / 1e6:.2f} M",
                "trained on": _trained_on(row),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _trained_on(row: Tested) -> str:
    if row.kind == "teacher":
        return "by others"
    config = row.runs[0].config
    start = "the teacher's weights, then " if config.start == "frozen" else ""
    base = parse(config.data)[0]
    return start + ("LFW, nine folds" if base.startswith("lfw-") else base)


def published_identification() -> pd.DataFrame:
    """Table 3 as printed."""
    return pd.DataFrame([
        {
            "model": row.model,
            "resolution": f"{row.resolution}×{row.resolution}",
            "top-1 error %": f"{row.top1_error:.2f}",
            "top-5 error %": f"{row.top5_error:.2f}",
        }
        for row in paper.TABLE_3
    ])  # fmt: skip


# Claims -------------------------------------------------------------------------------------------


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
    if not preset.faces:
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


# The page -----------------------------------------------------------------------------------------


def provenance(preset: Preset, arms: Arms) -> str:
    """What the numbers of the page come from, in a paragraph."""
    records = [run.record for found in arms.values() for run in found]
    machines = sorted({r["machine"]["name"] for r in records})
    hours = sum(r["seconds"]["total"] for r in records) / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    if preset.faces:
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
    sizes = preset.faces
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
    if not preset.faces:
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
    if not preset.faces:
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
        where = "the first fold" if preset.faces.folds else "all of LFW"
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
    for data in ELSEWHERE if preset.faces else ():
        table = identification_table(preset, arms, source, at_size(preset, data))
        if len(table):
            parts += [f"**Identification on {data}:**", report.markdown(table)]
    mixed = mixed_table(preset, arms, source)
    if len(mixed):
        parts += ["**The teacher, one image small or both**, accuracy:", report.markdown(mixed)]
    for data in ("xqlfw",) if preset.faces else ():
        table = elsewhere_table(preset, arms, source, at_size(preset, data))
        if len(table):
            parts += [f"**Verification on {data}:**", report.markdown(table)]
    subsets_ = subset_table(preset, arms, source)
    if len(subsets_):
        parts += [
            f"**Orders without names**, {lows(preset)[0]} px"
            f"{', first fold' if preset.faces.folds else ''}. All subsets have the weights of the "
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


def curves(preset: Preset, arms: Arms, source: Source) -> dict[int, dict[str, tuple[str, Mapping]]]:
    """ROC curves by resolution: pixels -> label -> (kind, curve of the first seed)."""
    panels: dict[int, dict[str, tuple[str, Mapping]]] = {}
    shown = {"teacher", "student", "student alone", "student, no labels"}
    for row in tested(preset, arms, source):
        plain = {f"student {row.pixels}", f"student {row.pixels} alone", f"tuned {row.pixels}"}
        if row.arm in shown | plain:
            panel = panels.setdefault(row.pixels, {})
            panel[row.label] = (row.kind, row.results[0])
    return dict(sorted(panels.items(), reverse=True))


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
