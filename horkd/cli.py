"""The command line: `python -m horkd …`."""

import ast
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from horkd import paths
from horkd.errors import HorkdError, printable_output, warnings_as_lines

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cross-resolution distillation: teacher, assistant and low-resolution student.",
)


@app.callback()
def _root() -> None:
    """Cross-resolution distillation: teacher, assistant and low-resolution student."""


PresetOption = Annotated[
    str, typer.Option(help="smoke, quick, cpu, paper-short, paper, faces, metric, … (README)")
]
DataOption = Annotated[str, typer.Option(help="name of a data set; empty: the preset's own")]
WeightsOption = Annotated[
    str, typer.Option(help="the teacher's weights file; to classify, one of `horkd export`")
]
ModelOption = Annotated[
    str, typer.Option(help="its architecture, as mobilefacenet, timm:resnet50, timm:resnet50@512")
]
StatisticsOption = Annotated[
    str, typer.Option(help="what its images are normalised by: imagenet, half or m,m,m/s,s,s")
]
SelectOption = Annotated[
    str, typer.Option(help="metric learning: the epoch that counts, by validation, last or test")
]
SeedsOption = Annotated[int, typer.Option(help="seeds of each student; 0: the preset's own")]


@app.command()
def reproduce(
    preset: Annotated[
        str, typer.Option(help="as below; empty: quick, or what the data ask for")
    ] = "",
    data: Annotated[str, typer.Option("--data", "--train-data", help="data set to train on")] = "",
    seeds: SeedsOption = 0,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", "--notebooks", help="only this notebook, or its number; repeatable"),
    ] = None,
    teacher_weights: WeightsOption = "",
    teacher_model: ModelOption = "",
    teacher_statistics: StatisticsOption = "imagenet",
    select: SelectOption = "",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE for the notebooks")
    ] = None,
    force: Annotated[bool, typer.Option(help="also run what is up to date")] = False,
) -> None:
    """Run the notebooks into reports/PRESET-DATA/; only what is missing or out of date."""
    from horkd.data.fingerprint import listing_digest
    from horkd.data.retrieval import FOLDER
    from horkd.machine import Interruption
    from horkd.reproduce import reproduce
    from horkd.studies.presets import get_presets, meant_by

    name = preset or meant_by(data, bool(teacher_weights))
    chosen = get_presets(name, data, seeds, select)[0]
    if chosen.data.startswith(FOLDER):
        listing_digest(chosen.data)  # a folder that is not there is no report of failures
    parameters = dict(_parameter(text) for text in parameter or [])
    parameters |= {n: value for n, value in (("seeds", seeds), ("select", select)) if value}
    teacher = (teacher_weights, teacher_model, teacher_statistics)
    if teacher != NO_TEACHER:
        parameters |= _teacher_parameters(chosen, *teacher)
    with Interruption():  # kernels and their folders go on SIGTERM, too
        result = reproduce(chosen.name, chosen.data, only or (), parameters, force)
    typer.echo(f"report: {os.path.relpath(result.report)}")
    if result.failed:
        raise typer.Exit(1)


#: What the three options about a teacher are where nobody gives one.
NO_TEACHER = ("", "", "imagenet")


def _teacher_parameters(chosen, weights: str, model: str, statistics: str) -> dict[str, str]:
    """What notebooks are told of a teacher's file; it is imported now."""
    from horkd.studies.task import task_of
    from horkd.studies.teacher import with_teacher

    if not task_of(chosen).notebooks_take_teacher:
        raise HorkdError(
            f"the notebooks of preset {chosen.name} train their own teacher: take `horkd work` "
            "to distil from a file"
        )
    with_teacher(chosen, weights, model, statistics)
    given = {
        "teacher_weights": str(paths.typed_path(weights).resolve()),
        "teacher_model": model,
        "teacher_statistics": statistics,
    }
    return {name: value for name, value in given.items() if value}


