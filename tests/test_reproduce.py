"""Reports made in one call: real kernels on small notebooks made here."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from horkd import paths
from horkd import reproduce as reproduce_
from horkd.errors import HorkdError
from horkd.studies.task import tasks

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
from nbformat.v4 import (  # noqa: E402
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)
from PIL import Image  # noqa: E402

from horkd.notebook_pairs import as_text  # noqa: E402
from horkd.notebooks import executed, without_paths  # noqa: E402

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PARAMETERS = 'preset: str = "smoke"\ndata: str = ""\nout: str = ""\n'
# Leaves a figure, a summary and a line in a log of what ran, as the real notebooks leave theirs.
WRITES = """
import os, sys
from pathlib import Path
name = {name!r}
folder = Path(out)
for part in ("figures", "summaries"):
    (folder / part).mkdir(parents=True, exist_ok=True)
(folder / "figures" / f"{{name}}.png").write_bytes(b"picture")
(folder / "summaries" / f"{{name}}.md").write_text(f"![{{name}}](figures/{{name}}.png) on {{data}}")
with open("ran.txt", "a") as log:
    print(name, preset, sys.executable, file=log)
"""


# What other tests or an editor do to horkd's source meanwhile is not the subject here.
reproduce = partial(reproduce_.reproduce, package=Path("nowhere"))


def add(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook that asks whether `name` works and runs `cells`."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    heading = new_markdown_cell(f"# Does {name} work?\n\nIt holds that $x^2 \\geq 0$.")
    notebook = new_notebook(
        cells=[heading, first, *map(new_code_cell, cells)], metadata={"kernelspec": KERNEL}
    )
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def writes(name: str) -> str:
    return WRITES.format(name=name)


def ran(folder: Path) -> list[list[str]]:
    log = folder / "ran.txt"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def left_over(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_a_notebook_is_out_of_date_when_its_photos_are_others(tmp_path):
    path = add(tmp_path, "07_photos")
    photos = [tmp_path / "photos" / c / "a.bmp" for c in "abcdef"]
    for number, photo in enumerate(photos):
        photo.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(photo)

    def digest(data: str) -> str:
        own = {"preset": "metric", "data": data, "out": "out"}
        (planned,) = reproduce_.plan([path], own, {}, package=Path("nowhere"))
        return planned.digest

    folder = f"folder:{tmp_path}/photos@8"
    before, other = digest(folder), digest("glyphs-disjoint")
    os.utime(photos[0], (0, 0))
    assert digest(folder) == before
    Image.new("RGB", (8, 8), (200, 0, 0)).save(photos[0])  # as many bytes
    os.utime(photos[0], (0, 0))
    assert digest(folder) != before
    assert digest("glyphs-disjoint") == other


def test_a_batch_from_failure_to_nothing_left_to_do(tmp_path, capsys):
    folder, out = tmp_path / "notebooks", tmp_path / "report"
    folder.mkdir()
    add(folder, "00_tour", "print('as far as here')", "raise ValueError('no good\\nat all')", "1")
    add(folder, "02_two_stage_transfer", writes("02_two_stage_transfer"))
    add(folder, "04_dies", "import os; os._exit(3)")
    add(folder, "05_new", writes("05_new"), parameters=PARAMETERS + "width: int = 1\n")

    result = reproduce("quick", "glyphs", parameters={"width": 7}, out=out, notebooks=folder)

    assert result.done == ("02_two_stage_transfer", "05_new")
    assert result.fresh == ()
    assert list(result.failed) == ["00_tour", "04_dies"]
    assert result.failed["00_tour"] == "ValueError: no good"
    assert "DeadKernelError" in result.failed["04_dies"]
    # The kernel: the notebooks' folder, this interpreter, this preset, what it reads first.
    assert ran(folder) == [
        ["02_two_stage_transfer", "quick", sys.executable],
        ["05_new", "quick", sys.executable],
    ]
    page = (out / "notebooks" / "05_new.ipynb").read_text()
    assert "width = 7" in page
    assert not any(word in page for word in ("start_time", "papermill", str(tmp_path)))
    partial = nbformat.read(out / "notebooks" / "00_tour.failed.ipynb", as_version=4)
    assert "as far as here" in json.dumps(partial)
    assert not (out / "notebooks" / "00_tour.ipynb").exists()
    assert "FAILED 00_tour: ValueError: no good" in capsys.readouterr().err
    report = result.report.read_text()
    assert (
        "| [00_tour](notebooks/00_tour.failed.ipynb) | Does 00_tour work? | **failed** |" in report
    )
    assert "![05_new](figures/05_new.png) on glyphs" in report
    assert "--preset quick --data glyphs -p width=7" in report
    assert str(tmp_path) not in report
    assert left_over(out) == []

    # Second call: the failures are tried again, one of them mended; the rest stays.
    add(folder, "00_tour", writes("00_tour"))
    (folder / "04_dies.ipynb").unlink()
    result = reproduce("quick", "glyphs", parameters={"width": 7}, out=out, notebooks=folder)
    assert (result.done, result.failed) == (("00_tour",), {})
    assert result.fresh == ("02_two_stage_transfer", "05_new")
    assert not (out / "notebooks" / "00_tour.failed.ipynb").exists()

    # Third: a figure is gone, and a parameter of another notebook has changed.
    (out / "figures" / "02_two_stage_transfer.png").unlink()
    result = reproduce("quick", "glyphs", parameters={"width": 8}, out=out, notebooks=folder)
    assert result.done == ("02_two_stage_transfer", "05_new")
    assert result.fresh == ("00_tour",)

    # A notebook that trains nothing shows the runs that are there: there may be more by now.
    add(
        folder,
        "06_shows",
        writes("06_shows"),
        parameters=PARAMETERS + "train_missing: bool = True\n",
    )
    for _ in range(2):
        result = reproduce("quick", "glyphs", ["06"], {"train_missing": False}, out=out,
                           notebooks=folder)  # fmt: skip
        assert result.done == ("06_shows",)
    (folder / "06_shows.ipynb").unlink()

    # Fourth: nothing.
    before = len(ran(folder))
    result = reproduce("quick", "glyphs", parameters={"width": 8}, out=out, notebooks=folder)
    assert result.done == ()
    assert len(result.fresh) == 3
    assert len(ran(folder)) == before

    # A damaged stamp is no stamp; `force` needs none; `only` keeps to what it names.
    stamp = out / ".state" / "05_new.json"
    stamp.write_text(stamp.read_text()[:40])
    chosen = {"only": ["05_new"], "parameters": {"width": 8}, "out": out, "notebooks": folder}
    assert reproduce("quick", "glyphs", **chosen).done == ("05_new",)
    assert reproduce("quick", "glyphs", force=True, **chosen).done == ("05_new",)
    assert len(ran(folder)) == before + 2


def test_a_change_of_horkd_or_of_the_notebook_puts_it_out_of_date(tmp_path):
    path, package = add(tmp_path, "05_new", "1"), tmp_path / "package"
    package.mkdir()
    (package / "losses.py").write_text("1")
    own = {"preset": "quick", "data": "", "out": "x"}

    def digest(**changes):
        return reproduce_.plan([path], {**own, **changes}, {}, package)[0].digest

    first = digest()
    assert digest(out="elsewhere") == first
    assert digest(data="cifar100") != first
    add(tmp_path, "05_new", "2")
    second = digest()
    assert second != first
    (package / "losses.py").write_text("2")
    assert digest() != second


INTERRUPTED = """
import sys
from pathlib import Path
from horkd.reproduce import reproduce
reproduce("smoke", out=Path(sys.argv[1]), notebooks=Path(sys.argv[2]), package=Path("nowhere"))
"""
WAITS = """
import os, time
from pathlib import Path
if not Path("pid.txt").exists():
    Path("pid.new").write_text(str(os.getpid()))
    os.replace("pid.new", "pid.txt")
    time.sleep(120)
