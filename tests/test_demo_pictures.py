"""What the demo makes of any file: a right picture or one line, in bounded time and memory."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import watch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

pytest.importorskip("pillow_heif")

import hostile
from hostile import COLOURS, RED, Case

from app import pictures
from app.pictures import SIDE, Limits, Picture, as_image, enlarged, read
from horkd.errors import HorkdError

MIB = 2**20
#: Beyond these a file is an attack that worked. An honest photo of 64 megapixels stays below.
SECONDS, MEMORY = 10, 1200 * MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sent")


@pytest.fixture(scope="module")
def corpus(folder) -> list[Case]:
    return hostile.corpus(folder / "corpus")


@pytest.fixture
def send(tmp_path) -> Callable[..., Picture]:
    """Read what is in some bytes."""

    def sent(data: bytes, **limits: int) -> Picture:
        (tmp_path / "photo").write_bytes(data)
        return read(tmp_path / "photo", Limits(**limits))

    return sent


# What every outcome must be


def assert_fit_to_be_shown(message: str, path: Path) -> None:
    """One line that says what to do, and nothing about this machine."""
    assert 20 < len(message) < 160
    assert message.isprintable()  # so it has no second line either
    assert message == message.strip()
    assert any(word in message for word in ("send ", "save it"))
    for word in ("/", "\\", "Traceback", "PIL", "File ", "Error", "0x", "<", path.name, "None"):
        assert not word or word not in message
    for part in path.parts[1:]:
        assert part not in message or part in ("photo", "PHOTO.PNG")


def assert_well_formed(picture: Picture, sound: bool = True) -> None:
    square = picture.square
    assert square.mode == "RGB"
    assert square.width == square.height <= SIDE
    width, height = picture.whole
    if sound or picture.format != "HEIF":  # see `test_a_heic_that_grows`
        assert square.width == min(width, height, SIDE)
    assert picture.format in (*pictures.FORMATS, "MPO")
    for note in picture.notes:
        assert note.isprintable()
        assert note.endswith(".")
    assert any(hostile.CROPPED in note for note in picture.notes) == (width != height)


def middles(image: Image.Image) -> np.ndarray:
    """The colours in the middle of the quadrants, row by row."""
    near, far = image.width // 4, image.width - 1 - image.width // 4
    places = [(near, near), (far, near), (near, far), (far, far)]
    return np.array([image.getpixel(place) for place in places])


def assert_colours(image: Image.Image, colours, tolerance: int = 2) -> None:
    assert np.abs(middles(image) - np.array(colours)).max() <= tolerance


def judge(case: Case) -> None:
    picture = refusal = None
    try:
        picture = read(case.path)
    except HorkdError as error:
        refusal = str(error)
    if refusal is not None:
        assert_fit_to_be_shown(refusal, case.path)
        assert case.kind != "right", refusal
        return
    assert_well_formed(picture, sound=case.kind == "right")
    assert case.kind != "refused"
    if case.colours:
        assert_colours(picture.square, case.colours, case.tolerance)
    if case.whole:
        assert picture.whole == case.whole
    for part in case.notes:
        assert any(part in note for note in picture.notes), picture.notes
    assert not (case.silent and picture.notes)


def test_every_file_of_the_corpus(corpus):
    wrong, slow = {}, {}
    for case in corpus:
        start = time.perf_counter()
        try:
            judge(case)
        except Exception as error:
            wrong[case.name] = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        if seconds > SECONDS:
            slow[case.name] = seconds
    assert not wrong
    assert not slow


def test_the_corpus_is_large_and_its_files_small(corpus):
    assert len(corpus) >= 200
    assert len({case.path for case in corpus}) == len(corpus)
    assert {case.kind for case in corpus} == {"right", "refused", "either"}
    assert min(sum(case.kind == kind for case in corpus) for kind in ("right", "refused")) >= 100
    assert sum(case.path.stat().st_size for case in corpus) < 15 * MIB
    read_as = {read(c.path).format for c in corpus if c.kind == "right" and not c.bomb}
    assert read_as >= set(pictures.FORMATS) | {"MPO"}


def test_the_corpus_is_the_same_every_time(corpus, tmp_path):
    again = hostile.corpus(tmp_path)
    assert [case.name for case in again] == [case.name for case in corpus]
    same = [a.path.read_bytes() == b.path.read_bytes() for a, b in zip(again, corpus, strict=True)]
    assert np.mean(same) > 0.9  # some encoders write the time, or depend on threads


def test_reading_leaves_files_and_the_process_alone(corpus):
    """No file is changed, held open or left behind, and nothing global is set."""
    cases = [case for case in corpus if not case.bomb]
    root = corpus[0].path.parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    held, filters, limit = len(os.listdir("/proc/self/fd")), warnings.filters[:], _pillow_state()
    for case in cases:
        try:
            read(case.path)
        except HorkdError:
            continue
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert len(os.listdir("/proc/self/fd")) <= held
    assert warnings.filters == filters
    assert _pillow_state() == limit


def _pillow_state() -> tuple:
    from PIL import ImageFile

    return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES


# Programs, connections, pickles


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """The events that reading must not cause, as Python's audit hooks report them."""
    seen = []
    forbidden = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
    forbidden += ("socket.connect", "pickle.", "urllib.", "os.remove", "os.mkdir", "ctypes.dlopen")
    with watch.on_event(lambda event, arguments: seen.append(event), *forbidden):
        yield seen


