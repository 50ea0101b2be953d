"""Time: what the missing runs of a preset will take, and doing as many as fit.

Work is counted in multiply-accumulates of training: three per learner's (forward, and twice that
for both gradients), one per frozen model's. How many a second this machine does is learnt from the
records of its finished runs, or else from a few steps of each network.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from horkd import paths, runs, storage
from horkd.baselines import ON_MAPS
from horkd.data import CLASSES, full_size, training_images
from horkd.errors import HorkdError
from horkd.models import ModelSpec, Network, macs_of
from horkd.runs import Run, RunConfig
from horkd.studies import Job
from horkd.train import Diverged, Settings, describe_machine


def _image_macs(model: str, classes: int, size: int) -> int:
    return macs_of(ModelSpec(model, classes), size)


def _side(config: RunConfig) -> int:
    """Pixels that a network computes on."""
    return full_size(config.data) if config.degradation.upsample else config.degradation.size


def _images(config: RunConfig) -> int:
    """How many images a run is shown in all."""
    recipe = config.recipe
    if recipe.batches:
        return recipe.batches * recipe.batch_size * recipe.epochs
    return training_images(config.data, config.per_class, config.validation) * recipe.epochs


def learner_macs(config: RunConfig) -> float:
    """Multiply-accumulates of training the learner, without its frozen model."""
    one = _image_macs(config.model, CLASSES.get(config.data, 0), _side(config))
    return 3.0 * one * _images(config)


def frozen_macs(config: RunConfig) -> float:
    """Multiply-accumulates of the frozen model over a run; 0 without distillation."""
    if config.frozen is None or not (config.orders or config.baselines):
        return 0.0
    one = _image_macs(config.frozen.model, CLASSES.get(config.data, 0), _side(config.frozen))
    return one * _images(config)


#: How often a worker looks again at what others are doing.
POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains.

    Attributes:
        rates: (network, pixels) -> training multiply-accumulates a second.
        source: where that is known from, for a sentence.
    """

    rates: dict[tuple[str, int], float]
    source: str

    def seconds(self, config: RunConfig) -> float:
        """Estimate for one run from its first epoch, its frozen model already trained."""
        side = _side(config)
        rate = self.rates.get((config.model, side)) or statistics.median(self.rates.values())
        return _all_macs(config) / rate


def pace(configs: Sequence[RunConfig], settings: Settings) -> Pace:
    """From finished runs on this kind of machine; from a few training steps where there are none.

    Args:
        configs: what is to be estimated; only their networks are timed.
        settings: the device.
    """
    settings = settings.resolve(Network(ModelSpec("resnet8x0.25", 2)), 8)
    name = describe_machine(settings.device)["name"]
    found: dict[tuple[str, int], list[float]] = {}
    for config, seconds in _finished(name):
        kind = (config.model, _side(config))
        found.setdefault(kind, []).append(_all_macs(config) / seconds)
    if found:
        return Pace({k: statistics.median(v) for k, v in found.items()}, "finished runs")
    kinds = {(c.model, _side(c), c.recipe.batch_size, c.data) for c in configs}
    rates = {
        (model, side): _time_training(model, side, batch, CLASSES.get(data, 0), settings)
        for model, side, batch, data in kinds
    }
    return Pace(rates or {("", 0): 1e9}, "a few steps of each network")


def _finished(machine: str) -> Iterator[tuple[RunConfig, float]]:
    """Runs of this kind of machine with their seconds, if those hold all of the work.

    Records that are damaged or of another version are skipped.
    """
    for path in sorted(paths.runs_dir().glob("*/record.json")):
        try:
            record = storage.load_json(path)
            seconds = record["seconds"]
            given = record["config"].get("weights")  # trained elsewhere
            read = seconds.get("frozen_answers_read")
            if record["machine"]["name"] != machine or read or given:
                continue
            whole = seconds["total"] + seconds.get("around_epochs", 0.0)
            if whole > 0:
                yield runs.config_from_dict(record["config"]), whole
        except (HorkdError, KeyError, TypeError, AttributeError):
            continue


def _time_training(model: str, side: int, batch: int, classes: int, settings: Settings) -> float:
    if not settings.on_cuda:  # a CPU gains nothing by more
        batch = min(batch, 16 if side <= 64 else 2)
    network = settings.place(Network(ModelSpec(model, classes)).train())
    x = torch.randn(batch, 3, side, side, device=settings.device)
    x = x.contiguous(memory_format=settings.memory_format)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with settings.autocast():
            out = network(x)
            loss = (out.logits if classes else out.features).float().square().mean()
        loss.backward()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 3.0 * _image_macs(model, classes, side) * batch / min(seconds)


