"""The demo from outside: its interface, hostile visitors, many visitors, and what it leaves behind.

The server may not reach another machine: `demo_server` refuses that and keeps a list.
"""

import contextlib
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

gradio_client = pytest.importorskip("gradio_client")
gradio = pytest.importorskip("gradio")
pytest.importorskip("pillow_heif")
from demo_server import (  # noqa: E402
    CIFAR,
    GLYPHS,
    ROOT,
    SECONDS,
    Demo,
    Visitor,
    free_port,
    guarded,
    sent,
)
from gradio_client import Client, handle_file  # noqa: E402
from hostile import Case, corpus  # noqa: E402
from PIL import Image  # noqa: E402

from app import __main__ as command  # noqa: E402
from app import page, pictures, show, upload  # noqa: E402
from app.examples import EXAMPLES  # noqa: E402
from horkd.errors import HorkdError  # noqa: E402

pytestmark = pytest.mark.timeout(600)
DRAWN = list(EXAMPLES.values())
PLACES = [ROOT / "reports" / name for name in command.DEFAULTS]
#: What a server says of itself in a trace.
INSIDE = (str(ROOT), "site-packages", "horkd-demo-", "Traceback", 'File "', ".py")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo as it starts without options."""
    server = Demo(tmp_path_factory.mktemp("demo") / "server")
    yield server.ready()
    server.stop()


@pytest.fixture(scope="module")
def visitor(demo):
    with Visitor(demo.base) as someone:
        yield someone


@contextlib.contextmanager
def client_of(base: str):
    """A client whose threads end with it."""
    client = Client(base, verbose=False, analytics_enabled=False)
    try:
        yield client
    finally:
        client.close()
        for pool in (client.executor, client.helper_executor, client.stream_executor):
            pool.shutdown()


@pytest.fixture(scope="module")
def client(demo):
    with client_of(demo.base) as one:
        yield one


@pytest.fixture(scope="module")
def loaded():
    """What the demo shows, in this process: (exhibits by title, networks for faces)."""
    exhibits, faces = command.load(PLACES)
    return {e.title: e for e in exhibits}, faces


@pytest.fixture
def quiet(demo):
    """The server writes no trace while this test runs."""
    before = len(demo.log)
    yield
    assert "Traceback" not in demo.log[before:], demo.log[before:]


def answered(exhibit: show.Exhibit, path: Path, size: int) -> dict:
    """What `/compare` should say of a picture, found in this process."""
    picture = pictures.read(path)
    found = exhibit.bench.answers(picture.at(exhibit.bench.full))
    return show.as_json(exhibit, picture, found, size)


def assert_alike(found: object, expected: object, where: str = "") -> None:
    """Equal, but for numbers that were rounded."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        pairs = [(found[k], expected[k], f"{where}.{k}") for k in expected]
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        pairs = [(f, e, f"{where}[{i}]") for i, (f, e) in enumerate(zip(found, expected))]  # noqa: B905
    else:
        if isinstance(expected, float):
            expected = pytest.approx(expected, abs=1e-4, rel=1e-4)
        assert found == expected, where
        return
    for pair in pairs:
        assert_alike(*pair)


def assert_one_line(text: object) -> str:
    """What a visitor may be told: one line, and nothing of the server's inside."""
    assert isinstance(text, str), text
    assert text.strip(), "an error without a word"
    assert "\n" not in text, text
    assert not [part for part in INSIDE if part in text], text
    return text


def refused(answer: tuple[bool, object]) -> str | None:
    """The error's text; None where Gradio keeps its own error to itself."""
    ok, text = answer
    assert not ok, text
    return None if text is None else assert_one_line(text)


# The interface


def test_there_are_two_endpoints_and_they_are_documented(client):
    api = client.view_api(return_format="dict", print_info=False)
    assert not api["unnamed_endpoints"]
    assert {name: [p["parameter_name"] for p in e["parameters"]] for name, e in
            api["named_endpoints"].items()} == {
        "/compare": ["picture", "resolution", "models"],
        "/verify": ["left", "right", "resolution", "framing"],
    }  # fmt: skip
    for endpoint in api["named_endpoints"].values():
        assert len(endpoint["description"].split()) > 5
        assert all(p["label"] and p["python_type"]["type"] for p in endpoint["parameters"])


