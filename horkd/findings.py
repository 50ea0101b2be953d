"""What the runs of a study say: its table, its claims with their verdicts, and its page.

Notebooks show these; the tests make them again from the committed records alone. `Source` says
where runs come from: `live` trains or reads them, `recorded` knows only a report's records.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from horkd import paper, paths, report, runs, storage
from horkd.data.open_set import TESTS
from horkd.losses import ORDERS as TERMS
from horkd.models import ModelSpec, macs_of
from horkd.presets import Preset
from horkd.report import Arms, gain, mean_and_spread, top1, verdict
from horkd.resolution import Degradation
from horkd.runs import Look, Run, RunConfig
from horkd.studies import (
    FULL,
    ORDERS,
    STUDIES,
    Arm,
    Find,
    collect,
    configure,
    finished,
    seeds,
    study,
    subset_name,
    subsets,
    trainer,
)
from horkd.train import Settings

# Where runs come from -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """How to get at runs.

    Attributes:
        find: the finished run of a configuration, or None.
        failed: what is known of one that diverged, or None.
        views: test results of a run on other degradations, or None where they are not known.
        looks: the same on images of unseen classes, None for each that is not known.
    """

    find: Find
    failed: Callable[[RunConfig], dict | None]
    views: Callable[[Run, Sequence[Degradation]], list[dict] | None]
    looks: Callable[[Run, Sequence[Look]], list[dict | None]]


def live(preset: Preset, train_missing: bool = True, settings: Settings | None = None) -> Source:
    """Runs of this machine: read, and trained if missing and wanted, in the preset's precision."""
    return Source(
        trainer(preset, settings, train_missing),
        runs.diverged,
        lambda found, degradations: runs.views(found, degradations, settings),
        lambda found, looks: _look(found, looks, settings),
    )


def _look(found: Run, looks: Sequence[Look], settings: Settings | None) -> list[dict | None]:
    there = [look for look in looks if _is_there(look.data)]
    results = dict(zip(there, runs.open_set(found, there, settings), strict=True))
    return [results.get(look) for look in looks]


def _is_there(data: str) -> bool:
    """Whether a test set of faces is on this machine; any other set is, or is worth an error."""
    base = data.partition("@")[0]
    if base not in TESTS[1:]:
        return True
    home = paths.data_dir()
    return home is not None and (home / base).is_dir()


def recorded(folder: Path) -> Source:
    """The records that a report keeps under `records/`; there are no networks behind them.

    Args:
        folder: the report's.
    """
    known, failed, seen, looked = {}, {}, {}, {}
    for path in sorted((folder / "records").glob("*.json")):
        content = storage.load_json(path)
        if path.name.endswith(".views.json"):
            seen[content["key"]] = {
                _as_degradation(view["degradation"]): view["test"] for view in content["views"]
            }
        elif path.name.endswith(".open_set.json"):
            looked[content["key"]] = runs.known_looks(content)
        elif path.name.endswith(".diverged.json"):
            failed[content["key"]] = content
        else:
            config = runs.config_from_dict(content["config"])
            known[config.key] = Run(config, path.parent, content)

    def views(found: Run, degradations: Sequence[Degradation]) -> list[dict] | None:
        tests = [seen.get(found.config.key, {}).get(d) for d in degradations]
        return None if None in tests else tests

    def looks(found: Run, wanted: Sequence[Look]) -> list[dict | None]:
        return [looked.get(found.config.key, {}).get(look) for look in wanted]

    return Source(lambda c: known.get(c.key), lambda c: failed.get(c.key), views, looks)


def _as_degradation(content: Mapping) -> Degradation:
    return Degradation(**content)


def gather(preset: Preset, names: Iterable[str], source: Source) -> dict[str, list[Run]]:
    """The arms of several studies together; a study without any finished run adds none.

    Raises:
        HorkdError: if no run of any of them is there.
    """
    names = tuple(names)
    arms: dict[str, list[Run]] = {}
    for name in names:
        arms |= finished(preset, name, source.find)
    return arms or collect(preset, names[0], source.find)  # says what to train


def save_records(preset: Preset, names: Iterable[str], arms: Arms, source: Source, out) -> None:
    """Put the record of every run, with its views, and of every failure into the report."""
    if not out:
        return
    report.save_records([run for found in arms.values() for run in found], out)
    for name in names:
        for arm in study(preset, name).values():
            for config, failure in failures(preset, arm, source):
                path = Path(out) / "records" / f"{config.name}.diverged.json"
                storage.save_json(path, failure)


