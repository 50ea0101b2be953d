"""What the runs of the study of metric learning say: Table 4, Fig. 3, claims, page.

Functions of finished runs and of a `findings.Source`, as in `horkd.studies.classification.tables`. All numbers are of
test classes that no network was trained on here (of a teacher trained elsewhere nobody knows);
every image is query and, for the others, gallery.
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
from horkd.studies.presets import Preset
from horkd.studies.results import Arms, Source, gather
from horkd.studies.retrieval.arms import METRIC
from horkd.studies.retrieval.presets import RetrievalPreset
from horkd.studies.study import study

KS = ("1", "2", "4", "8")


TEACHER, ASSISTANT = f"{METRIC}teacher", f"{METRIC}assistant"


def sizes_of(preset: Preset) -> RetrievalPreset:
    """The sizes of this study.

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


def metric_arms(preset: Preset, source: Source) -> dict[str, list[Run]]:
    """The finished runs of the study.

    Raises:
        HorkdError: if there are none.
    """
    sizes_of(preset)
    return gather(preset, ("metric",), source)


def short(name: str) -> str:
    """An arm's name without what all of them begin with."""
    return name.removeprefix(METRIC)


def enlarged(preset: Preset, pixels: int) -> Degradation:
    """What the teacher is fed of small images."""
    return Degradation(pixels, upsample=pixels < full(preset))


def across(run: Run) -> Look:
    """A student's queries in its teacher's index."""
    return Look("across", run.config.data, run.config.degradation)


def look_at_all(preset: Preset, arms: Arms, source: Source) -> None:
    """Ask every network all that the page needs, in one go."""
    for name, found in tqdm(arms.items(), "networks", leave=False, disable=None):
        for run in found:
            if name == TEACHER:
                lows = sizes_of(preset).lows
                asked = [_fed(run, enlarged(preset, r)) for r in lows]
                source.looks(run, asked + [_pixels(run, r) for r in _pixel_sizes(preset)])
            elif run.config.frozen is not None:
                source.looks(run, [across(run)])


def _fed(run: Run, view: Degradation) -> Look:
    return Look("retrieval", run.config.data, view)


def _pixels(run: Run, r: int) -> Look:
    return Look("pixels", run.config.data, Degradation(r))


def _pixel_sizes(preset: Preset) -> list[int]:
    """Where pixels themselves are compared with: only images that fit into memory have that row."""
    sizes = sizes_of(preset)
    small = not of_photos(sizes.data)
    return sorted({*sizes.lows, full(preset)}, reverse=True) if small else []


@dataclass(frozen=True)
class Tested:
    """A network and view with what it retrieves: a row of the tables.

    Attributes:
        label: for tables and legends.
        arm: whose runs these are.
        pixels: what it sees.
        runs: one per seed.
        results: of `protocols.retrieval.retrieve`, one per run.
        macs: of one image.
        parameters: of the network.
        what: what the arm is, in a line.
    """

    label: str
    arm: str
    pixels: int
    runs: Sequence[Run]
    results: Sequence[Mapping]
    macs: int
    parameters: int
    what: str = field(default="", repr=False)

    def rates(self, k: str = "1") -> list[float]:
        """Recall@k in percent, one per seed."""
        return [found["recall"][k] for found in self.results]

    def mean(self, name: str) -> float:
        """Mean over seeds of `map_at_r`, `r_precision` or `nmi`, in percent."""
        return float(np.mean([found[name] for found in self.results]))


def tested(preset: Preset, arms: Arms, source: Source) -> list[Tested]:
    """Every arm by itself, the teacher fed every resolution of students, and pixels alone."""
    kinds, rows = study(preset, "metric"), []
    for name, found in arms.items():
        config = found[0].config
        results = [run.record["results"]["test"] for run in found]
        spec = ModelSpec(config.model, 0, config.embedding)
        pixels = config.degradation.size
        cost = macs_of(spec, pixels)
        what = kinds[name].what
        parameters = found[0].record["cost"]["parameters"]
        rows.append(Tested(short(name), name, pixels, found, results, cost, parameters, what))
        if name == TEACHER:
            for r in sorted(sizes_of(preset).lows, reverse=True):
                seen = source.looks(found[0], [_fed(found[0], enlarged(preset, r))])[0]
                if seen is not None:
                    label = f"teacher fed {r} px, enlarged"
                    rows.append(Tested(label, name, r, found, [seen], cost, parameters, what))
            for r in _pixel_sizes(preset):
                seen = source.looks(found[0], [_pixels(found[0], r)])[0]
                if seen is not None:
                    label, what = f"raw pixels, {r} px", "no network: the images as vectors"
                    rows.append(Tested(label, name, r, found, [seen], 0, 0, what))
    return rows


def retrieval_table(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """One row per network and view: recall at 1, 2, 4, 8, MAP@R, R-precision, NMI, cost."""
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
        for row in tested(preset, arms, source)
    ])  # fmt: skip


@dataclass(frozen=True)
class Across:
    """Recall@1 (%) of an arm by itself and in the teacher's index, one value per seed."""

    arm: str
    pixels: int
    seeds: list[int]
    alone: list[float]
    aligned: list[float]
    as_is: list[float] | None


def across_rows(preset: Preset, arms: Arms, source: Source) -> list[Across]:
    """Every distilled arm whose queries in the teacher's index are known."""
    rows = []
    for name, found in arms.items():
        if found[0].config.frozen is None:
            continue
        seen = [source.looks(run, [across(run)])[0] for run in found]
        if None in seen:
            continue
        rows.append(Across(
            name,
            found[0].config.degradation.size,
            [run.config.seed for run in found],
            [run.record["results"]["test"]["recall"]["1"] for run in found],
            [s["aligned"]["recall"]["1"] for s in seen],
            None if seen[0]["as_is"] is None else [s["as_is"]["recall"]["1"] for s in seen],
        ))  # fmt: skip
    return rows


def across_table(preset: Preset, arms: Arms, source: Source) -> pd.DataFrame:
    """Symmetric and asymmetric retrieval side by side, Recall@1; empty where none is known."""
    return pd.DataFrame([
        {
            "network": short(row.arm),
            "px": str(row.pixels),
            "its own index %": mean_and_spread(row.alone),
            "teacher's index, as it is %": (
                "–" if row.as_is is None else mean_and_spread(row.as_is)
            ),
            "teacher's index, aligned %": mean_and_spread(row.aligned),
            "seeds": str(len(row.alone)),
        }
        for row in across_rows(preset, arms, source)
    ])  # fmt: skip


def published(preset: Preset, arms: Arms) -> pd.DataFrame:
    """Table 4 as printed, and beside each row the arm that stands for it here."""
    by_row = {arm.row: name for name, arm in study(preset, "metric").items() if arm.row}
    sizes = sizes_of(preset)
    ours = f"here: {plain_name(sizes.data)} %"
    rows = []
    for row in paper.TABLE_4:
        name = by_row.get(row.model)
        found = arms.get(name, ())
        values = [run.record["results"]["test"]["recall"]["1"] for run in found]
        rows.append({
            "model": row.model,
            "px": str(row.resolution),
            **{title: "–" if value is None else f"{value:.2f}" for title, value in (
                ("Cars196 %", row.cars), ("CUB-200-2011 %", row.cub), ("SOP %", row.sop))},
            "arm here": "–" if name is None else short(name),
            "network": found[0].config.model if found else "–",
            "px here": str(found[0].config.degradation.size) if found else "–",
            ours: mean_and_spread(values) if found else "not run" if name else "no such arm",
            "n": str(len(found)) if found else "–",
        })  # fmt: skip
    return pd.DataFrame(rows)
