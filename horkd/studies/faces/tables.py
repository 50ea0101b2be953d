"""What the runs of the study of faces say: tables of verification and identification, claims, page.

Functions of finished runs and of a `findings.Source`, as in `horkd.studies.classification.tables`. On the embedded set
the "faces" are characters never trained on. On LFW networks are trained on nine folds and tested on
the tenth; accuracies on one fold are of 600 pairs, those on all ten of 6,000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from horkd import paper
from horkd.data.faces import SIZE, parse
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.looks import Look
from horkd.lab.store import Run
from horkd.networks.network import ModelSpec, macs_of
from horkd.studies.arm import FULL, Arm, subset_name, subsets
from horkd.studies.claims import mean_and_spread
from horkd.studies.faces.arms import held_out
from horkd.studies.faces.presets import FacesPreset
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, gather
from horkd.studies.study import study

FARS = (1e-1, 1e-2, 1e-3)


def of_people(preset: Preset) -> bool:
    """Whether the faces are people's, not the embedded set's characters."""
    return isinstance(preset, FacesPreset)


def side(preset: Preset) -> int:
    """Pixels of the full-resolution images."""
    return parse(preset.data)[1] if of_people(preset) else FULL


def lows(preset: Preset) -> tuple[int, ...]:
    """Resolutions that students are trained at, the most important first."""
    return preset.lows if of_people(preset) else (preset.low,)


def ladder(preset: Preset) -> tuple[int, ...]:
    """Resolutions that the teacher is fed, the full one first."""
    full = side(preset)
    return (
        full,
        *(r for r in ((64, 32, 16, 8) if of_people(preset) else (24, 16, 12, 8)) if r < full),
    )


def tested_on(preset: Preset) -> str:
    """The data set of the pairs that arms are compared on: the first held-out fold, if any."""
    if not of_people(preset):
        return preset.data
    folds = preset.folds
    return at_size(preset, f"lfw-{folds[0]}" if folds else "lfw")


def face_arms(preset: Preset, source: Source) -> dict[str, list[Run]]:
    """The finished runs that this study is about, and on the embedded set those it shares.

    Raises:
        HorkdError: if there are none.
    """
    if preset.data == "cifar100":
        raise HorkdError("CIFAR-100 has no classes that are never trained on: take preset quick")
    if of_people(preset):
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
                           for r in steps if of_people(preset)]  # fmt: skip
            source.looks(run, wanted)


def _tasks(preset: Preset, run: Run) -> list[tuple[str, str]]:
    """(task, data) that a network is asked in the tables."""
    compared = tested_on(preset)
    held = parse(run.config.data)[0].startswith("lfw-")
    data = run.config.data if held else compared  # an arm on another fold is tested on that one
    tasks = [("verification", data)]
    if searched(preset):
        tasks.append(("identification", data))
    if of_people(preset):
        if not held:  # XQLFW shows the people of LFW, nine tenths of whom that network has seen
            tasks += [("verification", at_size(preset, "xqlfw"))]
        tasks += [("identification", at_size(preset, other)) for other in ELSEWHERE]
    return tasks


#: Sets for identification beside the compared pairs'.
ELSEWHERE = ("uccs", "tinyface")


def searched(preset: Preset) -> bool:
    """Whether the compared set has people to identify: a fold of LFW has, the whole has not."""
    return not of_people(preset) or parse(tested_on(preset))[0] != "lfw"


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
        results: of `protocols.verification.verify`, one per run.
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
    if not of_people(preset):
        return None
    if not preset.folds:  # one network for all folds
        found = arms.get(name)
        return found and _own_folds(source, found[0], _all_lfw(preset))
    values = {}
    for fold in preset.folds:
        found = arms.get(name if fold == preset.folds[0] else name + held_out(fold))
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
    if not of_people(preset) or "teacher" not in arms:
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
    folds = of_people(preset) and preset.folds
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
        if of_people(preset):
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
        if of_people(preset):  # a mirrored character is another one
            found.append((replace(look, flip=True), "both small, mirror images added %"))
    return found


def subset_table(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Subsets of orders at the first resolution, without labels; empty where none were run."""
    rows = []
    for row in tested(preset, arms, source):
        orders = next(
            (
                o
                for o in subsets()
                if of_people(preset) and row.arm == subset_name(o, lows(preset)[0])
            ),
            None,
        )
        if of_people(preset) and orders == preset.main:
            continue  # the student itself, with all its seeds
        if of_people(preset) and row.arm == f"student {lows(preset)[0]}":
            orders = preset.main
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
    for row in tested(preset, arms, source) if of_people(preset) else ():
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