def test_no_file_starts_a_program_or_a_connection(corpus, watched):
    for case in corpus:
        if not case.bomb:
            try:
                read(case.path)
            except HorkdError:
                continue
    assert watched == []


def test_the_watch_watches(watched):
    os.system("true")
    subprocess.run(["true"], check=True)
    assert {"os.system", "subprocess.Popen"} <= set(watched)


def test_postscript_is_no_picture(send):
    data = hostile.saved("EPS")
    assert data.startswith(b"%!PS")
    with pytest.raises(HorkdError, match="not a picture that can be read"):
        send(data)


# Time and memory

# Forks for every request, so that a file can be killed and its memory measured.
GUARD = """
import json, os, resource, sys
from app import pictures
from horkd.errors import HorkdError
print("ready", flush=True)
for line in sys.stdin:
    paths, seconds, room = json.loads(line)
    child = os.fork()
    if not child:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in paths:
            try:
                pictures.read(path)
                outcome = "read"
            except HorkdError as error:
                outcome = str(error)
            except BaseException as error:
                outcome = "raised " + repr(error)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(json.dumps([path, outcome, grown * 1024]), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("null", flush=True)
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[Callable[..., dict[Path, tuple[str, int]]]]:
    """Read files in a process of its own: their outcomes, and the most bytes it took up to then.

    A file that used up the seconds of the processor, or crashed, is missing, as are those after it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"

    def ask(paths: list[Path], seconds: int = 60, room: int = 4 * 2**30):
        process.stdin.write(json.dumps([[str(path) for path in paths], seconds, room]) + "\n")
        process.stdin.flush()
        answers = iter(lambda: json.loads(process.stdout.readline()), None)
        return {Path(path): (outcome, grown) for path, outcome, grown in answers}

    yield ask
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=30)


def test_bombs_stay_in_bounds(corpus, guarded):
    bombs = [case for case in corpus if case.bomb]
    assert len(bombs) >= 30
    outcomes = guarded([case.path for case in bombs])
    assert list(outcomes) == [case.path for case in bombs]
    assert not [text for text, _ in outcomes.values() if text.startswith("raised")]
    assert max(grown for _, grown in outcomes.values()) < MEMORY


def test_bombs_are_refused_where_memory_is_short(corpus, guarded):
    """With 100 MB to spare the largest pictures are refused in one line; nothing crashes."""
    bombs = [case for case in corpus if case.bomb]
    outcomes = guarded([case.path for case in bombs], room=100 * MIB)
    assert list(outcomes) == [case.path for case in bombs]
    for path, (outcome, _) in outcomes.items():
        if outcome != "read":
            assert_fit_to_be_shown(outcome, path)


def test_refusals_take_no_memory(corpus, guarded):
    """What is refused for its declared size was never decoded."""
    bombs = [case for case in corpus if case.bomb and case.kind == "refused"]
    declared = [case.path for case in bombs if "60000" in case.name or "20000" in case.name]
    outcomes = guarded(declared)
    assert len(outcomes) == len(declared) >= 5
    assert max(grown for _, grown in outcomes.values()) < 50 * MIB


