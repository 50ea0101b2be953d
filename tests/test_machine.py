"""Which commit a record names: of the code that ran, whatever surrounds it."""

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from horkd.machine import commit_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GIT_")}
    return subprocess.run(
        ["git", *who, "-C", str(folder), *arguments],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def a_checkout(folder: Path, *files: str) -> str:
    """Make a repository with one commit of these files, and say which."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"# {folder.name}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "-f", *files)
    git(folder, "commit", "--quiet", "-m", "first")
    return git(folder, "rev-parse", "--short=12", "HEAD")


def test_the_checkout_of_the_package(tmp_path):
    known = a_checkout(tmp_path / "ours", "horkd/a.py", "README.md")
    package = tmp_path / "ours" / "horkd"
    assert commit_of(package) == known
    (tmp_path / "ours" / "README.md").write_text("changed")  # changes no result
    assert commit_of(package) == known
    (package / "a.py").write_text("changed")
    assert commit_of(package) == f"{known}+"


def test_the_environment_of_git_names_no_other_repository(tmp_path, monkeypatch):
    ours = a_checkout(tmp_path / "ours", "horkd/a.py")
    theirs = a_checkout(tmp_path / "theirs", "horkd/a.py")
    assert ours != theirs
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "theirs"))
    assert commit_of(tmp_path / "ours" / "horkd") == ours


def test_a_copy_in_somebodys_repository_has_no_commit(tmp_path, monkeypatch):
    """Installed into an environment inside of it, or put there and not committed."""
    theirs = tmp_path / "theirs"
    a_checkout(theirs, "notebooks/a.py", "pyproject.toml")
    monkeypatch.chdir(theirs)
    for place in (".venv/lib/python3/site-packages", "."):
        package = theirs / place / "horkd"
        package.mkdir(parents=True)
        (package / "a.py").touch()
        assert commit_of(package) == ""


def test_no_repository_at_all(tmp_path):
    (tmp_path / "horkd").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert commit_of(tmp_path / "horkd") == ""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_a_checkout_of_another_user(tmp_path):
    """Git refuses it by itself ("dubious ownership")."""
    known = a_checkout(tmp_path / "ours", "horkd/a.py")
    for path in (tmp_path / "ours", *(tmp_path / "ours").rglob("*")):
        os.chown(path, 54321, 54321)
    assert commit_of(tmp_path / "ours" / "horkd") == known


def test_what_git_cannot_read_is_said(tmp_path):
    a_checkout(tmp_path / "ours", "horkd/a.py")
    (tmp_path / "ours" / ".git" / "HEAD").write_text("nonsense")
    with pytest.warns(UserWarning, match="records will not name the commit of .*ours: fatal: "):
        assert commit_of(tmp_path / "ours" / "horkd") == ""


def test_without_git_it_is_said(tmp_path, monkeypatch):
    a_checkout(tmp_path / "ours", "horkd/a.py")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="records will not name the commit of .*: git: No such"):
        assert commit_of(tmp_path / "ours" / "horkd") == ""
