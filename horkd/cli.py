"""The command line: `python -m horkd …`."""

import sys
import warnings
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


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="smoke, quick, cpu, paper-short or paper")] = "quick",
    data: Annotated[str, typer.Option(help="glyphs or cifar100; the preset's own if empty")] = "",
    seeds: Annotated[int, typer.Option(help="seeds of each student; 0 for the preset's own")] = 0,
    arm: Annotated[list[str] | None, typer.Option(help="only this arm; may be repeated")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16")] = "auto",
    compile: Annotated[str, typer.Option(help="auto (on CUDA), on or off")] = "auto",
    list_only: Annotated[bool, typer.Option("--list", help="only say what is missing")] = False,
) -> None:
    """Train the runs of the two-stage transfer that are missing, most worth first."""
    from horkd import paths
    from horkd.presets import TWO_STAGE, get_preset, two_stage_queue
    from horkd.runs import run
    from horkd.train import Settings

    for name in arm or []:
        if name not in TWO_STAGE:
            raise HorkdError(f"unknown arm {name!r}: choose from {', '.join(TWO_STAGE)}")
    settings = Settings(device, precision, compile=compile)
    for name, config in two_stage_queue(get_preset(preset, data, seeds)):
        if arm and name not in arm:
            continue
        if list_only:
            there = (paths.runs_dir() / config.name / "record.json").is_file()
            typer.echo(f"{'there  ' if there else 'missing'}  {name:16s} {config.name}")
            continue
        record = run(config, settings).record
        typer.echo(
            f"{name:16s} seed {config.seed}  test top-1 {record['results']['test']['top1']:.2f} %  "
            f"{record['seconds']['total']:.0f} s  {config.name}"
        )


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
        sys.exit(_say("interrupted; the same command goes on from the last saved epoch", 130))
    except Exception as error:  # usage errors of typer's parser
        if not hasattr(error, "format_message"):
            raise
        sys.exit(_say(error.format_message(), 2))
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    print(f"horkd: {' '.join(message.split())}", file=sys.stderr)
    return code