ATTACKS = {
    "scans": lambda: hostile.many_scans(3000),
    "runs-of-nothing": lambda: hostile.bmp((8000, 8000), 8, 1, b"\1\1\0\0" * 8000),
    "comments": lambda: hostile.many_comments(600_000),
    "levels": lambda: b"P5 3000 3000 254\n" + bytes(9_000_000),
    "steps": lambda: hostile.bmp((60_000_000, 1), 8, 1, b"\0\2\0\x14"),
    "tile": lambda: hostile.huge_tile(32768),
}


@pytest.mark.parametrize(
    "name",
    ATTACKS,
)
def test_small_files_cost_little(guarded, tmp_path, name):
    """Against decoders that are slow or greedy: a few seconds, less than an honest photo."""
    path = tmp_path / name
    path.write_bytes(ATTACKS[name]())
    outcomes = guarded([path], seconds=SECONDS)
    assert path in outcomes  # else it took longer
    outcome, grown = outcomes[path]
    assert not outcome.startswith("raised")
    assert grown < (MEMORY if name != "tile" else 600 * MIB)


# Limits and odd paths


def test_too_many_bytes(send):
    data = hostile.saved("PNG")
    send(data, bytes=len(data))
    with pytest.raises(HorkdError) as caught:
        send(bytes(8 * MIB), bytes=5 * MIB)
    assert str(caught.value) == "this file has 8 MB and the limit is 5 MB: send a smaller one"


def test_a_file_of_the_real_limit_and_one_more_byte(tmp_path):
    path = tmp_path / "photo"
    data = hostile.saved("PNG")
    with path.open("wb") as file:
        file.write(data)
        file.truncate(pictures.LIMITS.bytes)
    assert read(path).whole == (64, 40)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(HorkdError, match="this file has 20 MB and the limit is 20 MB"):
        read(path)


def test_too_many_pixels(send):
    send(hostile.png((3000, 1000), 1, 0, bytes(376 * 1000)), pixels=3_000_000)
    with pytest.raises(HorkdError) as caught:
        send(hostile.png((3001, 1000), 1, 0, bytes(377 * 1000)), pixels=3_000_000)
    want = "this picture has 3001×1000 pixels and the limit is 3 megapixels: send a smaller one"
    assert str(caught.value) == want


def cropped_heic(*crop: int) -> bytes:
    """64×64 pixels of which an aperture is shown: width, height, and where, as four fractions."""
    data = hostile.heic()
    place = data.index(b"clap") + 4
    assert struct.unpack(">IIII", data[place : place + 16]) == (64, 1, 40, 1)
    return data[:place] + struct.pack(">8I", *crop) + data[place + 32 :]


def test_a_large_heic_that_is_cropped_to_a_few_pixels(send):
    with pytest.raises(HorkdError, match="send a smaller one"):
        send(cropped_heic(8, 1, 8, 1, 0, 1, 0, 1), pixels=1000)


def test_a_heic_that_grows(send):
    """The crop lies outside and is dropped: 64×40 pixels before, 64×64 after."""
    picture = send(cropped_heic(64, 1, 40, 1, 0, 2, 0x80FFFFE8, 2))
    assert picture.square.width == min(picture.whole)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    (tmp_path / "full").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "full", "/dev/null", "x" * 9000):
        with pytest.raises(HorkdError) as caught:
            read(path)
        assert_fit_to_be_shown(str(caught.value), Path("/" + Path(path).name))
    for path in (tmp_path / "photo.png", "a\0b"):
        with pytest.raises(HorkdError, match="this picture is no longer here: send it again"):
            read(path)


def test_a_string_is_a_path_too(corpus):
    case = next(case for case in corpus if case.name == "rgb.png")
    assert read(str(case.path)).square.tobytes() == read(case.path).square.tobytes()


def test_a_full_memory_is_told(send):
    data = hostile.saved("PNG")
    with (
        watch.failing(MemoryError(), Image.Image.load, ImageFile.ImageFile.load),
        pytest.raises(HorkdError, match="needs too much memory: send a smaller one"),
    ):
        send(data)


