"""Time: what the missing runs of a preset will take, and doing as many as fit.

Work is counted in multiply-accumulates: three per weight and place for training (forward, and twice
that for both gradients), one for looking. How many a second this machine does of a network is
learnt from the records of its finished runs of equal precision and threads, or else from a few
steps of each network, as it will be trained.
"""

import multiprocessing
import os
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from horkd import paths, remembered, runs, storage
from horkd.baselines import ON_MAPS
from horkd.data import CLASSES, full_size, training_images
from horkd.errors import HorkdError
from horkd.models import ModelSpec, Network, macs_of
from horkd.runs import Control, Run, RunConfig
from horkd.studies import Job
from horkd.train import Diverged, Interruption, Settings, describe_machine


def _image_macs(model: str, classes: int, size: int) -> int:
    return macs_of(ModelSpec(model, classes), size)


def _side(config: RunConfig) -> int:
    """Pixels that a network computes on, in the end."""
    return full_size(config.data) if config.degradation.upsample else config.degradation.size


def _images(config: RunConfig) -> int:
    """How many images a run is shown in an epoch."""
    recipe = config.recipe
    if recipe.batches:
        return recipe.batches * recipe.batch_size
    return training_images(config.data, config.per_class, config.validation)


def _stages(config: RunConfig) -> dict[int, int]:
    """Epochs of training by the pixels that the network computes on."""
    found: dict[int, int] = {}
    for epoch in range(config.recipe.epochs):
        side = config.recipe.pixels(epoch, _side(config))
        found[side] = found.get(side, 0) + 1
    return found


def _stage_macs(config: RunConfig) -> dict[int, float]:
    """Multiply-accumulates of training the learner, by the pixels that it computes on."""
    if config.weights:  # given, not trained
        return {}
    classes = CLASSES.get(config.data, 0)
    return {
        side: 3.0 * _image_macs(config.model, classes, side) * _images(config) * epochs
        for side, epochs in _stages(config).items()
    }


def learner_macs(config: RunConfig) -> float:
    """Multiply-accumulates of training the learner, without its frozen model."""
    return sum(_stage_macs(config).values())


def frozen_macs(config: RunConfig) -> float:
    """Multiply-accumulates of the frozen model over a run; 0 without distillation.

    To fixed views it looks once.
    """
    if config.frozen is None or not (config.orders or config.baselines):
        return 0.0
    one = _image_macs(config.frozen.model, CLASSES.get(config.data, 0), _side(config.frozen))
    views = config.recipe.views if _cacheable(config) else 0
    return one * _images(config) * min(views or config.recipe.epochs, config.recipe.epochs)


def _cacheable(config: RunConfig) -> bool:
    """Whether the frozen model's answers can be kept: maps never are."""
    return not any(name in ON_MAPS for name, _ in config.baselines)


#: How often a worker looks again at what others are doing.
POLL_SECONDS = 5.0
#: A probe takes at least so many steps and seconds, unless that would be longer than `LONGEST`.
PROBE_STEPS, PROBE_SECONDS = 3, 0.4
#: Seconds after which no further step is taken; one step may take half of that.
LONGEST = 8.0
#: From this load per core on, a machine is called busy.
BUSY = 0.5


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains, when it has nothing else to do.

    Attributes:
        rates: (network, pixels) -> multiply-accumulates a second in training.
        source: where that is known from, for a sentence.
        looks: the same of a frozen model's passes; where it is not known, the learner's rate.
        load: processes that wanted a core at the time of asking, per core.
    """

    rates: dict[tuple[str, int], float]
    source: str
    looks: dict[tuple[str, int], float] | None = None
    load: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether others are at work on this machine, so that all will take longer."""
        return self.load > BUSY

    def _rate(self, model: str, side: int) -> float:
        return self.rates.get((model, side)) or statistics.median(self.rates.values())

    def learner_seconds(self, config: RunConfig) -> float:
        """Estimate of training alone."""
        stages = _stage_macs(config).items()
        return sum(macs / self._rate(config.model, side) for side, macs in stages)

    def seconds(self, config: RunConfig) -> float:
        """Estimate for one run from its first epoch, its frozen model already trained."""
        whole = self.learner_seconds(config)
        looked = frozen_macs(config)
        if looked:
            known = (self.looks or {}).get((config.frozen.model, _side(config.frozen)))
            whole += looked / (known or self._rate(config.model, _side(config)))
        return whole


