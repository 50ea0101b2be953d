"""Which photos a folder holds: a digest of their contents, read again only where a file changed.

It is part of a run's key (`horkd.lab.config`): other photos are another run, whatever they are
called and however large they are. What was read is kept in the cache by each file's size and times.
A file so young that its times could not tell a further change is read again.
"""

import functools
import hashlib
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from horkd import paths, storage
from horkd.data.folder import halves_of
from horkd.data.photos import PhotoFiles
from horkd.data.retrieval import FOLDER, parse_retrieval
from horkd.errors import HorkdError

#: Nanoseconds: some file systems count times in steps of two seconds.
YOUNG = 2_000_000_000


@dataclass(frozen=True)
class _Listing:
    """What is known of a folder.

    Attributes:
        state: sizes and times of its photos, as text.
        digest: of names, classes and contents.
        settled: no file was young when it was read.
    """

    state: str
    digest: str
    settled: bool


_KNOWN: dict[tuple[str, Path | None], _Listing] = {}


def listing_digest(name: str) -> str:
    """A digest of the photos of a folder, their names and classes.

    A process sees a folder as it was when it first asked, until `look_again`.

    Args:
        name: `folder:PATH`, with `@SIZE` if wished.

    Raises:
        HorkdError: if there is no such folder or a photo cannot be read.
    """
    key = _key(name)
    if key not in _KNOWN:
        _KNOWN[key] = _read(key[0])
    return _KNOWN[key].digest


def look_again(name: str) -> None:
    """Notice what changed in a folder of photos since this process read it.

    Args:
        name: any data set; one that is no folder of photos is left alone.

    Raises:
        HorkdError: as `listing_digest`.
    """
    if not name.startswith(FOLDER):
        return
    key = _key(name)
    before = _KNOWN.pop(key, None)
    if before is None:
        return
    if before.settled and before.state == _state(_halves(key[0])):
        _KNOWN[key] = before
    else:
        _KNOWN[key] = _read(key[0])


def _key(name: str) -> tuple[str, Path | None]:
    return parse_retrieval(name)[0], paths.data_dir()


def _halves(base: str) -> list[tuple[PhotoFiles, list[os.stat_result]]]:
    """Photos to train on and to test on, with the states of their files."""
    halves = halves_of(base.removeprefix(FOLDER))
    return [(photos, [_stat(photos.root / file) for file in photos.files]) for photos in halves]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> HorkdError:
    return HorkdError(
        f"cannot read {path}: {error.strerror}; remove the entry or put the photo there"
    )


def _times(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _state(halves: Sequence[tuple[PhotoFiles, Sequence[os.stat_result]]]) -> str:
    return _digest(halves, [[str(_times(stat)) for stat in stats] for _, stats in halves])


def _digest(halves: Sequence[tuple[PhotoFiles, object]], contents: Sequence[Sequence[str]]) -> str:
    """Of names, classes and what is said of each photo."""
    digest = hashlib.sha256()
    for (photos, _), said in zip(halves, contents, strict=True):
        labels = photos.labels.tolist()
        for file, label, content in zip(photos.files, labels, said, strict=True):
            line = f"{file}\0{photos.names[label]}\0{content}\n"
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _read(base: str) -> _Listing:
    """Look at a folder, reading what is not known of its photos."""
    halves = _halves(base)
    files = {
        file: stat
        for photos, stats in halves
        for file, stat in zip(photos.files, stats, strict=True)
    }
    known, settled = _contents(halves[0][0].root, files)
    contents = [[known[file] for file in photos.files] for photos, _ in halves]
    return _Listing(_state(halves), _digest(halves, contents), settled)


def _contents(root: Path, files: Mapping[str, os.stat_result]) -> tuple[dict[str, str], bool]:
    """The digest of each file below `root`, and whether none is too young to be kept."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    kept = None
    try:
        kept = paths.cache_dir() / "photos" / f"{place}.json"
        before = storage.load_json(kept)["files"]
    except HorkdError:  # not there yet, or damaged, or there is no place for it
        before = {}
    now, found = time.time_ns(), {}
    settled = [file for file, stat in files.items() if max(_times(stat)[1:]) < now - YOUNG]
    entries = {file: _times(files[file]) for file in settled}
    for file in _unhurried(files):
        *times, digest = before.get(file, [""])
        found[file] = digest if entries.get(file) == times else _content(root / file)
    entries = {file: [*times, found[file]] for file, times in entries.items()}
    if kept is not None and entries != before:
        try:
            storage.save_json(kept, {"files": entries})
        except HorkdError as error:
            warnings.warn(f"going on without a cache of photos' digests: {error}", stacklevel=4)
    return found, len(settled) == len(files)


def _unhurried(files: Iterable[str]) -> Iterable[str]:
    """The files, with a bar on a terminal if they take seconds."""
    return tqdm(list(files), "reading photos", disable=None, leave=False, delay=3)


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            short = functools.partial(hashlib.blake2b, digest_size=16)
            return hashlib.file_digest(file, short).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None