"""


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if status.exists():
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc").exists()


def test_ctrl_c_ends_the_kernel_and_the_next_call_goes_on(tmp_path):
    folder, out = tmp_path / "notebooks", tmp_path / "report"
    folder.mkdir()
    add(folder, "01_first", writes("01_first"))
    add(folder, "03_slow", WAITS, writes("03_slow"))
    command = [sys.executable, "-c", INTERRUPTED, out, folder]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        pid, deadline = folder / "pid.txt", time.monotonic() + 120
        while not pid.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert pid.exists(), "the slow notebook never started"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()

    assert child.returncode in (1, 130, -signal.SIGINT)
    assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert "Kernel died" not in errors
    assert not alive(int(pid.read_text()))
    assert [path.name for path in (out / "notebooks").iterdir()] == ["01_first.ipynb"]
    assert not (out / ".state" / "03_slow.json").exists()
    assert left_over(out) == []

    result = reproduce("smoke", out=out, notebooks=folder)
    assert (result.done, result.fresh, result.failed) == (("03_slow",), ("01_first",), {})


def test_sigterm_leaves_nothing_of_a_command(tmp_path):
    """Its kernel and the folder of that end with it."""
    # not below pytest's folder, which is too long for the name of a socket
    scratch = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    folders = {n: str(tmp_path / n) for n in ("HORKD_RUNS", "HORKD_REPORTS", "HORKD_CACHE")}
    command = [sys.executable, "-m", "horkd", "reproduce", "--preset", "smoke", "--only", "02"]
    child = subprocess.Popen(
        command, cwd=paths.root(), env={**os.environ, **folders, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(scratch.glob("horkd-*/notebook.ipynb")) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.terminate()
        _, errors = child.communicate(timeout=60)
        left = list(scratch.glob("horkd-*"))
    finally:
        child.kill()
        shutil.rmtree(scratch)
    assert child.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == (
        "horkd: interrupted; the same command goes on from where it stopped"
    )
    assert not left


def test_batches_at_once_do_not_disturb_each_other(tmp_path):
    add(tmp_path, "01_first", "import time; time.sleep(0.5)", writes("01_first"))

    def run(number: int):
        return reproduce("smoke", out=tmp_path / f"{number}", notebooks=tmp_path)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(run, range(3)))
    assert [result.failed for result in results] == [{}, {}, {}]
    assert all("on glyphs" in result.report.read_text() for result in results)
    assert len(ran(tmp_path)) == 3


STRANGER = """
import sys
from pathlib import Path
from horkd.reproduce import reproduce
folder = Path(sys.argv[1])
found = reproduce("smoke", out=folder / "out", notebooks=folder, package=Path("nowhere"))
print(found.done, found.failed)
"""


@pytest.mark.parametrize("home", ["unknown", "not a folder"])
def test_a_user_without_a_home(tmp_path, home):
    """Containers run as users that nobody has entered, or whose home cannot be written to."""
    add(tmp_path, "01_first", writes("01_first"))
    add(tmp_path, "02_broken", "raise ValueError('it is broken')")
    become = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    environment = {n: value for n, value in os.environ.items() if n not in ("HOME", "IPYTHONDIR")}
    if home == "not a folder":
        become, environment["HOME"] = [], "/dev/null"
    elif shutil.which(become[0]) is None or subprocess.run([*become, "true"]).returncode:
        pytest.skip("this machine lets nobody become an unknown user")
    result = subprocess.run(
        [*become, sys.executable, "-c", STRANGER, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "('01_first',) {'02_broken': 'ValueError: it is broken'}\n"


def test_a_report_folder_in_use_is_refused(tmp_path):
    add(tmp_path, "01_first", writes("01_first"))
    with reproduce_._locked(tmp_path / "out"), pytest.raises(HorkdError, match="another process"):
        reproduce("smoke", out=tmp_path / "out", notebooks=tmp_path)
    assert ran(tmp_path) == []


def test_what_does_not_exist_is_refused_before_anything_runs(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refused(match: str, **options):
        with pytest.raises(HorkdError, match=match) as error:
            reproduce(**{"preset": "smoke", "out": out, "notebooks": tmp_path, **options})
        assert "\n" not in str(error.value)

    refused("no notebook NN_name.ipynb in")
    add(tmp_path, "01_first", writes("01_first"))
    add(tmp_path, "03_third", writes("03_third"), parameters=PARAMETERS + "seeds = 2\n")
    refused("'sedes': 01_first knows preset, data, out; 03_third .*seeds", parameters={"sedes": 1})
    refused("01_first knows preset, data, out$", parameters={"seeds": 1}, only=["01_first"])
    refused("no notebook 04_none; there are: 01_first, 03_third", only=["01_first", "04_none"])
    refused("unknown preset 'quik'", preset="quik")
    refused("unknown data set 'cifar'", data="cifar")
    refused("out is set by `reproduce` itself", parameters={"out": "elsewhere"})
    add(tmp_path, "04_bare", "1", parameters='preset = "smoke"')
    refused("04_bare.ipynb has no cell tagged `parameters` that sets data, out")
    (tmp_path / "04_bare.ipynb").write_text('{"cells": [')
    refused("04_bare.ipynb cannot be read")
    monkeypatch.setattr(reproduce_, "find_spec", lambda name: None)
    refused(r"pip install 'horkd\[notebook\]'")
    assert ran(tmp_path) == []
    assert not out.exists()


def test_order_is_by_number_after_what_a_notebook_reads():
    names = ["05_new", "00_tour", "02_two_stage_transfer", "01_relational_potentials"]
    assert reproduce_.in_order(names) == [
        "02_two_stage_transfer",
        "00_tour",
        "01_relational_potentials",
        "05_new",
    ]
    assert reproduce_.in_order(["05_new", "00_tour", "05_new"]) == ["00_tour", "05_new"]


def test_the_notebooks_of_this_checkout_can_be_planned():
    folder = paths.root() / "notebooks"
    if not list(folder.glob("[0-9][0-9]_*.ipynb")):
        pytest.skip("no notebooks here: an installed package")
    own = {"preset": "smoke", "data": "", "out": ""}
    chosen = reproduce_.chosen_notebooks(folder)
    planned = {n.name: n for n in reproduce_.plan(chosen, own, {}, Path("nowhere"))}
    studies = [one for task in tasks().values() for one in task.studies if one.notebook]
    assert {name for one in studies for name in (one.notebook, *one.read_by)} <= set(planned)
    assert all(notebook.question != name for name, notebook in planned.items())


# The page of a notebook --------------------------------------------------------------------------


def with_outputs(*outputs, **metadata):
    return new_notebook(cells=[new_code_cell("1", outputs=list(outputs))], metadata=metadata)


def test_an_executed_notebook_shows_what_a_control_first_showed():
    view = "application/vnd.jupyter.widget-view+json"
    state = {
        "box": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_a", "IPY_MODEL_b"]}},
        "a": {"model_name": "IntSliderModel", "state": {"value": 3}},
        "b": {
            "model_name": "OutputModel",
            "state": {"outputs": [new_output("stream", name="stdout", text="three points")]},
        },
    }
    notebook = with_outputs(
        new_output("display_data", data={view: {"model_id": "box"}, "text/plain": "interactive"}),
        new_output("display_data", data={view: {"model_id": "bar"}, "text/plain": "a bar"}),
        new_output("display_data", data={"application/javascript": "alert(1)"}),
        new_output("stream", name="stderr", text="  0%\r 50%\r100%\ndone\n"),
        widgets={"application/vnd.jupyter.widget-state+json": {"state": state}},
        papermill={"start_time": "2026-01-01"},
    )
    notebook.cells[0].metadata = {"tags": ["a"], "execution": {"iopub.status.busy": "2026"}}
    found = executed(notebook)
    assert [o.get("text") or dict(o.data) for o in found.cells[0].outputs] == [
        "three points",
        {"text/markdown": "*Interactive in JupyterLab; this is the view it starts with.*"},
        "100%\ndone\n",
    ]
    assert found.cells[0].metadata == {"tags": ["a"]}
    assert found.metadata.keys() == {"kernelspec"}
    nbformat.validate(found)
    assert "widgets" in notebook.metadata  # the caller's notebook is as it was
    assert as_text(executed(notebook)) == as_text(found)


def test_an_executed_notebook_stays_small_and_names_no_folder(monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    noise = base64.b64encode(buffer.getvalue()).decode()
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    notebook = with_outputs(
        new_output("display_data", data={"image/png": noise}),
        new_output("stream", name="stderr", text=f"{paths.root()}/horkd/losses.py:3: {tmp_path}/x"),
        new_output("error", ename="E", evalue=f"{tmp_path}/y", traceback=[f"{tmp_path}/z"]),
    )
    page = as_text(executed(notebook))
    assert len(page) < 0.5 * len(noise)
    assert "./horkd/losses.py:3: $HORKD_DATA/x" in page
    assert '"evalue": "$HORKD_DATA/y"' in page
    assert str(tmp_path) not in page
    assert without_paths(f"{tmp_path}2") != "$HORKD_DATA2"


def test_the_index_links_what_a_run_left(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for ending in (".failed.ipynb", ".html", ".ipynb"):  # each is preferred to those before
        assert reproduce_._status(tmp_path, "03_table1", {}) == (
            "earlier run" if ending == ".ipynb" else "not run"
        )
        (tmp_path / "notebooks" / f"03_table1{ending}").touch()
        assert (
            reproduce_._link(tmp_path, "03_table1") == f"[03_table1](notebooks/03_table1{ending})"
        )
    assert reproduce_._link(tmp_path, "04_none") == "04_none"


def test_notebooks_mean_the_folder_of_runs_that_the_command_means(tmp_path, monkeypatch):
    """Their kernels start in another folder than the command did."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    tell = "from horkd import paths; open('told.txt', 'w').write(str(paths.runs_dir()))"
    add(folder, "05_new", tell)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HORKD_RUNS", "rel")
    paths.settle()  # as every command does at its start
    assert not reproduce("quick", "glyphs", out=tmp_path / "report", notebooks=folder).failed
    assert (folder / "told.txt").read_text() == str(paths.runs_dir()) == str(tmp_path / "rel")
