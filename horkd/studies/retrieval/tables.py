"""The tables of the study of metric learning: Table 4, Fig. 3, the teacher's index.

Functions of finished runs. All numbers are of test classes that no network was trained on here (of
a teacher trained elsewhere nobody knows); every image is query and, for the others, gallery.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from horkd import paper
from horkd.data import full_size
from horkd.data.retrieval import of_photos, plain_name
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.looks import Look
from horkd.lab.store import Run
from horkd.networks.network import ModelSpec, macs_of
from horkd.studies.claims import mean_and_spread
from horkd.studies.preset import Preset
from horkd.studies.results import Results
from horkd.studies.retrieval.arms import METRIC
from horkd.studies.retrieval.presets import RetrievalPreset

#: The study behind the notebook.
RETRIEVAL = ("metric",)
KS = ("1", "2", "4", "8")
TEACHER, ASSISTANT = f"{METRIC}teacher", f"{METRIC}assistant"


def sizes_of(preset: Preset) -> RetrievalPreset:
    """The preset itself, if it is one of this task.

    Raises:
        HorkdError: if the preset has no such study.
    """
    if not isinstance(preset, RetrievalPreset):
        raise HorkdError(
            f"preset {preset.name} on {preset.data} has no study of metric learning: take smoke or "
            "quick on their own data, metric, metric-cpu or metric-paper"
        )
    return preset


def full(preset: Preset) -> int:
    """Pixels of the full-resolution images."""
    return full_size(sizes_of(preset).data)


def pixel_sizes(preset: Preset) -> list[int]:
    """Where pixels themselves are compared with: only images that fit into memory have that row."""
    sizes = sizes_of(preset)
    small = not of_photos(sizes.data)
    return sorted({*sizes.lows, full(preset)}, reverse=True) if small else []


def enlarged(preset: Preset, pixels: int) -> Degradation:
    """What the teacher is fed of small images."""
    return Degradation(pixels, upsample=pixels < full(preset))


def _fed(preset: Preset, run: Run) -> dict[int, Look]:
    """The teacher fed every resolution of students."""
    lows = sorted(sizes_of(preset).lows, reverse=True)
    return {r: Look("retrieval", run.config.data, enlarged(preset, r)) for r in lows}


def _raw(preset: Preset, run: Run) -> dict[int, Look]:
    """Pixels without a network."""
    return {r: Look("pixels", run.config.data, Degradation(r)) for r in pixel_sizes(preset)}


def _across(run: Run) -> Look:
    """A student's queries in its teacher's index."""
    return Look("across", run.config.data, run.config.degradation)


def look_at_all(results: Results) -> None:
    """Ask every network all that the page needs, in one go."""
    preset = results.preset
    for name in tqdm(list(results), "networks", leave=False, disable=None):
        for run in results.runs(name):
            if results.is_teacher(name):
                results.ask(run, [*_fed(preset, run).values(), *_raw(preset, run).values()])
            elif run.config.frozen is not None:
                results.ask(run, [_across(run)])


@dataclass(frozen=True)
class Tested:
    """A network and resolution with what it retrieves: a row of the tables.

    Attributes:
        label: for tables and legends.
        arm: whose runs these are.
        pixels: what it sees.
        runs: one per seed.
        results: of retrieval, one per run.
        macs: of one image.
        parameters: of the network.
        line: how figures draw it ("teacher", "student", "direct", "alone", "raw"); empty if they do
            not.
        what: what the arm is, in a line.
    """

    label: str
    arm: str
    pixels: int
    runs: Sequence[Run]
    results: Sequence[Mapping]
    macs: int
    parameters: int
    line: str = ""
    what: str = field(default="", repr=False)

    def rates(self, k: str = "1") -> list[float]:
        """Recall@k in percent, one per seed."""
        return [found["recall"][k] for found in self.results]

    def mean(self, name: str) -> float:
        """Mean over seeds of `map_at_r`, `r_precision` or `nmi`, in percent."""
        return float(np.mean([found[name] for found in self.results]))


def tested(results: Results) -> list[Tested]:
    """Every arm by itself, the teacher fed every resolution of students, and pixels alone."""
    rows = []
    for name in results:
        runs, arm = results.runs(name), results.arms[name]
        config, pixels = runs[0].config, runs[0].config.degradation.size
        cost = macs_of(ModelSpec(config.model, 0, config.embedding), pixels)
        parameters = runs[0].record["cost"]["parameters"]
        tests = [run.record["results"]["test"] for run in runs]
        line = _line(name, pixels)
        rows.append(
            Tested(results.label(name), name, pixels, runs, tests, cost, parameters, line, arm.what)
        )
        if results.is_teacher(name):
            rows += _of_teacher(results, rows[-1])
    return rows


def _of_teacher(results: Results, own: Tested) -> list[Tested]:
    """The teacher fed small images, and what pixels do without it."""
    preset, run, rows = results.preset, own.runs[0], []
    for r, look in _fed(preset, run).items():
        seen, label = results.look(run, look), f"teacher fed {r} px, enlarged"
        if seen is not None:
            rows.append(Tested(label, own.arm, r, own.runs, [seen], own.macs, own.parameters,
                               "teacher", own.what))  # fmt: skip
    for r, look in _raw(preset, run).items():
        seen, what = results.look(run, look), "no network: the images as vectors"
        if seen is not None:
            label = f"raw pixels, {r} px"
            rows.append(Tested(label, own.arm, r, own.runs, [seen], 0, 0, "raw", what))
    return rows


def _line(arm: str, pixels: int) -> str:
    """The line of the figure that an arm belongs to."""
    student = f"{METRIC}student {pixels}"
    return {
        TEACHER: "teacher", student: "student", f"{student} direct": "direct",
        f"{student} alone": "alone",
    }.get(arm, "")  # fmt: skip


def retrieval_table(results: Results) -> pd.DataFrame:
    """One row per network and resolution: recall at 1, 2, 4, 8, MAP@R, R-precision, NMI, cost."""
    return pd.DataFrame([
        {
            "network": row.label,
            "px": str(row.pixels),
            "Recall@1 %": mean_and_spread(row.rates()),
            **{f"Recall@{k} %": f"{np.mean(row.rates(k)):.2f}" for k in KS[1:]},
            "MAP@R %": f"{row.mean('map_at_r'):.2f}",
            "R-precision %": f"{row.mean('r_precision'):.2f}",
            "NMI %": f"{row.mean('nmi'):.2f}",
            "seeds": str(len(row.results)),
            "parameters (M)": f"{row.parameters / 1e6:.2f}",
            "MACs (M)": f"{row.macs / 1e6:.1f}",
        }
        for row in tested(results)
    ])  # fmt: skip


@dataclass(frozen=True)
class Across:
    """Recall@1 (%) of an arm by itself and in the teacher's index, one value per seed."""

    label: str
    arm: str
    pixels: int
    seeds: list[int]
    alone: list[float]
    aligned: list[float]
    as_is: list[float] | None


