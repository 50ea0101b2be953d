"""The tables of the studies of classification, functions of finished runs.

Notebooks show them; the tests make them again from the committed records alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from horkd import paper
from horkd.degradation import Degradation
from horkd.lab.config import RunConfig
from horkd.lab.store import Run
from horkd.losses import ORDERS as TERMS
from horkd.networks.network import ModelSpec, macs_of
from horkd.studies.arm import ORDERS, Arm, subset_name, subsets
from horkd.studies.claims import mean_and_spread
from horkd.studies.classification.presets import FULL
from horkd.studies.results import Gain, Results
from horkd.studies.study import study

#: Studies behind the notebooks.
TWO_STAGE, TABLE1 = ("two_stage",), ("table1", "plus")
ORDER_STUDY, RESOLUTIONS = ("orders",), ("two_stage", "resolutions")


def _costs(run: Run) -> dict[str, str]:
    cost = run.record["cost"]
    return {
        "parameters (M)": f"{cost['parameters'] / 1e6:.2f}",
        "MACs (M)": f"{cost['macs'] / 1e6:.1f}",
    }


def _best_epoch(runs: Sequence[Run]) -> str:
    """Test top-1 of the best epochs on the validation split, where there is one."""
    best = [run.record["results"].get("best", {}).get("test", {}).get("top1") for run in runs]
    return "–" if None in best else mean_and_spread(best)


def _seconds(runs: Sequence[Run]) -> str:
    return f"{np.mean([run.record['seconds']['total'] for run in runs]):.0f}"


def two_stage_table(results: Results) -> pd.DataFrame:
    """One row per arm: accuracy with n and spread, cost, and the paper's number beside it."""
    preset, rows = results.preset, []
    ours = f"test top-1 % ({preset.data}, {preset.teacher} → {preset.compact})"
    theirs = "paper % (CIFAR-100, ResNet50 → ResNet18)"
    for arm in results:
        runs = results.runs(arm)
        published = paper.row(results.arms[arm].row)
        rows.append({
            "arm": arm,
            "pixels": runs[0].config.degradation.size,
            "network": runs[0].config.model,
            ours: mean_and_spread(results.values(arm)),
            "n": len(runs),
            "best epoch %": _best_epoch(runs),
            theirs: "–" if published is None else f"{published:.2f}",
            **_costs(runs[0]),
            "training (s)": _seconds(runs),
        })  # fmt: skip
    return pd.DataFrame(rows)


def control_of(results: Results, arm: str) -> str | None:
    """The arm of the same network, resolution and recipe that is trained on labels only."""

    def sort(config: RunConfig) -> tuple:
        return config.model, config.degradation, config.recipe

    config = results.runs(arm)[0].config
    if config.frozen is None:
        return None
    others = ((name, results.runs(name)[0].config) for name in results)
    return next((n for n, c in others if sort(c) == sort(config) and c.frozen is None), None)


def is_papers(results: Results, arm: Arm) -> bool:
    """Whether the paper's number of an arm was measured on these networks and data."""
    preset = results.preset
    if preset.data != "cifar100" or preset.teacher != paper.network("Teacher ResNet50"):
        return False
    return getattr(preset, arm.network) == paper.network(arm.row)


def fed(results: Results) -> dict[str, dict]:
    """Teacher and assistant on the student's images: as they are, and enlarged back.

    Returns:
        Label -> `model`, `macs` of one image, `parameters` and `test` (accuracy); without those
        that are not known.
    """
    rows, low = {}, results.preset.low
    for name, enlarged in product(("teacher", "assistant"), (False, True)):
        if name not in results:
            continue
        run = results.runs(name)[0]
        tests = results.at_resolutions(run, [Degradation(low, upsample=enlarged)])
        if tests is not None:
            rows[f"{name} fed {low} px{', enlarged' if enlarged else ''}"] = {
                "model": run.config.model,
                "macs": macs_of(ModelSpec(run.config.model, 100), FULL if enlarged else low),
                "parameters": run.record["cost"]["parameters"],
                "test": tests[0],
            }
    return rows


