"""The demo in a process of its own, which may reach nobody but this machine, and plain HTTP to it.

A gradio client asks less than a stranger may; `Visitor` sends what it is told to.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
CIFAR, GLYPHS = "CIFAR-100: photos of 100 things", "Glyphs: 100 characters"
#: Machines are slow and busy; nothing here says how fast the demo is.
SECONDS = 200
#: Runs before anything else in a process: other machines are refused, and who asked is written.
GUARD = """
import os
import sys

HERE = (None, "", b"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::")


def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others: sockets of Unix
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE:
        with open(os.environ["DEMO_REACHED"], "a") as log:
            log.write(f"{event} {host}\\n")
        raise PermissionError(f"{event}: {host} is another machine")


sys.addaudithook(watch)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def guarded(folder: Path) -> dict[str, str]:
    """An environment in which Python reaches this machine only; others land in `reached.txt`."""
    (folder / "guard").mkdir(parents=True, exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    (folder / "reached.txt").touch()
    return {
        **os.environ,
        "PYTHONPATH": str(folder / "guard"),
        "DEMO_REACHED": str(folder / "reached.txt"),
    }


class Demo:
    """`python -m app`, started but perhaps not ready.

    Args:
        folder: for its log and its temporary files.
        arguments: options of the command line.
        environment: changes to this process's.

    Attributes:
        base: address of the page.
        temp: where its temporary folder is made.
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder, self.temp = folder, folder / "temp"
        self.temp.mkdir(parents=True)
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        changes = {
            "TMPDIR": str(self.temp),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "GRADIO_ANALYTICS_ENABLED": "True",  # of the demo's owner; the demo knows better
        }
        with (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "--port", str(self.port), *arguments],
                cwd=ROOT,
                env={**guarded(folder), **changes, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    @property
    def reached(self) -> list[str]:
        """Other machines that the server asked for."""
        return (self.folder / "reached.txt").read_text().splitlines()

    @property
    def uploads(self) -> list[Path]:
        """Folders for what visitors send."""
        return list(self.temp.glob("horkd-demo-*"))

    def ready(self) -> "Demo":
        """Wait until it answers."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log
            try:
                if httpx.get(f"{self.base}/config", timeout=60).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.2)
        self.stop()
        raise AssertionError(f"the demo does not start:\n{self.log}")

    def stop(self, how: int = signal.SIGINT) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Visitor:
    """Somebody with nothing but HTTP."""

    def __init__(self, base: str) -> None:
        # A server closes the connection of a failed request, and the next one would notice.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(
            base_url=base, timeout=SECONDS, limits=limits, trust_env=False, verify=False
        )

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *error) -> None:
        self.http.close()

    def config(self) -> dict:
        return self.http.get("/config").json()

    def index(self, name: str) -> int:
        """Number of the function of that name."""
        return next(d["id"] for d in self.config()["dependencies"] if d["api_name"] == name)

    def upload(self, content: bytes, name: str = "picture.png") -> httpx.Response:
        return self.http.post("/gradio_api/upload", files={"files": (name, content)})

    def send(self, content: bytes, name: str = "picture.png") -> dict:
        """Upload a file and return what stands for it in a request."""
        answer = self.upload(content, name)
        assert answer.status_code == 200, answer.text
        return sent(answer.json()[0])

    def call(self, name: str, *data: object) -> tuple[bool, object]:
        """Call a function by its name: (whether it answered, the answer or the error's text)."""
        answer = self.http.post(f"/gradio_api/call/{name}", json={"data": list(data)})
        if answer.status_code != 200:
            return False, answer.text
        event = answer.json()["event_id"]
        with self.http.stream("GET", f"/gradio_api/call/{name}/{event}") as lines:
            kind = None
            for line in lines.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind in ("complete", "error"):
                    found = json.loads(line.removeprefix("data: "))
                    if kind == "complete":
                        return True, found[0] if len(found) == 1 else found
                    return False, found["error"]
        raise AssertionError(f"no answer to {name} {data}")

    def join(self, index: int, *data: object) -> tuple[bool, object]:
        """Call a function by its number, as the page does: as `call`."""
        session = os.urandom(6).hex()
        body = {"data": list(data), "fn_index": index, "session_hash": session}
        answer = self.http.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            return False, answer.text
        query = {"session_hash": session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=query) as lines:
            for line in lines.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                if message["msg"] == "process_completed":
                    output = message["output"]
                    if not message["success"]:
                        return False, output["error"]
                    found = output["data"]
                    return True, found[0] if len(found) == 1 else found
        raise AssertionError(f"no answer to function {index} {data}")


def sent(path: object) -> dict:
    """A path as a request names a file that was uploaded."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