def _parameter(text: str) -> tuple[str, object]:
    """NAME=VALUE; the value as Python would read it, else as text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise HorkdError(f"cannot read the parameter {text!r}: write NAME=VALUE")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


StudyOption = Annotated[list[str] | None, typer.Option(help="only this study; repeatable")]
ArmOption = Annotated[list[str] | None, typer.Option(help="only this arm; repeatable")]
PrecisionOption = Annotated[
    str, typer.Option(help="fp32 or bf16; auto: the preset's on a CPU, bf16 on a GPU")
]
WorkersOption = Annotated[
    int, typer.Option(help="processes; several have --threads each, 1 by default", min=1)
]
ThreadsOption = Annotated[int, typer.Option(help="threads of a process; 0: by itself", min=0)]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]


@app.command()
def queue(
    preset: PresetOption = "quick",
    data: DataOption = "",
    seeds: SeedsOption = 0,
    study: StudyOption = None,
    arm: ArmOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: WorkersOption = 1,
    threads: ThreadsOption = 0,
    every: Annotated[bool, typer.Option("--all", help="also finished runs")] = False,
    teacher_weights: WeightsOption = "",
    teacher_model: ModelOption = "",
    teacher_statistics: StatisticsOption = "imagenet",
    select: SelectOption = "",
) -> None:
    """List the missing runs, most worth first, with an estimate of their time."""
    from horkd.lab import pace as pace_
    from horkd.lab.pace import answers_bytes, estimates, missing
    from horkd.lab.store import damage, read
    from horkd.lab.work import as_finished, unlike_before
    from horkd.machine import Settings, duration
    from horkd.studies.study import choose

    teacher = (teacher_weights, teacher_model, teacher_statistics)
    presets = _presets(preset, data, seeds, select, teacher, bring=False)
    jobs = choose(presets, study or (), arm or ())
    todo = missing(jobs)
    settings = presets[0].settings(as_finished(jobs, Settings(device, precision)))
    with _threads(workers, threads):
        pace = pace_.pace([job.config for job in todo], settings)
    times = estimates(todo, pace, cached=not settings.on_cuda)
    for job in jobs:
        if job.config.key in times:
            state = duration(times[job.config.key])
        elif not every:
            continue
        else:
            state = "done" if read(job.config) else "diverged"
        line = f"{state:>9s}  {job.study:11s} {job.arm:36s} seed {job.config.seed}"
        mark = "  (incomplete or damaged)" if state != "done" and damage(job.config) else ""
        typer.echo(f"{line}  {job.config.name}{mark}")
    whole = duration(sum(times.values()) / workers)
    others = len(times) - len(todo)
    also = f" and {others} that they learn from" if others else ""
    by = f" by {workers} workers" if workers > 1 else ""
    more = ""
    if answers := answers_bytes(todo, settings.precision == "bf16"):
        more += f", {answers / 1e9:.2g} GB of frozen models' answers on disk"
    if pace.busy:
        more += f"; this machine is busy ({pace.load:.1f} processes a core), which takes longer"
    if mixed := unlike_before(jobs, settings):
        typer.echo(mixed)
    typer.echo(
        f"{len(todo)} of {len(jobs)} runs missing{also}, about {whole}{by}, judged by "
        f"{pace.source}{more}"
    )


@contextmanager
def _threads(workers: int, threads: int) -> Iterator[None]:
    """Threads of this process: as asked for, or one where several processes share the machine."""
    import torch

    before = torch.get_num_threads()
    if threads or workers > 1:
        torch.set_num_threads(threads or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@app.command("work")
def work_(
    preset: PresetOption = "quick",
    data: DataOption = "",
    seeds: SeedsOption = 0,
    study: StudyOption = None,
    arm: ArmOption = None,
    minutes: Annotated[
        float, typer.Option(help="stop in time, between two epochs; 0: when all is done")
    ] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: WorkersOption = 1,
    threads: ThreadsOption = 0,
    background: Annotated[
        bool, typer.Option("--background", help="at the lowest priority: all else goes first")
    ] = False,
    compile: Annotated[str, typer.Option(help="auto (on CUDA), on or off")] = "auto",
    cache: Annotated[
        str, typer.Option(help="keep the frozen models' answers: auto (small, CPU), on or off")
    ] = "auto",
    teacher_weights: WeightsOption = "",
    teacher_model: ModelOption = "",
    teacher_statistics: StatisticsOption = "imagenet",
    select: SelectOption = "",
) -> None:
    """Train the missing runs, most worth first. Several workers can share a queue.

    Ctrl-C and SIGTERM stop it after a training step, and the same command goes on from there.
    """
    from horkd.lab import work
    from horkd.lab.checkpoint import Control
    from horkd.machine import Interruption, Settings
    from horkd.studies.study import choose

    teacher = (teacher_weights, teacher_model, teacher_statistics)
    presets = _presets(preset, data, seeds, select, teacher)
    chosen = choose(presets, study or (), arm or ())
    asked = Settings(device, precision, compile=compile, cache=cache)
    settings = presets[0].settings(work.as_finished(chosen, asked))
    jobs = [job for job in chosen if not job.waits]
    held = len(chosen) - len(jobs)
    if held:
        typer.echo(
            f"{held} runs wait until what they learn from is exported and named in the preset "
            "(CONTRIBUTING.md, the campaign)"
        )
    if mixed := work.unlike_before(chosen, settings):
        typer.echo(mixed)
    if workers > 1 or background:
        shift = work.work_together(
            jobs, workers, threads or 1, minutes or None, settings, background
        )
    else:
        with _threads(workers, threads), Interruption() as interruption:
            control = Control(interruption=interruption)
            shift = work.work(jobs, minutes or None, settings, _echo, control)
    typer.echo(f"{len(shift.done)} runs done, {len(shift.diverged)} diverged, {shift.left} missing")


@app.command("trials")
def trials_(preset: PresetOption = "paper-short") -> None:
    """Write the page of a preset's trials: reports/PRESET-DATA/trials/TRIALS.md, with records."""
    from horkd.studies.presets import get_preset
    from horkd.studies.results import Live
    from horkd.studies.task import task_of

    chosen = get_preset(preset)
    out = paths.reports_dir() / f"{chosen.name}-{chosen.data}" / "trials"
    write = task_of(chosen).trials_page
    if write is None:
        raise HorkdError(f"preset {preset} has no trials: its recipe is not searched")
    page = write(chosen, Live(chosen, train_missing=False), out)
    typer.echo(f"trials: {os.path.relpath(page)}")