def test_a_memory_that_is_full_later_is_told_too(send):
    data = hostile.saved("PNG", hostile.picture(mode="L"))
    with (
        watch.failing(MemoryError(), Image.Image.convert),
        pytest.raises(HorkdError, match="needs too much memory: send a smaller one"),
    ):
        send(data)


# The whole photo's place


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (33, 20), (20, 33), (34, 31), (7, 2), (9, 9)])
def test_the_central_square(send, size):
    """The margins differ by at most the one pixel that cannot be shared."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    square = np.asarray(send(hostile.saved("PNG", Image.fromarray(pixels))).square)
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    assert np.array_equal(square, pixels[top : top + side, left : left + side])
    assert abs((width - side - left) - left) <= 1
    assert abs((height - side - top) - top) <= 1


@pytest.mark.parametrize("size", [(900, 900), (1001, 600), (449, 700)])
def test_a_large_photo_is_reduced(send, size):
    """As Pillow reduces the central square, antialiased."""
    y, x = np.mgrid[: size[1], : size[0]]
    waves = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + y) % 256], -1)
    photo = Image.fromarray(waves.astype(np.uint8))
    picture = send(hostile.saved("PNG", photo))
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    want = square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert picture.square.tobytes() == want.tobytes()
    assert picture.whole == size


@pytest.mark.parametrize("side", [1, 20, 447, 448])
def test_a_small_photo_keeps_its_pixels(send, side):
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3)).astype(np.uint8)
    picture = send(hostile.saved("PNG", Image.fromarray(pixels)))
    assert np.array_equal(np.asarray(picture.square), pixels)
    assert picture.notes == ()


@pytest.mark.parametrize("size", [(3000, 2000), (2001, 3003), (7000, 1000)])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(send, size):
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
    soft = [128 + 90 * np.sin(x / 90), 128 + 90 * np.cos(y / 70), 128 + 90 * np.sin((x + y) / 50)]
    data = hostile.jpeg(Image.fromarray(np.stack(soft, -1).astype(np.uint8)))
    picture = send(data)
    photo = Image.open(io.BytesIO(data))
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    want = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC), int)
    difference = np.abs(np.asarray(picture.square, int) - want)
    assert picture.whole == size
    assert difference.mean() < 1.5
    assert difference.max() <= 12


def test_a_photo_with_a_film_behind_it(send):
    """As telephones write it: a JPEG of 10 scans and then an MP4, which the JPEG does not need."""
    film = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(12 * MIB)
    picture = send(hostile.jpeg(progressive=True) + film)
    assert_colours(picture.square, COLOURS, 4)


def test_a_jpeg_is_not_decoded_below_the_square(send):
    """A long thin one keeps its few rows."""
    photo = Image.fromarray(hostile.quadrants(9000, 460))
    picture = send(hostile.jpeg(photo))
    assert picture.square.size == (SIDE, SIDE)
    assert_colours(picture.square, COLOURS, 4)
    assert np.abs(np.diff(np.asarray(picture.square, int)[:, 100, 0])).max() > 60  # a hard edge


# Orientation


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """By the EXIF standard: which sides of the photo the stored first row and column are."""
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    if row in ("left", "right"):
        pixels, row, column = pixels.swapaxes(0, 1), column, row
    if row == "bottom":
        pixels = pixels[::-1]
    if column == "right":
        pixels = pixels[:, ::-1]
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_orientation(send, format, orientation):
    pixels = np.random.default_rng(2).integers(0, 256, (21, 30, 3)).astype(np.uint8)
    tags = Image.Exif()
    tags[hostile.ORIENTATION] = orientation
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture = send(hostile.saved(format, Image.fromarray(pixels), exif=tags, **options))
    whole = upright(pixels, orientation)
    height, width = whole.shape[:2]
    assert picture.whole == (width, height)
    left, top = (width - 21) // 2, (height - 21) // 2
    one_more = [(y, x) for y in {top, height - 21 - top} for x in {left, width - 21 - left}]
    squares = [whole[y : y + 21, x : x + 21] for y, x in one_more]  # the odd pixel on either side
    assert any(np.array_equal(picture.square, square) for square in squares)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_corpus_and_the_standard_agree_on_orientation(orientation):
    """Two ways to say it: the oracle of the corpus and the one above."""
    square = np.arange(4).reshape(2, 2)
    assert hostile.turned((0, 1, 2, 3), orientation) == tuple(upright(square, orientation).ravel())


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_a_jpeg_that_is_decoded_small(send, orientation):
    tags = hostile.oriented(orientation)
    picture = send(hostile.jpeg(hostile.picture(4000, 2000), exif=tags))
    assert picture.whole == ((4000, 2000) if orientation == 3 else (2000, 4000))
    assert_colours(picture.square, hostile.turned(COLOURS, orientation), 4)


@pytest.mark.parametrize("value", [0, 9, 99, 65535])
def test_orientations_that_are_none_are_ignored(send, value):
    picture = send(hostile.jpeg(exif=hostile.oriented(value)))
    assert picture.whole == (64, 40)
    assert_colours(picture.square, COLOURS, 4)


ODD_TAGS = {
    "resolution": (0x011A, 2, 4, b"1/2\0"),
    "width": (0x0100, 2, 4, b"abc\0"),
    "depth": (0x0102, 2, 4, b"abc\0"),
    "interoperability": (0xA005, 2, 4, b"abcd"),
}


@pytest.mark.parametrize("tag", ODD_TAGS)
def test_orientation_beside_a_broken_tag(send, tag):
    tags = sorted([hostile.orientation(6), ODD_TAGS[tag]])
    picture = send(hostile.jpeg(exif=hostile.exif(*tags)))
    assert picture.whole == (40, 64)
    assert_colours(picture.square, hostile.turned(COLOURS, 6), 4)


# Colour modes


def test_16_bits_are_divided_by_257(send):
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    want = np.round(values / 257)
    for data in (
        hostile.saved("PNG", Image.fromarray(values)),
        hostile.saved("TIFF", Image.fromarray(values)),
        hostile.saved("TIFF", Image.fromarray(values.astype(np.int32))),
    ):
        picture = send(data)
        assert np.array_equal(np.asarray(picture.square), np.stack([want] * 3, -1))
        assert picture.notes == ("More than 8 bits per channel were rounded to 8.",)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bits_of_colour(send, colour, channels):
    """Pillow takes the upper byte: within a level."""
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    pixels = np.stack([values, values.T, values[::-1], np.full_like(values, 65535)], -1)
    pixels = pixels[..., [0, 3]] if channels == 2 else pixels[..., :channels]
    picture = send(hostile.png((256, 256), 16, colour, hostile.rows(pixels)))
    shown = pixels[..., :3] if channels > 2 else pixels[..., [0, 0, 0]]
    assert np.abs(np.asarray(picture.square) - shown / 257).max() <= 1


def test_floating_point(send):
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    for factor, top in ((1, 1), (0.25, 1), (40, 40), (1e30, 1e30)):
        picture = send(hostile.saved("TIFF", Image.fromarray(values * np.float32(factor))))
        want = values.astype(float) * factor / top * 255
        assert np.abs(np.asarray(picture.square)[..., 0] - want).max() <= 0.51


def test_floating_point_that_is_no_number(send):
    values = np.full((20, 20), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    values[1, 0] = -3
    got = np.asarray(send(hostile.saved("TIFF", Image.fromarray(values))).square)[..., 0]
    assert (got[2:] == 128).all()
    assert got[0, 0] == got[0, 2] == got[1, 0] == 0


def test_32_bits(send):
    values = np.array([[0, 2**16], [2**30, 2**31 - 1]], np.int32)
    got = np.asarray(send(hostile.saved("TIFF", Image.fromarray(values))).square)[..., 0]
    assert np.abs(got - values / (2**32 - 1) * 255).max() <= 0.51


def test_32_bits_without_a_sign(send):
    values = np.array([[0, 2**31 - 1], [2**31, 2**32 - 1]], np.uint32)
    data = hostile.grey_tiff(2, 2, values.tobytes(), (258, 3, 1, 32), (339, 3, 1, 1))
    got = np.asarray(send(data).square)[..., 0]
    assert np.abs(got - values / (2**32 - 1) * 255).max() <= 0.51


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_shown_on_white(send, format):
    """c·a + 255·(1 - a), within a level."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (50, 50, 4)).astype(np.uint8)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture = send(hostile.saved(format, Image.fromarray(pixels), **options))
    alpha = pixels[..., 3:] / 255
    want = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(picture.square) - want).max() <= 1
    assert picture.notes == ("Transparent parts are shown on white.",)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_level_of_a_grey_png(send, depth):
    levels = (0, 10, 20, 30)
    pixels = hostile.quadrants(40, 40, [(level,) for level in levels])
    if depth == 16:
        pixels = pixels.astype(np.uint16) * 257
    key = hostile.chunk(b"tRNS", bytes(2))
    picture = send(hostile.png((40, 40), depth, 0, hostile.rows(pixels), key))
    assert_colours(picture.square, [(255,) * 3, *((level,) * 3 for level in levels[1:])])