def table1(results: Results) -> pd.DataFrame:
    """Every arm of Table 1, its controls and extensions, also those that failed or were not run."""
    ours = f"{results.preset.data} top-1 %"
    rows = []
    for name in results.arms:
        rows.append(_row_of_table1(results, name, ours))
        if name == "assistant":
            rows += _fed_rows(results, ours)
    order = [
        "arm", "px", "network", ours, "n", "gain over labels only", "shown?", "best epoch %",
        "paper's row", "paper %", "ours − paper", "parameters (M)", "MACs (M)", "training (s)",
    ]  # fmt: skip
    return _filled(rows, order)


def _filled(rows: Sequence[Mapping[str, str]], columns: Iterable[str]) -> pd.DataFrame:
    """A table with a dash in every cell that has nothing."""
    return pd.DataFrame([{c: row.get(c, "–") for c in columns} for row in rows])


def _fed_rows(results: Results, ours: str) -> list[dict[str, str]]:
    return [
        {
            "arm": label,
            "px": str(results.preset.low),
            "network": seen["model"],
            ours: f"{seen['test']['top1']:.2f}",
            "n": "1",
            "parameters (M)": f"{seen['parameters'] / 1e6:.2f}",
            "MACs (M)": f"{seen['macs'] / 1e6:.1f}",
        }
        for label, seen in fed(results).items()
    ]


def _row_of_table1(results: Results, name: str, ours: str) -> dict[str, str]:
    arm, config = results.arms[name], results.config(name)
    published, failed = paper.row(arm.row), results.failures(name)
    row = {
        "arm": name,
        "px": str(config.degradation.size),
        "network": config.model,
        "paper's row": arm.row or "–",
        "paper %": "–" if published is None else f"{published:.2f}",
    }
    if name not in results:
        what = f"diverged in epoch {failed[0][1]['epoch']}" if failed else "not run"
        return row | {ours: what}
    runs, values = results.runs(name), results.values(name)
    read = any(run.record["seconds"].get("frozen_answers_read") for run in runs)
    row |= {
        ours: mean_and_spread(values),
        "n": f"{len(runs)}{f', {len(failed)} diverged' if failed else ''}",
        "best epoch %": _best_epoch(runs),
        **_costs(runs[0]),
        "training (s)": f"{_seconds(runs)}{'†' if read else ''}",
    }
    control = control_of(results, name)
    gain = None if control is None else results.gain(name, control)
    if gain is not None:
        row["gain over labels only"] = gain.short
        row["shown?"] = gain.verdict
    if published is not None and is_papers(results, arm):
        row["ours − paper"] = f"{np.mean(values) - published:+.2f}"
    return row


def reasons(results: Results) -> pd.DataFrame:
    """Scale and target of some arms: gradient shares, and likeness to the model they learn from."""
    rows = []
    for name in ("student", "student direct", "KD", "KD standardised", "RKD", "FitNet", "horkd+"):
        if name not in results:
            continue
        run = results.runs(name)[0]
        own = [
            100 * sum(v for n, v in entry["gradient_shares"].items() if n != "cross_entropy")
            for entry in run.record["history"]
        ]
        agreement = run.record["results"].get("agreement", {})
        rows.append({
            "arm": name,
            "learns from": run.config.frozen.model,
            "test top-1 %": mean_and_spread(results.values(name)),
            "share of the gradient, first epoch %": f"{own[0]:.0f}",
            "last epoch %": f"{own[-1]:.0f}",
            "same answer as its model %": f"{agreement.get('same_answer', np.nan):.1f}",
            "KL to its model (nats)": f"{agreement.get('kl', np.nan):.2f}",
        })  # fmt: skip
    return pd.DataFrame(rows)


