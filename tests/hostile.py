"""Hostile files for the demo: some hundred that strangers might send, by accident or not.

The test picture has a colour in each quadrant, so that a photo that comes out turned, mirrored,
inverted or in the wrong colour space is noticed. Every file is written from scratch, and is the
same every time but for what the encoders make of it.
"""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, PngImagePlugin

Colour = tuple[int, int, int]

RED, GREEN, BLUE, YELLOW = (220, 40, 30), (40, 190, 60), (30, 50, 210), (230, 210, 40)
COLOURS: tuple[Colour, ...] = (RED, GREEN, BLUE, YELLOW)
WHITE = (255, 255, 255)
ORIENTATION = 0x0112
#: What a picture's notes say, in part.
FRAMES, DEEP, CLEAR, CROPPED = "several frames", "8 bits", "on white", "central square"


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: unlike every other's.
        path: where it lies; the file's own name can be odd.
        kind: ``right`` if it must be read, ``refused`` if it must not, ``either`` if both will do.
        colours: in the middle of the quadrants, row by row, if it is read; None: anything.
        tolerance: of the colours, in levels.
        whole: width and height that must be reported; None: any.
        notes: what the notes must say, in part; `silent` if they must be empty.
        bomb: whether it asks for much more memory or time than its bytes suggest.
    """

    name: str
    path: Path
    kind: str
    colours: tuple[Colour, ...] | None = None
    tolerance: int = 2
    whole: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    silent: bool = False
    bomb: bool = False


# The test picture


def quadrants(width: int = 64, height: int = 40, colours: Iterable = COLOURS) -> np.ndarray:
    """uint8 (height, width, 3 or more): one colour in each quadrant."""
    a, b, c, d = (np.asarray(colour) for colour in colours)
    pixels = np.empty((height, width, len(a)), a.dtype if a.dtype != int else np.uint8)
    top, left = (height + 1) // 2, (width + 1) // 2
    pixels[:top, :left], pixels[:top, left:] = a, b
    pixels[top:, :left], pixels[top:, left:] = c, d
    return pixels


def picture(width: int = 64, height: int = 40, mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(quadrants(width, height))
    if mode == "P":
        return image.quantize(4)
    return image.convert(mode)


def turned(colours: tuple, orientation: int) -> tuple:
    """The quadrants of an upright picture whose stored ones are `colours`."""
    square = np.arange(4).reshape(2, 2)
    upright = {
        1: square,
        2: square[:, ::-1],
        3: square[::-1, ::-1],
        4: square[::-1],
        5: square.T,
        6: np.rot90(square, -1),
        7: square[::-1, ::-1].T,
        8: np.rot90(square),
    }[orientation]
    return tuple(colours[i] for i in upright.ravel())


def grey(colour: Colour) -> Colour:
    """By the luma of ITU-R 601."""
    return (round((299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000),) * 3


GREYS = tuple(grey(colour) for colour in COLOURS)


# Encoders


def saved(format: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, format, **options)
    return file.getvalue()


def jpeg(image: Image.Image | None = None, **options) -> bytes:
    return saved("JPEG", image, **{"quality": 95, "subsampling": 0} | options)


def heic(image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image or picture()).save(file, **{"quality": 95} | options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(
    size: tuple[int, int], bits: int, colour: int, rows: bytes, *extra: bytes, interlaced=False
) -> bytes:
    """A PNG by hand: `rows` are filtered but not compressed."""
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows(pixels: np.ndarray) -> bytes:
    """The rows of a PNG, none of them filtered."""
    if pixels.dtype.itemsize == 2:
        pixels = pixels.astype(">u2")
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def interlaced(pixels: np.ndarray) -> bytes:
    """The rows of an Adam7 PNG."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    passes = [pixels[y::down, x::right] for y, x, down, right in (*starts, (1, 0, 2, 1))]
    return b"".join(rows(each) for each in passes if each.size)


def after_header(data: bytes, *extra: bytes) -> bytes:
    """A PNG with more chunks behind its first."""
    return data[:33] + b"".join(extra) + data[33:]


def deep(colours: Iterable = COLOURS) -> list[np.ndarray]:
    """Colours of 16 bits."""
    return [np.asarray(colour, np.uint16) * 257 for colour in colours]


def exif(*entries: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """EXIF by hand: tag, type, count, and four bytes of value or offset."""
    fields = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4) + tail


def orientation(value: int) -> tuple[int, int, int, bytes]:
    return ORIENTATION, 3, 1, struct.pack("<I", value)


def oriented(value: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = value
    return tags.tobytes()


def tiff(entries: Iterable[tuple[int, int, int, int]], data: bytes = b"", following=0) -> bytes:
    """A TIFF by hand: `data` lies at 8, the directory behind it."""
    entries = sorted(entries)
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return head + struct.pack("<H", len(entries)) + fields + struct.pack("<I", following)


def grey_tiff(width: int, height: int, data: bytes, *more, following=0) -> bytes:
    """One strip of 8-bit grey."""
    entries = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1)}
    entries |= {262: (3, 1, 1), 273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height)}
    entries |= {279: (4, 1, len(data))} | {tag: rest for tag, *rest in more}
    return tiff(((tag, *rest) for tag, rest in entries.items()), data, following)


def bmp(size: tuple[int, int], bits: int, compression: int, body: bytes) -> bytes:
    """A BMP with 256 grey levels."""
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(body), 0, 0, 256, 0)
    file = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    return file + info + palette + body


def many_scans(scans: int, side: int = 8000) -> bytes:
    """A progressive JPEG, grey, whose every scan says in some 60 bytes that nothing changes."""

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    blocks = (side // 8) ** 2
    bits = ("0" + "1" * 14) * -(-blocks // 32767)  # runs of 32767 empty blocks
    bits += "1" * (-len(bits) % 8)
    runs = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    parts = [
        b"\xff\xd8" + segment(0xDB, bytes([0] + [1] * 64)),
        segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0)),
        segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0x00])),
        segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0xE0])),
        segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes((blocks + 7) // 8),
        (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + runs) * scans,
    ]
    return b"".join(parts) + b"\xff\xd9"