def test_an_opaque_alpha_channel_needs_no_note(send):
    picture = send(hostile.saved("PNG", hostile.picture(64, 64, "RGBA")))
    assert picture.notes == ()


def test_cmyk(send):
    """(255 - c)·(255 - k) / 255, within a level or two."""
    inks = np.random.default_rng(4).integers(0, 256, (40, 40, 4)).astype(np.uint8)
    image = Image.fromarray(inks, "CMYK")
    want = (255.0 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    got = np.asarray(send(hostile.saved("TIFF", image)).square, float)
    assert np.abs(got - want).max() <= 2
    flat = Image.new("CMYK", (40, 40), (200, 30, 90, 60))
    adobe = np.asarray(send(hostile.jpeg(flat)).square, float)
    want = np.array([55, 225, 165]) * 195 / 255
    assert np.abs(adobe - want).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"])
def test_every_mode_becomes_rgb(send, mode):
    format = "TIFF" if mode in ("CMYK", "LAB", "F", "I;16") else "PNG"
    picture = send(hostile.saved(format, Image.new(mode, (30, 30))))
    assert picture.square.mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBa", "PA", "RGBX", "YCbCr", "HSV", "I;16B", "I", "F"])
def test_modes_that_files_seldom_have(mode):
    assert pictures._plain(Image.new(mode, (5, 5)), []).mode == "RGB"


def test_the_first_frame_is_shown(send):
    frames = [Image.new("RGB", (20, 20), colour) for colour in COLOURS]
    for format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        data = hostile.saved(format, frames[0], save_all=True, append_images=frames[1:])
        picture = send(data)
        assert_colours(picture.square, [RED] * 4, 12)
        assert picture.notes == ("Of several frames only the first is looked at.",)


# What pages and networks get


@pytest.fixture(scope="module")
def photo() -> Picture:
    noise = np.random.default_rng(5).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    return Picture(Image.fromarray(noise))


@pytest.mark.parametrize("size", [1, 8, 12, 31, 32, 48, 64, 99, 112, 224, 448])
def test_at_is_pillows_bicubic(photo, size):
    tensor = photo.at(size)
    want = np.asarray(photo.square.resize((size, size), Image.Resampling.BICUBIC))
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (1, 3, size, size)
    assert tensor.is_contiguous()
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), want)