def ablations(results: Results) -> dict[int, list[str]]:
    """Pixels -> the subsets of orders ("23C") that were run there; none of a single subset."""
    found = {
        pixels: [orders for orders in subsets() if subset_name(orders, pixels) in results]
        for pixels in (results.preset.low, FULL)
    }
    return {pixels: known for pixels, known in found.items() if len(known) > 1}


def validation(run: Run) -> float | None:
    """Validation top-1 (%) of the last epoch; None where nothing was held out."""
    last = run.record["history"][-1].get("validation")
    return None if last is None else last["top1"]


def shares(run: Run) -> dict[str, float]:
    """Each term's share of the gradient at the features (%), mean over epochs."""
    history = run.record["history"]
    return {
        term: 100 * float(np.mean([entry["gradient_shares"][term] for entry in history]))
        for term in history[0]["gradient_shares"]
    }


def in_braces(orders: str) -> str:
    """A subset in words: `{2,3,C}`."""
    return "{" + ",".join(orders) + "}"


def order_table(results: Results) -> pd.DataFrame:
    """One row per subset and resolution, the best on the validation split first (else on test)."""
    rows = []
    for pixels, known in ablations(results).items():
        names = {orders: subset_name(orders, pixels) for orders in known}
        test = {o: results.values(name) for o, name in names.items()}
        held = {o: [validation(run) for run in results.runs(n)] for o, n in names.items()}
        has_validation = not any(None in values for values in held.values())
        judged = held if has_validation else test
        for orders in sorted(known, key=lambda o: -np.mean(judged[o])):
            share = shares(results.runs(names[orders])[0])
            over = results.gain(names[orders], subset_name("", pixels)) if orders else None
            rows.append({
                "px": str(pixels),
                "orders": in_braces(orders),
                "validation top-1 %": mean_and_spread(held[orders]) if has_validation else "–",
                "test top-1 %": mean_and_spread(test[orders]),
                "n": str(len(test[orders])),
                "over labels only": over.short if over else "–",
                **{
                    f"order {o}: share of gradient %": (
                        f"{share[TERMS[o]]:.0f}" if TERMS[o] in share else "–"
                    )
                    for o in ORDERS
                },
            })  # fmt: skip
    return pd.DataFrame(rows)


def effects(results: Results, pixels: int) -> dict[str, dict[tuple[str, int], float]]:
    """What adding an order does, in points, for each pair of runs that differ in it only.

    Returns:
        Order -> (subset without it, seed) -> difference; eight subsets if all are there.
    """
    known = ablations(results)[pixels]
    found: dict[str, dict[tuple[str, int], float]] = {}
    for order, without in product(ORDERS, known):
        with_it = "".join(o for o in ORDERS if o in without or o == order)
        if order in without or with_it not in known:
            continue
        pair = [subset_name(orders, pixels) for orders in (with_it, without)]
        seeds = [{run.config.seed for run in results.runs(name)} for name in pair]
        gain = results.gain(*pair)
        if gain is not None:
            for seed, value in zip(sorted(seeds[0] & seeds[1]), gain.values, strict=True):
                found.setdefault(order, {})[without, seed] = value
    return found


def main_effect(pairs: Mapping[tuple[str, int], float]) -> Gain:
    """Mean over the pairs of each seed."""
    by_seed = {seed: [v for (_, s), v in pairs.items() if s == seed] for _, seed in pairs}
    return Gain(tuple(float(np.mean(values)) for values in by_seed.values()))


def weight_runs(results: Results) -> dict[str, Run]:
    """The student, and the sweep around its weights as far as it was run."""
    preset = results.preset
    student = study(preset, "two_stage").get("student")
    arms = {"as they are": student} if student else {}
    found = {n: results.first(arm) for n, arm in {**arms, **study(preset, "weights")}.items()}
    return {name: run for name, run in found.items() if run is not None}


