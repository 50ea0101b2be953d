"""The files around the package agree with each other, and set-up and notebook pairs work."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import pytest
import yaml
from jupytext import TextFileContentsManager
from jupytext.cli import jupytext as jupytext_command
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from horkd import notebook_pairs, notebooks
from horkd.errors import HorkdError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOK = textwrap.dedent("""\
    # %% [markdown]
    # # A question

    # %% tags=["parameters"]
    preset: str = "smoke"  # size of the run


    # %%
    def answer(n: int) -> int:
        return n


    # %%
    answer(1)
    """)


def make(*arguments: str, folder: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run make as a person would, even when the tests themselves were started by make."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment.pop("PYTHON", None)
    environment |= settings
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def make_targets() -> set[str]:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    return set(phony[1].split())


def constraints() -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [r for r in map(Requirement, lines) if r.name != PROJECT["name"]]


def test_constraints_hold_only_names_versions_and_markers():
    for pin in constraints():  # parsing rejects options such as --index-url
        assert pin.url is None, pin
        assert not pin.extras, pin
        assert [s.operator for s in pin.specifier] == ["=="], pin


def test_constraints_satisfy_every_declared_dependency():
    pins: dict[str, list[str]] = {}
    for pin in constraints():
        pins.setdefault(canonicalize_name(pin.name), []).extend(s.version for s in pin.specifier)
    for wanted in declared():
        versions = pins.get(canonicalize_name(wanted.name))
        assert versions, f"{wanted.name} is not in constraints.txt: make lock"
        assert all(wanted.specifier.contains(v, prereleases=True) for v in versions), wanted


def test_conda_environment_agrees_with_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    assert "dev" in PROJECT["optional-dependencies"]


def test_installed_metadata_has_the_extras():
    extras = set(metadata("horkd").get_all("Provides-Extra") or [])
    assert extras == {"notebook", "metric", "app", "test", "dev"}
    assert extras == set(PROJECT["optional-dependencies"])


def test_help_is_the_default_and_lists_every_target():
    listed = make("help")
    assert listed.returncode == 0, listed.stderr
    assert {line.split()[1] for line in listed.stdout.splitlines()} == make_targets()
    assert make().stdout == listed.stdout


def test_an_unsuitable_interpreter_is_refused_and_leaves_nothing(tmp_path: Path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.9"  # answers no to whatever it is asked
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = make("setup", f"PYTHON={old}", folder=tmp_path)
    assert result.returncode != 0
    assert result.stderr.startswith("horkd needs Python 3.11 or newer")
    assert not (tmp_path / ".venv").exists()


def test_the_environment_is_reused_until_dependencies_change(tmp_path: Path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stamp = tmp_path / ".venv" / ".horkd-ready"
    stamp.parent.mkdir()
    assert make("--question", "setup", folder=tmp_path).returncode == 1
    stamp.write_text(f"{tmp_path.resolve()}\n")
    assert make("--question", "setup", folder=tmp_path).returncode == 0
    later = stamp.stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert make("--question", "setup", folder=tmp_path).returncode == 1


def environment(folder: Path) -> Path:
    """A checkout's Makefile, and an environment that is ready; it holds a file to know it by."""
    folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    (folder / ".venv" / "known").touch()
    (folder / ".venv" / ".horkd-ready").write_text(f"{folder.resolve()}\n")
    return folder


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_checkout_gets_an_environment_of_its_own(tmp_path: Path, how):
    """It is made anew: commands in it name their interpreter by its path."""
    old, new = environment(tmp_path / "Bob's place"), tmp_path / "new place"
    python = tmp_path / "python"  # writes down what it is asked, and has no pip
    python.write_text('#!/bin/sh\necho "$*" >> asked\ncase "$*" in *pip\\ *) exit 1; esac\n')
    python.chmod(0o755)
    (old / ".venv" / "bin" / "python").unlink()
    shutil.copy(python, old / ".venv" / "bin")
    anew = "-m venv --clear --without-pip .venv"

    assert make("--question", "setup", folder=old).returncode == 0
    how(old, new, **({"symlinks": True} if how is shutil.copytree else {}))
    assert make("--question", "setup", folder=new).returncode == 1
    assert make("setup", f"PYTHON={python}", folder=new).returncode != 0
    assert anew in (new / "asked").read_text().splitlines()
    assert make("--question", "setup", folder=new).returncode == 1
    if old.exists():  # interrupted, it is gone on with
        (old / ".venv" / ".horkd-ready").unlink()
        assert make("setup", f"PYTHON={python}", folder=old).returncode != 0
        assert anew not in (old / "asked").read_text().splitlines()


