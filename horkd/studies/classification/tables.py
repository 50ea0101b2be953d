"""What the runs of a study say: its table, its claims with their verdicts, and its page.

Notebooks show these; the tests make them again from the committed records alone. `Source` says
where runs come from: `live` trains or reads them, `recorded` knows only a report's records.
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
from horkd.studies.arm import FULL, ORDERS, Arm, subset_name, subsets
from horkd.studies.claims import mean_and_spread, verdict
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, failures, gain, top1
from horkd.studies.study import collect, configure, study


def two_stage_table(arms: Arms, preset: Preset) -> pd.DataFrame:
    """One row per arm: accuracy with n and spread, cost, and the paper's number beside it.

    Args:
        arms: finished runs of study two_stage.
        preset: what they were made with.
    """
    networks = f"{preset.teacher} → {preset.compact}"
    ours = f"test top-1 % ({preset.data}, {networks})"
    theirs = "paper % (CIFAR-100, ResNet50 → ResNet18)"
    rows, kinds = [], study(preset, "two_stage")
    for arm, runs in arms.items():
        record = runs[0].record
        best = [run.record["results"].get("best", {}).get("test", {}).get("top1") for run in runs]
        published = paper.row(kinds[arm].row)
        rows.append({
            "arm": arm,
            "pixels": record["config"]["degradation"]["size"],
            "network": record["config"]["model"],
            ours: mean_and_spread(top1(runs)),
            "n": len(runs),
            "best epoch %": "–" if None in best else mean_and_spread(best),
            theirs: "–" if published is None else f"{published:.2f}",
            "parameters (M)": f"{record['cost']['parameters'] / 1e6:.2f}",
            "MACs (M)": f"{record['cost']['macs'] / 1e6:.1f}",
            "training (s)": f"{np.mean([r.record['seconds']['total'] for r in runs]):.0f}",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _control(run: Run, arms: Arms) -> str | None:
    """The arm of the same network, resolution and recipe that is trained on labels only."""

    def sort(config: RunConfig) -> tuple:
        return config.model, config.degradation, config.recipe

    for name, found in arms.items():
        other = found[0].config
        same = sort(other) == sort(run.config)
        if same and other.frozen is None and run.config.frozen is not None:
            return name
    return None


def _is_papers(preset: Preset, arm: Arm) -> bool:
    """Whether the paper's number of an arm was measured on these networks and data."""
    if preset.data != "cifar100" or preset.teacher != paper.network("Teacher ResNet50"):
        return False
    return getattr(preset, arm.network) == paper.network(arm.row)


def fed(preset: Preset, arms: Arms, source: Source) -> dict[str, dict]:
    """Teacher and assistant on the student's images: as they are, and enlarged back.

    Returns:
        Label -> `model`, `view`, `macs` of one image and `test` (accuracy); without those that are
        not known.
    """
    rows = {}
    for name, enlarged in product(("teacher", "assistant"), (False, True)):
        if name not in arms:
            continue
        run = arms[name][0]
        view = Degradation(preset.low, upsample=enlarged)
        tests = source.views(run, [view])
        if tests is not None:
            side = FULL if enlarged else preset.low
            spec = ModelSpec(run.config.model, 100)
            rows[f"{name} fed {preset.low} px{', enlarged' if enlarged else ''}"] = {
                "model": run.config.model,
                "view": view,
                "macs": macs_of(spec, side),
                "parameters": run.record["cost"]["parameters"],
                "test": tests[0],
            }
    return rows