def huge_tile(side: int) -> bytes:
    """A TIFF of 16×16 pixels in one tile of side×side."""
    block = 2**24
    pack = zlib.compressobj(9)
    start = pack.compress(bytes(block)) + pack.flush(zlib.Z_FULL_FLUSH)
    again = pack.compress(bytes(block)) + pack.flush(zlib.Z_FULL_FLUSH)
    check = struct.pack(">I", (side * side % 65521) << 16 | 1)
    data = start + again * (side * side // block - 1) + b"\x03\0" + check
    entries = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    entries += [(277, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8)]
    return tiff([*entries, (325, 4, 1, len(data))], data)


def many_comments(count: int) -> bytes:
    """A GIF with as many comments."""
    data = saved("GIF", Image.new("L", (9, 9), 77))
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1) * (data[10] >> 7)
    return data[:start] + b"!\xfe\1a\0" * count + data[start:]


# The corpus


class _Corpus:
    def __init__(self, folder: Path):
        self.folder, self.cases = folder, []

    def add(self, name: str, data: bytes, kind: str = "either", file: str = "", **expected) -> None:
        """Write a file; `file` is its name if that is not the case's."""
        if kind == "right":
            expected = {"colours": COLOURS, "whole": (64, 40)} | expected
        folder = self.folder / str(len(self.cases)) if file else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (file or name)
        path.write_bytes(data)
        self.cases.append(Case(name, path, kind, **expected))

    def right(self, name: str, data: bytes, **expected) -> None:
        self.add(name, data, "right", **expected)

    def refused(self, name: str, data: bytes, **expected) -> None:
        self.add(name, data, "refused", **expected)


def corpus(folder: Path) -> list[Case]:
    """Write the files, some megabytes, into a folder."""
    made = _Corpus(Path(folder))
    for part in (_jpegs, _pngs, _webps, _gifs, _bmps, _tiffs, _heifs, _plain_formats):
        part(made)
    for part in (_orientations, _sizes, _damaged, _no_images, _names, _bombs, _trailing):
        part(made)
    names = [case.name for case in made.cases]
    assert len(set(names)) == len(names)
    return made.cases


