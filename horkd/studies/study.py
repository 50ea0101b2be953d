"""Which runs a question is made of. An arm is data; a study is a list of arms; a preset sizes both.

| study | asks | notebook |
|---|---|---|
| two_stage | does each stage of the transfer help? | 02 |
| table1 | Table 1: is it better than other distillation, and than none? | 03 |
| orders | Fig. 4: which orders? All subsets of {1, 2, 3, C} at two resolutions | 04 |
| weights | which weights? On the validation split | 04 |
| campaign | the central comparison of Table 1, in order of worth, for `paper-short` | |
| long | the same with 100 epochs: a head start, or a lasting gain? | |
| nested | two more assistants, each with its students | |
| recipe | which learning rate, weight decay, batch, warm-up? Trials | |
| losses | which weights, of every method alike? Trials | |

Trials (`RunConfig.trial`) are read on the validation split and never look at the test images.
Trials, long and nested are run when they are asked for by name.
| plus | what could be added to the paper's form? | 03 |
| resolutions | from which resolution on does a high-resolution teacher help? | 05 |
| faces | Tables 2 and 3: how small can a face be? | 06 |
| metric | Table 4, Fig. 3: does a student keep its teacher's neighbourhoods? | 07 |

Arms of one seed share initial weights, order of images and augmentation, so that they can be
compared in pairs. Every model that is distilled from is trained once, with seed 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from horkd.data.faces import SIZE, parse
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.lab.runner import run
from horkd.lab.store import Run, read
from horkd.machine import Settings
from horkd.studies.arm import FULL, Arm
from horkd.studies.classification.arms import (
    _CONTROLS,
    _EMBEDDED_FACES,
    _PLUS,
    _SECOND,
    _TWO_STAGE,
    _campaign_arms,
    _full_methods,
    _long_arms,
    _low_methods,
    _nested_arms,
    _order_arms,
    _resolution_arms,
    _weight_arms,
)
from horkd.studies.classification.trials import _OF_RECIPE, _loss_arms, _recipe_arms
from horkd.studies.faces.arms import _face_arms
from horkd.studies.presets import Preset
from horkd.studies.retrieval.arms import METRIC, _metric_arms
from horkd.training import Diverged

#: Studies in order of worth.
STUDIES = ("two_stage", "table1", "orders", "resolutions", "faces", "metric", "plus", "weights")


#: Run when they are asked for by name.
TRIALS = ("recipe", "losses")


#: So are these.
ON_REQUEST = ("long", "nested")


def study(preset: Preset, name: str) -> dict[str, Arm]:
    """The arms of a study by name, the most worth first; without those the preset leaves out.

    Raises:
        HorkdError: if there is no such study.
    """
    known = ("campaign", *STUDIES, *ON_REQUEST, *TRIALS)
    if name not in known:
        raise HorkdError(f"unknown study {name!r}: choose from {', '.join(known)}")
    if preset.faces:
        arms = _face_arms(preset) if name == "faces" else ()
        return {arm.name: arm for arm in arms if not _omitted(preset, arm)}
    if name == "metric" or preset.only_metric:
        arms = _metric_arms(preset) if preset.metric and name == "metric" else ()
        return {arm.name: arm for arm in arms if not _omitted(preset, arm)}
    arms = {
        "two_stage": lambda: _TWO_STAGE,
        "table1": lambda: (*_TWO_STAGE, *_low_methods(), *_CONTROLS, *_SECOND, *_full_methods()),
        "orders": lambda: _order_arms(preset),
        "resolutions": lambda: _resolution_arms(preset),
        "faces": lambda: _EMBEDDED_FACES if preset.data == "glyphs" else (),
        "plus": lambda: _PLUS,
        # without a validation split there is nothing to choose weights on
        "weights": lambda: _weight_arms() if preset.validation else (),
        "campaign": lambda: _campaign_arms(preset),
        "long": lambda: _long_arms(preset),
        "nested": lambda: _nested_arms(preset),
        "recipe": lambda: _recipe_arms(preset),
        "losses": lambda: _loss_arms(preset),
    }[name]()
    return {arm.name: arm for arm in arms if not _omitted(preset, arm)}


def _omitted(preset: Preset, arm: Arm) -> bool:
    return any(fnmatchcase(arm.name, pattern) for pattern in preset.omit)


def configure(preset: Preset, arm: Arm, seed: int = 0) -> RunConfig:
    """The run of an arm at a preset's size.

    Args:
        preset: sizes and recipe.
        arm: one of `study`.
        seed: of this run; what it is distilled from has seed 0.
    """
    if preset.faces:
        return _configure_faces(preset, arm, seed)
    if arm.name.startswith(METRIC):
        return _configure_metric(preset, arm, seed)
    frozen = None if arm.frozen is None else _frozen(preset, arm.frozen)
    teacher = arm.network == "teacher"
    recipe = preset.teacher_recipe if teacher else preset.recipe
    fields = dict(arm.fields)
    factor = preset.patience if arm.epochs == "patience" else arm.epochs
    if arm.epochs == "compute":  # an epoch costs by the pixels of its images
        factor = 1 + (FULL / preset.low) ** 2
    changes = {name: fields.pop(name) for name in _OF_RECIPE if name in fields}
    recipe = replace(recipe, **{"epochs": round(recipe.epochs * factor), **changes})
    weights = {"1": 1.0, **dict(preset.orders)}  # Eq. 8 gives order 1 no weight of its own
    if arm.name == "assistant" and preset.assistant_orders:
        weights |= dict(preset.assistant_orders)
    orders = tuple((order, weights[order] * arm.scale.get(order, 1.0)) for order in arm.orders)
    if "answers" in fields:
        fields |= _answers(preset, fields.pop("answers"))
    if orders and preset.balance:
        fields.setdefault("balance", True)
    return RunConfig(
        getattr(preset, arm.network),
        Degradation(preset.low if arm.pixels is None else arm.pixels, arm.kernel),
        frozen,
        **{"orders": orders, **fields},
        data=preset.data,
        per_class=preset.per_class,
        validation=preset.validation or fields.get("trial", False),
        recipe=recipe,
        seed=seed,
    )


def _configure_faces(preset: Preset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm of the study of faces."""
    sizes = preset.faces
    base, size = parse(preset.data)
    at = "" if size == SIZE else f"@{size}"
    if arm.name == "teacher":
        return RunConfig(
            preset.teacher, Degradation(size), data=f"lfw{at}", validation=False,
            weights=sizes.weights or "none", mean=sizes.mean, std=sizes.std,
        )  # fmt: skip
    frozen = None
    if arm.frozen is not None:
        chain = {a.name: a for a in _face_arms(preset)}
        frozen = configure(preset, replace(chain[arm.frozen], fold=arm.fold))
    model, embedding, recipe = preset.compact, sizes.embedding, preset.recipe
    extra: dict[str, Any] = {}
    if arm.network == "teacher":  # tuned
        model, embedding, recipe = preset.teacher, None, sizes.tuned
        extra = {"mean": sizes.mean, "std": sizes.std}
    elif arm.network == "scratch":
        model, embedding = preset.teacher, None
        extra = {"mean": sizes.mean, "std": sizes.std}
    elif arm.network == "slim":
        model, embedding = sizes.slim, sizes.slim_embedding
    weights = dict(sizes.orders)
    held = f"-{arm.fold or sizes.folds[0]}" if sizes.folds else ""
    return RunConfig(
        model,
        Degradation(arm.pixels, arm.kernel, upsample=arm.network == "teacher"),
        frozen,
        orders=tuple((order, weights[order]) for order in arm.orders),
        data=f"{base}{held}{at}",
        validation=False,
        recipe=recipe,
        seed=seed,
        embedding=embedding,
        **{**arm.fields, **extra},
    )


