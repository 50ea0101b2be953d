"""What this machine is and how it is to be used: device, precision, interruption, speed."""

import functools
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from horkd.checks import require_seed
from horkd.errors import HorkdError

if TYPE_CHECKING:
    from horkd.networks.network import Network


@dataclass(frozen=True)
class Settings:
    """How the machine does it; all but the precision is meant not to change what comes out.

    "auto" asks the machine: see `resolve`.

    Attributes:
        device: "auto", "cpu", "cuda" or any torch device.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 on a GPU that has it, else fp32. It
            can change results by more than rounding, so that it is equal in all that is compared;
            `Preset.precision` decides it for a study.
        channels_last: memory format of images and weights: "auto", "on" or "off".
        compile: "auto" (on CUDA, if it works there), "on" or "off".
        cache: keep the frozen model's answers on disk for other runs (`horkd.answers`): "auto"
            (on the CPU, if they are not too many), "on" or "off".
        progress: show progress bars.
    """

    device: str = "auto"
    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"
    cache: str = "auto"
    progress: bool = True

    def resolve(self, network: "Network") -> "Settings":
        """Replace each "auto" by what suits this machine and network. Nothing is timed.

        Raises:
            HorkdError: if the device or a setting does not exist.
        """
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            line = str(error).splitlines()[0]
            raise HorkdError(f"cannot use device {device!r}: {line}") from None
        for name in ("channels_last", "compile", "cache"):
            if getattr(self, name) not in ("auto", "on", "off"):
                raise HorkdError(f"{name} is {getattr(self, name)!r}: choose from auto, on, off")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise HorkdError(f"precision is {self.precision!r}: choose from auto, fp32, bf16")
        settings = replace(self, device=device)
        on_cuda = settings.on_cuda
        if self.channels_last == "auto":  # what cuDNN's and oneDNN's fast kernels work on
            # with fewer channels, odd batches and several threads, the CPU's backward pass of
            # torch 2.15 writes outside of its memory
            wide = min(network.channels, default=16) >= 16
            fast = on_cuda or (torch.backends.mkldnn.is_available() and wide)
            settings = replace(settings, channels_last="on" if fast else "off")
        if self.compile == "auto":
            settings = replace(settings, compile="on" if on_cuda and _compiles(device) else "off")
        return replace(settings, precision=settings.chosen_precision)

    @property
    def chosen_precision(self) -> str:
        """The precision, with "auto" replaced by what suits the device."""
        if self.precision != "auto":
            return self.precision
        device = "cuda" if self.device == "auto" else self.device
        return "bf16" if self.on_cuda and has_bf16(device) else "fp32"

    @property
    def on_cuda(self) -> bool:
        """Whether the device is, or "auto" will be, a GPU."""
        if self.device == "auto":
            return torch.cuda.is_available()
        return self.device.startswith("cuda")

    def trained_in(self) -> dict[str, str]:
        """What can change the numbers of a run besides its configuration, once all is resolved."""
        kind = torch.device(self.device).type
        return {
            "precision": self.precision,
            "device": kind,
            "torch": importlib.metadata.version("torch"),
        }

    def autocast(self) -> torch.autocast:
        """The autocast context of this precision."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in its memory format."""
        network = network.to(self.device)
        return network.to(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """What `channels_last` means to torch."""
        return torch.channels_last if self.channels_last == "on" else torch.contiguous_format


@functools.lru_cache(maxsize=8)
def _compiles(device: str) -> bool:
    """Whether torch.compile works on this machine: it needs Triton and a C compiler."""
    try:
        torch.compile(lambda x: (x * 2 + 1).sum())(torch.ones(8, device=device))
    except Exception as error:  # a missing compiler can fail in any way
        line = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"torch.compile does not work here, going on without: {line}", stacklevel=2)
        return False
    return True