def load() -> float:
    """Processes that want a core of this machine, per core; 0 where that is not known."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0


def pace(configs: Sequence[RunConfig], settings: Settings) -> Pace:
    """From finished runs on this kind of machine; from a few training steps where there are none.

    Args:
        configs: what is to be estimated; only their networks are timed.
        settings: device and precision. Threads are those of this process.
    """
    busy = load()
    resolved = settings.resolve(Network(ModelSpec("resnet8", 2)))  # refuses what is not there
    found: dict[tuple[str, int], list[float]] = {}
    for config, seconds in _finished(resolved):
        kind = (config.model, _side(config))
        found.setdefault(kind, []).append(_all_macs(config) / seconds)
    known = {kind: statistics.median(rates) for kind, rates in found.items()}
    kinds: dict[tuple[str, int], tuple[int, int]] = {}
    looked: dict[tuple[str, int], int] = {}
    for config in configs:
        classes = CLASSES.get(config.data, 0)
        for side in _stages(config):
            kinds.setdefault((config.model, side), (config.recipe.batch_size, classes))
        if frozen_macs(config) and (config.model, _side(config)) not in known:
            looked.setdefault((config.frozen.model, _side(config.frozen)), classes)
    probed = {
        (model, side): _time_training(model, side, batch, classes, settings)
        for (model, side), (batch, classes) in kinds.items()
        if (model, side) not in known
    }
    looks = {
        (model, side): _time_looking(model, side, classes, settings)
        for (model, side), classes in looked.items()
    }
    source = "finished runs" if known else "a few steps of each network"
    if known and probed:
        source = "finished runs and a few steps of the other networks"
    return Pace(known | probed or {("", 0): 1e9}, source, looks, busy)


def _finished(settings: Settings) -> Iterator[tuple[RunConfig, float]]:
    """Runs of this kind of machine, and what they take where nothing else runs, in seconds.

    Only those of equal precision and threads, and not those whose frozen model's answers were
    there already. Records that are damaged or of another version are skipped.
    """
    here = describe_machine(settings.device)
    for path in sorted(paths.runs_dir().glob("*/record.json")):
        try:
            record = storage.load_json(path)
            seconds = record["seconds"]
            given = record["config"].get("weights")  # trained elsewhere
            read = seconds.get("frozen_answers_read")
            alike = record["machine"]["name"] == here["name"] and (
                (record["settings"]["precision"], record["machine"]["threads"])
                == (settings.precision, here["threads"])
            )
            if not alike or read or given or record["config"]["recipe"].get("progressive"):
                continue
            # the fastest epoch: whatever else ran beside the others made them slower
            whole = min(seconds["epochs"]) * len(seconds["epochs"])
            if whole > 0:
                yield runs.config_from_dict(record["config"]), whole
        except (HorkdError, KeyError, TypeError, AttributeError, ValueError):
            continue


def _time_training(model: str, side: int, batch: int, classes: int, settings: Settings) -> float:
    """Multiply-accumulates a second of training steps with batches of that size."""
    network = Network(ModelSpec(model, classes)).train()
    settings = settings.resolve(network)  # the memory format depends on the network
    network = settings.place(network)

    def step(images: torch.Tensor) -> None:
        with settings.autocast():
            out = network(images)
            # of the size of a cross-entropy: gradients too small for float32 would be slow
            loss = (out.logits if classes else out.features).float().logsumexp(1).mean()
        network.zero_grad(set_to_none=True)
        loss.backward()
        loss.item()  # waits for the device

    rate = _time(step, side, batch, settings)
    return 3.0 * _image_macs(model, classes, side) * rate


def _time_looking(model: str, side: int, classes: int, settings: Settings) -> float:
    network = Network(ModelSpec(model, classes)).eval()
    settings = settings.resolve(network)
    network = settings.place(network)

    @torch.no_grad()
    def look(images: torch.Tensor) -> None:
        with settings.autocast():
            network(images).features.sum().item()

    return _image_macs(model, classes, side) * _time(look, side, 128, settings)


def _time(step: Callable[[torch.Tensor], None], side: int, batch: int, settings: Settings) -> float:
    """Images a second: the fastest of a few steps, since whatever disturbs makes them slower."""
    x = torch.randn(batch, 3, side, side, device=settings.device)
    x = x.contiguous(memory_format=settings.memory_format)
    few = max(2, batch // 16)
    seconds = []
    with torch.random.fork_rng(devices=[]):
        step(x[:few])  # the first one also sets up the kernels
        start = time.perf_counter()
        step(x[:few])
        whole = (time.perf_counter() - start) * batch / few
        if whole > LONGEST / 2:
            x = x[: max(few, int(batch * LONGEST / 2 / whole))]
        step(x)
        while True:
            start = time.perf_counter()
            step(x)
            seconds.append(time.perf_counter() - start)
            enough = len(seconds) >= PROBE_STEPS and sum(seconds) > PROBE_SECONDS
            if enough or sum(seconds) > LONGEST:
                return len(x) / min(seconds)


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
            model, seed and batch size waits for them, or with fixed views the first of all.
    """
    seconds: dict[str, float] = {}
    answered: set[tuple] = set()
    for job in jobs:
        for config in reversed(_chain(job.config)):
            if config.key in seconds or (config is not job.config and runs.read(config)):
                continue
            seconds[config.key] = pace.seconds(config)
            if not frozen_macs(config) or not _cacheable(config):
                continue
            recipe = config.recipe
            own = () if recipe.views else (config.seed, recipe.batch_size)
            crops = (config.frozen.key, recipe.views, *own)
            if (cached or recipe.views) and crops in answered:
                seconds[config.key] = pace.learner_seconds(config)
            answered.add(crops)
    return seconds


