"""Child processes: what they run at their start, and what is said when one dies.

A spawned child runs its parent's script again, up to `if __name__ == "__main__":`. A script without
that line would train there once more, and wait for the lock that its parent holds.
"""

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from horkd.errors import HorkdError

_one_at_a_time = threading.Lock()


@contextmanager
def without_main(*needed: object) -> Iterator[None]:
    """Processes that are spawned inside do not run the caller's script, notebook or module again.

    They are told all by their arguments. Where one of these is not this package's own, the script
    may have to be run for it, and is.

    Args:
        needed: classes and functions that the children work with.
    """
    if any(not str(getattr(one, "__module__", "")).startswith("horkd.") for one in needed):
        yield
        return
    main = sys.modules["__main__"]
    with _one_at_a_time:  # what is put back must not be what another thread took away
        kept = {
            name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)
        }
        main.__spec__ = main.__file__ = None  # where `multiprocessing` looks for the script
        try:
            yield
        finally:
            del main.__spec__, main.__file__
            for name, value in kept.items():
                setattr(main, name, value)


def require_main_guard() -> None:
    """Refuse to work in a child that is only running its parent's script again.

    Raises:
        HorkdError: if this process is one.
    """
    # what `multiprocessing` itself goes by, and the only sign of it
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise HorkdError(
            "this script starts processes, and each of them runs it again: put what it does under "
            '`if __name__ == "__main__":`'
        )


@contextmanager
def loader_failures() -> Iterator[None]:
    """A data worker that died is one line, whatever its parent was at when the signal came.

    Raises:
        HorkdError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        how = " ".join(str(error).split()).partition("killed by signal: ")[2].partition(".")[0]
        raise HorkdError(
            f"a process that decodes photos ended before its time{how and f' ({how})'}: if the "
            "memory is too small for so many, set HORKD_DATA_WORKERS to fewer, or to 0 for none"
        ) from None