def has_bf16(device: str) -> bool:
    """Whether a device computes in bf16 itself; a CPU that only emulates it is slower for it."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in native)


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Full float32 products: TF32 would blur distances and resampling weights."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Interruption:
    """Ctrl-C and SIGTERM, put off to the end of a training step so that nothing is lost.

    Inside a `with` block the signals of this process come here. One that arrives during the steps
    of an epoch is only noted, as `asked`; whoever trains saves its state after the step and stops.
    At any other time it raises KeyboardInterrupt at once, and so does the second one.

    Args:
        numbers: of the signals.
        patient: a second one changes nothing: it may be the same, sent to a whole group.
    """

    def __init__(
        self,
        numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM),
        patient: bool = False,
    ) -> None:
        self.numbers, self.patient = numbers, patient
        self.asked = self._deferring = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, frame: object) -> None:
        again, self.asked = self.asked, True
        if again and self.patient:
            return
        if again or not self._deferring:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only noted."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextmanager
def seeded(device: str, seed: int) -> Iterator[None]:
    """Torch's global generators seeded inside, and as they were outside.

    Raises:
        HorkdError: if the seed is not one of torch's.
    """
    require_seed(seed)
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def describe_machine(device: str) -> dict[str, object]:
    """The hardware that a number was measured on."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else _cpu_name()
    return {"device": kind, "name": name, "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@torch.no_grad()
def latency(
    network: "Network",
    resolution: int,
    repeats: int = 30,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median milliseconds for one image (batch 1) on the network's device, in eval mode.

    Args:
        network: any.
        resolution: pixels of the image's side.
        repeats: images, after three to warm up.
        clock: seconds.
    """
    parameter = next(network.parameters())
    x = torch.zeros(1, 3, resolution, resolution, device=parameter.device)
    training, seconds = network.training, []
    network.eval()
    for _ in range(repeats + 3):
        if x.is_cuda:
            torch.cuda.synchronize()
        start = clock()
        network(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    network.train(training)
    return 1e3 * sorted(seconds[3:])[repeats // 2]


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("horkd", "torch", "torchvision", "numpy", "pillow")
    also = ("pytorch-metric-learning", "timm", "scikit-learn")  # where they are installed
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "from a checkout"
    for name in also:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}


@functools.lru_cache(maxsize=1)
def commit() -> str:
    """The checkout's commit, with `+` if horkd's files are changed; empty outside a checkout.

    Of the checkout that this package lies in, whatever the environment or the current folder say.
    """
    return commit_of(Path(__file__).resolve().parent)


def commit_of(package: str | Path) -> str:
    """The commit that a package's files are from, with `+` if they are changed.

    Empty where the package is not a folder at the top of a checkout, as after an installation into
    an environment inside of somebody's repository. If git refuses to say, a warning says why.

    Args:
        package: its folder.
    """
    package = Path(package)
    top = package.parent

    def git(*arguments: str) -> str:
        # a checkout of another user is read: its code is running already
        trust = ("-c", f"safe.directory={top}", "-c", "core.fsmonitor=false")
        return subprocess.run(
            ["git", *trust, "-C", str(top), *arguments],
            env={n: v for n, v in os.environ.items() if not n.startswith("GIT_")} | {"LC_ALL": "C"},
            capture_output=True, text=True, errors="replace", check=True,
        ).stdout.strip()  # fmt: skip

    if not (top / ".git").exists():
        return ""
    try:
        if not git("ls-files", "--", package.name):
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no", "--", package.name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except OSError as error:
        reason = f"git: {error.strerror}"
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["git fails"])[-1]
    warnings.warn(f"records will not name the commit of {top}: {reason}", stacklevel=2)
    return ""


#: From this load per core on, a machine is called busy.
BUSY = 0.5


def load() -> float:
    """Processes that want a core of this machine, per core; 0 where that is not known."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0


def lowest_priority() -> None:
    """Let everything else on this machine go first.

    Linux shares the processors out among sessions before it looks at priorities within one, so that
    a nice value alone means nothing to other terminals: the process gets a session of its own, of
    the lowest priority.
    """
    with suppress(OSError, AttributeError):  # no such thing on this system
        os.nice(19)
    with suppress(OSError, AttributeError):
        os.setsid()
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")
