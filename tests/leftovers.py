"""What a test could leave behind for those that come after it, and whether it has.

`conftest.py` asks before and after every module. Whoever starts a thread or process, opens a port,
makes a temporary folder or changes what all share, ends, closes, removes or restores it.
"""

import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

#: Threads that libraries keep for the whole process, by name.
THREADS = re.compile(
    r"MainThread|Dummy-.*"
    r"|Thread-\d+ \(_?tqdm.*\)|tqdm.*"
    r"|asyncio_\d+"  # of an event loop's executor
    r"|pytest_timeout.*|<execnet.*|Thread-\d+ \(_?(thread_receiver|run_as_main).*\)"
)
#: Processes that Python keeps for the whole process, by their command.
PROCESSES = ("multiprocessing.resource_tracker",)
#: Variables that pytest and libraries set when they are imported.
VARIABLES = (
    *("PYTEST_", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED", "KMP_", "PYDEVD_"),
    *("TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_"),
)
#: Folders that libraries keep until the process ends.
FOLDERS = ("pymp-", "torchinductor_", "matplotlib-")
#: Seconds that threads and processes have to end.
PATIENCE = 10.0
#: Not SIGCHLD, by which torch watches its data workers for the rest of the process.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGPIPE")


def state() -> dict[str, object]:
    """All that is looked at, by a name for what is wrong where it has changed."""
    return {
        "a thread still runs": _threads(),
        "a process still runs": _children(),
        "a port is still open": _listening(),
        "a temporary file or folder is left": _temporary(),
        "an environment variable is changed": _environment(),
        "a signal is handled otherwise": {
            name: signal.getsignal(getattr(signal, name)) for name in SIGNALS
        },
        "what the process shares is changed": {
            "current folder": os.getcwd(),
            "sys.path": _own_path(),
            "sys.argv": tuple(sys.argv),
            "socket timeout": socket.getdefaulttimeout(),
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "meta path": tuple(map(str, sys.meta_path)),
        },
        "a setting of torch is changed": _torch(),
        "a figure is still open": _figures(),
        "a log is more or less talkative": _logs(),
    }


def _own_path() -> tuple[str, ...]:
    """Where modules are looked for; libraries add places of their own below."""
    theirs = ("site-packages", "torchinductor_")
    return tuple(place for place in sys.path if not any(name in place for name in theirs))


def _threads() -> set[str]:
    kept = THREADS.pattern
    if "torch._inductor.async_compile" in sys.modules:  # torch's compiler keeps its workers
        kept += r"|ThreadPoolExecutor-\d+_\d+"
    return {
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if thread.is_alive() and not re.fullmatch(kept, thread.name)
    }


def _children() -> set[str]:
    found = set()
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread is gone
            for number in file.read_text().split():
                command = b""
                with suppress(OSError):
                    command = Path(f"/proc/{number}/cmdline").read_bytes()
                line = command.replace(b"\0", b" ").decode(errors="replace")[:200]
                if not any(name in line for name in PROCESSES):
                    found.add(f"{number} {line}")
    return found


def _listening() -> set[str]:
    own = set()
    for file in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            own.add(os.readlink(file))
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                    found.add(f"port {int(fields[1].rpartition(':')[2], 16)}")
    return found


def _temporary() -> set[str]:
    return {
        path.name
        for path in Path(tempfile.gettempdir()).iterdir()
        if not path.name.startswith(FOLDERS)
    }


def _environment() -> dict[str, str]:
    return {name: v for name, v in os.environ.items() if not name.startswith(VARIABLES)}


def _torch() -> dict[str, object]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return {}
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "anomalies": torch.is_anomaly_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
    }


def _figures() -> set[str]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return {f"figure {number}" for number in pyplot.get_fignums()} if pyplot else set()


def _logs() -> dict[str, int]:
    known = {n: log for n, log in logging.root.manager.loggerDict.items() if hasattr(log, "level")}
    return {name: log.level for name, log in {"root": logging.root, **known}.items()}


def left(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """One line for each thing that is there after, and was not before, or is another one.

    What was not there before is no change where a library may just have been imported.
    """
    lines = []
    for wrong, now in after.items():
        was = before[wrong]
        if isinstance(now, set):
            lines += [f"{wrong}: {name}" for name in sorted(now - was)]
            continue
        names = now.keys() & was.keys()
        if wrong == "an environment variable is changed":
            names = now.keys() | was.keys()
        lines += [
            f"{wrong}: {name} was {was.get(name)!r}, is {now.get(name)!r}"
            for name in sorted(names)
            if was.get(name) != now.get(name)
        ]
    return lines


@contextmanager
def nothing_is_left() -> Iterator[None]:
    """Fail if the block leaves something behind that is still there after `PATIENCE`."""
    before = state()
    yield
    end = time.monotonic() + PATIENCE
    while lines := left(before, state()):
        if time.monotonic() > end:
            raise AssertionError("something is left behind\n" + "\n".join(lines))
        time.sleep(0.1)