def test_openapi_names_only_the_two(visitor):
    paths = visitor.http.get("/gradio_api/openapi.json").json()["paths"]
    named = {path.rpartition("/")[2] for path in paths if "/call/" in path}
    assert {"compare", "verify"} <= named
    assert not named & {"answers", "relations", "disagreements", "verified", "chosen", "lambda"}


@pytest.mark.parametrize("name", ["answers", "relations", "disagreements", "verified", "chosen"])
def test_private_functions_are_not_the_clients(client, visitor, name):
    with pytest.raises(ValueError, match="Cannot find a function"):
        client.predict(None, 16, CIFAR, api_name=f"/{name}")
    with pytest.raises(ValueError, match="Invalid function index"):
        client.predict(None, 16, CIFAR, fn_index=visitor.index(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_compare_is_what_this_process_finds(client, loaded, name):
    found = client.predict(handle_file(EXAMPLES[name]), 12, CIFAR, api_name="/compare")
    assert_alike(found, answered(loaded[0][CIFAR], EXAMPLES[name], 12))
    assert found["models"] == CIFAR
    assert list(found["answers"]) == ["teacher", "teacher_small", "student", "alone"]


def test_compare_with_the_other_networks(client, loaded):
    found = client.predict(handle_file(DRAWN[0]), 8, GLYPHS, api_name="/compare")
    assert_alike(found, answered(loaded[0][GLYPHS], DRAWN[0], 8))


def test_resolution_is_snapped(client, loaded):
    for asked, taken in ((15.2, 16), (4, 4), (5.1, 6), (32, 32), (31.4, 32)):
        found = client.predict(handle_file(DRAWN[2]), asked, CIFAR, api_name="/compare")
        assert found["resolution_px"] == taken
        assert_alike(found, answered(loaded[0][CIFAR], DRAWN[2], taken))


def test_an_upright_answer_for_a_photo_that_lies(client, loaded, tmp_path):
    turned = Image.open(DRAWN[1]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    found = client.predict(handle_file(tmp_path / "turned.png"), 16, CIFAR, api_name="/compare")
    assert_alike(found["answers"], answered(loaded[0][CIFAR], DRAWN[1], 16)["answers"])


def test_verify(client, loaded, tmp_path):
    photos = [handle_file(DRAWN[0]), handle_file(DRAWN[4])]
    for size, framing in (("16", "face only"), ("32", "whole head, as in LFW")):
        found = client.predict(*photos, size, framing, api_name="/verify")
        server = page.Server(list(loaded[0].values()), loaded[1])
        left, right = pictures.read(DRAWN[0]), pictures.read(DRAWN[4])
        assert_alike(found, server.verify(left, right, size, framing))
        assert "must not be used" in found["warning"]
        assert found["same"] == (found["similarity"] > found["threshold"])
    same = client.predict(photos[0], photos[0], "16", "face only", api_name="/verify")
    assert same["similarity"] == pytest.approx(1, abs=1e-5)
    assert same["same"]


@pytest.mark.parametrize("asked", [3.9, 0, -16, -1e300, 32.1, 1e300])
def test_resolution_out_of_range_is_the_nearest(client, loaded, asked):
    found = client.predict(handle_file(DRAWN[2]), asked, CIFAR, api_name="/compare")
    assert_alike(found, answered(loaded[0][CIFAR], DRAWN[2], 4 if asked < 10 else 32))


@pytest.mark.parametrize("title", ["no such networks", 3, [CIFAR], {}, True])
def test_unknown_networks_are_one_line(client, visitor, quiet, title):
    photo = visitor.send(DRAWN[0].read_bytes())
    assert_one_line(refused(visitor.call("compare", photo, 16, title)))
    with pytest.raises(gradio_client.exceptions.AppError) as error:
        client.predict(handle_file(DRAWN[0]), 16, title, api_name="/compare")
    assert_one_line(str(error.value))


@pytest.mark.parametrize("value", ["abc", "", None, [16], {}, True])
def test_a_resolution_that_is_no_number_is_explained(client, visitor, value):
    photo = visitor.send(DRAWN[0].read_bytes())
    told = refused(visitor.call("compare", photo, value, CIFAR))
    assert "the resolution must be a number of pixels" in told.lower()
    with pytest.raises(gradio_client.exceptions.AppError, match="number of pixels"):
        client.predict(handle_file(DRAWN[0]), value, CIFAR, api_name="/compare")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_a_resolution_that_json_does_not_know(visitor, text):
    file = visitor.send(DRAWN[0].read_bytes())
    body = f'{{"data": [{{"path": "{file["path"]}"}}, {text}, "{CIFAR}"]}}'
    kind = {"content-type": "application/json"}
    answer = visitor.http.post("/gradio_api/call/compare", content=body, headers=kind)
    if answer.status_code == 200:
        url = f"/gradio_api/call/compare/{answer.json()['event_id']}"
        found = visitor.http.get(url).text
        assert "event: error" in found
        assert not [part for part in INSIDE if part in found], found
    else:
        assert_one_line(answer.text)


def test_missing_pictures_are_one_line(client, visitor):
    assert "no picture" in refused(visitor.call("compare", None, 16, CIFAR))
    photo = visitor.send(DRAWN[0].read_bytes())
    for left, right in ((None, photo), (photo, None), (None, None)):
        told = refused(visitor.call("verify", left, right, "16", "face only"))
        assert "two photos are needed" in told.lower()
    with pytest.raises(gradio_client.exceptions.AppError, match="no picture"):
        client.predict(None, 16, CIFAR, api_name="/compare")


def test_wrong_choices_are_one_line(visitor, quiet):
    photo = visitor.send(DRAWN[0].read_bytes())
    for wrong in (("17", "face only"), ("x", "face only"), (None, "face only"), ("16", "nothing")):
        assert_one_line(refused(visitor.call("verify", photo, photo, *wrong)))
    assert CIFAR in assert_one_line(refused(visitor.call("compare", photo, 16, "")))


def test_too_few_and_too_many_values(visitor):
    for data in ([], [None], [None] * 9):
        refused(visitor.call("compare", *data))
    for body in ('{"data": "x"}', "{}", "[]", "{", ""):
        kind = {"content-type": "application/json"}
        answer = visitor.http.post("/gradio_api/call/compare", content=body, headers=kind)
        assert answer.status_code == 422
        assert_one_line(answer.text)


# Hostile files


def outcome(path: Path) -> tuple[str, ...]:
    """What is read of a file, or why it is not, whatever the numbers in it."""
    try:
        picture = pictures.read(path)
    except HorkdError as error:
        return (re.sub(r"\d+", "#", str(error)),)
    return (picture.format, *(re.sub(r"\d+", "#", note) for note in picture.notes))


def one_of_each(cases: list[Case]) -> list[Case]:
    """All odd names, and of every ending one file that is to be read, refused or either so."""
    found = {}
    for case in cases:
        name = case.name if case.name.startswith("name-") else case.path.suffix
        found.setdefault((name, case.kind, case.bomb, outcome(case.path)), case)
    return list(found.values())


def test_hostile_files_get_an_answer_or_a_line(visitor, tmp_path, quiet):
    cases = one_of_each(corpus(tmp_path))
    assert len(cases) >= 150
    wrong = []

    def send(case) -> str | None:
        """What is wrong with what the server says to it."""
        answer = visitor.upload(case.path.read_bytes(), case.path.name)
        if answer.status_code != 200:
            ok, found = False, answer.text
        else:
            ok, found = visitor.call("compare", sent(answer.json()[0]), 16, CIFAR)
        if ok and case.kind == "refused":
            return "was accepted"
        if not ok and case.kind == "right":
            return f"was refused: {found}"
        if ok:
            shares = [t["probability"] for a in found["answers"].values() for t in a["top5"]]
            return None if all(0 <= p <= 1 for p in shares) else f"has probabilities {shares}"
        try:
            assert_one_line(found)
        except AssertionError as error:
            return f"is told {error}"
        return None

    with ThreadPoolExecutor(4) as pool:
        for case, said in zip(cases, pool.map(send, cases), strict=True):
            if said:
                wrong.append(f"{case.name} {said}")
    assert not wrong, "\n".join(wrong)
    assert visitor.call("compare", visitor.send(DRAWN[0].read_bytes()), 16, CIFAR)[0]


NAMES = ["../../../x.png", "/etc/x.png", "a" * 2000 + ".png", "ü 1;&.png", "<b>.png", ".png", "x"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_odd_names_of_files(demo, visitor, loaded, name, quiet):
    file = visitor.send(DRAWN[3].read_bytes(), name)
    folder = demo.uploads[0].resolve()
    assert Path(file["path"]).resolve().is_relative_to(folder)
    ok, found = visitor.call("compare", file, 16, CIFAR)
    assert ok, found
    assert_alike(found, answered(loaded[0][CIFAR], DRAWN[3], 16))


def test_an_oversized_upload_is_refused(client, visitor, tmp_path, quiet):
    limit = pictures.LIMITS.bytes
    answer = visitor.upload(bytes(limit + 1))
    assert answer.status_code == 413
    assert "size" in assert_one_line(answer.text)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(ValueError, match="exceeds the maximum file size"):
        client.predict(handle_file(tmp_path / "large.png"), 16, CIFAR, api_name="/compare")
    # Just below the limit it is read, and is no picture.
    refused(visitor.call("compare", visitor.send(bytes(limit - 1)), 16, CIFAR))


# Files that were never uploaded


@pytest.fixture
def elsewhere():
    """A web server on this machine that nobody should ask: (its address, who did)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x.png", asked
    server.shutdown()
    server.server_close()


def strange(address: str, uploaded: str, picture: Path) -> dict[str, object]:
    """Payloads that stand for no file that a visitor uploaded."""
    paths = {
        "a system's file": "/etc/passwd",
        "relative": "pyproject.toml",
        "up": "../../../../../../etc/passwd",
        "up from an upload": f"{uploaded}/../../../../../../../etc/passwd",
        "up from its folder": f"{Path(uploaded).parent.parent}/../../../../../../etc/passwd",
        "of the checkout": str(ROOT / "pyproject.toml"),
        "a picture elsewhere": str(picture),
        "a folder": "/tmp",
        "not there": str(Path(uploaded).with_name("other.png")),
        "an address": address,
        "an address in capitals": address.replace("http", "HTTP"),
        "an address with a space": f" {address}",
        "a far address": "https://example.com/x.png",
        "of this server": "/gradio_api/file=/etc/passwd",
        "data": "data:image/png;base64,aGVsbG8=",
        "file": "file:///etc/passwd",
        "file with a host": f"file://127.0.0.1{picture}",
        "ftp": "ftp://127.0.0.1/x.png",
        "two slashes": "//etc/passwd",
        "share": "\\\\127.0.0.1\\share\\x.png",
        "a device": "/dev/zero",
        "of a process": "/proc/self/environ",
        "zero byte": "/etc/passwd\0.png",
        "empty": "",
        "long": "/" + "a" * 5000,
        "a number": 7,
        "a list": ["/etc/passwd"],
        "none": None,
    }
    found: dict[str, object] = {}
    for name, path in paths.items():
        found[name] = sent(path)
        found[f"{name}, no meta"] = {"path": path}
        if isinstance(path, str):
            found[f"{name}, as url"] = {"url": path, "meta": {"_type": "gradio.FileData"}}
            found[f"{name}, bare"] = path
    found["a number instead"] = 7
    found["a list instead"] = []
    found["nothing instead"] = {}
    found["nested"] = {"path": sent("/etc/passwd"), **sent("/etc/passwd")}
    return found


def test_files_that_were_not_uploaded_are_refused(demo, visitor, elsewhere):
    address, asked = elsewhere
    before = list(demo.reached)
    uploaded = visitor.send(DRAWN[0].read_bytes(), "mine.png")["path"]
    verify = visitor.index("verify")
    for name, payload in strange(address, uploaded, DRAWN[1]).items():
        ways = (
            visitor.call("compare", payload, 16, CIFAR),
            visitor.join(verify, sent(uploaded), payload, "16", "face only"),
        )
        for ok, text in ways:
            assert not ok, f"{name}: {text}"
            assert text is None or assert_one_line(text), name
    assert asked == []
    assert demo.reached == before
    assert visitor.call("compare", sent(uploaded), 16, CIFAR)[0]


def test_an_address_beside_an_upload_is_not_asked(visitor, loaded, elsewhere):
    address, asked = elsewhere
    file = {**visitor.send(DRAWN[5].read_bytes()), "url": address}
    ok, found = visitor.call("compare", file, 16, CIFAR)
    assert ok
    assert_alike(found, answered(loaded[0][CIFAR], DRAWN[5], 16))
    assert asked == []


@pytest.mark.parametrize("payload", [sent("/etc/passwd"), "/etc/passwd", 7])
def test_a_file_that_was_not_uploaded_is_refused_with_a_word(demo, visitor, payload):
    before = len(demo.log)
    assert_one_line(refused(visitor.call("compare", payload, 16, CIFAR)))
    assert "Traceback" not in demo.log[before:]


FILES = [
    "/etc/passwd",
    str(ROOT / "pyproject.toml"),
    str(ROOT / "app" / "page.py"),
    "pyproject.toml",
    "app/page.py",
    "%2e%2e/%2e%2e/etc/passwd",
    "/proc/self/environ",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("path", FILES)
def test_files_of_the_server_are_not_served(demo, visitor, path):
    ours = (Path("/etc/passwd").read_text()[:20], "build-backend", "import threading", "HORKD_")
    inside = f"{demo.uploads[0]}/{'../' * 12}"
    for way in ("file=", "file/", f"file={inside}", "proxy=", "stream/", "file=/"):
        answer = visitor.http.get(f"/gradio_api/{way}{path}")
        assert answer.status_code in (400, 403, 404, 405), (way, answer.status_code)
        assert not [text for text in ours if text in answer.text], way
    for way in ("/static/", "/assets/"):
        answer = visitor.http.get(f"{way}{'..%2f' * 12}{path.lstrip('/')}")
        assert answer.status_code in (403, 404)


def test_addresses_of_this_machine_are_not_fetched(visitor, elsewhere):
    address, asked = elsewhere
    for way in ("file=", "file/", "proxy="):
        assert visitor.http.get(f"/gradio_api/{way}{address}").status_code in (400, 403, 404)
    assert asked == []


# Many visitors


def test_sixteen_visitors_at_once(demo, loaded, tmp_path, quiet):
    sizes, count = (8, 16, 32), 16
    files, expected = [], []
    for i in range(count):  # each its own picture
        files.append(tmp_path / f"{i}.png")
        turned = Image.open(DRAWN[i % len(DRAWN)]).rotate(90 * (i // len(DRAWN)))
        turned.save(files[-1])
        expected.append([answered(loaded[0][CIFAR], files[-1], size) for size in sizes])
    together = threading.Barrier(count)

    def visit(i: int) -> list[tuple[bool, object]]:
        with Visitor(demo.base) as someone:
            together.wait(SECONDS)
            file = someone.send(files[i].read_bytes(), f"{i}.png")
            ways = [someone.call, lambda _, *data: someone.join(index, *data)]
            return [ways[(i + k) % 2]("compare", file, s, CIFAR) for k, s in enumerate(sizes)]

    with Visitor(demo.base) as someone:
        index = someone.index("compare")
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(visit, range(count)))
    for i, own in enumerate(answers):
        assert [ok for ok, _ in own] == [True] * len(sizes), own
        for (_, found), right in zip(own, expected[i], strict=True):
            assert_alike(found, right, f"visitor {i}")


def test_several_clients_at_once(demo, loaded):
    together = threading.Barrier(8)

    def visit(i: int) -> dict:
        with client_of(demo.base) as own:
            together.wait(SECONDS)
            file = handle_file(DRAWN[i])
            jobs = [own.submit(file, 16, t, api_name="/compare") for t in loaded[0]]
            return [job.result(SECONDS) for job in jobs]

    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(visit, range(8))):
            for answer, exhibit in zip(found, loaded[0].values(), strict=True):
                assert_alike(answer, answered(exhibit, DRAWN[i], 16))


# What is left, and who hears of it


def test_a_page_starts_nothing_that_outlives_its_server():
    """Built twice it is two pages; what they forget is forgotten while they are served."""
    forgotten, before = [], set(threading.enumerate())

    def built() -> upload.Page:
        forget = partial(forgotten.append, True)
        with upload.Page(forget, 0.05, analytics_enabled=False, delete_cache=(1, 10)) as made:
            gradio.Markdown("nothing")
        return made

    built()
    shown = built()
    assert set(threading.enumerate()) == before
    assert not forgotten
    shown.launch(server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True,
                 quiet=True, ssr_mode=False, share=False, inbrowser=False)  # fmt: skip
    end = time.monotonic() + 60
    while len(forgotten) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    shown.close(verbose=False)
    count = len(forgotten)
    time.sleep(0.3)
    assert len(forgotten) == count
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


def test_the_whole_page_starts_no_thread(loaded, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    before = set(threading.enumerate())
    page.build(list(loaded[0].values()), loaded[1])
    assert set(threading.enumerate()) == before


def test_what_was_sent_is_forgotten_within_an_hour():
    """Deleted when it is found too old, and forgotten by the look after that."""
    every, age = page.CLEANING
    assert age + every + every <= 3600


@pytest.fixture(scope="module")
def cleaned(loaded, tmp_path_factory):
    """The page in this process, which looks twice a second for files older than four seconds."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        shown = page.build(list(loaded[0].values()), loaded[1], cleaning=(0.5, 4))
        with contextlib.redirect_stdout(io.StringIO()):
            shown.queue().launch(
                server_name="127.0.0.1",
                server_port=free_port(),
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                share=False,
                inbrowser=False,
            )
        with Visitor(shown.local_url) as someone:
            yield someone, folder
        shown.close(verbose=False)


def served(visitor: Visitor, folder: Path) -> set[str]:
    """Paths of the pictures that the page's first look and its examples need, all fetched."""
    found = set()

    def look(part: object) -> None:
        if isinstance(part, dict):
            for value in part.values():
                look(value)
        elif isinstance(part, list):
            for value in part:
                look(value)
        elif isinstance(part, str) and part.startswith(str(folder)):
            found.add(part)

    look(visitor.config()["components"])
    for path in found:
        answer = visitor.http.get(f"/gradio_api/file={path}")
        assert answer.status_code == 200, path
        Image.open(io.BytesIO(answer.content)).verify()
    return found


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def gone(folder: Path, kept: set[Path], seconds: float) -> bool:
    """Wait until nothing but that is left."""
    end = time.monotonic() + seconds
    while files(folder) - kept:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_uploads_are_deleted_and_the_page_lives_on(cleaned):
    visitor, folder = cleaned
    kept, ours = files(folder), served(visitor, folder)
    assert len(ours) >= len(EXAMPLES)
    index = visitor.index("answers")  # leaves pictures for the image slider
    for path in sorted(ours):  # as a visitor who clicks on every example
        ok, found = visitor.join(index, sent(path), 16, CIFAR)
        assert ok, found
        assert f"{folder}/" in str(found)
    file = visitor.send(DRAWN[6].read_bytes(), "mine.png")
    ok, found = visitor.call("compare", file, 16, CIFAR)
    assert ok, found
    assert gone(folder, kept, 60), "what the visitor sent is still there"
    ok, text = visitor.call("compare", file, 16, CIFAR)
    assert not ok
    assert text is None or assert_one_line(text)
    time.sleep(1.5)  # more looks
    assert files(folder) == kept
    assert served(visitor, folder) == ours
    for path in sorted(ours):
        assert visitor.call("compare", sent(path), 16, CIFAR)[0], path
    assert visitor.call("compare", visitor.send(DRAWN[7].read_bytes()), 16, CIFAR)[0]


def test_no_visitor_can_keep_files_from_being_deleted(cleaned):
    visitor, folder = cleaned
    kept = files(folder)
    path = Path(visitor.send(DRAWN[6].read_bytes())["path"])
    for place in (path.parent, folder, folder / "examples"):
        refused(visitor.call("compare", sent(str(place)), 16, CIFAR))
    assert gone(folder, kept, 15)
    visitor.send(DRAWN[7].read_bytes())
    assert gone(folder, kept, 15)


def test_only_this_machine_can_connect(demo):
    if not Path("/proc/net/tcp").is_file():
        pytest.skip("there is no /proc/net/tcp")
    links = [os.readlink(f) for f in Path(f"/proc/{demo.process.pid}/fd").iterdir()]
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in own:
                listening.append(fields[1])
    assert listening == [f"0100007F:{demo.port:04X}"]


def test_the_guard_notices(tmp_path):
    code = "import socket\nfor host in ('example.com', '192.0.2.1'):\n try:\n  "
    code += "socket.create_connection((host, 80), 5)\n except PermissionError:\n  pass\n"
    subprocess.run([sys.executable, "-c", code], env=guarded(tmp_path), check=True)
    reached = (tmp_path / "reached.txt").read_text().splitlines()
    assert reached == ["socket.getaddrinfo example.com", "socket.getaddrinfo 192.0.2.1"]


#: What Gradio looks up when it is asked for addresses; a test below is about just that.
FAR = ("far.example.com", "192.0.2.7", "dns.google")


def test_the_server_reaches_no_other_machine(demo, visitor):
    assert visitor.http.get("/").status_code == 200
    assert visitor.call("compare", visitor.send(DRAWN[0].read_bytes()), 16, CIFAR)[0]
    assert [line for line in demo.reached if not line.endswith(FAR)] == []


@pytest.mark.parametrize("host", FAR[:2])
def test_the_server_fetches_nothing_for_a_visitor(demo, visitor, host):
    before = list(demo.reached)
    for way in ("file=", "file/", "proxy="):
        for scheme in ("http", "https"):
            answer = visitor.http.get(f"/gradio_api/{way}{scheme}://{host}/x.png")
            assert answer.status_code in (400, 403, 404)
    assert demo.reached == before


def test_nobody_hears_what_was_asked(visitor):
    config = visitor.config()
    assert config["analytics_enabled"] is False  # although the environment says True
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not config.get("run_history")  # in the browser
    assert visitor.http.get("/monitoring/summary").status_code in (403, 404)
    assert visitor.http.get("/monitoring").status_code in (403, 404)


# Other people's machines


class Passing(BaseHTTPRequestHandler):
    """A reverse proxy: passes what is asked below its prefix on to a server, without the prefix."""

    def do_GET(self):
        self.pass_on()

    def do_POST(self):
        self.pass_on()

    def pass_on(self):
        server = self.server
        if not self.path.startswith(server.prefix):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        target = server.base + self.path.removeprefix(server.prefix)
        answer = server.http.request(self.command, target, headers=asked, content=body)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A demo on a machine with proxies and an ASCII terminal: (demo, socket of all proxies)."""
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        port = proxy.getsockname()[1]
        web, socks = f"http://127.0.0.1:{port}", f"socks5://127.0.0.1:{port}"
        demo = Demo(
            tmp_path_factory.mktemp("proxied") / "server",
            *("--models", str(PLACES[1]), "--root-path", "shown/here/"),
            **{"http_proxy": web, "HTTPS_PROXY": web, "ALL_PROXY": socks, "all_proxy": socks},
            **{"NO_PROXY": "127.0.0.1,::1/128", "no_proxy": "127.0.0.1"},
            **{"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        )
        yield demo.ready(), proxy
        demo.stop()


def test_proxies_are_not_asked(proxied):
    demo, proxy = proxied
    with Visitor(demo.base) as someone:
        assert someone.config()["api_prefix"]
    with pytest.raises(BlockingIOError):  # nobody has connected
        proxy.accept()
    assert not demo.reached


def test_behind_a_reverse_proxy_under_a_prefix(proxied):
    demo, _ = proxied
    outside = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    outside.prefix, outside.base = "/shown/here", demo.base
    outside.http = httpx.Client(timeout=SECONDS)
    serving = threading.Thread(target=outside.serve_forever)
    serving.start()
    try:
        base = f"http://127.0.0.1:{outside.server_address[1]}{outside.prefix}"
        with Visitor(base) as someone:
            config = someone.config()
            assert config["root"] == base
            assert someone.http.get("/").status_code == 200
            # gradio's examples of its interface have addresses elsewhere
            shown = re.findall(r'"([^"]*/gradio_api/file=[^"]*)"', json.dumps(config))
            assert shown
            for url in shown:
                assert url.startswith(f"{base}/"), url
                assert someone.http.get(url).status_code == 200
        client = Client(base, verbose=False, analytics_enabled=False)
        found = client.predict(handle_file(DRAWN[0]), 16, GLYPHS, api_name="/compare")
        assert found["answers"]["student"]["top5"]
    finally:
        outside.shutdown()
        serving.join()
        outside.server_close()
        outside.http.close()


# The command line


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """Start the demo in this process: (exit code, standard error)."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            command.main(arguments)
        code = stopped.value.code
        err = capsys.readouterr().err
        return (code, err) if isinstance(code, int) else (1, f"{err}{code}\n")  # as Python prints

    return call


def assert_complaint(answer: tuple[int, str], complaint: str) -> None:
    code, err = answer
    assert code != 0
    assert err.startswith("horkd: "), err
    assert err.count("\n") == 1, err
    assert complaint in err


def test_a_port_that_is_taken(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_complaint(start("--models", str(PLACES[1]), "--port", str(port)), str(port))


def test_a_port_that_cannot_be(start):
    assert_complaint(start("--models", str(PLACES[1]), "--port", "99999"), "port")


def test_models_that_are_not_there(start, tmp_path):
    missing, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.safetensors").write_text("no network")
    assert start("--models", str(missing)) == (1, f"horkd: there is no file {missing}\n")
    assert_complaint(start("--models", str(empty)), "there is no network in")
    assert_complaint(start("--models", str(tmp_path / "text.safetensors")), "text.safetensors")
    assert_complaint(start("--models", str(PLACES[2])), "no classifiers")
    assert_complaint(start("--models", "~nobody-of-this-name/x"), "no home folder of that user")


def test_nothing_to_show(start, monkeypatch):
    monkeypatch.setattr(command, "DEFAULTS", ())
    assert_complaint(start(), "start the demo in its checkout")


def test_a_number_of_pixels(loaded):
    exhibit = loaded[0][CIFAR]
    server = page.Server([exhibit], None)
    for wrong in (math.nan, math.inf, "abc", None, [16]):
        with pytest.raises(HorkdError, match="number of pixels"):
            server.size(exhibit, wrong)


def test_ctrl_c_ends_it_and_nothing_is_left(tmp_path):
    """A server of its own, since it ends it."""
    own = Demo(tmp_path / "server", "--models", str(PLACES[1]))
    try:
        with Visitor(own.ready().base) as someone:
            someone.send(DRAWN[9].read_bytes())
        folders, before = own.uploads, len(own.log)
        assert folders
    finally:
        ended = own.stop(signal.SIGINT)
    assert ended == 0, own.log
    assert "Traceback" not in own.log[before:]
    assert not [folder for folder in folders if folder.exists()]
    assert not list(own.temp.rglob("*.png"))
