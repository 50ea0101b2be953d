"""Doing the missing runs: as many as fit into the time, alone or by several processes."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from horkd.data import DATASETS
from horkd.errors import HorkdError, printable_output, warnings_as_lines
from horkd.lab import checkpoint, runner
from horkd.lab.checkpoint import Control
from horkd.lab.job import Job, chain
from horkd.lab.pace import missing
from horkd.lab.store import Run, read, recorded
from horkd.machine import Interruption, Settings, has_bf16, lowest_priority
from horkd.processes import require_main_guard, without_main
from horkd.protocols import headline
from horkd.storage import Busy
from horkd.training import Diverged

#: How often a worker looks again at what others are doing.
POLL_SECONDS = 5.0


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
    pause: Callable[[float], None] = time.sleep,
) -> Shift:
    """Do the missing jobs in order until the time is up; a run in progress keeps its epochs.

    Jobs that another process is at work on are left to it, so several workers share a queue; a
    worker with nothing else to do waits for them. A run that needs a model which is not trained yet
    trains it first. A run that fails is said and left out, unless two fail for the same reason.

    Args:
        jobs: as from `horkd.studies.study.queue`.
        minutes: how long; None until all is done.
        settings: how the machine should do it.
        say: gets a line for each run, and for each epoch that takes long.
        control: how runs are stopped, and the clock of it all; its deadline, waiting and lines are
            set here.
        pause: waits so many seconds for others.

    Raises:
        KeyboardInterrupt: if `control` says to stop.
        HorkdError: if the minutes are not positive, or a run failed: data are missing, the disk
            refuses, and so on.
    """
    _require_positive(minutes)
    control = control or Control()
    deadline = None if minutes is None else control.clock() + 60 * minutes
    control = replace(control, deadline=deadline, wait=False, say=say)
    desk = _Desk(jobs, settings, control)
    while desk.waiting:
        if deadline is not None and control.clock() >= deadline:
            say(f"time is up; {len(desk.waiting)} runs to go")
            break
        job = desk.next()
        if job is None:  # others are at work on all that is left, or on what it learns from
            if not control.going():
                raise KeyboardInterrupt
            pause(POLL_SECONDS)
            desk.look_again()
        elif not desk.do(job):
            break
    if desk.failed:
        raise HorkdError(list(desk.failed.values())[-1])
    return Shift(desk.done, desk.diverged, len(missing(jobs)))


def as_finished(jobs: Sequence[Job], settings: Settings) -> Settings:
    """Settings whose precision, if it was left open, is that of the finished runs.

    So a study that was begun on another machine, or with `--precision`, goes on as it was begun;
    not in bf16 on a device that would only emulate it, slowly: `unlike_before` says so then.

    Args:
        jobs: what belongs together; what they learn from counts, too.
        settings: as somebody asked for.
    """
    used = set().union(*_precisions(jobs))
    if settings.precision != "auto" or len(used) != 1:
        return settings
    if used == {"bf16"} and not has_bf16("cuda" if settings.on_cuda else "cpu"):
        return settings
    return replace(settings, precision=used.pop())


def unlike_before(jobs: Sequence[Job], settings: Settings) -> str:
    """A warning if finished runs are in another precision than settings ask for; or empty.

    Args:
        jobs: as of `as_finished`.
        settings: in which the missing ones would be trained.
    """
    now = settings.chosen_precision
    others = [used - {now} for used in _precisions(jobs) if used - {now}]
    if not others:
        return ""
    named = ", ".join(sorted(set.union(*others)))
    count = "1 finished run is" if len(others) == 1 else f"{len(others)} finished runs are"
    if not missing(jobs):
        return f"{count} in {named}, and not trained again in {now}"
    return (
        f"{count} in {named}, and the missing ones will be in {now}: no difference between them "
        f"shows anything. `--precision {named.split(', ')[0]}` trains the missing ones alike"
    )


def _precisions(jobs: Sequence[Job]) -> list[set[str]]:
    """In which precision each finished run was trained, those that are learnt from included."""
    configs = {config.key: config for job in jobs for config in chain(job.config)}
    found = []
    for config in configs.values():
        run = None if config.weights else recorded(config)  # a given network was trained elsewhere
        if run is not None:
            found.append({part["precision"] for part in run.trained_in if "precision" in part})
    return [used for used in found if used]


class _Desk:
    """What a worker has to do, and what came of it."""

    def __init__(self, jobs: Sequence[Job], settings: Settings | None, control: Control) -> None:
        self.settings, self.control = settings, control
        self.waiting = missing(jobs)
        self.done: list[Run] = []
        self.diverged: list[str] = []
        self.failed: dict[str, str] = {}
        self._busy: set[str] = set()
        self._unsaid: list[str] = []  # the last failure, which may turn out to be everybody's

    def next(self) -> Job | None:
        """The first job that nobody else is at work on."""
        return next((job for job in self.waiting if job.config.key not in self._busy), None)

    def look_again(self) -> None:
        """What others were at work on may be done, or left."""
        self._busy.clear()
        self.waiting = [job for job in missing(self.waiting) if job.config.key not in self.failed]

    def do(self, job: Job) -> bool:
        """Do a job, whatever comes of it; False if it is the last one of this shift."""
        label = f"{job.arm}, seed {job.config.seed}"
        try:
            finished = runner.run(job.config, self.settings, control=self.control)
        except checkpoint.TimeUp as up:
            self.control.say(f"{up}; {len(self.waiting)} runs to go")
            return False
        except Busy:
            self._busy.add(job.config.key)
        except Diverged as error:
            self.diverged.append(job.config.name)
            self.control.say(f"{label}: {error}")
            self.waiting = missing(self.waiting)
        except HorkdError as error:
            return self._fail(job, str(error), f"{label} failed: {error}")
        else:
            self._say_failure()
            self.look_again()
            self.done.append(finished)
            self.control.say(f"{label}: {_outcome(finished)}")
        return True

    def _fail(self, job: Job, reason: str, line: str) -> bool:
        again = reason in self.failed.values()
        self.failed[job.config.key] = reason
        self.waiting.remove(job)
        if again or not self.waiting:
            return False
        self._say_failure()
        self._unsaid = [line]
        return True

    def _say_failure(self) -> None:
        for line in self._unsaid:
            self.control.say(line)
        self._unsaid = []


def _outcome(finished: Run) -> str:
    """What a finished run came to, in a line."""
    split, result = next(
        (split, found)
        for split, found in finished.record["results"].items()
        if split in ("test", "validation")
    )
    seconds = finished.record["seconds"]["total"]
    return f"{split} {headline(result)} %, {seconds:.0f} s  {finished.config.name}"


def _require_positive(minutes: float | None) -> None:
    if minutes is not None and not minutes > 0:
        raise HorkdError(f"minutes must be positive, got {minutes:g}")


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
    require_main_guard()
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
    done = [found for found in map(read, tried) if found is not None]
    diverged = [config.name for config in tried if read(config) is None]
    return Shift(done, diverged, len(left))


def _start(processes: list[multiprocessing.Process], threads: int) -> None:
    """Start processes that have so many threads, and to whom Ctrl-C is nothing."""
    kept = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when a process starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # and inherited
    try:
        with without_main(*(source.load for source in DATASETS.values())):
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
    printable_output()
    if background:
        lowest_priority()
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def say(line: str) -> None:
        print(prefix + line, flush=True)

    try:
        stopping = Interruption((signal.SIGTERM,), patient=True)
        with warnings_as_lines(prefix), stopping as interruption:
            control = Control(interruption=interruption, going=parent.is_alive)
            work(jobs, minutes, settings, say, control)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except (HorkdError, OSError) as error:
        print(f"horkd: {prefix}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(FAILED)