@pytest.mark.parametrize("size", [1, 8, 32, 112, 448])
def test_at_a_pictures_own_size_it_is_the_same(size):
    noise = np.random.default_rng(6).integers(0, 256, (size, size, 3)).astype(np.uint8)
    picture = Picture(Image.fromarray(noise))
    assert np.array_equal(picture.at(size)[0].permute(1, 2, 0).numpy(), noise)
    assert as_image(picture.at(size)[0]).tobytes() == picture.square.tobytes()


def test_what_is_done_to_a_tensor_leaves_the_picture_alone(photo):
    before = photo.square.tobytes()
    photo.at(100).zero_()
    photo.shown().putpixel((0, 0), (1, 2, 3))
    assert photo.square.tobytes() == before


def test_as_image_takes_any_layout():
    pixels = torch.randint(256, (3, 9, 9), generator=torch.Generator().manual_seed(0)).byte()
    want = pixels.permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(as_image(pixels)), want)
    assert np.array_equal(np.asarray(as_image(pixels.transpose(1, 2))), want.swapaxes(0, 1))
    last = pixels[None].contiguous(memory_format=torch.channels_last)[0]
    assert np.array_equal(np.asarray(as_image(last)), want)


@pytest.mark.parametrize(("size", "side"), [(8, 448), (16, 448), (7, 448), (32, 96), (12, 36)])
def test_enlarged_has_visible_pixels(size, side):
    """Every pixel of the page is the one of the image that lies under its middle."""
    pixels = torch.randint(256, (3, size, size), generator=torch.Generator().manual_seed(1)).byte()
    got = np.asarray(enlarged(pixels, side))
    under = np.floor((np.arange(side) + 0.5) * size / side).astype(int)
    assert np.array_equal(got, pixels.permute(1, 2, 0).numpy()[under][:, under])


