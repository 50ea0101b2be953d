"""What code does, seen and stopped from outside, with nothing replaced.

Python reports what touches the system (files, processes, sockets) to audit hooks, and calls of
functions to a profiler. Both may raise, and what they watch then fails. So no test has to put
something of its own in place of a part of `os`, `socket` or Pillow, which others share.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_acting: list[Callable[[str, tuple], None]] = []


def _hook(event: str, arguments: tuple) -> None:
    for act in tuple(_acting):
        act(event, arguments)


@contextmanager
def on_event(act: Callable[[str, tuple], None], *events: str) -> Iterator[None]:
    """`act(event, arguments)` is called before what the events stand for, in every thread.

    Args:
        act: may raise.
        events: names of audit events, or what they begin with.
    """
    if not hasattr(_hook, "added"):
        sys.addaudithook(_hook)  # cannot be taken away again
        _hook.added = True

    def chosen(event: str, arguments: tuple) -> None:
        if event.startswith(events):
            act(event, arguments)

    _acting.append(chosen)
    try:
        yield
    finally:
        _acting.remove(chosen)


@contextmanager
def refused(error: BaseException, *events: str, ending: str = "") -> Iterator[list[tuple]]:
    """What the events stand for fails.

    Args:
        error: what is raised.
        events: as of `on_event`.
        ending: only where the first argument, a path or address, ends so.

    Yields:
        The arguments of what was refused.
    """
    seen = []

    def act(event: str, arguments: tuple) -> None:
        if str(arguments[0] if arguments else "").lower().endswith(ending):
            seen.append(arguments)
            raise error

    with on_event(act, *events):
        yield seen


@contextmanager
def on_call(act: Callable[[FrameType], None], *functions: Callable) -> Iterator[None]:
    """`act(frame)` is called whenever this thread calls one of some Python functions.

    Args:
        act: may raise, and is not called again then.
        functions: plain ones or methods.
    """
    codes = {function.__code__ for function in functions}

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code in codes:
            act(frame)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextmanager
def failing(error: BaseException, *functions: Callable) -> Iterator[None]:
    """Some functions fail when they are called."""

    def act(frame: FrameType) -> None:
        raise error

    with on_call(act, *functions):
        yield
