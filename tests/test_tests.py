"""The tests themselves: none puts something of its own in place of a part of a shared module.

Whatever runs beside such a test, or is left over from another one, would meet the replacement.
`watch.py` sees and stops what code does instead; where that does not do, the code gets a name of
its own for what it calls, and that name is replaced.
"""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
#: Whose parts may be replaced.
OURS = {"horkd", "app", "benchmarks", *(path.stem for path in HERE.glob("*.py"))}
#: What else may be, and why.
ALLOWED = {
    "tempfile.tempdir": "made to be set, for a whole session",
    "huggingface_hub.constants.HF_HUB_CACHE": "read from the environment on import only",
}
SETTERS = {"setattr", "delattr"}


def names_of(tree: ast.Module) -> dict[str, str]:
    """Name in a file -> what it was imported as, with dots."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def targets(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What a file replaces: line, and dotted name as it is written or imported."""
    known = names_of(tree)

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return known.get(node.id, "")  # "": made in the test itself
        if isinstance(node, ast.Attribute):
            inner = dotted(node.value)
            return inner and f"{inner}.{node.attr}"
        return ""

    for node in ast.walk(tree):
        places = []
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            text = first.value if isinstance(first, ast.Constant) else None
            if called in SETTERS and isinstance(text, str):
                yield node.lineno, text
            elif (called in SETTERS or ast.unparse(node.func).endswith("patch.object")) and (
                len(node.args) > 1
            ):
                places = [(first, ast.literal_eval(node.args[1]))] if dotted(first) else []
            elif called == "patch" and isinstance(text, str):
                yield node.lineno, text
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
            whole = node.targets if not isinstance(node, ast.AugAssign) else [node.target]
            places = [(t.value, t.attr) for t in whole if isinstance(t, ast.Attribute)]
        for owner, name in places:
            if place := dotted(owner):
                yield node.lineno, f"{place}.{name}"


def owner(name: str) -> str:
    """The first name of the module that the holder of an attribute is from."""
    parts = name.split(".")[:-1]
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        module = getattr(found, "__name__", "") if _is_module(found) else ""
        module = module or getattr(found, "__module__", None) or type(found).__module__
        return module.split(".")[0]
    raise AssertionError(f"{name} cannot be found")


def _is_module(thing: object) -> bool:
    return isinstance(thing, type(sys))


def shared(source: str) -> list[tuple[int, str]]:
    """Lines that replace parts of modules of others, with what they replace."""
    return [
        (line, name)
        for line, name in targets(ast.parse(source))
        if name not in ALLOWED and owner(name) not in OURS
    ]


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.name)
def test_no_test_replaces_a_part_of_a_shared_module(path):
    assert shared(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('monkeypatch.setattr(os, "replace", other)', "os.replace"),
        ('monkeypatch.setattr("time.sleep", other)', "time.sleep"),
        ('monkeypatch.setattr("horkd.machine.time.sleep", other)', "horkd.machine.time.sleep"),
        ('monkeypatch.setattr(storage.os, "getpid", other)', "horkd.storage.os.getpid"),
        ('monkeypatch.setattr(Path, "write_text", other)', "pathlib.Path.write_text"),
        ('monkeypatch.delattr(torch.nn.Module, "compile")', "torch.nn.Module.compile"),
        ('setattr(os, "replace", other)', "os.replace"),
        ("os.replace = other", "os.replace"),
        ('patch.object(os, "replace")', "os.replace"),
        ('patch("os.replace")', "os.replace"),
        ('patch("os.path.exists")', "os.path.exists"),
    ],
)
def test_that_would_be_found(line, name):
    imports = "import os\nimport torch\nfrom pathlib import Path\nfrom horkd import storage\n"
    assert shared(imports + line) == [(5, name)]


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(storage, "save_file", other)',
        'monkeypatch.setattr("horkd.training.time", other)',
        'monkeypatch.setattr(HorkdError, "__str__", other)',
        'monkeypatch.setattr(network, "spec", other)',
        "network.spec = other",
        'monkeypatch.setattr(tempfile, "tempdir", folder)',
    ],
)
def test_what_is_ours_may_be_replaced(line):
    imports = "import tempfile\nfrom horkd import storage\nfrom horkd.errors import HorkdError\n"
    assert shared(imports + line) == []


def test_modules_are_made_absent_and_nothing_else():
    """`sys.modules[name] = None` is what Python has for a package that is not installed."""
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setitem"):
                place, _, value = node.args
                if ast.unparse(place).startswith("sys."):
                    assert ast.unparse(place) == "sys.modules"
                    assert ast.unparse(value) == "None", f"{path.name}, line {node.lineno}"
