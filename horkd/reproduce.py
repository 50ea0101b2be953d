"""The notebooks, run by papermill in dependency order into one report folder.

    reports/<preset>-<data>/
      REPORT.md               index: provenance, status, and each notebook's summary
      notebooks/NN_name.ipynb executed notebook; NN_name.failed.ipynb if it stopped at an error;
                              NN_name.html in reports of earlier versions
      figures/, tables/, records/, summaries/NN_name.md       written by the notebooks
      .state/                 stamps and a lock, not for version control

What a notebook must do: have a cell tagged `parameters` that sets at least `preset`, `data` (empty:
the preset's own) and `out` (empty: show, write nothing; else the report folder), and leave its
verdict as Markdown in `summaries/NN_name.md`, with links relative to the report folder.

A notebook is up to date when its stamp holds the digest of its cells, its parameters and horkd's
own source, and every file it wrote is still there; with train_missing=False never: it shows the
runs that are there, and there may be more by now. Stamps stay on the machine that made them, so a
fresh clone runs everything although the results of another machine are in the repository.
"""

import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from horkd import paths
from horkd.data.fingerprint import listing_digest, look_again
from horkd.data.retrieval import FOLDER, plain_name
from horkd.errors import HorkdError
from horkd.machine import commit, describe_machine, versions
from horkd.notebook_kernel import declared, execute, question, scratch_folder
from horkd.notebook_pairs import as_text
from horkd.notebooks import executed, without_paths
from horkd.storage import Busy, load_json, locked, replacing, save_json, write_text
from horkd.studies.preset import Preset
from horkd.studies.presets import get_presets
from horkd.studies.task import Study, task_of, tasks

if TYPE_CHECKING:
    from nbformat import NotebookNode

OWN_PARAMETERS = ("preset", "data", "out")  # given by `reproduce` itself
PACKAGE = Path(__file__).resolve().parent
LARGE_PAGE = 1_500_000  # bytes; a larger page is worth a remark, as it may be committed


@dataclass(frozen=True)
class Outcome:
    """What a call of `reproduce` did.

    Attributes:
        out: the report folder.
        report: its index page, REPORT.md.
        done: notebooks run to their end by this call, in the order they ran.
        fresh: notebooks that were up to date.
        failed: notebook -> the line of its error; empty if all is well.
        seconds: wall-clock time of this call.
    """

    out: Path
    report: Path
    done: tuple[str, ...]
    fresh: tuple[str, ...]
    failed: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Notebook:
    """A notebook and what it is given."""

    path: Path
    question: str
    parameters: Mapping[str, Any] = field(repr=False)
    digest: str = field(repr=False)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def reproduce(
    preset: str,
    data: str | None = None,
    only: Sequence[str] = (),
    parameters: Mapping[str, Any] = MappingProxyType({}),
    force: bool = False,
    out: str | Path | None = None,
    notebooks: str | Path | None = None,
    run: Callable[[Notebook, Path], dict] | None = None,
    package: str | Path = PACKAGE,
) -> Outcome:
    """Run the notebooks that are not up to date, and write the index page.

    Progress goes to standard error, the failures again at the end. A failing notebook does not
    stop the others. Ctrl-C stops the kernel and leaves nothing half-written; the next call goes on.

    Args:
        preset: the notebooks' `preset`, one of `horkd.studies.presets.presets`.
        data: the notebooks' `data`; the preset's own if None or empty.
        only: names of notebooks (`02_two_stage_transfer`) or their numbers (`02`); by default all
            that the preset has runs for.
        parameters: further parameters; each goes to the notebooks that declare it.
        force: run notebooks that are up to date as well.
        out: the report folder; `reports/<preset>-<data>` by default.
        notebooks: the folder of the notebooks; `notebooks/` of the checkout by default.
        run: runs a notebook into the report folder and returns its stamp; by papermill by default.
        package: the source that notebooks are out of date with if it changes.

    Returns:
        What was done, and what failed.

    Raises:
        HorkdError: before anything runs, for a preset, data set, notebook or parameter that does
            not exist, a notebook that cannot be read, a report folder that another process writes
            to, or papermill not being installed; later only if the disk refuses.
    """
    run = _run if run is None else run
    _require_papermill()
    started = time.perf_counter()
    folder = Path(notebooks or paths.root() / "notebooks").resolve()
    presets = get_presets(preset, data)
    data = presets[0].data
    select = parameters.get("select", "")
    name = f"{preset}-{plain_name(data)}" + (f"-by-{select}" if select else "")
    out = Path(out or paths.reports_dir() / name).resolve()
    own = {"preset": preset, "data": data, "out": os.path.relpath(out, folder)}
    chosen = chosen_notebooks(folder, only)
    if not only:
        chosen = [path for path in chosen if _has_runs(path.stem, presets)]
        if not chosen:
            raise HorkdError(f"no notebook in {folder} shows runs of preset {preset}")
    planned = plan(chosen, own, parameters, package)
    done: list[str] = []
    fresh: list[str] = []
    failed: dict[str, str] = {}
    with _locked(out):
        for position, notebook in enumerate(planned, 1):
            label = f"[{position}/{len(planned)}] {notebook.name}"
            if not force and _up_to_date(out, notebook):
                _say(f"{label}: up to date")
                fresh.append(notebook.name)
                continue
            _say(f"{label}: {notebook.question}")
            stamp = run(notebook, out)
            if "error" in stamp:
                failed[notebook.name] = stamp["error"]
                _say(f"{label}: FAILED after {stamp['seconds']:.1f} s: {stamp['error']}")
            else:
                done.append(notebook.name)
                _say(f"{label}: done in {stamp['seconds']:.1f} s")
        report = write_report(out, folder, own, parameters)
    result = Outcome(out, report, tuple(done), tuple(fresh), failed, time.perf_counter() - started)
    _say_result(result)
    return result