def test_an_environment_that_is_linked_to_is_left_alone(tmp_path: Path):
    old, new = environment(tmp_path / "old"), tmp_path / "new"
    new.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(old / name, new)
    (new / ".venv").symlink_to(old / ".venv")
    assert make("--question", "setup", folder=new).returncode == 0
    later = (old / ".venv" / ".horkd-ready").stat().st_mtime + 10
    os.utime(new / "constraints.txt", (later, later))
    told = make("setup", folder=new)
    assert told.returncode != 0
    assert ".venv is a link to the environment of another folder: set it up there" in told.stderr
    assert (old / ".venv" / "known").exists()


def test_ci_script_is_executable_and_parses():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    parsed = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    assert "make test" in script.read_text()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_only_existing_make_targets(document: str):
    code = re.findall(r"```.*?```|`[^`\n]+`", (ROOT / document).read_text(), re.DOTALL)
    named = set(re.findall(r"(?:^|[`\s;&])make ([a-z]+)", "\n".join(code)))
    assert named <= make_targets()
    if document == "CONTRIBUTING.md":
        assert {"setup", "test", "lint", "notebooks", "lock"} <= named


def test_notebook_pairs_are_in_sync():
    assert notebook_pairs.stale(ROOT / "notebooks") == []


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with one notebook and its pair; returns the source."""
    source = tmp_path / "00_question.py"
    source.write_text(NOTEBOOK)
    assert notebook_pairs.write(tmp_path) == [tmp_path / "00_question.ipynb"]
    return source


def test_a_pair_is_deterministic_and_free_of_outputs(pair: Path):
    target = pair.with_suffix(".ipynb")
    first = target.read_bytes()
    notebook_pairs.write(pair.parent)
    assert target.read_bytes() == first
    made = notebook_pairs.build(pair)
    assert [cell.id for cell in made.cells] == ["0", "1", "2", "3"]
    assert [cell.cell_type for cell in made.cells] == ["markdown", "code", "code", "code"]
    assert [dict(cell.metadata) for cell in made.cells] == [{}, {"tags": ["parameters"]}, {}, {}]
    assert not any(c.outputs or c.execution_count for c in made.cells if c.cell_type == "code")
    assert set(made.metadata) == {"kernelspec"}
    assert notebook_pairs.stale(pair.parent) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda t: t.unlink(), "00_question.ipynb is missing"),
        (lambda t: t.write_text("{}"), "00_question.ipynb is not what 00_question.py gives"),
        (
            lambda t: t.write_text(t.read_text().replace("answer(1)", "answer(2)")),
            "00_question.ipynb is not what 00_question.py gives",
        ),
        (
            lambda t: t.write_text(t.read_text().replace("parameters", "other")),
            "00_question.ipynb is not what 00_question.py gives",
        ),
        (
            lambda t: t.write_text(
                t.read_text().replace('"execution_count": null', '"execution_count": 7')
            ),
            "00_question.ipynb is not what 00_question.py gives",
        ),
        (lambda t: shutil.copy(t, t.with_name("07_left.ipynb")), "07_left.ipynb has no 07_left.py"),
    ],
)
def test_check_names_the_stale_notebook(pair: Path, damage, complaint: str, capsys):
    damage(pair.with_suffix(".ipynb"))
    assert notebooks.main(["--check", "--folder", str(pair.parent)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(complaint)


def git(folder: Path, *arguments: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def committed(pair: Path) -> Path:
    """The same as somebody else's commit, of which nothing was made here."""
    git(pair.parent, "init")
    git(pair.parent, "add", "--all")
    git(pair.parent, "commit", "--message", "A question")
    (pair.parent / notebook_pairs.MADE).unlink()
    return pair


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("known_from", ["git", "here"])
def test_what_was_changed_in_the_notebook_alone_is_not_lost(request, known_from, capsys):
    source = request.getfixturevalue({"git": "committed", "here": "pair"}[known_from])
    target = source.with_suffix(".ipynb")
    replaced(target, "answer(1)", "answer(2)")
    edited = target.read_bytes()
    assert notebooks.main(["--folder", str(source.parent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "00_question.ipynb has changes that 00_question.py lacks. To keep them, "
    )
    assert target.read_bytes() == edited
    command = shlex.split(re.search(r"run `(jupytext [^`]*)`", line)[1])
    shutil.copy(ROOT / "jupytext.toml", source.parent)
    jupytext_command(command[1:])
    assert source.read_text().endswith("answer(2)\n")
    assert notebooks.main(["--folder", str(source.parent)]) == 0
    assert notebook_pairs.stale(source.parent) == []
    assert "answer(2)" in target.read_text()


def test_a_pasted_picture_is_not_lost(pair: Path):
    """A source cannot hold it, so it is said."""
    target, kind = pair.with_suffix(".ipynb"), '"cell_type": "markdown",'
    replaced(target, kind, kind + '"attachments": {"a.png": {"image/png": "AAAA"}},')
    with pytest.raises(HorkdError, match="has changes that"):
        notebook_pairs.write(pair.parent)
    assert "a.png" in target.read_text()


@pytest.mark.parametrize("known_from", ["git", "here"])
def test_what_was_changed_in_the_source_is_taken_over(request, known_from):
    """Also where it is changed again before anything is committed."""
    source = request.getfixturevalue({"git": "committed", "here": "pair"}[known_from])
    for number in (1, 2):
        replaced(source, f"answer({number})", f"answer({number + 1})")
        notebook_pairs.write(source.parent)
        assert f"answer({number + 1})" in source.with_suffix(".ipynb").read_text()


def test_where_both_were_changed_neither_is_lost(committed: Path):
    replaced(committed, "answer(1)", "answer(3)")
    replaced(committed.with_suffix(".ipynb"), "answer(1)", "answer(2)")
    with pytest.raises(HorkdError, match=r"00_question\.ipynb and .* were both changed: bring"):
        notebook_pairs.write(committed.parent)
    assert "answer(2)" in committed.with_suffix(".ipynb").read_text()
    committed.with_suffix(".ipynb").unlink()
    notebook_pairs.write(committed.parent)
    assert "answer(3)" in committed.with_suffix(".ipynb").read_text()


def test_results_are_no_changes(pair: Path):
    target = pair.with_suffix(".ipynb")
    before = target.read_bytes()
    replaced(target, '"execution_count": null', '"execution_count": 7')
    notebook_pairs.write(pair.parent)
    assert target.read_bytes() == before


def test_a_notebook_that_cannot_be_read_is_named(pair: Path):
    pair.with_suffix(".ipynb").write_text("{}")
    with pytest.raises(HorkdError, match=r"00_question\.ipynb cannot be read .*: delete it"):
        notebook_pairs.write(pair.parent)


def test_all_notebooks_are_written_or_none(pair: Path):
    other = pair.with_name("01_other.py")
    shutil.copy(pair, other)
    notebook_pairs.write(pair.parent)
    replaced(pair, "answer(1)", "answer(3)")
    replaced(other.with_suffix(".ipynb"), "answer(1)", "answer(2)")
    before = pair.with_suffix(".ipynb").read_bytes()
    with pytest.raises(HorkdError, match=r"^01_other\.ipynb"):
        notebook_pairs.write(pair.parent)
    assert pair.with_suffix(".ipynb").read_bytes() == before


#: What git leaves in a file that two have changed; put together here, so that this file has none.
OURS, BETWEEN, THEIRS = "<" * 7 + " HEAD", "=" * 7, ">" * 7 + " theirs"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("py", "answer(1)\n", f"{OURS}\nanswer(1)\n{BETWEEN}\nanswer(2)\n{THEIRS}\n"),
        ("py", "answer(1)\n", f"answer(1)\n{BETWEEN}\nanswer(2)\n"),
        ("py", "# # A question\n", f"{OURS}\n# # A question\n{THEIRS}\n"),
        ("py", "# # A question\n", f"# {OURS}\n# # A question\n# {THEIRS}\n"),
        ("ipynb", '    "answer(1)"\n', f'{OURS}\n    "answer(1)"\n{THEIRS}\n'),
        ("ipynb", '    "answer(1)"\n', f'    "{OURS}\\n",\n    "answer(1)"\n'),
    ],
    ids=["code", "between", "words", "comment", "json", "cell"],
)
def test_conflict_markers_are_refused(pair: Path, name, old, new, capsys):
    path = pair.with_suffix(f".{name}")
    replaced(path, old, new)
    lines = path.read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if OURS in text or text == BETWEEN)
    before = content(pair.parent)
    for arguments, code in (("--check",), 1), ((), 2):
        assert notebooks.main([*arguments, "--folder", str(pair.parent)]) == code
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"00_question.{name} has a conflict marker in line {line}: resolve ")
    assert content(pair.parent) == before


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_no_file_holds_conflict_markers():
    """Ruff sees them in Python only."""
    kinds = ("py", "ipynb", "md", "toml", "txt", "json", "yml", "csv")
    folders = ("horkd", "app", "benchmarks", "tests", "notebooks", "docs", "reports", ".ci")
    paths = [p for kind in kinds for folder in folders for p in (ROOT / folder).rglob(f"*.{kind}")]
    paths += [p for p in (*ROOT.iterdir(), *(ROOT / ".ci").iterdir()) if p.is_file()]
    marker = re.compile(rf"^({OURS[:7]}|{THEIRS[:7]}) ".encode(), re.MULTILINE)
    assert marker.search(f"a\n{OURS}\nb".encode())
    assert [path for path in paths if marker.search(path.read_bytes())] == []