def _jpegs(made: _Corpus) -> None:
    made.right("rgb.jpg", jpeg(), tolerance=4, notes=(CROPPED,))
    made.right("square.jpg", jpeg(picture(64, 64)), tolerance=4, whole=(64, 64), silent=True)
    made.right("grey.jpg", jpeg(picture(mode="L")), colours=GREYS, tolerance=4)
    made.right("progressive.jpg", jpeg(progressive=True), tolerance=4)
    made.right("subsampled.jpg", jpeg(subsampling=2), tolerance=4)
    made.right("optimized.jpg", jpeg(optimize=True), tolerance=4)
    made.right("restarts.jpg", jpeg(restart_marker_blocks=1), tolerance=4)
    made.right("keep-rgb.jpg", jpeg(keep_rgb=True), tolerance=4)
    made.right("quality-1.jpg", jpeg(quality=1), tolerance=60)
    made.right("profile.jpg", jpeg(icc_profile=b"no profile at all"), tolerance=4)
    made.right("comment.jpg", jpeg(comment=b"<script>alert(1)</script>"), tolerance=4)
    cmyk = jpeg(picture(mode="CMYK"))
    made.right("cmyk-adobe.jpg", cmyk, tolerance=6)
    start = cmyk.index(b"\xff\xee")
    bare = cmyk[:start] + cmyk[start + 2 + int.from_bytes(cmyk[start + 2 : start + 4], "big") :]
    made.add("cmyk-without-adobe.jpg", bare)
    other = Image.new("RGB", (64, 40), (1, 2, 3))
    several = saved("MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
    made.right("mpo.jpg", several, tolerance=4)
    made.right("big.jpg", jpeg(picture(4000, 3000)), tolerance=6, whole=(4000, 3000))
    sof = jpeg().index(b"\xff\xc0")
    for width, height in ((8000, 8000), (65500, 65500), (0, 0), (64, 0), (1, 65500)):
        data = bytearray(jpeg())
        data[sof + 5 : sof + 9] = struct.pack(">HH", height, width)
        kind = "refused" if width * height in (0, 65500**2) else "either"
        made.add(f"declares-{width}x{height}.jpg", bytes(data), kind, bomb=True)
    made.add("scans.jpg", many_scans(50, 2000), bomb=True)
    made.refused("two-starts.jpg", b"\xff\xd8" * 5000)
    made.refused("only-markers.jpg", b"\xff\xd8" + b"\xff\xfe\0\2" * 5000)
    made.right("markers.jpg", jpeg()[:2] + b"\xff\xfe\0\2" * 5000 + jpeg()[2:], tolerance=4)
    broken = {
        "far": exif(orientation(1), (0x8769, 4, 1, struct.pack("<I", 2**31))),
        "cyclic": exif(orientation(1), (0x8769, 4, 1, struct.pack("<I", 8))),
        "empty": b"Exif\0\0",
        "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        "no-tiff": b"Exif\0\0hello hello hello",
        "many": exif(orientation(1))[:14] + b"\xff\xff",
        "text": exif((ORIENTATION, 2, 2, b"6\0\0\0")),
        "zero": exif(orientation(0)),
        "nine": exif(orientation(9)),
        "huge": exif(orientation(65535)),
        "rational": exif((ORIENTATION, 5, 1, struct.pack("<I", 2**31 - 1))),
        "endless": exif((ORIENTATION, 3, 2**32 - 1, bytes(4))),
        "other-type": exif((ORIENTATION, 99, 1, bytes(4))),
    }
    for name, data in broken.items():
        made.right(f"exif-{name}.jpg", jpeg(exif=data), tolerance=4)


def _pngs(made: _Corpus) -> None:
    made.right("rgb.png", saved("PNG"), notes=(CROPPED,))
    made.right("square.png", saved("PNG", picture(64, 64)), whole=(64, 64), silent=True)
    made.right("grey.png", saved("PNG", picture(mode="L")), colours=GREYS)
    made.right("palette.png", saved("PNG", picture(mode="P")))
    bits = Image.fromarray(quadrants(colours=((255,), (0,), (0,), (255,)))[..., 0]).convert("1")
    black = (0, 0, 0)
    made.right("bits.png", saved("PNG", bits), colours=(WHITE, black, black, WHITE))
    see_through = picture(mode="P")
    index = see_through.getpixel((0, 0))
    clear = (WHITE, GREEN, BLUE, YELLOW)
    data = saved("PNG", see_through, transparency=index)
    made.right("palette-transparent.png", data, colours=clear, notes=(CLEAR,))
    alphas = bytes(128 if i == index else 255 for i in range(4))
    half = tuple(round((c * 128 + 255 * 127) / 255) for c in RED)
    data = saved("PNG", see_through, transparency=alphas)
    made.right("palette-alphas.png", data, colours=(half, *COLOURS[1:]), notes=(CLEAR,))
    with_alpha = ((*RED, 0), (*GREEN, 255), (*BLUE, 255), (*YELLOW, 255))
    data = saved("PNG", Image.fromarray(quadrants(colours=with_alpha)))
    made.right("alpha.png", data, colours=clear, notes=(CLEAR,))
    data = saved("PNG", Image.fromarray(quadrants(colours=[(*c, 0) for c in COLOURS])))
    made.right("all-clear.png", data, colours=(WHITE,) * 4, notes=(CLEAR,))
    pairs = [(grey(c)[0], a) for c, a in zip(COLOURS, (0, 255, 255, 255), strict=True)]
    data = saved("PNG", Image.fromarray(quadrants(colours=pairs)))
    made.right("grey-alpha.png", data, colours=(WHITE, *GREYS[1:]), notes=(CLEAR,))
    made.right("opaque-alpha.png", saved("PNG", picture(mode="RGBA")))
    key = chunk(b"tRNS", struct.pack(">HHH", *RED))
    made.right("key.png", after_header(saved("PNG"), key), colours=clear, notes=(CLEAR,))

    size = (64, 40)
    deep_grey = quadrants(colours=deep(GREYS))[..., :1]
    made.right("grey-16.png", png(size, 16, 0, rows(deep_grey)), colours=GREYS, notes=(DEEP,))
    made.right("rgb-16.png", png(size, 16, 2, rows(quadrants(colours=deep()))))
    made.right("rgba-16.png", png(size, 16, 6, rows(quadrants(colours=deep(with_alpha)))),
               colours=clear, notes=(CLEAR,))  # fmt: skip
    made.right("grey-alpha-16.png", png(size, 16, 4, rows(quadrants(colours=deep(pairs)))),
               colours=(WHITE, *GREYS[1:]), notes=(CLEAR,))  # fmt: skip
    made.right("interlaced.png", png(size, 8, 2, interlaced(quadrants()), interlaced=True))
    data = png(size, 16, 0, interlaced(deep_grey), interlaced=True)
    made.right("interlaced-16.png", data, colours=GREYS)
    for bits in (1, 2, 4):
        levels = (0, 2**bits - 1, 2**bits - 1, 0)
        packed = quadrants(64 * bits // 8, colours=[(level * 255 // (2**bits - 1),)
                                                    for level in levels])  # fmt: skip
        grey_levels = tuple((255 if level else 0,) * 3 for level in levels)
        made.right(f"grey-{bits}.png", png(size, bits, 0, rows(packed)), colours=grey_levels)
    others = [Image.new("RGB", size, (i, i, i)) for i in (1, 2, 3)]
    data = saved("PNG", save_all=True, append_images=others, duration=0)
    made.right("animated.png", data, notes=(FRAMES,))
    data = saved("PNG", save_all=True, append_images=others, default_image=True)
    made.right("default-image.png", data)
    made.right("gamma.png", after_header(saved("PNG"), chunk(b"gAMA", struct.pack(">I", 1))))
    made.right("profile.png", saved("PNG", icc_profile=b"no profile at all"))
    made.right("unknown-chunk.png", after_header(saved("PNG"), chunk(b"abCd", b"?" * 100)))
    made.right("many-chunks.png", after_header(saved("PNG"), chunk(b"abCd") * 5000))

    good, pixels = saved("PNG"), rows(quadrants())
    made.refused("no-data.png", good[:33] + chunk(b"IEND"))
    made.refused("zero.png", png((0, 0), 8, 2, b""))
    made.refused("depth-3.png", png(size, 3, 2, pixels))
    made.refused("colour-7.png", png(size, 8, 7, pixels))
    made.add("no-palette.png", png(size, 8, 3, rows(quadrants()[..., 0])))
    made.add(
        "short-palette.png", png(size, 8, 3, rows(quadrants()[..., 0]), chunk(b"PLTE", b"abc"))
    )
    made.add("filter-9.png", png(size, 8, 2, b"\x09" + pixels[1:]))
    made.add("too-few-rows.png", png(size, 8, 2, pixels[:1000]))
    made.add("too-many-rows.png", png(size, 8, 2, pixels * 20))
    made.add("two-headers.png", after_header(good, good[8:33]))
    made.add("key-too-short.png", after_header(good, chunk(b"tRNS", b"\0")))
    made.add("negative-chunk.png", good[:33] + b"\xff\xff\xff\xffIDAT" + good[41:])
    made.add("odd-letters.png", after_header(good, chunk(b"\xff\xfe\0\1")))
    made.add("bad-exif.png", after_header(good, chunk(b"eXIf", b"nonsense")))
    frame = struct.pack(">IIIIIHHBB", 0, 60000, 60000, 0, 0, 0, 0, 0, 0)
    control = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    made.add("frame-too-large.png", after_header(good, control, chunk(b"fcTL", frame)), bomb=True)
    made.add("no-frames.png", after_header(good, chunk(b"acTL", bytes(8))))


