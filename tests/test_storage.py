"""Files are whole or absent, and damage is noticed."""

import errno
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import watch

from horkd import storage
from horkd.errors import HorkdError
from horkd.storage import (
    Busy,
    DamagedFile,
    cached,
    load_json,
    load_tensors,
    locked,
    replacing,
    save_json,
    save_tensors,
    set_aside,
    tensor_digest,
    write_text,
)

RECORD = {"a": 1, "loss": [0.1234567890123456, 2.5e-8], "name": "Ж×", "none": None, "t": True}
TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "count": torch.tensor(7),
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "empty": torch.zeros(0, 4),
}
WRITERS = {
    "text": lambda path: write_text(path, "x" * 50_000),
    "json": lambda path: save_json(path, {"long": "x" * 50_000}),
    "tensors": lambda path: save_tensors(path, {"t": torch.zeros(50_000)}, {}),
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: it only writes
        child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def status(child: int) -> int:
    """A process's exit status, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], None]) -> int:
    """The exit status of `work` in a process of its own."""
    return status(fork(work))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Atomic


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "sub" / "file"
    write_text(path, "old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert files(path.parent) == {"file"}


def test_killed_in_the_middle_of_writing(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def die() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def limited(write: Callable[[Path], object], path: Path, size: int) -> Callable[[], None]:
    def work() -> None:
        torch.set_num_threads(1)  # a forked child has no OpenMP threads, and would wait for them
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does when it starts
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            write(path)
        except HorkdError as error:
            path.with_name("message").write_text(str(error))

    return work


@every_writer
def test_a_file_that_the_system_refuses_to_let_grow(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("old")
    assert in_child(limited(write, path, 10_000)) == 0
    message = (tmp_path / "message").read_text()
    assert message == f"could not write {path}: the file size limit is reached; nothing was changed"
    assert path.read_text() == "old"
    assert files(tmp_path) == {"file", "message"}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "Read-only file system"),
    ],
)
@pytest.mark.parametrize("at", ["writing", "renaming"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, number, reason, at):
    path = tmp_path / "file"
    path.write_text("old")

    event = {"writing": "open", "renaming": "os.rename"}[at]
    full = watch.refused(OSError(number, os.strerror(number)), event, ending=".tmp")
    with full, pytest.raises(HorkdError) as caught:
        save_json(path, RECORD)
    assert str(caught.value) == f"could not write {path}: {reason}; nothing was changed"
    assert path.read_text() == "old"
    assert files(tmp_path) == {"file"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("write", [WRITERS["text"], WRITERS["json"]], ids=["text", "json"])
def test_a_device_without_space(tmp_path, write):
    """The real errno of a full disk, out of the real writers."""
    path = tmp_path / "file"

    def full(_event: str, arguments: tuple) -> None:
        if str(arguments[0]).endswith(".tmp"):
            Path(arguments[0]).symlink_to("/dev/full")

    with (
        watch.on_event(full, "open"),
        pytest.raises(HorkdError, match="the disk is full; nothing was changed"),
    ):
        write(path)
    assert files(tmp_path) == set()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HorkdError, match=r"could not write .*/file/below/record.json: "):
        save_json(tmp_path / "file" / "below" / "record.json", RECORD)


# Round trips


def test_json_round_trip_is_exact_and_deterministic(tmp_path):
    save_json(tmp_path / "a", RECORD)
    save_json(tmp_path / "b", dict(reversed(RECORD.items())))
    assert load_json(tmp_path / "a") == RECORD
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_round_trip_is_exact(tmp_path):
    tensors = {**TENSORS, "view": torch.arange(12).reshape(3, 4).T, "shared": TENSORS["weight"]}
    metadata = {"epoch": 3, "history": [{"loss": 0.1234567890123456}], "none": None}
    digest = save_tensors(tmp_path / "t", tensors, metadata)
    loaded, read = load_tensors(tmp_path / "t")
    assert read == metadata
    assert loaded.keys() == tensors.keys()
    for name, t in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (t.dtype, t.shape)
        assert torch.equal(loaded[name], t)
    assert digest == tensor_digest(tensors) == tensor_digest(loaded)


def test_the_digest_sees_names_types_shapes_and_values():
    x = torch.arange(4.0)
    variants = [
        {"a": x},
        {"b": x},
        {"a": x.double()},
        {"a": x.view(torch.int32)},
        {"a": x.reshape(2, 2)},
        {"a": x + torch.tensor([0, 0, 0, 1e-6])},
        {"a": x, "b": x},
        {},
    ]
    digests = [tensor_digest(v) for v in variants]
    assert len(set(digests)) == len(variants)
    assert tensor_digest({"b": x, "a": x}) == digests[6]
    last = torch.randn(2, 3, 4, 4)
    channels_last = last.to(memory_format=torch.channels_last)
    assert tensor_digest({"a": last}) == tensor_digest({"a": channels_last})


# Damage


def test_every_truncation_of_a_record_is_noticed(tmp_path):
    path = tmp_path / "record.json"
    save_json(path, RECORD)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is a line break
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=f"{path} is damaged"):
            load_json(path)


def test_every_flipped_bit_of_a_record_is_noticed(tmp_path):
    path = tmp_path / "record.json"
    save_json(path, RECORD)
    whole = path.read_bytes()
    unnoticed = []
    for position in range(len(whole)):
        for bit in (0, 2, 5, 7):
            path.write_bytes(flipped(whole, position, bit))
            try:
                same = load_json(path) == RECORD  # such as a blank that became a line break
            except DamagedFile:
                continue
            if not same:
                unnoticed.append((position, bit))
    assert not unnoticed


def test_every_altered_digit_of_a_record_is_noticed(tmp_path):
    path = tmp_path / "record.json"
    save_json(path, RECORD)
    text = path.read_text()
    for position, character in enumerate(text):
        if character.isdigit():
            path.write_text(f"{text[:position]}{(int(character) + 1) % 10}{text[position + 1 :]}")
            with pytest.raises(DamagedFile):
                load_json(path)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "3", "null", '"digest"', '["digest"]', '{"digest": 3}', '{"a": "\\ud800"}'],
)
def test_json_that_is_not_a_record(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(DamagedFile, match="is damaged"):
        load_json(tmp_path / "record.json")


def flipped(content: bytes, position: int, bit: int) -> bytes:
    out = bytearray(content)
    out[position] ^= 1 << bit
    return bytes(out)


def test_every_truncation_of_tensors_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, TENSORS, {"epoch": 3})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="is damaged"):
            load_tensors(path)


def test_every_flipped_bit_of_tensors_and_metadata_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    metadata = {"epoch": 3, "history": [{"loss": 0.125}]}
    digest = save_tensors(path, TENSORS, metadata)
    whole = path.read_bytes()
    unnoticed = []
    for position in range(len(whole)):
        for bit in (0, 3, 6):
            path.write_bytes(flipped(whole, position, bit))
            try:
                tensors, found = load_tensors(path)
            except DamagedFile:
                continue
            if tensor_digest(tensors) != digest or found != metadata:
                unnoticed.append(whole[max(0, position - 20) : position + 5])
    assert not unnoticed


def test_files_of_others(tmp_path):
    path = tmp_path / "t.safetensors"
    for content in (b"", b"PK\x03\x04 a zip file", json.dumps(RECORD).encode()):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="not a file of horkd's"):
            load_tensors(path)
    storage.save_file(TENSORS, path)  # safetensors, but without our header
    with pytest.raises(DamagedFile, match="not a file of horkd's"):
        load_tensors(path)


def test_missing_files_are_no_damage(tmp_path):
    for load in (load_json, load_tensors):
        with pytest.raises(HorkdError, match="there is no file") as caught:
            load(tmp_path / "nowhere")
        assert not isinstance(caught.value, DamagedFile)


def test_set_aside_says_so_and_never_overwrites(tmp_path):
    names = []
    for content in ("first", "second", "third"):
        path = tmp_path / "record.json"
        path.write_text(content)
        with pytest.warns(UserWarning, match="it is damaged; set aside as record.json.damaged"):
            names.append(set_aside(path, "it is damaged").name)
        assert not path.exists()
    assert names == ["record.json.damaged", "record.json.damaged-2", "record.json.damaged-3"]
    assert [(tmp_path / n).read_text() for n in names] == ["first", "second", "third"]


def test_a_folder_can_be_set_aside(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "record.json").write_text("x")
    with pytest.warns(UserWarning, match="run.damaged"):
        target = set_aside(folder, "damaged")
    assert (target / "record.json").read_text() == "x"
    assert not folder.exists()


# Caches

IMAGES = {"a": torch.arange(2000), "b": torch.zeros(3)}


class Counted:
    """Computes `IMAGES`, and counts how often."""

    calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return dict(IMAGES)


def from_cache(path: Path, compute: Callable[[], dict]) -> None:
    """Read or computed, it is the same."""
    found = cached(path, IMAGES, compute, "a cache")
    assert found.keys() == IMAGES.keys()
    assert all(torch.equal(found[name], t) for name, t in IMAGES.items())


def test_what_is_cached_is_computed_once(tmp_path):
    compute = Counted()
    for _ in range(2):
        from_cache(tmp_path / "new" / "folder" / "file", compute)
    assert compute.calls == 1
    assert files(tmp_path / "new" / "folder") == {"file"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: flipped(data, len(data) // 2, 0),
        lambda data: data[:1000],
        lambda data: b"",
        lambda data: b"not a set" * 99,
    ],
    ids=["flipped", "truncated", "empty", "garbage"],
)
def test_a_damaged_cache_is_set_aside_and_computed_again(tmp_path, damage):
    path, compute = tmp_path / "file", Counted()
    from_cache(path, compute)
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        from_cache(path, compute)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert path.with_name("file.damaged").read_bytes() == broken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_cache(path, compute)
    assert compute.calls == 2


@pytest.mark.parametrize("foreign", ["another's", "without a tensor"])
def test_a_cache_with_other_content_is_set_aside(tmp_path, foreign):
    path = tmp_path / "file"
    if foreign == "another's":
        storage.save_file({"a": torch.zeros(1)}, path)
    else:
        save_tensors(path, {"a": IMAGES["a"]}, {})
    with pytest.warns(UserWarning, match="is damaged"):
        from_cache(path, Counted())
    assert files(tmp_path) == {"file", "file.damaged"}


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch):
    (tmp_path / "a-file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a-file" / "below", tmp_path / "folder"):
        with pytest.warns(UserWarning, match="going on without a cache: could not write") as caught:
            from_cache(path, Counted())
        assert len(caught) == 1

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.warns(UserWarning, match="the disk is full"):
        from_cache(tmp_path / "file", Counted())
    assert files(tmp_path) == {"a-file", "folder"}


def test_many_use_a_cache_at_once(tmp_path):
    """Threads here, but nothing in the cache tells threads from processes."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: from_cache(tmp_path / "file", Counted()), range(4)))
    assert files(tmp_path) == {"file"}


# Locks


def without_locks(folder: Path) -> bool:
    """What `has_locks` finds of a network folder without them."""
    return False


LOCKS = {
    "locks": locked,
    "no locks": functools.partial(locked, native=without_locks),
}
every_lock = pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
quietly = pytest.mark.filterwarnings("ignore:the file system of")


@every_lock
@quietly
def test_a_lock_is_refused_while_another_process_holds_it_and_free_when_that_dies(tmp_path, lock):
    path = tmp_path / "locks" / "run.lock"
    reading, writing = os.pipe()

    def hold() -> None:
        with lock(path):
            os.write(writing, b"x")
            signal.pause()

    child = fork(hold)
    os.read(reading, 1)
    with (
        pytest.raises(Busy, match=r"process.* is at work on run") as caught,
        lock(path, wait=False),
    ):
        pass
    if lock is not locked:  # whoever reads it can end the wait
        assert f"process {child} of " in str(caught.value)
        assert str(caught.value).endswith(f"if it is gone, remove {path}.held")
    os.kill(child, signal.SIGKILL)
    assert status(child) == -signal.SIGKILL
    with lock(path, wait=False):
        pass


@every_lock
@quietly
@pytest.mark.filterwarnings("ignore:waiting")
def test_a_lock_is_waited_for(tmp_path, lock):
    path = tmp_path / "run.lock"

    def work() -> None:
        with lock(path):
            (tmp_path / "done").touch()

    with lock(path):
        child = fork(work)
        time.sleep(0.8)
        assert not (tmp_path / "done").exists()
    assert status(child) == 0
    assert (tmp_path / "done").exists()


@quietly
def test_a_lock_file_of_a_folder_that_had_locks_blocks_nobody(tmp_path):
    """Lock files stay; a folder copied from a local disk to a network one brings them."""
    with locked(tmp_path / "run.lock"):
        pass
    assert (tmp_path / "run.lock").exists()
    with locked(tmp_path / "run.lock", wait=False, native=without_locks):
        assert files(tmp_path) == {"run.lock", "run.lock.held"}
    assert files(tmp_path) == {"run.lock"}


def test_a_marker_of_another_machine_is_waited_for_and_named(tmp_path):
    path = tmp_path / "run.lock"
    marker = tmp_path / "run.lock.held"
    marker.write_text("77\nnode12\n")
    line = f"process 77 of node12 is at work on run; if it is gone, remove {marker}"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(Busy) as caught, locked(path, wait=False, native=without_locks):
            pass
        assert str(caught.value) == line
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: (time.sleep(1), marker.unlink()))
            with locked(path, native=without_locks):
                assert marker.read_text().startswith(f"{os.getpid()}\n")
    told = f"the file system of {tmp_path} has no locks: files called .held take their place"
    assert [str(w.message) for w in said] == [told, told, f"waiting: {line}"]


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks(tmp_path, error):
    """As the system call answers there."""
    strace = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject=flock:error={error}"]
    if shutil.which("strace") is None or subprocess.run([*strace, "true"]).returncode:
        pytest.skip("no strace here, or it may not trace")
    result = subprocess.run(
        [*strace, sys.executable, "-c", LOCKS_TWICE, str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "['run.lock.held']\n" * 2
    assert result.stderr.count("horkd: the file system of ") == 1


LOCKS_TWICE = """
import os, sys
from pathlib import Path
from horkd.errors import warnings_as_lines
from horkd.storage import locked
for _ in range(2):
    with warnings_as_lines(), locked(Path(sys.argv[1], "run.lock")):
        print(os.listdir(sys.argv[1]))
"""


def test_a_lock_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(HorkdError, match=r"cannot write to .*/file: ")
    with refused as caught, locked(tmp_path / "file" / "run.lock"):
        pass
    assert "\n" not in str(caught.value)
