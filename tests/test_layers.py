"""The map is true: a module imports from its own layer and from those below it, and no other."""

import ast
import re
from pathlib import Path

import tiny

from horkd import paths, studies
from horkd.lab.work import work
from horkd.studies.presets import get_preset
from horkd.studies.study import choose, collect

#: From the ground up, as CONTRIBUTING has it.
LAYERS = (
    "errors checkout paper paths",
    "checks processes storage degradation fast notebook_kernel notebook_pairs",
    "networks notebooks potentials",
    "machine preprocess baselines losses",
    "objectives predict",
    "protocols",
    "data",
    "answers",
    "training",
    "two_stages lab",
    "studies",
    "reproduce",
    "cli",
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names.split()}
#: Former names, kept for who imports them.
FORMER = ("resolution", "retrieval")


def part(module: str) -> str:
    """The file or folder right below `horkd` that a module lies in."""
    return module.split(".")[1] if "." in module else ""


def imported(tree: ast.Module) -> set[str]:
    """Modules of horkd that a file imports when it runs, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in ast.walk(node):
                inner.seen = True
    for node in ast.walk(tree):
        if hasattr(node, "seen"):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "horkd":
            names = [f"horkd.{a.name}" for a in node.names] if node.module == "horkd" else []
            found |= set(names or [node.module])
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "horkd"}
    return found


def test_modules_import_from_their_own_layer_and_below():
    package = Path(paths.__file__).parent
    wrong = []
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own in (*FORMER, "__init__", "__main__"):
            continue
        for module in imported(ast.parse(path.read_text(encoding="utf-8"))):
            other = part(module)
            if FLOOR[other] > FLOOR[own]:
                wrong.append(f"{path.relative_to(package)} imports horkd.{other}")
    assert not wrong


def test_tasks_do_not_know_each_other_and_nothing_else_knows_them():
    """But for the weights of faces, which the characters that stand for faces have, too."""
    package = Path(paths.__file__).parent
    tasks = {p.parent.name for p in (package / "studies").glob("*/task.py")}
    assert len(tasks) >= 3
    wrong = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).parts
        own = inside[1] if len(inside) > 2 and inside[0] == "studies" else ""
        for module in imported(ast.parse(path.read_text(encoding="utf-8"))):
            match = re.match(r"horkd\.studies\.(\w+)", module)
            if match and match[1] in tasks - {own}:
                wrong.append(f"{path.relative_to(package)} imports {module}")
    assert wrong == ["studies/classification/arms.py imports horkd.studies.faces.presets"]


def test_the_map_names_every_part():
    text = (paths.root() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in FLOOR:
        assert f"`{name}.py`" in text or f"`{name}/`" in text, name


def test_a_task_is_a_folder_and_a_line(monkeypatch, tmp_path):
    """`tests/toys` beside the folders of the package, and its name among them: nothing else."""
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(Path(__file__).parent)])
    monkeypatch.setattr(studies, "TASKS", (*studies.TASKS, "toys"))
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    tiny.patch(monkeypatch)
    preset = get_preset("toys-small")
    jobs = choose(preset, ["play"])
    assert [job.arm for job in jobs] == ["toy teacher", "toy student", "toy student"]
    assert work(jobs, settings=tiny.SETTINGS, say=lambda line: None).left == 0
    found = collect(preset, "play")
    assert {name: len(runs) for name, runs in found.items()} == {"toy teacher": 1, "toy student": 2}
