"""The one exception that users are meant to read, warnings as lines like it, and any terminal."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class HorkdError(Exception):
    """Bad input, missing data or a full disk: one line that says what is wrong and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


@contextmanager
def warnings_as_lines(prefix: str = "") -> Iterator[None]:
    """Within the block a warning is one line on standard error, without file and line number.

    Files and sockets that some library left to the garbage collector are no user's business.

    Args:
        prefix: who says it.
    """

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if not issubclass(category, ResourceWarning):
            print(f"horkd: {prefix}{message}", file=sys.stderr, flush=True)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def printable_output() -> None:
    """From now on any terminal will do: what it cannot encode is printed as `?`, and is no error.

    A terminal, pipe or container may know ASCII only, and help and listings have other signs.
    Standard error does this by itself. A width of 0, from a terminal that does not say its own,
    would leave help empty.
    """
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's takes everything
        sys.stdout.reconfigure(errors="replace")