def weight_table(results: Results) -> pd.DataFrame:
    """The sweep around the weights, judged on the validation split; empty if nothing is there."""
    columns = ["weights", "order 2", "order 3", "order C", "validation top-1 %", "change"]
    runs = weight_runs(results)
    centre = runs.get("as they are")
    held = None if centre is None else validation(centre)
    if held is None or len(runs) == 1:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame([
        {
            "weights": name,
            **{f"order {o}": f"{w:g}" for o, w in run.config.orders},
            "validation top-1 %": f"{validation(run):.2f}",
            "change": "–" if run is centre else f"{validation(run) - held:+.2f}",
        }
        for name, run in runs.items()
    ], columns=columns)  # fmt: skip


def at_resolution(results: Results, r: int) -> dict[str, str]:
    """Names of the arms at a resolution: "student", "direct" and "alone"."""
    if r == results.preset.low:
        return {"student": "student", "direct": "student direct", "alone": "student alone"}
    if r == FULL:
        return {"student": f"student {r}", "direct": "assistant", "alone": "assistant alone"}
    return {
        "student": f"student {r}",
        "direct": f"student {r} direct",
        "alone": f"student {r} alone",
    }


def resolutions(results: Results) -> list[int]:
    """Resolutions of the sweep, in pixels, the largest first."""
    return sorted({FULL, results.preset.low, *results.preset.sweep}, reverse=True)


def resolution_table(results: Results) -> pd.DataFrame:
    """One row per resolution: with and without assistant, without any teacher, and the cost."""
    rows = []
    for r in resolutions(results):
        names = {kind: n for kind, n in at_resolution(results, r).items() if n in results}
        if not names:
            continue
        row = {"px": str(r)}
        for kind, title in (
            ("alone", "labels only %"), ("direct", "from the teacher %"),
            ("student", "from the assistant %"),
        ):  # fmt: skip
            row[title] = mean_and_spread(results.values(names[kind])) if kind in names else "–"
        for kind, control, title in (
            ("direct", "alone", "gain, teacher"), ("student", "alone", "gain, assistant"),
            ("student", "direct", "assistant over teacher"),
        ):  # fmt: skip
            gain = results.gain(names.get(kind, ""), names.get(control, ""))
            if gain is not None:
                row[title] = gain.short
        row["n"] = "/".join(
            str(len(results.runs(names.get(k, "")))) for k in ("alone", "direct", "student")
        )
        row["MACs (M)"] = _costs(results.runs(next(iter(names.values())))[0])["MACs (M)"]
        if "alone" in names:
            row["training on labels (s)"] = _seconds(results.runs(names["alone"]))
        rows.append(row)
    return _filled(rows, dict.fromkeys(column for row in rows for column in row))


def crossed(results: Results) -> pd.DataFrame:
    """Accuracy (%) of students trained at r (rows) on images of r′ (columns), as they are."""
    sizes = resolutions(results)
    students = {r: at_resolution(results, r)["student"] for r in sizes}
    return _matrix(results, students, {r: Degradation(r) for r in sizes})


def swapped_kernels(low: int) -> dict[str, Degradation]:
    """Degradations to the low resolution by name, the last one as a camera would do it."""
    named = {k: Degradation(low, k) for k in ("bicubic", "area", "bilinear", "nearest")}
    return named | {"blur, noise, JPEG": Degradation(low, blur=1.0, noise=5.0, jpeg=75)}


def swapped(results: Results) -> pd.DataFrame:
    """Accuracy (%) of students trained on one kernel (rows) on images of others (columns)."""
    students = {"bicubic": "student", "area": "student area", "nearest": "student nearest"}
    return _matrix(results, students, swapped_kernels(results.preset.low))


def _matrix(results: Results, students: Mapping, degradations: Mapping) -> pd.DataFrame:
    rows = {}
    for label, name in students.items():
        if name in results:
            tests = results.at_resolutions(results.runs(name)[0], list(degradations.values()))
            if tests is not None:
                rows[label] = [test["top1"] for test in tests]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(degradations))