def _echo(line: str) -> None:
    print(line, flush=True)  # a log is to be read while it is written


def _presets(
    name: str, data: str, seeds: int, select: str, teacher: tuple[str, str, str], bring: bool = True
):
    """All presets that a name stands for; a teacher's file is the main one's.

    It is imported unless `bring` is False.
    """
    from horkd.studies.presets import get_presets
    from horkd.studies.teacher import with_teacher

    main, *others = get_presets(name, data, seeds, select)
    return [with_teacher(main, *teacher, bring=bring), *others]


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="folder for the files")],
    preset: PresetOption = "quick",
    data: DataOption = "",
    arm: ArmOption = None,
    teacher_weights: WeightsOption = "",
    teacher_model: ModelOption = "",
    teacher_statistics: StatisticsOption = "imagenet",
    select: SelectOption = "",
    bits: Annotated[
        int, typer.Option(help="of a weight: 16, 8 (half the size, tested anew) or 32")
    ] = 16,
) -> None:
    """Write finished networks (seed 0) as safetensors with all that a prediction needs."""
    from horkd.lab import store
    from horkd.lab.store import read
    from horkd.networks.weights import digest
    from horkd.protocols import headline
    from horkd.studies.study import choose, usual_exports

    out = paths.typed_path(out)
    teacher = (teacher_weights, teacher_model, teacher_statistics)
    presets = _presets(preset, data, 1, select, teacher, bring=False)
    for job in choose(presets, (), arm or usual_exports(presets[0])):
        finished = read(job.config)
        if finished is None:
            raise HorkdError(
                f"{job.arm} of preset {preset} is not trained: run `horkd work --preset {preset} "
                f'--data {job.config.data} --arm "{job.arm}"` with the same options'
            )
        path = out / f"{re.sub(r'[^a-zA-Z0-9]+', '-', job.arm).strip('-')}.safetensors"
        results = store.export(finished, path, bits)
        line = f"{path}  {path.stat().st_size / 1e6:.2f} MB  digest {digest(path)}"
        if "rounded" in results:
            before, after = (headline(results[name]) for name in ("test", "rounded"))
            line += f"  {before} % before, {after} % with 8 bits"
        typer.echo(line)


#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's mistake ends in one line on standard error and exit code 2.

    Args:
        arguments: command and options; those of this process if None.
    """
    asked = {} if arguments is None else {"args": list(arguments), "prog_name": "horkd"}
    try:
        with warnings_as_lines():
            printable_output()
            paths.settle()
            code = app(standalone_mode=False, **asked)
    except HorkdError as error:
        sys.exit(_say(str(error), 2))
    except (typer.Exit, typer.Abort) as stop:
        sys.exit(getattr(stop, "exit_code", 1))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        sys.exit(_say(f"{error.filename or 'input or output'}: {error.strerror or error}", 2))
    except Exception as error:  # usage errors of typer's parser
        if not hasattr(error, "format_message"):
            raise
        sys.exit(_say(error.format_message(), 2))
    if code == INTERRUPTED:  # typer also turns Ctrl-C into this code
        sys.exit(_say("interrupted; the same command goes on from where it stopped", code))
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    print(f"horkd: {' '.join(message.split())}", file=sys.stderr)
    return code