def answers_bytes(jobs: Iterable[Job], half: bool) -> int:
    """Bytes that the frozen models' answers to fixed views will take on disk.

    Args:
        jobs: the missing ones.
        half: in float16, as those of networks that run in bf16.
    """
    sizes: dict[tuple, int] = {}
    for config in (job.config for job in jobs):
        views = config.recipe.views
        if not (views and frozen_macs(config) and _cacheable(config)):
            continue
        with torch.device("meta"):
            classes = CLASSES.get(config.data, 0) if config.frozen.classifies else 0
            network = Network(ModelSpec(config.frozen.model, classes, config.frozen.embedding))
        one = remembered.view_size(_images(config), network.width + classes, half)
        kind = (config.frozen.key, config.validation, config.recipe.crop)
        sizes[kind] = max(sizes.get(kind, 0), one * min(views, config.recipe.epochs))
    return sum(sizes.values())


def _chain(config: RunConfig) -> list[RunConfig]:
    """A configuration and all that it is distilled from, directly and indirectly."""
    return [config] if config.frozen is None else [config, *_chain(config.frozen)]


def _all_macs(config: RunConfig) -> float:
    return learner_macs(config) + frozen_macs(config)


def headline(test: dict) -> str:
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
    control: Control | None = None,
) -> Shift:
    """Do the missing jobs in order until the time is up; a run in progress keeps its epochs.

    Jobs that another process is at work on are left to it, so several workers share a queue; a
    worker with nothing else to do waits for them. A run that needs a model which is not trained yet
    trains it first. A run that fails is said and left out, unless two fail for the same reason.

    Args:
        jobs: as from `horkd.studies.queue`.
        minutes: how long; None until all is done.
        settings: how the machine should do it.
        say: gets a line for each run, and for each epoch that takes long.
        control: how runs are stopped; its deadline, waiting and lines are set here.

    Raises:
        KeyboardInterrupt: if `control` says to stop.
        HorkdError: if the minutes are not positive, or a run failed: data are missing, the disk
            refuses, and so on.
    """
    _require_positive(minutes)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    control = replace(control or Control(), deadline=deadline, wait=False, say=say)
    done, diverged, waiting = [], [], missing(jobs)
    busy: set[str] = set()
    failed: dict[str, str] = {}
    unsaid: list[str] = []  # the last failure, which may turn out to be everybody's
    while waiting:
        if deadline is not None and time.monotonic() >= deadline:
            say(f"time is up; {len(waiting)} runs to go")
            break
        job = next((job for job in waiting if job.config.key not in busy), None)
        if job is None:  # others are at work on all that is left, or on what it learns from
            if not control.going():
                raise KeyboardInterrupt
            wait(POLL_SECONDS)
            busy.clear()
            waiting = missing(waiting)
            continue
        label = f"{job.arm}, seed {job.config.seed}"
        try:
            finished = runs.run(job.config, settings, control=control)
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
        except HorkdError as error:
            again = str(error) in failed.values()
            failed[job.config.key] = str(error)
            waiting.remove(job)
            if again or not waiting:
                break
            for line in unsaid:
                say(line)
            unsaid = [f"{label} failed: {error}"]
            continue
        for line in unsaid:
            say(line)
        unsaid = []
        busy.clear()
        # without what others have finished meanwhile
        waiting = [j for j in missing(waiting) if j.config.key not in failed]
        done.append(finished)
        split, result = next(
            (split, found)
            for split, found in finished.record["results"].items()
            if split in ("test", "validation")
        )
        seconds = finished.record["seconds"]["total"]
        say(f"{label}: {split} {headline(result)} %, {seconds:.0f} s  {job.config.name}")
    if failed:
        raise HorkdError(list(failed.values())[-1])
    return Shift(done, diverged, len(missing(jobs)))