# Planning: everything that can be refused is refused here ----------------------------------------


def _studies() -> list[Study]:
    return [one for task in tasks().values() for one in task.studies]


def after(name: str) -> tuple[str, ...]:
    """The notebooks whose runs a notebook reads.

    Each would train what it lacks, so this is an order, not a condition: a notebook runs even if
    one it depends on has failed.
    """
    return tuple(one.notebook for one in _studies() if name in one.read_by)


def _has_runs(name: str, presets: Sequence[Preset]) -> bool:
    """Whether presets have runs that a notebook shows, or else reads; of no study: always."""
    shown = [one for one in _studies() if one.notebook == name]
    shown = shown or [one for one in _studies() if name in one.read_by]
    own = [(one, preset) for preset in presets for one in task_of(preset).studies]
    return not shown or any(one in shown and one.of(preset) for one, preset in own)


def in_order(names: Sequence[str]) -> list[str]:
    """Names sorted by number, each after those that it reads runs of, if they are among them."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        for earlier in after(name):
            if earlier in names and earlier not in ordered:
                visit(earlier)
        if name not in ordered:
            ordered.append(name)

    for name in sorted(names):
        visit(name)
    return ordered


def _require_papermill() -> None:
    for package in ("papermill", "ipykernel"):
        if find_spec(package) is None:
            raise HorkdError(f"running notebooks needs {package}: pip install 'horkd[notebook]'")


def chosen_notebooks(folder: str | Path, only: Sequence[str] = ()) -> list[Path]:
    """The notebooks of a folder in the order in which they run: those that are named, or all."""
    folder = Path(folder)
    known = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not known:
        raise HorkdError(f"no notebook NN_name.ipynb in {folder}: run this in a checkout of horkd")
    numbers = {name[:2]: name for name in known}
    only = [numbers.get(name, name) for name in only]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise HorkdError(
            f"there is no notebook {', '.join(unknown)}; there are: {', '.join(known)}"
        )
    return [known[name] for name in in_order(tuple(only) or tuple(known))]


def plan(
    chosen: Sequence[str | Path], own: Mapping, extra: Mapping, package: str | Path = PACKAGE
) -> list[Notebook]:
    """The notebooks with their parameters, or an error that names what is not known.

    papermill itself only logs an unknown parameter, and runs the defaults.
    """
    package = Path(package)
    reserved = [name for name in OWN_PARAMETERS if name in extra]
    if reserved:
        raise HorkdError(
            f"{', '.join(reserved)} is set by `reproduce` itself: not a parameter to pass"
        )
    known = {path: declared(path) for path in map(Path, chosen)}
    for path, names in known.items():
        lacking = [name for name in OWN_PARAMETERS if name not in names]
        if lacking:
            raise HorkdError(
                f"{path.name} has no cell tagged `parameters` that sets {', '.join(lacking)}"
            )
    for name in extra:
        if not any(name in names for names in known.values()):
            lists = "; ".join(f"{path.stem} knows {', '.join(d)}" for path, d in known.items())
            raise HorkdError(f"no notebook has a parameter {name!r}: {lists}")
    source = _source_digest(package)
    return [
        _notebook(path, {**own, **{k: v for k, v in extra.items() if k in names}}, source)
        for path, names in known.items()
    ]


def _notebook(path: Path, parameters: Mapping[str, Any], source: str) -> Notebook:
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    content = {
        "cells": [(cell.cell_type, cell.source) for cell in cells],
        # The folder is left out: a checkout that was moved is not out of date.
        "parameters": {k: v for k, v in parameters.items() if k != "out"},
        "source": source,
    }
    data = str(parameters.get("data", ""))
    if data.startswith(FOLDER):  # runs of other photos are other runs
        with suppress(HorkdError):  # the notebook itself says what is wrong with the folder
            look_again(data)
            content["photos"] = listing_digest(data)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    return Notebook(path, question(path), parameters, digest.hexdigest())


def _source_digest(package: Path) -> str:
    """SHA-256 over horkd's own source: any change of it puts every notebook out of date."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# State: one stamp per notebook -------------------------------------------------------------------


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the report folder: two batches on the same one would write over each other."""
    state = out / ".state"
    write_text(state / ".gitignore", "*\n")  # creates the folder; stamps stay on this machine
    try:
        with locked(state / "lock", wait=False):
            yield
    except Busy:
        raise HorkdError(f"another process is writing to {out}: wait for it to end") from None


def _stamp(out: Path, name: str) -> dict:
    """What is known of a notebook's last run; empty if nothing is, or the stamp is damaged."""
    try:
        return load_json(out / ".state" / f"{name}.json")
    except HorkdError:
        return {}