@pytest.mark.parametrize("side", [1, 8, 64, 65, 100, 448])
def test_shown(side):
    noise = np.random.default_rng(7).integers(0, 256, (side, side, 3)).astype(np.uint8)
    shown = Picture(Image.fromarray(noise)).shown()
    assert shown.size == (SIDE, SIDE)
    if side <= 64:
        assert np.array_equal(shown, enlarged(torch.from_numpy(noise).permute(2, 0, 1)))
    else:
        want = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        assert shown.tobytes() == want.tobytes()


# Anything at all


def sent_by_anyone(folder: Path, data: bytes) -> None:
    path = folder / "anything"
    path.write_bytes(data)
    try:
        assert_well_formed(read(path, Limits(pixels=10**6)), sound=False)
    except HorkdError as error:
        assert_fit_to_be_shown(str(error), path)


STARTS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", b"GIF89a", b"BM", b"II*\0"]
STARTS += [b"MM\0*", b"RIFF\0\0\1\0WEBPVP8X", b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif"]
STARTS += [b"P6 ", b"P2\n", b"Pf\n", b"\0\0\2" + bytes(9), b"%!PS-Adobe-3.0 EPSF-3.0\n"]


@settings(max_examples=300, deadline=None)
@given(start=st.sampled_from(STARTS), data=st.binary(max_size=300))
def test_random_bytes(folder, start, data):
    sent_by_anyone(folder, start + data)


SOUND = {
    "jpeg": hostile.jpeg(exif=hostile.oriented(6)),
    "progressive": hostile.jpeg(progressive=True),
    "png": hostile.saved("PNG", exif=hostile.oriented(6)),
    "palette": hostile.saved("PNG", hostile.picture(mode="P"), transparency=1),
    "lossy": hostile.saved("WEBP"),
    "lossless": hostile.saved("WEBP", lossless=True),
    "gif": hostile.saved("GIF", save_all=True, append_images=[Image.new("RGB", (64, 40))]),
    "bmp": hostile.saved("BMP", hostile.picture(16, 10)),
    "tiff": hostile.saved("TIFF", hostile.picture(16, 10)),
    "lzw": hostile.saved("TIFF", hostile.picture(16, 10), compression="tiff_lzw"),
    "heic": hostile.heic(),
    "avif": hostile.saved("AVIF", hostile.picture(16, 10)),
}


@settings(max_examples=600, deadline=None)
@given(
    name=st.sampled_from(sorted(SOUND)),
    changes=st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True, width=32),
            st.sampled_from(["set", "insert", "delete", "repeat"]),
            st.binary(min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_random_changes_of_sound_files(folder, name, changes):
    data = bytearray(SOUND[name])
    for where, what, new in changes:
        place = int(where**2 * len(data))  # headers more than pixels
        if what == "set":
            data[place : place + len(new)] = new
        elif what == "insert":
            data[place:place] = new
        elif what == "delete":
            del data[place : place + new[0]]
        else:
            data[place:place] = data[place : place + new[0]]
    sent_by_anyone(folder, bytes(data))


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_sound_and_cut_off_ones_harmless(folder, name):
    """At every fortieth byte and the first hundred."""
    data = SOUND[name]
    (folder / "sound").write_bytes(data)
    assert_well_formed(read(folder / "sound"))
    for length in sorted({*range(1, min(100, len(data))), *range(1, len(data), 40)}):
        sent_by_anyone(folder, data[:length])