def _configure_metric(preset: Preset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm of the study of metric learning."""
    sizes = preset.metric
    held = sizes.select == "validation"
    if arm.network == "teacher" and sizes.weights:
        return RunConfig(
            sizes.teacher, Degradation(arm.pixels), data=sizes.data, validation=held,
            weights=sizes.weights, mean=sizes.mean, std=sizes.std, normalized=True,
            embedding=sizes.teacher_embedding,
        )  # fmt: skip
    frozen = None
    if arm.frozen is not None:
        frozen = configure(preset, {a.name: a for a in _metric_arms(preset)}[arm.frozen])
    weights = dict(sizes.orders)
    relations = arm.orders or "orders" in arm.fields
    recipe = sizes.recipe if relations else sizes.other_recipe
    return RunConfig(
        getattr(sizes, arm.network),
        Degradation(arm.pixels, arm.kernel),
        frozen,
        **{"orders": tuple((order, weights[order]) for order in arm.orders), **arm.fields},
        data=sizes.data,
        per_class=preset.per_class,
        validation=held,
        recipe=recipe if arm.network == "compact" else sizes.teacher_recipe,
        seed=seed,
        embedding=sizes.embedding,
        backbone=sizes.backbone,
        select=sizes.select,
    )


def _answers(preset: Preset, method: str) -> dict[str, Any]:
    """Fields of a run that learns from softened answers."""
    known = {name: (weight, labels) for name, weight, labels in preset.answers}
    weight, labels = known[method]
    return {"baselines": ((method, weight),), "cross_entropy": labels}


def _frozen(preset: Preset, name: str) -> RunConfig:
    """What an arm is distilled from: a network from a file, or the run of another arm."""
    others = (*_loss_arms(preset), *_nested_arms(preset))
    arm = {a.name: a for a in (*_TWO_STAGE, *_SECOND, *others)}[name]
    digest = dict(preset.given).get(name)
    if digest is None:
        return configure(preset, arm, arm.seed)
    return RunConfig(
        getattr(preset, arm.network), Degradation(preset.low if arm.pixels is None else arm.pixels),
        data=preset.data, validation=preset.validation, weights=digest, classifier=True,
    )  # fmt: skip


def usual_exports(preset: Preset) -> list[str]:
    """The arms whose networks are worth handing on."""
    if preset.faces:
        return [f"student {r}" for r in preset.faces.lows]
    if preset.only_metric:
        return [f"{METRIC}student {r}" for r in preset.metric.lows]
    return ["teacher", "assistant", "student"]


@dataclass(frozen=True)
class Job:
    """A run that a study asks for."""

    study: str
    arm: str
    config: RunConfig


def queue(preset: Preset, *studies: str) -> list[Job]:
    """All runs of some studies, the most worth first, each configuration once.

    Within a study every arm comes once before any is repeated, and a control of what is trained
    once comes last.

    Args:
        preset: sizes; its `seeds` says how often arms are repeated.
        studies: names from `STUDIES`; all by default, `campaign` first where there is one.
    """
    jobs: dict[str, Job] = {}
    for name in studies or _usual(preset):
        arms = study(preset, name)
        for repeat in range(preset.seeds):
            for arm in arms.values():
                if repeat < len(own := seeds(preset, arm)):
                    seed = own[repeat]
                    config = configure(preset, arm, seed)
                    jobs.setdefault(config.key, Job(name, arm.name, config))
    given = dict(preset.given)
    return sorted(jobs.values(), key=lambda job: job.arm in given)  # nobody waits for those


def waiting(preset: Preset, job: Job) -> bool:
    """Whether a run has to wait for the file of what it learns from.

    In a campaign everybody distils from the same files, which come with the report, and with
    weights that were chosen before.
    """
    frozen = job.config.frozen
    return preset.campaign and frozen is not None and not frozen.weights and not frozen.trial


#: What others are distilled from.
FROZEN = (
    *("teacher", "assistant", "assistant V", "small teacher", "scratch teacher"),
    *(f"{METRIC}teacher", f"{METRIC}assistant"),
)


def seeds(preset: Preset, arm: Arm) -> range:
    """The seeds of an arm; what others are distilled from is trained once."""
    frozen = arm.name in FROZEN
    repeated = arm.repeated or (preset.repeat_all and not frozen)
    return range(arm.seed, arm.seed + (preset.seeds if repeated else 1))


def _usual(preset: Preset) -> tuple[str, ...]:
    """All studies but trials, in order of worth."""
    return ("campaign", *STUDIES) if preset.campaign else STUDIES


Find = Callable[[RunConfig], Run | None]


def trainer(preset: Preset, settings: Settings | None = None, train_missing: bool = True) -> Find:
    """How `collect` gets a run: read or, if wanted, trained; None if it diverged.

    Args:
        preset: whose precision is that of runs which are trained.
        settings: how the machine should do it.
        train_missing: False only reads.
    """

    def find(config: RunConfig) -> Run | None:
        if not train_missing:
            return read(config)
        try:
            return run(config, preset.settings(settings or Settings()))
        except Diverged:
            return None

    return find


def collect(
    preset: Preset, name: str, find: Find | None = None, only: Sequence[str] = ()
) -> dict[str, list[Run]]:
    """The finished runs of a study by arm, in the study's order, seeds in order.

    A run that diverged is left out; `horkd.lab.store.diverged` knows of it.

    Args:
        preset: sizes.
        name: one of `STUDIES`.
        find: how to get a run, None where it is not to be had; `trainer(preset)` by default.
        only: names of arms; all by default.

    Raises:
        HorkdError: if nothing is there and nothing may be trained.
    """
    arms = finished(preset, name, find or trainer(preset), only)
    if not arms:
        _require_arms(preset, name)
        raise HorkdError(
            f"no run of study {name} is finished: train them first (horkd work --preset "
            f"{preset.name} --data {preset.data} --study {name})"
        )
    return arms


def finished(
    preset: Preset, name: str, find: Find, only: Sequence[str] = ()
) -> dict[str, list[Run]]:
    """`collect`, but for an empty answer where nothing is there."""
    arms: dict[str, list[Run]] = {}
    for arm in study(preset, name).values():
        if only and arm.name not in only:
            continue
        for seed in seeds(preset, arm):
            found = find(configure(preset, arm, seed))
            if found is not None:
                arms.setdefault(arm.name, []).append(found)
    return arms


def _require_arms(preset: Preset, name: str) -> None:
    if not study(preset, name):
        raise HorkdError(f"study {name} has no arm in preset {preset.name}: it is too small for it")


def choose(preset: Preset, studies: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Job]:
    """Jobs of some studies and some arms; all of them for empty ones.

    Raises:
        HorkdError: on a study or an arm that does not exist in this preset.
    """
    for name in studies:
        _require_arms(preset, name)
    jobs = queue(preset, *studies)
    known = {arm for name in studies or _usual(preset) for arm in study(preset, name)}
    for arm in arms:
        if arm not in known:
            raise HorkdError(f"unknown arm {arm!r}: choose from {', '.join(sorted(known))}")
    keys = {
        configure(preset, arm, seed).key
        for name in studies or _usual(preset)
        for arm in study(preset, name).values()
        if arm.name in arms
        for seed in seeds(preset, arm)
    }
    return [job for job in jobs if not arms or job.config.key in keys]