def wait(seconds: float) -> None:
    """Sleep; a name of its own, so that a test can stand in for it."""
    time.sleep(seconds)


def _require_positive(minutes: float | None) -> None:
    if minutes is not None and not minutes > 0:
        raise HorkdError(f"minutes must be positive, got {minutes:g}")


def lowest_priority() -> None:
    """Let everything else on this machine go first.

    Linux shares the processors out among sessions before it looks at priorities within one, so that
    a nice value alone means nothing to other terminals: the process gets a session of its own, of
    the lowest priority.
    """
    with suppress(OSError, AttributeError):  # no such thing on this system
        os.nice(19)
    with suppress(OSError, AttributeError):
        os.setsid()
        Path("/proc/self/autogroup").write_text("19")


def work_together(
    jobs: Sequence[Job],
    workers: int,
    threads: int = 1,
    minutes: float | None = None,
    settings: Settings | None = None,
    background: bool = False,
) -> Shift:
    """`work` by several processes of few threads each, which disturb one another little.

    One process with as many threads as cores is slower (its threads wait for each other), and falls
    to a fraction as soon as anything else runs. Ctrl-C or SIGTERM stops all of them after their
    step; the state is kept. A worker whose parent is gone stops, too.

    Args:
        jobs: as of `work`.
        workers: how many.
        threads: of each.
        minutes: as of `work`.
        settings: as of `work`.
        background: at the lowest priority.

    Raises:
        KeyboardInterrupt: if they were stopped.
        HorkdError: if a worker failed; it has said why.
    """
    if workers < 1 or threads < 1:
        raise HorkdError(f"workers and threads must be 1 or more, got {workers} and {threads}")
    _require_positive(minutes)
    before = missing(jobs)
    if settings is not None:
        settings = replace(settings, progress=False)  # bars of several would mix
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_worker, args=(list(jobs), threads, minutes, settings, background, number)
        )
        for number in range(workers)
    ]
    stopped = False
    with Interruption():
        try:
            _start(processes, threads)
            for process in processes:
                process.join()
        except KeyboardInterrupt:
            stopped = True
        finally:
            _end(processes)
    codes = [process.exitcode for process in processes]
    if stopped or any(code == STOPPED for code in codes):
        raise KeyboardInterrupt
    if killed := [code for code in codes if code not in (0, FAILED)]:
        raise HorkdError(
            f"{len(killed)} of {workers} workers ended before their time (exit code {killed[0]}): "
            "if the memory was too small for them, take fewer"
        )
    if any(codes):
        raise HorkdError(f"{sum(map(bool, codes))} of {workers} workers failed, see above")
    left = missing(jobs)
    keys = {job.config.key for job in left}
    tried = [job.config for job in before if job.config.key not in keys]
    done = [found for found in map(runs.read, tried) if found is not None]
    diverged = [config.name for config in tried if runs.read(config) is None]
    return Shift(done, diverged, len(left))


def _start(processes: list[multiprocessing.Process], threads: int) -> None:
    """Start processes that have so many threads, and to whom Ctrl-C is nothing."""
    kept = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when a process starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # and inherited
    try:
        for process in processes:
            process.start()
    finally:
        if kept is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = kept
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end(processes: list[multiprocessing.Process]) -> None:
    """Stop what still runs, and wait for it, whatever else is asked meanwhile."""
    started = [process for process in processes if process.pid is not None]
    told = False
    while any(process.exitcode is None for process in started):
        try:
            if not told:
                for process in started:
                    process.terminate()
                told = True
            for process in started:
                process.join()
        except KeyboardInterrupt:
            continue


#: The exit code of a worker that was stopped.
STOPPED = 130
#: And of one that has said why it failed.
FAILED = 2


def _worker(
    jobs: list[Job],
    threads: int,
    minutes: float | None,
    settings: Settings | None,
    background: bool,
    number: int,
) -> None:
    """One of the processes of `work_together`."""
    prefix = f"worker {number + 1}: "
    warnings.showwarning = lambda message, *rest: print(
        f"horkd: {prefix}{message}", file=sys.stderr, flush=True
    )
    if background:
        lowest_priority()
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def say(line: str) -> None:
        print(prefix + line, flush=True)

    try:
        with Interruption((signal.SIGTERM,), patient=True) as interruption:
            control = Control(interruption=interruption, going=parent.is_alive)
            work(jobs, minutes, settings, say, control)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except (HorkdError, OSError) as error:
        print(f"horkd: {prefix}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(FAILED)