def _webps(made: _Corpus) -> None:
    made.right("lossy.webp", saved("WEBP", quality=95), tolerance=8)
    made.right("lossless.webp", saved("WEBP", lossless=True))
    made.right("grey.webp", saved("WEBP", picture(mode="L"), lossless=True), colours=GREYS)
    pixels = quadrants(colours=((*RED, 0), (*GREEN, 255), (*BLUE, 255), (*YELLOW, 255)))
    clear = (WHITE, *COLOURS[1:])
    for name, lossless in (("lossless", True), ("lossy", False)):
        data = saved("WEBP", Image.fromarray(pixels), lossless=lossless, quality=95)
        made.right(f"alpha-{name}.webp", data, colours=clear, tolerance=8, notes=(CLEAR,))
    others = [Image.new("RGB", (64, 40), (i, i, i)) for i in (1, 2, 3)]
    data = saved("WEBP", save_all=True, append_images=others, lossless=True, duration=0)
    made.right("animated.webp", data, notes=(FRAMES,))
    canvas = bytearray(data)
    place = data.index(b"VP8X") + 12
    canvas[place : place + 6] = (16383).to_bytes(3, "little") * 2
    made.add("canvas-16384.webp", bytes(canvas), bomb=True)
    canvas[place : place + 6] = b"\xff" * 6
    made.refused("canvas-16777216.webp", bytes(canvas), bomb=True)
    made.refused("no-image.webp", b"RIFF\x04\0\0\0WEBP")
    made.refused("riff.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff")
    lossless = bytearray(saved("WEBP", lossless=True))
    lossless[21:25] = b"\xff\xff\xff\x0f"  # 16384 × 16384
    made.add("declares-16384.webp", bytes(lossless), bomb=True)