def failures(preset: Preset, arm: Arm, source: Source) -> list[tuple[RunConfig, dict]]:
    """The seeds of an arm whose loss was no longer finite, with what is known of them."""
    configs = [configure(preset, arm, seed) for seed in seeds(preset, arm)]
    notes = [(config, source.failed(config)) for config in configs]
    return [(config, note) for config, note in notes if note is not None]


# Sentences ----------------------------------------------------------------------------------------


def claims(
    preset: Preset, arms: Arms, questions: Mapping[str, tuple[str, str]], source: Source
) -> pd.DataFrame:
    """One row per claim "arm is better than control" whose two arms are there.

    Args:
        preset: sizes.
        arms: finished runs.
        questions: the claim in words -> (arm, control).
        source: knows the seeds that failed; a claim about an arm with such a seed is not shown,
            nor one about runs of unequal precision.
    """
    kinds = {name: arm for one in STUDIES for name, arm in study(preset, one).items()}
    rows = []
    for claim, (arm, control) in questions.items():
        if arm in arms and control in arms:
            difference = gain(arms, arm, control)
            lost = [n for n in (arm, control) if failures(preset, kinds[n], source)]
            mixed = precisions([*arms[arm], *arms[control]])
            rows.append({
                "claim": claim,
                "compared": f"{arm} − {control}",
                "difference in test top-1": difference["text"]
                + "".join(f", and seeds of {name} diverged" for name in lost)
                + (f", in unequal precision ({', '.join(mixed)})" if len(mixed) > 1 else ""),
                "verdict": "not shown" if lost or len(mixed) > 1 else verdict(difference),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "compared", "difference in test top-1", "verdict"])


def precisions(found: Iterable[Run]) -> list[str]:
    """The precisions that some runs were trained in; comparable ones have one."""
    settings = (run.record.get("settings", {}) for run in found if not run.config.weights)
    return sorted({s["precision"] for s in settings if "precision" in s})


def as_lines(table: pd.DataFrame) -> str:
    """Claims as a Markdown list; the difference is the column before the verdict."""
    return "\n".join(
        f"- **{row['claim']}: {row['verdict']}.** {row['compared']}: {row[table.columns[-2]]}."
        for row in table.to_dict("records")
    )


def provenance(preset: Preset, arms: Arms) -> str:
    """What the numbers of a page come from, in a paragraph."""
    records = [run.record for found in arms.values() for run in found]
    machines = sorted({r["machine"]["name"] for r in records})
    threads = sorted({r["machine"]["threads"] for r in records})
    hours = sum(r["seconds"]["total"] for r in records) / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return (
        f"Preset `{preset.name}`: {preset.teacher} → {preset.compact}, {preset.data}, "
        f"{preset.recipe.epochs} epochs ({preset.teacher_recipe.epochs} for the teacher), "
        f"{len(records)} runs, {spent} of training on {', '.join(machines)} "
        f"(threads: {', '.join(map(str, threads))}). Accuracy is test top-1 of the last epoch; "
        "± is the standard deviation over seeds of the student. A claim needs three seeds and a "
        "95 % interval of the paired differences without zero; otherwise it is not shown."
    )


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


# Table 1 ------------------------------------------------------------------------------------------

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


#: What the marks of `table1` mean.
TABLE1_NOTE = (
    "The paper's numbers are of ResNet50 → ResNet18 (its FitNet, AT, RKD and KD rows equal RKD's "
    "own table, whose student is a VGG11), and stand in columns of their own; a difference is "
    "formed only on the same network. Labels only: the same network, resolution and recipe, paired "
    "by seed. † some runs read the frozen model's answers from disk, which an earlier run of the "
    "same seed had computed, so their seconds do not count it."
)


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


def table1_page(preset: Preset, arms: Arms, source: Source) -> str:
    """The notebook's section of the report."""
    parts = [
        as_lines(claims(preset, arms, TABLE1_CLAIMS, source)) + "\n" + _closeness(preset, arms),
        report.markdown(table1(preset, arms, source)),
        TABLE1_NOTE,
    ]
    if preset.assistant_orders:
        weights = ", ".join(f"{order}: {weight:g}" for order, weight in preset.assistant_orders)
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


def _over(values: Sequence[float]) -> dict:
    """Values of several seeds as `horkd.report.verdict` takes them."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"values": list(values), "mean": float(np.mean(values)), "std": std, "n": len(values)}


# Orders -------------------------------------------------------------------------------------------


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


# Resolutions --------------------------------------------------------------------------------------


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


# Two stages ---------------------------------------------------------------------------------------

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
        report.markdown(report.two_stage_table(arms, preset)),
        provenance(preset, arms),
    ])  # fmt: skip
