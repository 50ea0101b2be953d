"""The command line: `python -m horkd …`."""

import ast
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from horkd.errors import HorkdError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cross-resolution distillation: teacher, assistant and low-resolution student.",
)


@app.callback()
def _root() -> None:
    """Cross-resolution distillation: teacher, assistant and low-resolution student."""


PresetOption = Annotated[str, typer.Option(help="smoke, quick, cpu, paper-short or paper")]
DataOption = Annotated[str, typer.Option(help="glyphs or cifar100; empty: the preset's own")]
SeedsOption = Annotated[int, typer.Option(help="seeds of each student; 0: the preset's own")]


@app.command()
def reproduce(
    preset: PresetOption = "quick",
    data: DataOption = "",
    seeds: SeedsOption = 0,
    only: Annotated[list[str] | None, typer.Option(help="only this notebook; repeatable")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE for the notebooks")
    ] = None,
    force: Annotated[bool, typer.Option(help="also run what is up to date")] = False,
) -> None:
    """Run the notebooks into reports/PRESET-DATA/; only what is missing or out of date."""
    from horkd.batch import reproduce
    from horkd.presets import get_preset

    chosen = get_preset(preset, data, seeds)
    parameters = dict(_parameter(text) for text in parameter or [])
    if seeds:
        parameters["seeds"] = seeds
    result = reproduce(chosen.name, chosen.data, only or (), parameters, force)
    typer.echo(f"report: {os.path.relpath(result.report)}")
    if result.failed:
        raise typer.Exit(1)


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


@app.command()
def train(
    preset: PresetOption = "quick",
    data: DataOption = "",
    seeds: SeedsOption = 0,
    arm: Annotated[list[str] | None, typer.Option(help="only this arm; repeatable")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16")] = "auto",
    compile: Annotated[str, typer.Option(help="auto (on CUDA), on or off")] = "auto",
    list_only: Annotated[bool, typer.Option("--list", help="only say what is missing")] = False,
) -> None:
    """Train the runs of the two-stage transfer that are missing, most worth first."""
    from horkd import runs
    from horkd.train import Settings

    settings = Settings(device, precision, compile=compile)
    for name, config in _queue(preset, data, seeds, arm):
        if list_only:
            state = "there  " if runs.read(config) else "missing"
            typer.echo(f"{state}  {name:16s} {config.name}")
            continue
        record = runs.run(config, settings).record
        typer.echo(
            f"{name:16s} seed {config.seed}  test top-1 {record['results']['test']['top1']:.2f} %  "
            f"{record['seconds']['total']:.0f} s  {config.name}"
        )


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="folder for the files")],
    preset: PresetOption = "quick",
    data: DataOption = "",
    arm: Annotated[list[str] | None, typer.Option(help="only this arm; repeatable")] = None,
) -> None:
    """Write finished networks (seed 0) as float16 safetensors with all that a prediction needs."""
    from horkd import runs

    for name, config in _queue(preset, data, 1, arm or ["teacher", "assistant", "student"]):
        finished = runs.read(config)
        if finished is None:
            raise HorkdError(
                f"{name} of preset {preset} is not trained: run `horkd train --preset {preset}`"
            )
        path = out / f"{name.replace(' ', '-')}.safetensors"
        runs.export(finished, path)
        typer.echo(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


def _queue(preset: str, data: str, seeds: int, arms: list[str] | None):
    from horkd.presets import TWO_STAGE, get_preset, two_stage_queue

    for name in arms or []:
        if name not in TWO_STAGE:
            raise HorkdError(f"unknown arm {name!r}: choose from {', '.join(TWO_STAGE)}")
    queue = two_stage_queue(get_preset(preset, data, seeds))
    return [(name, config) for name, config in queue if not arms or name in arms]


#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130


def main() -> None:
    """Run a command; a user's mistake ends in one line on standard error and exit code 2."""
    warnings.showwarning = lambda message, *rest: print(f"horkd: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
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
        sys.exit(_say("interrupted; the same command goes on from the last saved epoch", code))
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    print(f"horkd: {' '.join(message.split())}", file=sys.stderr)
    return code
