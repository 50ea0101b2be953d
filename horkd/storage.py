"""Files that are whole or absent: atomic writes, digests, and a place for damaged ones."""

import errno
import functools
import hashlib
import json
import os
import secrets
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, SoftFileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from horkd.errors import HorkdError
from horkd.processes import require_main_guard


class DamagedFile(HorkdError):
    """A file of ours that cannot be trusted: truncated, altered or of another kind."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block succeeds, else removed.

    Raises:
        HorkdError: if the disk is full, read-only or otherwise refuses.
    """
    path = Path(path)
    # not the process id alone: machines may share the folder
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file size limit is reached",
        }.get(error.errno, error.strerror or str(error))
        raise HorkdError(f"could not write {path}: {reason}; nothing was changed") from error
    finally:
        with suppress(OSError):  # such as a folder that is none: what went wrong is already said
            temporary.unlink(missing_ok=True)


class Busy(HorkdError):
    """Another process holds the lock."""


#: What file systems without locks answer. 524 is Linux's own ENOTSUPP, which some let through.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, 524}

#: Seconds until a marker counts as held; one of a process that is gone is taken over meanwhile.
_PATIENCE = 0.5


@functools.cache
def has_locks(folder: str | Path) -> bool:
    """Whether the file system of a folder, which is there, has locks; some network ones have not.

    Raises:
        OSError: if the folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:  # another system, whose locks are not these
        return True
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
    return True


@contextmanager
def locked(
    path: str | Path, wait: bool = True, native: Callable[[Path], bool] = has_locks
) -> Iterator[None]:
    """One process at a time holds the lock file `path`; others wait, or are refused.

    Where the file system has no locks, `NAME.held` exists as long as the lock is held, and says by
    which process of which machine. One that a process of this machine left behind when it was
    killed is taken over; whether one of another machine is gone only its owner can tell.

    Args:
        path: the lock file; its folder is made.
        wait: for who holds it.
        native: whether a folder's file system has locks.

    Raises:
        Busy: if another holds it and `wait` is False.
        HorkdError: if the folder cannot be written to, or this is a child that runs its parent's
            script again: the parent may hold the lock, and waits for this child.
    """
    require_main_guard()
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if native(path.parent):
            lock = FileLock(path)
            lock.acquire(timeout=-1 if wait else 0)
        else:
            lock = _held_by_marker(path, wait)
    except Timeout:
        raise Busy(f"another process is at work on {path.stem}") from None
    except OSError as error:
        raise HorkdError(f"cannot write to {path.parent}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _held_by_marker(path: Path, wait: bool) -> SoftFileLock:
    marker = path.with_name(f"{path.name}.held")
    warnings.warn(
        f"the file system of {path.parent} has no locks: files called .held take their place",
        stacklevel=4,
    )
    lock = SoftFileLock(marker)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        line = f"{_holder(marker)} is at work on {path.stem}; if it is gone, remove {marker}"
        if not wait:
            raise Busy(line) from None
        warnings.warn(f"waiting: {line}", stacklevel=4)
        lock.acquire()
    return lock


def _holder(marker: Path) -> str:
    """Who holds a marker: process and machine are its first two lines."""
    try:
        process, machine = marker.read_text(encoding="utf-8").split("\n")[:2]
    except (OSError, ValueError):
        return "another process"
    return f"process {process} of {machine}"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def set_aside(path: str | Path, reason: str) -> Path:
    """Rename a damaged file to `NAME.damaged` (or `.damaged-2`, …) and say so in one warning."""
    path = Path(path)
    number = 1
    while True:
        target = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if not target.exists():
            break
        number += 1
    os.replace(path, target)
    warnings.warn(f"{reason}; set aside as {target.name} and done again", stacklevel=2)
    return target


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.flatten().view(torch.uint8).numpy() if t.numel() else b"")
    return digest.hexdigest()


def _file_digest(tensors: str, metadata: str) -> str:
    return hashlib.sha256(f"{tensors}\n{metadata}".encode()).hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]
) -> str:
    """Write a safetensors file atomically, with JSON metadata and a digest in its header.

    Returns:
        The digest of the tensors.

    Raises:
        HorkdError: if it cannot be written.
    """
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    digest = tensor_digest(plain)
    text = json.dumps(metadata, sort_keys=True)
    header = {"digest": _file_digest(digest, text), "horkd": text}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:  # wraps the operating system's error as text
            number = errno.ENOSPC if "No space left" in str(error) else errno.EIO
            if "File too large" in str(error):
                number = errno.EFBIG
            raise OSError(number, str(error)) from error
    return digest


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a file written by `save_tensors`, checked against its digest.

    Raises:
        HorkdError: if there is no such file.
        DamagedFile: if it is truncated, altered or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise HorkdError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(header["horkd"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged or not a file of horkd's ({error})") from None
    if _file_digest(tensor_digest(tensors), header["horkd"]) != header.get("digest"):
        raise DamagedFile(f"{path} is damaged: its content does not match its digest")
    return tensors, metadata


def read_cache(path: str | Path, *names: str) -> dict[str, Tensor] | None:
    """Tensors that `write_cache` kept, among them `names`; None if there is no such file.

    A damaged one is set aside, so that its content is computed again.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        tensors, _ = load_tensors(path)
        if not tensors.keys() >= set(names):
            raise DamagedFile(f"{path} is damaged: it lacks one of {', '.join(names)}")
    except DamagedFile as error:
        with suppress(OSError):  # another process was faster, or the folder is read-only
            set_aside(path, str(error))
        return None
    return tensors


def write_cache(path: str | Path, tensors: Mapping[str, Tensor], what: str) -> None:
    """Keep tensors that can be computed again; where that fails, warn: `what` is done without."""
    try:
        save_tensors(path, tensors, {})
    except HorkdError as error:
        warnings.warn(f"going on without {what}: {error}", stacklevel=3)


def cached(
    path: str | Path, names: Iterable[str], compute: Callable[[], dict[str, Tensor]], what: str
) -> dict[str, Tensor]:
    """Tensors that are computed once and then read.

    Args:
        path: where they are kept.
        names: of the tensors; a file that lacks one is damaged.
        compute: gives them where there is no whole file.
        what: what is gone without, by a warning, if they cannot be kept.
    """
    tensors = read_cache(path, *names)
    if tensors is None:
        tensors = compute()
        write_cache(path, tensors, what)
    return tensors


def save_json(path: str | Path, content: Mapping[str, object]) -> None:
    """Write a JSON file atomically, with a digest of its content."""
    if "digest" in content:
        raise ValueError("'digest' is this file format's own key")
    text = json.dumps(content, indent=1, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    body = json.dumps({**content, "digest": digest}, indent=1, sort_keys=True)
    write_text(path, body + "\n")


def load_json(path: str | Path) -> dict:
    """The content written by `save_json`, checked against its digest.

    Raises:
        HorkdError: if there is no such file.
        DamagedFile: if it is truncated or altered.
    """
    path = Path(path)
    if not path.is_file():
        raise HorkdError(f"there is no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedFile(f"{path} is damaged ({type(error).__name__})") from None
    text = json.dumps(content, indent=1, sort_keys=True)
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise DamagedFile(f"{path} is damaged: its content does not match its digest")
    return content
