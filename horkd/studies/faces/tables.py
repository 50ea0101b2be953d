"""The tables of the study of faces: verification and identification.

Functions of finished runs. On the embedded set the "faces" are characters never trained on. On LFW
networks are trained on nine folds and tested on the tenth; accuracies on one fold are of 600 pairs,
those on all ten of 6,000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from horkd import paper
from horkd.data.faces import parse
from horkd.degradation import Degradation
from horkd.lab.looks import Look
from horkd.lab.store import Run
from horkd.networks.network import ModelSpec, macs_of
from horkd.studies.arm import subset_name, subsets
from horkd.studies.claims import mean_and_spread
from horkd.studies.faces.arms import held_out
from horkd.studies.faces.setting import Setting, setting
from horkd.studies.results import Results

FARS = (1e-1, 1e-2, 1e-3)


def enlarged(here: Setting, pixels: int) -> Degradation:
    """Images of some resolution as teachers are fed them: at the size they were trained at."""
    return Degradation(pixels, upsample=pixels < here.side)


def seen_by(here: Setting, run: Run, pixels: int) -> Degradation:
    """What a network sees in the tables: teachers images of any size enlarged, others their own."""
    if run.config.weights or run.config.degradation.size == here.side:
        return enlarged(here, pixels)
    return run.config.degradation


def steps(results: Results, arm: str) -> tuple[int, ...]:
    """The resolutions that an arm is tested at."""
    if results.is_teacher(arm):
        return setting(results.preset).ladder
    return (results.config(arm).degradation.size,)


def look_at_all(results: Results) -> None:
    """Ask every network all that the page needs, in one go: features are then computed once."""
    here = setting(results.preset)
    for name in tqdm(list(results), "networks", leave=False, disable=None):
        for run in results.runs(name):
            degradations = [seen_by(here, run, r) for r in steps(results, name)]
            wanted = [
                Look(*asked, degradation)
                for degradation in degradations
                for asked in _questions(here, run)
            ]
            if results.is_teacher(name):
                wanted += [look for look, _ in mixed_looks(here, run)]
                if here.lfw:
                    wanted += [
                        Look("verification", here.lfw, degradation) for degradation in degradations
                    ]
            results.ask(run, wanted)


def _questions(here: Setting, run: Run) -> list[tuple[str, str]]:
    """(protocol, data) that a network is asked in the tables."""
    held = _on_folds(run)
    data = run.config.data if held else here.compared  # an arm on another fold: on that one
    asked = [("verification", data)]
    if here.searched:
        asked.append(("identification", data))
    # XQLFW shows the people of LFW, nine tenths of whom a network of its folds has seen
    asked += [("verification", other) for other in here.other_pairs.values() if not held]
    return asked + [("identification", other) for other in here.other_people.values()]


def _on_folds(run: Run) -> bool:
    """Whether a network was trained on folds of LFW."""
    return parse(run.config.data)[0].startswith("lfw-")


@dataclass(frozen=True)
class Tested:
    """A network and resolution with what it does: a row of the tables.

    Attributes:
        label: for tables and legends.
        arm: whose runs these are.
        kind: "teacher", "alone" (labels only) or "student".
        pixels: what it sees.
        degradation: the same with what is done to it.
        runs: one per seed.
        results: of verification on the compared pairs, one per run.
        macs: of one image.
        line: how figures draw it ("teacher", "tuned", "alone", "student", "no labels"); empty if
            they do not.
        what: what the arm is, in a line.
    """

    label: str
    arm: str
    kind: str
    pixels: int
    degradation: Degradation
    runs: Sequence[Run]
    results: Sequence[Mapping]
    macs: int
    line: str = ""
    what: str = field(default="", repr=False)

    @property
    def accuracies(self) -> list[float]:
        """Accuracy (%) on the compared pairs, one per seed."""
        return [found["accuracy"] for found in self.results]

    @property
    def by_seed(self) -> dict[int, float]:
        """The same by seed."""
        seeds = (run.config.seed for run in self.runs)
        return dict(zip(seeds, self.accuracies, strict=True))


def tested(results: Results) -> list[Tested]:
    """Every arm on the compared pairs, and the teacher fed every resolution of the ladder."""
    here, rows = setting(results.preset), []
    for name in results:
        arm, runs, teacher = results.arms[name], results.runs(name), results.is_teacher(name)
        if arm.fold:
            continue
        config = runs[0].config
        for pixels in steps(results, name):
            degradation = enlarged(here, pixels) if teacher else config.degradation
            found = answers(results, runs, "verification", here.compared, degradation)
            if found is None:
                continue
            label = name
            if teacher:
                full = pixels == here.side
                label = f"teacher, {here.side} px" if full else f"teacher fed {pixels} px"
            spec = ModelSpec(config.model, 0, config.embedding)
            cost = macs_of(spec, here.side if degradation.upsample else degradation.size)
            line = _line(name, pixels)
            kind = "teacher" if teacher else "student" if arm.frozen else "alone"
            rows.append(
                Tested(label, name, kind, pixels, degradation, runs, found, cost, line, arm.what)
            )
    return rows


def answers(
    results: Results, runs: Sequence[Run], protocol: str, data: str, degradation: Degradation
) -> list[dict] | None:
    """What all runs of an arm say of a set; None unless it is known of all."""
    found = [results.look(run, Look(protocol, data, degradation)) for run in runs]
    return None if None in found else found


def _line(arm: str, pixels: int) -> str:
    """The line of the figures that an arm belongs to."""
    return {
        "teacher": "teacher",
        "student": "student",
        "student alone": "alone",
        "student, no labels": "no labels",
        f"student {pixels}": "student",
        f"student {pixels} alone": "alone",
        f"tuned {pixels}": "tuned",
    }.get(arm, "")


def rate(results: Sequence[Mapping], far: float) -> str:
    """Mean TAR (%) at a false accept rate, in parentheses where too few pairs show that rate."""
    rows = [next(r for r in found["tar"] if np.isclose(r["far"], far)) for found in results]
    text = f"{100 * np.mean([row['tar'] for row in rows]):.1f}"
    return text if far * rows[0]["n_different"] >= 1 else f"({text})"


@dataclass(frozen=True)
class Folds:
    """Accuracies (%) by fold, which counts from 1."""

    accuracies: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def text(self) -> str:
        """Mean ± standard error over folds, with their number where it is not ten."""
        values = list(self.accuracies.values())
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        text = f"{self.mean:.2f} ± {error:.2f}"
        return text if len(values) == 10 else f"{text} ({len(values)} folds)"


def all_folds(results: Results, name: str) -> Folds | None:
    """An arm on the folds of LFW that it was trained without, each in turn; None for fewer than 3.

    Networks that are tested on all of LFW are one for all folds.
    """
    here, values = setting(results.preset), {}
    if here.lfw and not here.folds and name in results:
        run = results.runs(name)[0]
        return _own_folds(results, run, Look("verification", here.lfw, run.config.degradation))
    for fold, arm in in_folds(results, name).items():
        for run in results.runs(arm)[:1]:
            found = on_own_fold(results, run)
            if found is not None:
                values[fold] = found
    return Folds(values) if len(values) > 2 else None


def in_folds(results: Results, name: str) -> dict[int, str]:
    """Held-out fold of LFW -> what an arm is called on it; empty where nothing is held out."""
    folds = setting(results.preset).folds
    return {fold: name + held_out(fold if fold != folds[0] else 0) for fold in folds}


def on_own_fold(results: Results, run: Run) -> float | None:
    """Accuracy (%) on the pairs of the fold that a network was trained without."""
    found = results.look(run, Look("verification", run.config.data, run.config.degradation))
    return None if found is None else found["accuracy"]


def fed(results: Results, pixels: int) -> Folds | None:
    """The teacher on all pairs of LFW, fed images of so many pixels; None where not known."""
    here = setting(results.preset)
    if not here.lfw or "teacher" not in results:
        return None
    look = Look("verification", here.lfw, enlarged(here, pixels))
    return _own_folds(results, results.runs("teacher")[0], look)


def _own_folds(results: Results, run: Run, look: Look) -> Folds | None:
    """One network on every fold of a set of pairs."""
    found = results.look(run, look)
    if found is None:
        return None
    folds = (fold + 1 for fold in found["folds"])
    return Folds(dict(zip(folds, found["accuracies"], strict=True)))


def in_turn(results: Results, row: Tested) -> Folds | None:
    """A row of the tables over the folds of LFW."""
    if row.kind == "teacher":
        return fed(results, row.pixels)
    return all_folds(results, row.arm)


def verification_table(results: Results) -> pd.DataFrame:
    """One row per network and resolution: accuracy, rates at few false accepts, cost."""
    here, rows = setting(results.preset), []
    compared = "LFW, first held-out fold %" if here.folds else "accuracy %"
    for row in tested(results):
        line = {
            "network": row.label,
            "px": str(row.pixels),
            "architecture": row.runs[0].config.model,
            compared: mean_and_spread(row.accuracies),
            "seeds": str(len(row.runs)),
            "AUC": f"{np.mean([r['auc'] for r in row.results]):.4f}",
            **{f"TAR % at FAR {far:g}": rate(row.results, far) for far in FARS},
            "parameters (M)": f"{row.runs[0].record['cost']['parameters'] / 1e6:.2f}",
            "MACs (M)": f"{row.macs / 1e6:.1f}",
        }
        error = row.results[0]["standard_error"]
        if here.lfw:
            whole = in_turn(results, row)
            title = "LFW, folds in turn %" if here.folds else "mean ± error over folds"
            line[title] = whole.text if whole else "–"
        elif error is not None:
            line["± over folds"] = f"{error:.2f}"
        rows.append(line)
    return pd.DataFrame(rows).fillna("–")


def identification_table(results: Results, data: str = "") -> pd.DataFrame:
    """Rank-1 and rank-5 errors, and open-set rates; empty where nothing is known.

    Args:
        results: runs.
        data: the set with the subjects; the one of the compared pairs if empty.
    """
    here = setting(results.preset)
    if not data and not here.searched:
        return pd.DataFrame()
    rows = []
    for row in tested(results):
        found = answers(results, row.runs, "identification", data or here.compared, row.degradation)
        if found is None:
            continue
        first = found[0]
        rates = {
            f"DIR % at FAR {entry['far']:g}": (
                f"{100 * np.mean([f['dir'][i]['dir'] for f in found]):.1f}"
            )
            for i, entry in enumerate(first.get("dir", ()))
        }
        rows.append({
            "network": row.label,
            "px": str(row.pixels),
            "rank-1 error %": mean_and_spread([f["rank1_error"] for f in found]),
            "rank-5 error %": mean_and_spread([f["rank5_error"] for f in found]),
            "seeds": str(len(found)),
            **rates,
            "subjects / gallery / probes": (
                f"{first['subjects']} / {first['gallery']} / {first['probes']}"
            ),
        })  # fmt: skip
    return pd.DataFrame(rows).fillna("–")


def elsewhere_table(results: Results, data: str) -> pd.DataFrame:
    """Verification on another set of pairs, as each network sees it; empty if not known."""
    rows = []
    for row in tested(results):
        if _on_folds(row.runs[0]):
            continue  # these are the people it was trained on
        found = answers(results, row.runs, "verification", data, row.degradation)
        if found is not None:
            rows.append({
                "network": row.label,
                "px": str(row.pixels),
                "accuracy %": mean_and_spread([f["accuracy"] for f in found]),
                "seeds": str(len(found)),
            })  # fmt: skip
    return pd.DataFrame(rows)


def mixed_table(results: Results) -> pd.DataFrame:
    """The teacher on pairs with one image small, with both small, and with mirrored images."""
    rows: dict[int, dict[str, str]] = {}
    for run in results.runs("teacher")[:1]:
        for look, label in mixed_looks(setting(results.preset), run):
            found, pixels = results.look(run, look), look.degradation.size
            row = rows.setdefault(pixels, {"px": str(pixels)})
            row[label] = "–" if found is None else f"{found['accuracy']:.2f}"
    return pd.DataFrame(list(rows.values()))


def mixed_looks(here: Setting, run: Run) -> list[tuple[Look, str]]:
    """Looks of `mixed_table` with their columns."""
    found = []
    for pixels in here.lows:
        look = Look("verification", here.compared, Degradation(pixels, upsample=True))
        other = replace(look, other=run.config.degradation)
        found += [(look, "both small %"), (other, f"one small, one at {here.side} px %")]
        if here.mirrored:
            found.append((replace(look, flip=True), "both small, mirror images added %"))
    return found


def subset_table(results: Results) -> pd.DataFrame:
    """Subsets of orders at the first resolution, without labels; empty where none were run."""
    here = setting(results.preset)
    if not here.main:
        return pd.DataFrame()
    first = here.lows[0]
    # the student itself stands for its own subset, with all its seeds
    names = {subset_name(o, first): o for o in subsets() if o != here.main}
    names[f"student {first}"] = here.main
    return pd.DataFrame([
        {
            "orders": f"{{{','.join(names[row.arm])}}}",
            "accuracy %": mean_and_spread(row.accuracies),
            "seeds": str(len(row.runs)),
            "AUC": f"{np.mean([r['auc'] for r in row.results]):.4f}",
            "share of order 1 %": _first_share(row),
        }
        for row in tested(results)
        if row.arm in names
    ])  # fmt: skip


def _first_share(row: Tested) -> str:
    """Order 1's share (%) of the gradient at the features in the last epoch, mean over seeds."""
    last = [run.record["history"][-1]["gradient_shares"] for run in row.runs]
    return f"{100 * np.mean([shares.get('order1', 0) for shares in last]):.0f}"


def published(results: Results) -> pd.DataFrame:
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
    here = setting(results.preset)
    ablated = {subset_name(orders, here.lows[0]) for orders in subsets()}
    for row in tested(results) if here.lfw else ():
        if row.arm in ablated:
            continue
        whole, run = in_turn(results, row), row.runs[0]
        alone = f"{mean_and_spread(row.accuracies)} (fold 1 alone)"
        rows.append({
            "model": f"ours: {row.label}",
            "source": f"here, {run.config.model}",
            "LFW accuracy %": whole.text if whole else alone,
            "resolution": f"{row.pixels}×{row.pixels}",
            "parameters": f"{run.record['cost']['parameters'] / 1e6:.2f} M",
            "trained on": _trained_on(row),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _trained_on(row: Tested) -> str:
    if row.kind == "teacher":
        return "by others"
    config = row.runs[0].config
    start = "the teacher's weights, then " if config.start == "frozen" else ""
    return start + ("LFW, nine folds" if _on_folds(row.runs[0]) else parse(config.data)[0])


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