def missing(jobs: Iterable[Job]) -> list[Job]:
    """Jobs that are neither finished nor known to diverge, they or what they learn from."""
    return [
        job
        for job in jobs
        if runs.read(job.config) is None and not any(map(runs.diverged, _chain(job.config)))
    ]


def estimates(jobs: Iterable[Job], pace: Pace, cached: bool) -> dict[str, float]:
    """Seconds of each missing run by key, with those of the models that have to be trained first.

    Args:
        jobs: the missing ones, in the order in which they will be done.
        pace: of this machine.
        cached: whether the frozen model's answers are kept, so that only the first run of a frozen
            model, seed and batch size waits for them.
    """
    seconds: dict[str, float] = {}
    answered: set[tuple] = set()
    for job in jobs:
        for config in reversed(_chain(job.config)):
            if config.key in seconds or (config is not job.config and runs.read(config)):
                continue
            seconds[config.key] = pace.seconds(config)
            if not frozen_macs(config) or any(n in ON_MAPS for n, _ in config.baselines):
                continue
            crops = (config.frozen.key, config.seed, config.recipe.batch_size)
            if cached and crops in answered:
                seconds[config.key] *= learner_macs(config) / _all_macs(config)
            answered.add(crops)
    return seconds


def _chain(config: RunConfig) -> list[RunConfig]:
    """A configuration and all that it is distilled from, directly and indirectly."""
    return [config] if config.frozen is None else [config, *_chain(config.frozen)]


def _all_macs(config: RunConfig) -> float:
    return learner_macs(config) + frozen_macs(config)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _headline(test: dict) -> str:
    """The first number of a test, with its name."""
    if "recall1" in test:
        return f"Recall@1 {test['recall1']:.2f}"
    if "recall" in test:
        return f"Recall@1 {test['recall']['1']:.2f}"
    return f"top-1 {test['top1']:.2f}" if "top1" in test else f"verification {test['accuracy']:.2f}"


@dataclass(frozen=True)
class Shift:
    """What `work` did.

    Attributes:
        done: finished runs.
        diverged: names of runs whose loss was no longer finite.
        left: how many jobs are still missing.
    """

    done: list[Run]
    diverged: list[str]
    left: int


def work(
    jobs: Sequence[Job],
    minutes: float | None = None,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
) -> Shift:
    """Do the missing jobs in order until the time is up; a run in progress keeps its epochs.

    Jobs that another process is at work on are left to it, so several workers share a queue; a
    worker with nothing else to do waits for them. A run that needs a model which is not trained yet
    trains it first.

    Args:
        jobs: as from `horkd.studies.queue`.
        minutes: how long; None until all is done.
        settings: how the machine should do it.
        say: gets a line for each run.

    Raises:
        HorkdError: if the minutes are not positive, data are missing, the disk refuses, and so on.
    """
    if minutes is not None and not minutes > 0:
        raise HorkdError(f"minutes must be positive, got {minutes:g}")
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    done, diverged, waiting = [], [], missing(jobs)
    busy: set[str] = set()
    while waiting:
        if deadline is not None and time.monotonic() >= deadline:
            say(f"time is up; {len(waiting)} runs to go")
            break
        job = next((job for job in waiting if job.config.key not in busy), None)
        if job is None:  # others are at work on all that is left, or on what it learns from
            time.sleep(POLL_SECONDS)
            busy.clear()
            waiting = missing(waiting)
            continue
        label = f"{job.arm}, seed {job.config.seed}"
        try:
            finished = runs.run(job.config, settings, deadline=deadline, wait=False)
        except runs.TimeUp as up:
            say(f"{up}; {len(waiting)} runs to go")
            break
        except runs.Busy:
            busy.add(job.config.key)
            continue
        except Diverged as error:
            diverged.append(job.config.name)
            say(f"{label}: {error}")
            waiting = missing(waiting)
            continue
        busy.clear()
        waiting.remove(job)
        done.append(finished)
        split, result = next(
            (split, found)
            for split, found in finished.record["results"].items()
            if split in ("test", "validation")
        )
        seconds = finished.record["seconds"]["total"]
        say(f"{label}: {split} {_headline(result)} %, {seconds:.0f} s  {job.config.name}")
    return Shift(done, diverged, len(missing(jobs)))