@pytest.fixture
def lab(tmp_path: Path):
    """What opens and saves notebooks in JupyterLab, in a folder with one of ours."""
    (tmp_path / "notebooks").mkdir()
    for name in ("notebooks/03_table1.py", "notebooks/03_table1.ipynb", "jupytext.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return TextFileContentsManager(root_dir=str(tmp_path))


def test_jupyterlab_saves_both_and_shows_what_is_in_one_alone(lab, tmp_path: Path):
    """Fresh from git the notebook may be later or earlier than its source."""
    name = "notebooks/03_table1.ipynb"
    target, source = tmp_path / name, (tmp_path / name).with_suffix(".py")
    text, changed = source.read_text(), source.stat().st_mtime
    assert "Table 1" in text
    for later in (-100, 100):
        os.utime(target, (changed + later, changed + later))
        model = lab.get(name)
    lab.save(model, name)
    assert source.read_text() == text
    cell = model["content"]["cells"][0]
    cell["source"] = cell["source"].replace("Table 1", "Table 9")
    lab.save(model, name)
    assert source.read_text() == text.replace("Table 1", "Table 9", 1)
    assert notebook_pairs.write(source.parent) == [target]
    assert lab.get(str(Path(name).with_suffix(".py")), type="notebook")["content"]["cells"]

    replaced(target, "Table 9", "Table 8")
    os.utime(target, (changed + 1000, changed + 1000))
    with pytest.raises(Exception, match=r"is more recent than"):
        lab.get(name)


def test_a_folder_without_notebooks_is_one_clear_line(tmp_path: Path, capsys):
    assert notebooks.main(["--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("no notebook NN_name.py in ")


#: Declared without being imported: commands, plugins of pytest, what pandas writes tables by.
NOT_IMPORTED = {
    *("jupyterlab", "ruff", "uv"),
    *("nbmake", "pytest-timeout", "pytest-xdist"),
    "tabulate",
}
#: Imported without being declared: comes with torch where there is CUDA.
NOT_DECLARED = {"triton"}


def imported(path: Path) -> set[str]:
    """The first names of all modules that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            names += [ast.literal_eval(node.args[0])]
    return {name.partition(".")[0] for name in names}


def test_what_is_imported_is_declared_and_the_other_way_round():
    sources = [
        path
        for folder in ("horkd", "app", "benchmarks", "tests", "notebooks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    ours = {"horkd", "app", *(path.stem for path in sources)}
    names = set().union(*map(imported, sources)) - ours - set(sys.stdlib_module_names)
    by_module = packages_distributions()
    used = {canonicalize_name(by_module.get(name, [name])[0]) for name in names}
    wanted = {canonicalize_name(requirement.name) for requirement in declared()}
    assert used - wanted == NOT_DECLARED & used, "imported, but not declared in pyproject.toml"
    assert wanted - used - NOT_IMPORTED == set(), "declared in pyproject.toml, but not imported"


def test_every_module_imports_without_the_extras():
    """A bare GPU image has neither notebooks nor metric learning nor the demo."""
    extras = PROJECT["optional-dependencies"]
    absent = {
        canonicalize_name(Requirement(line).name)
        for extra in ("notebook", "metric", "app")
        for line in extras[extra]
    }
    optional = {
        module
        for module, packages in packages_distributions().items()
        if absent & set(map(canonicalize_name, packages))
    }
    assert {"papermill", "timm", "gradio"} <= optional
    package = ROOT / "horkd"
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
    } - {"horkd.__main__"}
    assert {"horkd.losses", "horkd.training", "horkd.cli"} <= modules
    code = textwrap.dedent(f"""\
        import importlib, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {optional!r}:
                    raise ModuleNotFoundError(f"{{name}} is an extra", name=name)
        sys.meta_path.insert(0, Absent())
        for name in {sorted(modules)!r}:
            importlib.import_module(name)
        """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
