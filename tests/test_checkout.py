"""A copied or moved checkout runs its own code, or says in one line what to do."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

from horkd.checkout import is_checkout, mistaken

ROOT = Path(__file__).resolve().parent.parent


def checkout(folder: Path) -> Path:
    """What tells a checkout, without an environment."""
    (folder / "horkd").mkdir(parents=True)
    (folder / "horkd" / "__init__.py").write_text("")
    (folder / "notebooks").mkdir()
    (folder / "pyproject.toml").write_text("")
    return folder


def test_this_is_a_checkout():
    assert is_checkout(ROOT)
    assert not is_checkout(ROOT / "notebooks")


def test_whose_code_is_meant(tmp_path):
    """By the environment, by the folder one is in, or by a name: then nothing is mistaken."""
    old, copy = checkout(tmp_path / "old"), checkout(tmp_path / "copy of it")
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    assert mistaken(old, old / ".venv", old / "notebooks", []) == ""
    assert mistaken(old, old / ".venv", elsewhere, []) == ""
    assert mistaken(old, Path("/usr"), elsewhere, []) == ""
    for prefix, current in (
        (copy / ".venv", elsewhere),
        (old / ".venv", copy / "notebooks"),
        (Path("/usr"), copy),
    ):
        said = mistaken(old, prefix, current, [])
        assert said == (
            f"this would run the code of {old}, but {copy} is meant: run `make setup` (or `pip "
            "install -e .`) there, as after copying or moving it"
        )
        assert mistaken(old, prefix, current, [elsewhere, old]) == ""
    installed = copy / ".venv" / "lib" / "site-packages"  # for good, in no checkout
    assert mistaken(installed, copy / ".venv", old, []) == ""
    (tmp_path / "link").symlink_to(old)
    assert mistaken(tmp_path / "link", old / ".venv", old, []) == ""
    assert mistaken(old, tmp_path / "link" / ".venv", tmp_path / "link", []) == ""


WHERE = "import horkd; print(horkd.__file__)"


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[Path, Path]:
    """A checkout with its environment, and a copy of both."""
    base = tmp_path_factory.mktemp("checkouts")
    old, copy = base / "old place", base / "new place"
    old.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "horkd", old / "horkd", ignore=ignored)
    for name in ("pyproject.toml", "conftest.py", "Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, old)
    for name in ("notebooks", "tests"):
        (old / name).mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=old, check=True)
    (packages,) = (old / ".venv").glob("lib/python*/site-packages")
    theirs = sysconfig.get_path("purelib")
    (packages / "here.pth").write_text(f"{theirs}\n{old}\n")  # as an editable install has it
    (old / ".venv" / ".horkd-ready").write_text(f"{old}\n")
    shutil.copytree(old, copy, symlinks=True)
    return old, copy


def call(interpreter: Path, *arguments: str, cwd: Path, **environment: str):
    """Run an environment's Python as somebody would who has set nothing."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [interpreter / ".venv" / "bin" / "python", *arguments],
        cwd=cwd, env={**kept, **environment}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_copied_environment_runs_no_foreign_code(copied, tmp_path):
    old, copy = copied
    told = call(copy, "-m", "horkd", "--help", cwd=tmp_path)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith(f"horkd: this would run the code of {old}, but {copy} is meant")
    assert told.stderr.count("\n") == 1
    for interpreter, cwd in ((copy, tmp_path), (old, copy / "notebooks")):  # as kernels are
        told = call(interpreter, "-c", WHERE, cwd=cwd)
        assert told.returncode == 1
        assert f"but {copy} is meant" in told.stderr.splitlines()[-1]


def test_what_is_in_place_runs(copied, tmp_path):
    old, copy = copied
    for interpreter, cwd, named, runs in (
        (old, tmp_path, "", old),
        (old, old / "notebooks", "", old),
        (copy, copy, "", copy),
        (old, copy, "", copy),
        (old, copy / "notebooks", str(copy), copy),
        (copy, tmp_path, str(old), old),
    ):
        told = call(interpreter, "-c", WHERE, cwd=cwd, **({"PYTHONPATH": named} if named else {}))
        assert told.stdout.strip() == str(runs / "horkd" / "__init__.py"), told.stderr


def test_tests_and_notebooks_of_a_copy_run_its_own_code(copied):
    """By the command of the old environment, which `.venv/bin/pytest` of a copy is."""
    old, copy = copied
    check = f"import horkd\nassert horkd.__file__ == {str(copy / 'horkd' / '__init__.py')!r}\n"
    cell = {"cell_type": "code", "id": "0", "source": check, "metadata": {}, "outputs": [],
            "execution_count": None}  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4,
                "nbformat_minor": 5}  # fmt: skip
    (copy / "notebooks" / "00_where.ipynb").write_text(json.dumps(notebook))
    (copy / "tests" / "test_where.py").write_text(
        f"def test_where():\n{textwrap.indent(check, '    ')}"
    )
    start = "import sys, pytest; sys.path.pop(0); sys.exit(pytest.main(sys.argv[1:]))"
    told = call(old, "-c", start, "--nbmake", "-p", "no:cacheprovider", "-q", cwd=copy)
    assert "2 passed" in told.stdout, told.stdout + told.stderr