def across_rows(results: Results) -> list[Across]:
    """Every distilled arm whose queries in the teacher's index are known."""
    rows = []
    for name in results:
        runs = results.runs(name)
        if runs[0].config.frozen is None:
            continue
        seen = [results.look(run, _across(run)) for run in runs]
        if None in seen:
            continue
        rows.append(Across(
            results.label(name),
            name,
            runs[0].config.degradation.size,
            [run.config.seed for run in runs],
            results.values(name),
            [s["aligned"]["recall"]["1"] for s in seen],
            None if seen[0]["as_is"] is None else [s["as_is"]["recall"]["1"] for s in seen],
        ))  # fmt: skip
    return rows


def across_table(results: Results) -> pd.DataFrame:
    """Symmetric and asymmetric retrieval side by side, Recall@1; empty where none is known."""
    return pd.DataFrame([
        {
            "network": row.label,
            "px": str(row.pixels),
            "its own index %": mean_and_spread(row.alone),
            "teacher's index, as it is %": (
                "–" if row.as_is is None else mean_and_spread(row.as_is)
            ),
            "teacher's index, aligned %": mean_and_spread(row.aligned),
            "seeds": str(len(row.alone)),
        }
        for row in across_rows(results)
    ])  # fmt: skip


def published(results: Results) -> pd.DataFrame:
    """Table 4 as printed, and beside each row the arm that stands for it here."""
    by_row = {arm.row: name for name, arm in results.arms.items() if arm.row}
    ours = f"here: {plain_name(sizes_of(results.preset).data)} %"
    rows = []
    for row in paper.TABLE_4:
        name = by_row.get(row.model)
        found, values = results.runs(name), results.values(name)
        rows.append({
            "model": row.model,
            "px": str(row.resolution),
            **{title: "–" if value is None else f"{value:.2f}" for title, value in (
                ("Cars196 %", row.cars), ("CUB-200-2011 %", row.cub), ("SOP %", row.sop))},
            "arm here": "–" if name is None else results.label(name),
            "network": found[0].config.model if found else "–",
            "px here": str(found[0].config.degradation.size) if found else "–",
            ours: mean_and_spread(values) if found else "not run" if name else "no such arm",
            "n": str(len(found)) if found else "–",
        })  # fmt: skip
    return pd.DataFrame(rows)