def _up_to_date(out: Path, notebook: Notebook) -> bool:
    stamp = _stamp(out, notebook.name)
    return (
        "error" not in stamp
        and notebook.parameters.get("train_missing") is not False
        and stamp.get("inputs") == notebook.digest
        and all((out / name).is_file() for name in stamp["files"])
    )


def _files(out: Path) -> dict[str, int]:
    """The files of the report with their times, by which a notebook's own are told."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".") and ".state" not in path.parts
    }


# Running one notebook ----------------------------------------------------------------------------


def _run(notebook: Notebook, out: Path) -> dict:
    """Run a notebook, leave its page or its remains in the report, stamp it; return the stamp."""
    before, started = _files(out), time.perf_counter()
    page, old, remains = (
        out / "notebooks" / f"{notebook.name}{ending}"
        for ending in (".ipynb", ".html", ".failed.ipynb")
    )
    stamp: dict[str, Any] = {"inputs": notebook.digest}
    with scratch_folder() as scratch:
        partial = scratch / "notebook.ipynb"
        try:
            write_text(
                page, _page(execute(notebook.path, notebook.parameters, partial, scratch), notebook)
            )
            remains.unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        except HorkdError:  # the disk refuses: nothing to go on with
            raise
        except Exception as error:  # whatever a notebook does, the others still run
            stamp["error"] = _error_line(error)
            page.unlink(missing_ok=True)
            old.unlink(missing_ok=True)
            if partial.is_file():
                with replacing(remains) as temporary:
                    shutil.copyfile(partial, temporary)
    stamp["seconds"] = round(time.perf_counter() - started, 1)
    stamp["files"] = sorted(name for name, at in _files(out).items() if before.get(name) != at)
    save_json(out / ".state" / f"{notebook.name}.json", stamp)
    return stamp


def _page(finished: "NotebookNode", notebook: Notebook) -> str:
    page = as_text(executed(finished))
    if len(page) > LARGE_PAGE:
        _say(f"{notebook.name}.ipynb is {len(page) / 1e6:.1f} MB: draw fewer or smaller figures")
    return page


def _error_line(error: Exception) -> str:
    """The last line of the notebook's error, or of papermill's own."""
    if hasattr(error, "ename"):
        text = f"{error.ename}: {error.evalue}"
    else:
        text = f"{type(error).__name__}: {error}"
    return without_paths(text.strip().splitlines()[0])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_result(result: Outcome) -> None:
    _say(
        f"{len(result.done)} done, {len(result.fresh)} up to date, {len(result.failed)} failed "
        f"in {result.seconds:.1f} s: {result.report}"
    )
    for name, error in result.failed.items():
        _say(f"FAILED {name}: {error}  (see notebooks/{name}.failed.ipynb)")


# The index page ----------------------------------------------------------------------------------


def write_report(
    out: str | Path, notebooks: str | Path, own: Mapping[str, Any], extra: Mapping[str, Any]
) -> Path:
    """Write REPORT.md from the stamps and summaries in `out`; return its path.

    It holds no dates: the same results on the same machine give the same page, but for seconds.
    """
    out, notebooks = Path(out), Path(notebooks)
    command = _command(own, extra)
    rows, sections, seconds = [], [], 0.0
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        asked = question(path)
        stamp = _stamp(out, path.stem)
        seconds += stamp.get("seconds", 0.0)
        link = _link(out, path.stem)
        rows.append(
            f"| {link} | {asked.replace('|', chr(92) + '|')} | {_status(out, path.stem, stamp)} "
            f"| {stamp.get('seconds', '')} |"
        )
        sections.append(_section(out, path.stem, asked, stamp))
    lines = [
        f"# Report: preset `{own['preset']}`, data set `{own['data']}`",
        "",
        *_provenance(seconds),
        "",
        "| notebook | question | status | seconds |",
        "|---|---|---|---|",
        *rows,
        "",
        *filter(None, sections),
        "## Run it again",
        "",
        f"```\n{command}\n```",
        "",
        "Only what is missing or out of date runs; `--force` runs everything.",
    ]
    write_text(out / "REPORT.md", "\n".join(lines) + "\n")
    return out / "REPORT.md"


def _link(out: Path, name: str) -> str:
    file = _left(out, name, ".ipynb", ".html", ".failed.ipynb")
    return f"[{name}]({file})" if file else name


def _left(out: Path, name: str, *endings: str) -> str:
    """Which of the files that a run of a notebook leaves is there; empty if none is."""
    files = [f"notebooks/{name}{ending}" for ending in endings]
    return next((file for file in files if (out / file).is_file()), "")


def _status(out: Path, name: str, stamp: Mapping) -> str:
    if "error" in stamp:
        return "**failed**"
    if stamp:
        return "done"
    return "earlier run" if _left(out, name, ".ipynb", ".html") else "not run"


def _section(out: Path, name: str, question: str, stamp: Mapping) -> str:
    """A notebook's summary under its question; its error if it failed; nothing if it never ran."""
    summary = out / "summaries" / f"{name}.md"
    if "error" in stamp:
        text = f"Failed: `{stamp['error'].replace('`', chr(39))}`"
    elif summary.is_file():
        text = summary.read_text(encoding="utf-8").strip()
    else:
        return ""
    return f"## {name}: {question}\n\n{text}\n"


def _provenance(seconds: float) -> list[str]:
    numbers = {**versions(), "papermill": metadata.version("papermill")}
    return [
        f"- Hardware: {_hardware()}",
        f"- Versions: {', '.join(f'{name} {number}' for name, number in numbers.items())}",
        f"- Commit: {commit() or 'not in a git checkout'}",
        f"- Seconds in all: {seconds:.0f}",
    ]


def _hardware() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{describe_machine('cpu')['name']}, {cores} core{'' if cores == 1 else 's'}"
    return f"{text}; {describe_machine('cuda')['name']}" if torch.cuda.is_available() else text


def _command(own: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    words = ["python", "-m", "horkd", "reproduce", "--preset", own["preset"], "--data", own["data"]]
    options = {name: value for name, value in extra.items() if name.startswith("teacher_")}
    for name, value in sorted(options.items()):
        # whoever reads it has other folders
        words += [f"--{name.replace('_', '-')}", Path(str(value)).name]
    for name, value in sorted(extra.items()):
        if name not in options:
            words += ["-p", f"{name}={value}"]
    return shlex.join(words)