def table1(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Every arm of Table 1, its controls and extensions, also those that failed or were not run."""
    ours = f"{preset.data} top-1 %"
    kinds = {**study(preset, "table1"), **study(preset, "plus")}
    rows = []
    for name, arm in kinds.items():
        config = configure(preset, arm)
        row = {"arm": name, "px": str(config.degradation.size), "network": config.model}
        published = paper.row(arm.row)
        row["paper's row"] = arm.row or "–"
        row["paper %"] = "–" if published is None else f"{published:.2f}"
        failed = failures(preset, arm, source)
        if name in arms:
            row |= _measured(preset, arm, arms, ours, published, len(failed))
        elif failed:
            row[ours] = f"diverged in epoch {failed[0][1]['epoch']}"
        else:
            row[ours] = "not run"
        rows.append(row)
        if name == "assistant":
            rows += [
                {
                    "arm": label,
                    "px": str(preset.low),
                    "network": seen["model"],
                    ours: f"{seen['test']['top1']:.2f}",
                    "n": "1",
                    "parameters (M)": f"{seen['parameters'] / 1e6:.2f}",
                    "MACs (M)": f"{seen['macs'] / 1e6:.1f}",
                }
                for label, seen in fed(preset, arms, source).items()
            ]
    order = [
        "arm", "px", "network", ours, "n", "gain over labels only", "shown?", "best epoch %",
        "paper's row", "paper %", "ours − paper", "parameters (M)", "MACs (M)", "training (s)",
    ]  # fmt: skip
    return _filled(rows, order)


def _filled(rows: Sequence[Mapping[str, str]], columns: Iterable[str]) -> pd.DataFrame:
    """A table with a dash in every cell that has nothing."""
    return pd.DataFrame([{c: row.get(c, "–") for c in columns} for row in rows])


def _measured(
    preset: Preset, arm: Arm, arms: Arms, ours: str, published: float | None, failed: int
) -> dict[str, str]:
    found = arms[arm.name]
    record, values = found[0].record, top1(found)
    best = [run.record["results"].get("best", {}).get("test", {}).get("top1") for run in found]
    read = any(run.record["seconds"].get("frozen_answers_read") for run in found)
    seconds = np.mean([run.record["seconds"]["total"] for run in found])
    row = {
        ours: mean_and_spread(values),
        "n": f"{len(found)}{f', {failed} diverged' if failed else ''}",
        "best epoch %": "–" if None in best else mean_and_spread(best),
        "parameters (M)": f"{record['cost']['parameters'] / 1e6:.2f}",
        "MACs (M)": f"{record['cost']['macs'] / 1e6:.1f}",
        "training (s)": f"{seconds:.0f}{'†' if read else ''}",
    }
    control = _control(found[0], arms)
    if control is not None:
        difference = gain(arms, arm.name, control)
        row["gain over labels only"] = short(difference)
        row["shown?"] = "not shown" if failed else verdict(difference)
    if published is not None and _is_papers(preset, arm):
        row["ours − paper"] = f"{np.mean(values) - published:+.2f}"
    return row


def short(difference: Mapping) -> str:
    """`+1.69 ± 0.58` without its seeds."""
    spread = "" if difference["std"] is None else f" ± {difference['std']:.2f}"
    return f"{difference['mean']:+.2f}{spread}"


def reasons(arms: Arms) -> pd.DataFrame:
    """Scale and target of some arms: gradient shares, and likeness to the model they learn from."""
    rows = []
    for name in ("student", "student direct", "KD", "KD standardised", "RKD", "FitNet", "horkd+"):
        if name not in arms:
            continue
        record = arms[name][0].record
        own = [
            100 * sum(v for n, v in entry["gradient_shares"].items() if n != "cross_entropy")
            for entry in record["history"]
        ]
        agreement = record["results"].get("agreement", {})
        rows.append({
            "arm": name,
            "learns from": arms[name][0].config.frozen.model,
            "test top-1 %": mean_and_spread(top1(arms[name])),
            "share of the gradient, first epoch %": f"{own[0]:.0f}",
            "last epoch %": f"{own[-1]:.0f}",
            "same answer as its model %": f"{agreement.get('same_answer', np.nan):.1f}",
            "KL to its model (nats)": f"{agreement.get('kl', np.nan):.2f}",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _over(values: Sequence[float]) -> dict:
    """Values of several seeds as `horkd.studies.claims.verdict` takes them."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"values": list(values), "mean": float(np.mean(values)), "std": std, "n": len(values)}


def order_arms(preset: Preset, source: Source) -> dict[int, dict[str, list[Run]]]:
    """Subsets of orders that are there: pixels -> subset ("23C") -> runs, one per seed.

    Raises:
        HorkdError: if there is none.
    """
    arms = collect(preset, "orders", source.find)
    found = {
        pixels: {
            orders: arms[subset_name(orders, pixels)]
            for orders in subsets()
            if subset_name(orders, pixels) in arms
        }
        for pixels in (preset.low, FULL)
    }
    return {pixels: arms for pixels, arms in found.items() if len(arms) > 1}


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


def order_table(found: Mapping[int, Mapping[str, list[Run]]]) -> pd.DataFrame:
    """One row per subset and resolution, the best on the validation split first (else on test)."""
    rows = []
    for pixels, arms in found.items():
        held = {o: [validation(run) for run in runs] for o, runs in arms.items()}
        known = not any(None in values for values in held.values())
        judged = held if known else {o: top1(runs) for o, runs in arms.items()}
        for orders in sorted(arms, key=lambda o: -np.mean(judged[o])):
            share = shares(arms[orders][0])
            alone = orders and "" in arms
            over = _over(_paired(arms, orders, "")) if alone else None
            rows.append({
                "px": str(pixels),
                "orders": "{" + ",".join(orders) + "}",
                "validation top-1 %": mean_and_spread(held[orders]) if known else "–",
                "test top-1 %": mean_and_spread(top1(arms[orders])),
                "n": str(len(arms[orders])),
                "over labels only": short(over) if over else "–",
                **{
                    f"order {o}: share of gradient %": (
                        f"{share[TERMS[o]]:.0f}" if TERMS[o] in share else "–"
                    )
                    for o in ORDERS
                },
            })  # fmt: skip
    return pd.DataFrame(rows)


def _paired(arms: Mapping[str, list[Run]], arm: str, control: str) -> list[float]:
    """Differences in test top-1 of two arms, seed by seed."""
    return gain(arms, arm, control)["values"]


def effects(arms: Mapping[str, list[Run]]) -> dict[str, dict[tuple[str, int], float]]:
    """What adding an order does, in points, for each pair of runs that differ in it only.

    Args:
        arms: subset -> runs, of one resolution.

    Returns:
        Order -> (subset without it, seed) -> difference; eight subsets if all are there.
    """
    found = {}
    for order in ORDERS:
        for without in arms:
            with_it = "".join(o for o in ORDERS if o in without or o == order)
            if order not in without and with_it in arms:
                seeds_of = {run.config.seed for run in arms[without]}
                both = sorted(seeds_of & {run.config.seed for run in arms[with_it]})
                for seed, value in zip(both, _paired(arms, with_it, without), strict=True):
                    found.setdefault(order, {})[without, seed] = value
    return found


def main_effect(pairs: Mapping[tuple[str, int], float]) -> dict:
    """Mean over the pairs of each seed, and their spread over seeds."""
    by_seed = {seed: [v for (_, s), v in pairs.items() if s == seed] for _, seed in pairs}
    return _over([float(np.mean(values)) for values in by_seed.values()])


def weight_table(preset: Preset, source: Source) -> pd.DataFrame:
    """The sweep around the weights, judged on the validation split; empty if nothing is there."""
    columns = ["weights", "order 2", "order 3", "order C", "validation top-1 %", "change"]
    centre = source.find(configure(preset, study(preset, "two_stage")["student"]))
    held = None if centre is None else validation(centre)
    if held is None:
        return pd.DataFrame(columns=columns)
    rows = [("as they are", centre)]
    for name, arm in study(preset, "weights").items():
        found = source.find(configure(preset, arm))
        if found is not None:
            rows.append((name, found))
    if len(rows) == 1:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame([
        {
            "weights": name,
            **{f"order {o}": f"{w:g}" for o, w in run.config.orders},
            "validation top-1 %": f"{validation(run):.2f}",
            "change": "–" if run is centre else f"{validation(run) - held:+.2f}",
        }
        for name, run in rows
    ], columns=columns)  # fmt: skip


def at_resolution(r: int, preset: Preset) -> dict[str, str]:
    """Names of the arms at a resolution: "student", "direct" and "alone"."""
    if r == preset.low:
        return {"student": "student", "direct": "student direct", "alone": "student alone"}
    if r == FULL:
        return {"student": f"student {r}", "direct": "assistant", "alone": "assistant alone"}
    return {
        "student": f"student {r}",
        "direct": f"student {r} direct",
        "alone": f"student {r} alone",
    }


def resolutions(preset: Preset) -> list[int]:
    """Resolutions of the sweep, in pixels, the largest first."""
    return sorted({FULL, preset.low, *preset.sweep}, reverse=True)


def resolution_table(preset: Preset, arms: Arms) -> pd.DataFrame:
    """One row per resolution: with and without assistant, without any teacher, and the cost."""
    rows = []
    for r in resolutions(preset):
        names = {kind: n for kind, n in at_resolution(r, preset).items() if n in arms}
        if not names:
            continue
        record = arms[next(iter(names.values()))][0].record
        row = {"px": str(r)}
        for kind, title in (
            ("alone", "labels only %"), ("direct", "from the teacher %"),
            ("student", "from the assistant %"),
        ):  # fmt: skip
            row[title] = mean_and_spread(top1(arms[names[kind]])) if kind in names else "–"
        for kind, title in (("direct", "gain, teacher"), ("student", "gain, assistant")):
            if kind in names and "alone" in names:
                row[title] = short(gain(arms, names[kind], names["alone"]))
        if {"student", "direct"} <= names.keys():
            row["assistant over teacher"] = short(gain(arms, names["student"], names["direct"]))
        row["n"] = "/".join(
            str(len(arms[names[k]])) if k in names else "0" for k in ("alone", "direct", "student")
        )
        row["MACs (M)"] = f"{record['cost']['macs'] / 1e6:.1f}"
        if "alone" in names:
            seconds = np.mean([x.record["seconds"]["total"] for x in arms[names["alone"]]])
            row["training on labels (s)"] = f"{seconds:.0f}"
        rows.append(row)
    return _filled(rows, dict.fromkeys(column for row in rows for column in row))


def crossed(preset: Preset, arms: Arms, source: Source, kind: str = "student") -> pd.DataFrame:
    """Accuracy (%) of networks trained at r (rows) on images of r′ (columns), as they are.

    Args:
        preset: sizes.
        arms: finished runs of studies two_stage and resolutions.
        source: for the tests at other resolutions.
        kind: "student", "direct" or "alone".
    """
    sizes = resolutions(preset)
    rows = {}
    for r in sizes:
        name = at_resolution(r, preset)[kind]
        if name in arms:
            tests = source.views(arms[name][0], [Degradation(s) for s in sizes])
            if tests is not None:
                rows[r] = [test["top1"] for test in tests]
    return pd.DataFrame.from_dict(rows, orient="index", columns=sizes)


#: Kernels for the test of a student on images that were made otherwise.
def swapped_kernels(preset: Preset) -> dict[str, Degradation]:
    """Degradations to the low resolution by name, the last one as a camera would do it."""
    low = preset.low
    named = {k: Degradation(low, k) for k in ("bicubic", "area", "bilinear", "nearest")}
    return named | {"blur, noise, JPEG": Degradation(low, blur=1.0, noise=5.0, jpeg=75)}


def swapped(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Accuracy (%) of students trained on one kernel (rows) on images of others (columns)."""
    kernels = swapped_kernels(preset)
    rows = {}
    for kernel, name in (
        ("bicubic", "student"), ("area", "student area"), ("nearest", "student nearest")
    ):  # fmt: skip
        if name in arms:
            tests = source.views(arms[name][0], list(kernels.values()))
            if tests is not None:
                rows[kernel] = [test["top1"] for test in tests]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(kernels))