def _gifs(made: _Corpus) -> None:
    image = picture(mode="P")
    made.right("static.gif", saved("GIF", image))
    made.right("grey.gif", saved("GIF", picture(mode="L")), colours=GREYS)
    index = image.getpixel((0, 0))
    data = saved("GIF", image, transparency=index)
    made.right("transparent.gif", data, colours=(WHITE, *COLOURS[1:]), notes=(CLEAR,))
    others = [Image.new("RGB", (64, 40), (i, i, i)) for i in (1, 2, 3)]
    for name, duration in (("animated", 100), ("zero-delay", 0)):
        data = saved("GIF", image, save_all=True, append_images=others, duration=duration)
        made.right(f"{name}.gif", data, notes=(FRAMES,))
    many = [Image.new("L", (64, 40), i % 2 * 200) for i in range(300)]
    data = saved("GIF", image, save_all=True, append_images=many, duration=10)
    made.right("many-frames.gif", data, notes=(FRAMES,))
    made.right("interlaced.gif", saved("GIF", image, interlace=True))
    data = saved("GIF", image)
    for width, height in ((65535, 65535), (9000, 9000)):
        declared = data[:6] + struct.pack("<HH", width, height) + data[10:]
        made.refused(f"screen-{width}.gif", declared, bomb=True)
    made.add("screen-0.gif", data[:6] + bytes(4) + data[10:])
    place = data.index(b",\0\0\0\0\x40\0\x28\0")
    frame = data[:place] + b"," + struct.pack("<HHHH", 60000, 60000, 5000, 5000) + data[place + 9 :]
    made.refused("frame-outside.gif", frame, bomb=True)
    made.refused("no-frame.gif", data[:place] + b";")
    made.add("code-size-12.gif", data[: place + 10] + b"\x0c" + data[place + 11 :])
    made.add("code-size-255.gif", data[: place + 10] + b"\xff" + data[place + 11 :])
    made.add("comments.gif", many_comments(5000))
    cut = saved("GIF", image, save_all=True, append_images=others)
    made.add("second-frame-cut.gif", cut[: len(cut) * 3 // 4])


def _bmps(made: _Corpus) -> None:
    made.right("rgb.bmp", saved("BMP"))
    made.right("palette.bmp", saved("BMP", picture(mode="P")))
    made.right("grey.bmp", saved("BMP", picture(mode="L")), colours=GREYS)
    made.add("alpha.bmp", saved("BMP", picture(mode="RGBA")))
    checked = ((WHITE[0],), (0,), (0,), (WHITE[0],))
    bits = Image.fromarray(quadrants(colours=checked)[..., 0]).convert("1")
    made.right("bits.bmp", saved("BMP", bits), colours=(WHITE, (0, 0, 0), (0, 0, 0), WHITE))
    upside_down = bytearray(saved("BMP"))
    upside_down[22:26] = struct.pack("<i", -40)
    made.right("top-down.bmp", bytes(upside_down), colours=turned(COLOURS, 4))
    body = b"\x20\x0a\x20\x64\0\0" * 20 + b"\x20\xc8\x20\x32\0\0" * 20 + b"\0\1"
    made.refused("runs.bmp", bmp((64, 40), 8, 1, body))
    made.add("runs-cut.bmp", bmp((64, 40), 8, 1, body[:50]))
    made.add("runs-outside.bmp", bmp((64, 40), 8, 1, b"\0\2\xff\xff" * 50))
    made.add("runs-of-nothing.bmp", bmp((2000, 500), 8, 1, b"\1\1\0\0" * 500), bomb=True)
    made.add("runs-4-bits.bmp", bmp((64, 40), 4, 2, b"\x40\x12\0\0" * 40))
    made.add("masks.bmp", bmp((64, 40), 16, 3, bytes(64 * 40 * 2)))
    made.refused("depth-5.bmp", bmp((64, 40), 5, 0, bytes(64 * 40)))
    made.refused("compression-9.bmp", bmp((64, 40), 8, 9, bytes(64 * 40)))
    for width, height in ((60000, 60000), (2**31 - 1, 2**31 - 1)):
        data = bmp((width, height), 8, 0, bytes(100))
        made.refused(f"declares-{width}.bmp", data, bomb=True)
    made.refused("declares-8000.bmp", bmp((8000, 8000), 8, 0, bytes(100)), bomb=True)
    made.refused("negative.bmp", bmp((-64, 40), 8, 0, bytes(64 * 40)))
    far = bytearray(saved("BMP"))
    far[10:14] = b"\xff\xff\xff\x7f"
    made.refused("pixels-far-away.bmp", bytes(far))


def _tiffs(made: _Corpus) -> None:
    made.right("rgb.tif", saved("TIFF"))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        options = {"quality": 95} if compression == "jpeg" else {}
        data = saved("TIFF", compression=compression, **options)
        made.right(f"{compression}.tif", data, tolerance=12)
    made.right("grey.tif", saved("TIFF", picture(mode="L")), colours=GREYS)
    made.right("palette.tif", saved("TIFF", picture(mode="P")))
    made.right("cmyk.tif", saved("TIFF", picture(mode="CMYK")))
    made.add("lab.tif", saved("TIFF", Image.new("LAB", (64, 40), (128, 128, 128))))
    made.add("ycbcr.tif", saved("TIFF", picture(mode="YCbCr")))
    alpha = quadrants(colours=((*RED, 0), (*GREEN, 255), (*BLUE, 255), (*YELLOW, 255)))
    data = saved("TIFF", Image.fromarray(alpha))
    made.right("alpha.tif", data, colours=(WHITE, *COLOURS[1:]), notes=(CLEAR,))
    checked = Image.fromarray(quadrants(colours=((255,), (0,), (0,), (255,)))[..., 0])
    checks = (WHITE, (0, 0, 0), (0, 0, 0), WHITE)
    for compression in ("raw", "group3", "group4"):
        data = saved("TIFF", checked.convert("1"), compression=compression)
        made.right(f"bits-{compression}.tif", data, colours=checks)

    levels = np.array([grey(c)[0] for c in COLOURS])

    def one_channel(values: Iterable[float], dtype: type) -> Image.Image:
        return Image.fromarray(quadrants(colours=np.asarray(values, dtype)[:, None])[..., 0])

    kinds = {"16": (levels * 257, np.uint16), "32": (levels * (2**24 + 2**16 + 257) // 2, np.int32)}
    kinds["float"] = (levels / 255, np.float32)
    kinds["float-1000"] = (levels / levels.max() * 1000, np.float32)
    brightest = tuple((round(v * 255 / levels.max()),) * 3 for v in levels)
    halves = tuple((round(v / 2),) * 3 for v in levels)
    wanted = {"16": GREYS, "32": halves, "float": GREYS, "float-1000": brightest}
    for name, (values, dtype) in kinds.items():
        data = saved("TIFF", one_channel(values, dtype))
        made.right(f"grey-{name}.tif", data, colours=wanted[name], notes=(DEEP,))
    for name, odd in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        image = np.array(one_channel(levels / 255, np.float32))
        image[::7, ::7] = odd
        image[10, 24:30] = image[30, 40] = odd
        data = saved("TIFF", Image.fromarray(image))
        made.right(f"{name}.tif", data, colours=GREYS, notes=(DEEP,))
        data = saved("TIFF", Image.new("F", (64, 40), odd))
        made.right(f"all-{name}.tif", data, colours=((0, 0, 0),) * 4)
    data = saved("TIFF", one_channel(-levels, np.int32))
    made.right("negative.tif", data, colours=((0, 0, 0),) * 4)
    made.add("largest-float.tif", saved("TIFF", Image.new("F", (64, 40), 3.4e38)))

    others = [Image.new("RGB", (100, 80), (i, i, i)) for i in (1, 2, 3)]
    data = saved("TIFF", save_all=True, append_images=others)
    made.right("pages.tif", data, notes=(FRAMES,))
    made.right("tiled.tif", saved("TIFF", picture(64, 48), tiffinfo={322: 16, 323: 16},
                                  compression="tiff_adobe_deflate"), whole=(64, 48))  # fmt: skip
    strip = quadrants(colours=GREYS)[..., 0].tobytes()
    made.right("by-hand.tif", grey_tiff(64, 40, strip), colours=GREYS)
    end = 8 + len(strip)
    made.right("cyclic.tif", grey_tiff(64, 40, strip, following=end), colours=GREYS)
    made.add("next-far-away.tif", grey_tiff(64, 40, strip, following=2**32 - 1))
    made.add("next-inside.tif", grey_tiff(64, 40, strip, following=9))
    made.add("huge-text.tif", grey_tiff(64, 40, strip, (270, 2, 2**31 - 1, 8)), bomb=True)
    made.add("huge-strips.tif", grey_tiff(64, 40, strip, (273, 4, 2**28, 8)), bomb=True)
    made.add("huge-counts.tif", grey_tiff(64, 40, strip, (279, 4, 1, 2**32 - 1)), bomb=True)
    made.add("huge-depth.tif", grey_tiff(64, 40, strip, (258, 3, 1, 65535)))
    made.add("samples.tif", grey_tiff(64, 40, strip, (277, 3, 1, 65535)))
    made.add("zero-rows.tif", grey_tiff(64, 40, strip, (278, 4, 1, 0)))
    made.add("compression.tif", grey_tiff(64, 40, strip, (259, 3, 1, 65535)))
    made.add("old-jpeg.tif", grey_tiff(64, 40, strip, (259, 3, 1, 6)))
    made.add("directory-of-itself.tif", grey_tiff(64, 40, strip, (34665, 4, 1, end)))
    made.refused("declares-60000.tif", grey_tiff(60000, 60000, strip), bomb=True)
    made.refused("declares-2147483647.tif", grey_tiff(2**31 - 1, 2**31 - 1, strip), bomb=True)
    made.add("declares-8000.tif", grey_tiff(8000, 8000, strip), bomb=True)
    made.refused("declares-0.tif", grey_tiff(0, 0, strip))
    made.refused("no-entries.tif", tiff([]))
    made.refused("directory-far-away.tif", b"II*\0\xff\xff\xff\x7f" + bytes(100))
    made.refused("big.tif", b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(50))
    made.add("huge-tile.tif", huge_tile(4096), bomb=True)


def _heifs(made: _Corpus) -> None:
    made.right("rgb.heic", heic(), tolerance=6)
    made.right("square.heic", heic(picture(64, 64)), tolerance=6, whole=(64, 64), silent=True)
    made.right("grey.heic", heic(picture(mode="L")), colours=GREYS, tolerance=6)
    made.right("rgb.avif", saved("AVIF", quality=95), tolerance=8)
    made.right("lossless.avif", saved("AVIF", quality=100, subsampling="4:4:4"), tolerance=8)
    made.right("grey.avif", saved("AVIF", picture(mode="L"), quality=95), colours=GREYS,
               tolerance=8)  # fmt: skip
    pixels = Image.fromarray(quadrants(colours=((*RED, 0), (*GREEN, 255), (*BLUE, 255),
                                                (*YELLOW, 255))))  # fmt: skip
    clear = {"colours": (WHITE, *COLOURS[1:]), "notes": (CLEAR,), "tolerance": 10}
    made.right("alpha.heic", heic(pixels), **clear)
    made.right("alpha.avif", saved("AVIF", pixels, quality=95), **clear)
    others = [Image.new("RGB", (64, 40), (i, i, i)) for i in (1, 2, 3)]
    data = saved("AVIF", save_all=True, append_images=others, quality=95)
    made.right("animated.avif", data, tolerance=8, notes=(FRAMES,))
    several = pillow_heif.from_pillow(picture())
    several.add_from_pillow(others[0])
    file = io.BytesIO()
    several.save(file, quality=95)
    made.right("two-images.heic", file.getvalue(), tolerance=6)
    size = struct.pack(">II", 64, 40)
    for name, data in (("heic", heic()), ("avif", saved("AVIF"))):
        place = data.index(b"ispe") + 8
        assert name == "heic" or data[place : place + 8] == size
        for width, height in ((1, 1), (0, 0), (7999, 7999), (30000, 30000), (2**32 - 1, 1)):
            declared = data[:place] + struct.pack(">II", width, height) + data[place + 8 :]
            made.add(f"declares-{width}x{height}.{name}", declared, bomb=True)
        made.add(f"boxes.{name}", data[:12] + b"\0\0\0\x08free" * 2000 + data[12:])
        made.add(f"endless-box.{name}", data[:24] + b"\xff\xff\xff\xffmeta" + data[32:])
        made.refused(f"only-start.{name}", data[:32])
    made.refused("film.heic", b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(100))
    made.refused("brands.avif", b"\0\0\1\0ftypavif" + b"avif" * 61)


def _plain_formats(made: _Corpus) -> None:
    made.refused("rgb.ppm", saved("PPM"))
    made.refused("grey.pgm", saved("PPM", picture(mode="L")))
    grey_16 = quadrants(colours=deep(GREYS))[..., 0].astype(">u2").tobytes()
    made.refused("grey-16.pgm", b"P5 64 40 65535\n" + grey_16)
    rgb_16 = quadrants(colours=deep()).astype(">u2").tobytes()
    made.refused("rgb-16.ppm", b"P6 64 40 65535\n" + rgb_16)
    text = " ".join(map(str, quadrants().ravel())).encode()
    made.refused("text.ppm", b"P3\n# a comment\n64 40\n255\n" + text)
    made.refused("bits.pbm", b"P4 64 40\n" + bytes(320), colours=(WHITE,) * 4)
    made.add("floats.pfm", saved("PPM", Image.new("F", (64, 40), 0.5)))
    made.refused("negative.ppm", b"P3 64 40 255\n" + b"-1 " * 64 * 40 * 3)
    made.refused("letters.ppm", b"P3 64 40 255\n" + b"x " * 64 * 40 * 3)
    made.refused("long-number.ppm", b"P3 64 40 255\n" + b"1" * 9000)
    made.refused("no-end.ppm", b"P6 " + b"1" * 9000)
    made.refused("comment-only.ppm", b"P6 #" + b"x" * 90000)
    made.refused("zero-depth.ppm", b"P6 64 40 0\n" + bytes(64 * 40 * 3))
    made.refused("declares-60000.ppm", b"P6 60000 60000 255\n" + bytes(100), bomb=True)
    made.refused("declares-9999999999.ppm", b"P6 9999999999 9999999999 255\n", bomb=True)
    made.refused("declares-8000.ppm", b"P6 8000 8000 255\n" + bytes(100), bomb=True)
    made.refused("declares-8000-text.ppm", b"P3 8000 8000 255\n1 1 1", bomb=True)
    made.refused("declares-0.ppm", b"P6 0 0 255\n")
    # TGA has no signature, and so any bytes could be one: it is not looked at
    made.refused("rgb.tga", saved("TGA"))
    made.refused("runs.tga", saved("TGA", compression="tga_rle"))
    made.refused("palette.tga", saved("TGA", picture(mode="P")))
    for side in (65535, 7999):
        data = bytearray(saved("TGA"))
        data[12:16] = struct.pack("<HH", side, side)
        made.refused(f"declares-{side}.tga", bytes(data), bomb=True)


def _orientations(made: _Corpus) -> None:
    for value in range(1, 9):
        tag = oriented(value)
        as_tiff = Image.Exif()
        as_tiff[ORIENTATION] = value
        files = {
            "jpg": jpeg(exif=tag),
            "png": saved("PNG", exif=tag),
            "webp": saved("WEBP", exif=tag, lossless=True),
            "tif": saved("TIFF", exif=as_tiff),
            "avif": saved("AVIF", exif=tag, quality=95),
            "heic": heic(exif=tag),
        }
        whole = (64, 40) if value < 5 else (40, 64)
        for ending, data in files.items():
            name = f"orientation-{value}.{ending}"
            made.right(name, data, colours=turned(COLOURS, value), whole=whole, tolerance=8)
    square = jpeg(picture(64, 64), exif=oriented(6))
    made.right("square-turned.jpg", square, colours=turned(COLOURS, 6), whole=(64, 64), tolerance=4)
    large = jpeg(picture(3000, 2000), exif=oriented(8))
    made.right("large-turned.jpg", large, colours=turned(COLOURS, 8), whole=(2000, 3000),
               tolerance=6)  # fmt: skip


def _sizes(made: _Corpus) -> None:
    encoders = {
        "png": lambda image: saved("PNG", image),
        "jpg": jpeg,
        "webp": lambda image: saved("WEBP", image, lossless=True),
        "gif": lambda image: saved("GIF", image),
        "bmp": lambda image: saved("BMP", image),
        "tif": lambda image: saved("TIFF", image),
        "avif": lambda image: saved("AVIF", image, quality=95),
        "heic": heic,
    }
    for ending, encode in encoders.items():
        made.right(f"1x1.{ending}", encode(Image.new("RGB", (1, 1), RED)), colours=(RED,) * 4,
                   whole=(1, 1), tolerance=8)  # fmt: skip
        if ending in ("png", "jpg", "webp", "gif", "bmp", "tif"):
            for size in ((1, 50), (50, 1), (2, 3)):
                name = f"{size[0]}x{size[1]}.{ending}"
                flat = encode(Image.new("RGB", size, BLUE))
                made.right(name, flat, colours=(BLUE,) * 4, whole=size, tolerance=8)
            made.right(f"33x31.{ending}", encode(picture(33, 31)), whole=(33, 31), tolerance=8)
        if ending in ("png", "jpg", "tif", "bmp"):
            for size in ((20000, 3), (3, 20000)):
                name = f"{size[0]}x{size[1]}.{ending}"
                flat = encode(Image.new("RGB", size, GREEN))
                made.right(name, flat, colours=(GREEN,) * 4, whole=size, tolerance=8)
    made.right("449x448.png", saved("PNG", picture(449, 448)), whole=(449, 448))
    made.right("60000x1.png", saved("PNG", Image.new("L", (60000, 1), 7)), whole=(60000, 1),
               colours=((7, 7, 7),) * 4)  # fmt: skip


def _damaged(made: _Corpus) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (40, 64, 3))
    image = Image.fromarray((quadrants() - noise.clip(0, 29)).astype(np.uint8))
    files = {
        "jpg": jpeg(image),
        "progressive.jpg": jpeg(image, progressive=True),
        "png": saved("PNG", image),
        "webp": saved("WEBP", image),
        "lossless.webp": saved("WEBP", image, lossless=True),
        "gif": saved("GIF", image),
        "bmp": saved("BMP", image),
        "tif": saved("TIFF", image),
        "lzw.tif": saved("TIFF", image, compression="tiff_lzw"),
        "ppm": saved("PPM", image),
        "tga": saved("TGA", image),
        "heic": heic(image),
        "avif": saved("AVIF", image),
    }
    rng = np.random.default_rng(1)
    for ending, data in files.items():
        for share in (0.02, 0.1, 0.3, 0.5):
            made.refused(f"cut-{share}.{ending}", data[: int(len(data) * share)])
        for share in (0.7, 0.9, 0.99):
            made.add(f"cut-{share}.{ending}", data[: int(len(data) * share)])
        made.add(f"cut-last.{ending}", data[:-1])
        for place in (0, 5, *rng.integers(8, min(len(data), 300), 6)):
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            made.add(f"flipped-{len(made.cases)}.{ending}", bytes(flipped))
        zeroed = bytearray(data)
        zeroed[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        made.add(f"half-zero.{ending}", bytes(zeroed))
        made.add(f"twice.{ending}", data + data)
        made.refused(f"behind-a-byte.{ending}", b"?" + data)


class _Payload:
    """Unpickled it would run a program."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was loaded')",)


def _no_images(made: _Corpus) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.png", saved("PNG"))
    eps = saved("EPS")
    files = {
        "empty.jpg": b"",
        "byte.png": b"\x89",
        "zero.bin": b"\0",
        "zeros.tga": bytes(1000),
        "ones.bin": b"\xff" * 1000,
        "text.txt": b"hello\n",
        "long.txt": b"all work and no play " * 5000,
        "utf16.txt": "photo".encode("utf-16"),
        "page.html": b"<!doctype html><script>alert(1)</script><img src=x onerror=alert(1)>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "entities.svg": b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "paper.pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "archive.zip": archive.getvalue(),
        "data.json": json.dumps({"path": "/etc/passwd", "url": "http://localhost"}).encode(),
        "script.sh": b"#!/bin/sh\necho hello\n",
        "script.py": b"import os\nos.system('echo hello')\n",
        "drawing.eps": eps,
        "named.png": eps,
        "drawing.ps": b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 99 99\n(%pipe%echo) (w) file\n",
        "dos.eps": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(eps)) + bytes(20) + eps,
        "icon.ico": saved("ICO", picture(32, 32)),
        "icon.icns": saved("ICNS", picture(128, 128)),
        "layers.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 64, 8, 3) + bytes(14),
        "j2k.jp2": saved("JPEG2000"),
        "paint.pcx": saved("PCX"),
        "silicon.sgi": saved("SGI"),
        "spider.spi": saved("SPIDER", Image.new("F", (64, 40), 0.5)),
        "bits.xbm": saved("XBM", picture(mode="1")),
        "texture.dds": saved("DDS"),
        "im.im": saved("IM"),
        "msp.msp": saved("MSP", picture(mode="1")),
        "pdf-by-pillow.pdf": saved("PDF"),
        "qoi.qoi": saved("QOI"),
        "pixmap.xpm": b'/* XPM */\nstatic char *x[] = {"1 1 1 1","a c #ff0000","a"};\n',
        "fits.fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
        "metafile.wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(200),
        "enhanced.emf": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(200),
        "xl.jxl": b"\xff\x0a" + bytes(100),
        "sound.wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24),
        "film.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100),
        "program.elf": b"\x7fELF\2\1\1" + bytes(200),
        "network.pkl": pickle.dumps(_Payload()),
        "network.png": pickle.dumps(_Payload(), protocol=0),
        "network.pt": pickle.dumps({"state": [1.0] * 100}),
        "numbers.npy": b"\x93NUMPY\1\0v\0{'descr': '|O', 'shape': (1,)}".ljust(128),
        "tensors.safetensors": struct.pack("<Q", 2**63) + b"{}",
        "page.png": b"<html>GIF89a</html>",
        "text.jpg": b"this is no photo",
    }
    for name, data in files.items():
        made.refused(f"no-image-{name}", data, file=name)
    starts = {
        "jpg": b"\xff\xd8\xff\xe0",
        "png": b"\x89PNG\r\n\x1a\n",
        "gif": b"GIF89a",
        "bmp": b"BM",
        "tif": b"II*\0",
        "webp": b"RIFF\x40\1\0\0WEBPVP8 ",
        "heic": b"\0\0\0\x18ftypheic",
        "avif": b"\0\0\0\x18ftypavif",
        "ppm": b"P6\n",
        "bin": b"",
    }
    rng = np.random.default_rng(2)
    for ending, start in starts.items():
        made.refused(f"start.{ending}", start, file=f"start.{ending}")
        for length in (20, 300, 5000):
            made.add(f"noise-{length}.{ending}", start + rng.bytes(length))


def _names(made: _Corpus) -> None:
    data = saved("PNG")
    names = {
        "unicode": "фото 写真 🙂.png",
        "right-to-left": "photo\u202egnp.exe",
        "combining": "e\u0301\u0308" * 20 + ".png",
        "long": "a" * 240 + ".png",
        "percent": "100%25%00%n%s.png",
        "double-quote": 'a"b".png',
        "quote": "it's.png",
        "tags": "<img src=x onerror=alert(1)>.png",
        "newline": "a\nb.png",
        "tab": "a\tb.png",
        "bell": "a\x07\x1b[31m.png",
        "dots": "..png",
        "more-dots": "...",
        "encoded-parent": "..%2f..%2fetc%2fpasswd.png",
        "backslash": "..\\..\\windows\\win.ini.png",
        "dash": "-rf.png",
        "hidden": ".png",
        "space": " .png ",
        "bare": "photo",
        "shell": "$(touch x);`id`&|.png",
        "home": "~.png",
        "star": "*?[a].png",
        "colon": "C:photo.png:stream",
        "braces": "{0.__class__}{{}}.png",
        "device": "CON.png",
        "jpg": "really-a-png.jpg",
        "txt": "really-a-png.txt",
        "sh": "really-a-png.sh",
        "two": "photo.png.html",
        "upper": "PHOTO.PNG",
    }
    for name, file in names.items():
        made.right(f"name-{name}", data, file=file)
    made.right("jpeg-named-png", jpeg(), file="photo.png", tolerance=4)
    made.right("heic-named-jpg", heic(), file="photo.jpg", tolerance=6)
    made.right("webp-named-gif", saved("WEBP", lossless=True), file="photo.gif")
    made.refused("name-of-text", b"hello", file="../../etc/passwd".replace("/", "_") + ".png")


def _bombs(made: _Corpus) -> None:
    row = bytes(10)
    made.refused("declares-60000.png", png((60000, 60000), 8, 2, row), bomb=True)
    made.refused("declares-most.png", png((2**31 - 1, 2**31 - 1), 16, 6, row), bomb=True)
    made.refused("declares-8000.png", png((8000, 8000), 1, 0, row), bomb=True)
    made.refused("8001x8000.png", png((8001, 8000), 1, 0, row), bomb=True)
    made.refused("20000x20000.png", saved("PNG", Image.new("1", (20000, 20000))), bomb=True)
    large = saved("PNG", Image.new("1", (8000, 8000), 1))
    made.right("8000x8000.png", large, colours=(WHITE,) * 4, whole=(8000, 8000), bomb=True)
    pack = zlib.compressobj(9)
    zeros = b"".join(pack.compress(bytes(2**20)) for _ in range(100)) + pack.flush()
    plain = saved("PNG")
    for kind, head in {
        b"iTXt": b"Comment\0\1\0\0\0",
        b"zTXt": b"Comment\0\0",
        b"iCCP": b"profile\0\0",
    }.items():
        data = after_header(plain, chunk(kind, head + zeros))
        made.add(f"bomb-{kind.decode()}.png", data, bomb=True)
        end = plain[:-12] + chunk(kind, head + zeros) + plain[-12:]
        made.add(f"bomb-{kind.decode()}-at-the-end.png", end, bomb=True)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zeros) + chunk(b"IEND")
    made.add("bomb-IDAT.png", b"\x89PNG\r\n\x1a\n" + data, bomb=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 500_000, zip=True)
    made.add("long-text.png", saved("PNG", pnginfo=text), bomb=True)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000), 9))
    made.add("many-texts.png", after_header(plain, text * 100), bomb=True)


def _trailing(made: _Corpus) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "a")
    rng = np.random.default_rng(3)
    tails = {
        "zip": archive.getvalue(),
        "html": b"<script>alert(1)</script>",
        "junk": rng.bytes(999),
    }
    files = {"jpg": jpeg(), "png": saved("PNG"), "gif": saved("GIF", picture(mode="P"))}
    files |= {"bmp": saved("BMP"), "tif": saved("TIFF")}
    for ending, data in files.items():
        for name, tail in tails.items():
            made.right(f"then-{name}.{ending}", data + tail, tolerance=4)
    made.add("then-junk.webp", saved("WEBP") + tails["junk"])
    made.add("then-junk.heic", heic() + tails["junk"])
    made.add("then-junk.avif", saved("AVIF") + tails["junk"])
