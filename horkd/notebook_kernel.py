"""One notebook: what it asks, what it takes, and running it by papermill.

It has a kernel of its own, which never outlives the call.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horkd.errors import HorkdError

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: Where horkd is found, installed or not.
HOME = Path(__file__).resolve().parent.parent


def declared(path: str | Path) -> list[str]:
    """The names that a notebook's parameters cell sets."""
    path = Path(path)
    import papermill

    try:
        return list(papermill.inspect_notebook(str(path)))
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise HorkdError(f"{path.name} cannot be read as a notebook: {reason}") from error


def question(path: str | Path) -> str:
    """A notebook's first heading; its name if it has none or cannot be read."""
    path = Path(path)
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception:  # only a title: a damaged notebook is refused when it is to run
        return path.stem
    lines = [line for c in cells if c.cell_type == "markdown" for line in c.source.splitlines()]
    heading = next((line for line in lines if line.startswith("# ")), path.stem)
    return heading.removeprefix("# ").strip()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A private folder with a short name: a socket's path must fit in about 100 bytes."""
    base = "/tmp" if len(tempfile.gettempdir()) > 60 else None
    with tempfile.TemporaryDirectory(prefix="horkd-", dir=base, ignore_cleanup_errors=True) as path:
        yield Path(path)


def execute(
    notebook: str | Path, parameters: Mapping[str, Any], partial: str | Path, scratch: str | Path
) -> "NotebookNode":
    """Run a notebook by papermill in its own folder.

    Args:
        notebook: the file.
        parameters: for its cell tagged `parameters`.
        partial: a file that holds what there is at any time.
        scratch: a folder as of `scratch_folder`.
    """
    notebook, partial, scratch = Path(notebook), Path(partial), Path(scratch)
    import papermill

    with (
        _quiet("papermill", "asyncio"),  # what fails is in our own lines
        _kernel(scratch) as (manager, kill),
        # in the main thread papermill's client would take Ctrl-C and SIGTERM for itself
        ThreadPoolExecutor(1) as thread,
    ):
        running = thread.submit(
            papermill.execute_notebook,
            notebook,
            partial,
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar={"desc": notebook.stem, "leave": False, "disable": None},
            # Not papermill's `cwd`, which changes the folder of this whole process.
            resources={"metadata": {"path": str(notebook.parent)}},
            kernel_manager_class=manager,
            coalesce_streams=True,
        )
        try:
            return running.result()
        finally:
            while not running.done():  # interrupted: it ends when its kernel does
                kill()
                wait([running], 0.1)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Loggers that say nothing within the block, nor within others that end later."""
    loggers = [logging.getLogger(name) for name in names]

    def nothing(record: logging.LogRecord) -> bool:
        return False

    for logger in loggers:  # not a level: blocks in several threads would put back each other's
        logger.addFilter(nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(nothing)


@contextmanager
def _kernel(scratch: Path) -> Iterator[tuple[type, Callable[[], None]]]:
    """A kernel manager class and how to kill its kernels, none of which outlives the block.

    They are of this interpreter, over sockets in `scratch`.

    TCP ports are chosen before they are bound, so kernels that start together can collide; sockets
    in a private folder cannot.
    """
    from ipykernel.kernelspec import write_kernel_spec
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    environment = {
        # An inherited Agg would leave figures out of the notebook.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # The kernel starts in another folder: horkd must be found there too, installed or not.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH")))),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        # A home may be read-only, and what its owner starts IPython with is not the notebook's.
        "IPYTHONDIR": str(scratch / "ipython"),
    }
    if os.path.expanduser("~") == "~":  # an unknown user, as in a container: Jupyter needs a home
        environment["HOME"] = str(scratch)
    specs = scratch / "kernels"
    write_kernel_spec(
        specs / "python3",
        overrides={"env": environment},
        extra_arguments=["--log-level=CRITICAL"],  # its messages about being interrupted at the end
    )
    managers: list[AsyncKernelManager] = []

    class Kernel(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(
                kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]),
                connection_file=str(scratch / "kernel.json"),
                transport="ipc",
                ip=str(scratch / "k"),
                **options,
            )
            managers.append(self)

    def kill() -> None:
        for manager in managers:
            process = getattr(manager.provisioner, "process", None)
            if process is not None:
                process.kill()

    try:
        yield Kernel, kill
    finally:  # papermill ends its kernel, but not when interrupted while starting it
        for manager in managers:
            if manager.has_kernel:
                run_sync(manager.shutdown_kernel)(now=True)
