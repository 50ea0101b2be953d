"""What the demo takes: first answer, slider moves, 32 clients at once, memory over many requests.

    python benchmarks/demo.py [--requests 1000] [--clients 32]

Starts `python -m app` and asks it over loopback; slider moves are timed in headless Chromium, from
the move to the new words on the page. About three minutes on two cores. Writes
reports/benchmarks/demo-cpu.json.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
from gradio_client import Client, handle_file

from horkd import paths, storage
from horkd.machine import describe_machine

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MODELS = "CIFAR-100: photos of 100 things"


@contextmanager
def server():
    """A demo of its own: (address, process, seconds until it listened)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "--port", str(port)],
        cwd=paths.root(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "Running on" in line:
                break
        else:
            sys.exit("the demo did not start")
        yield f"http://127.0.0.1:{port}", process, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait(30)


def photo(folder: Path, number: int) -> str:
    """A file with a picture of its own: 640×480, smooth shapes and noise."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    noisy = (pixels + rng.integers(-8, 9, pixels.shape)).clip(0, 255).astype(np.uint8)
    path = folder / f"{number}.jpg"
    Image.fromarray(noisy).save(path, quality=85)
    return str(path)


def first_answer(address: str, folder: Path) -> float:
    """Seconds of the first request to a new server, its connection included."""
    file = photo(folder, 0)
    start = time.perf_counter()
    client = Client(address, verbose=False)
    client.predict(handle_file(file), 16, MODELS, api_name="/compare")
    return time.perf_counter() - start


def slider(address: str) -> dict[str, float]:
    """Milliseconds from a move of the slider to the new words, in a browser."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_function("document.querySelector('#verdict')?.innerText.includes('tudent')")
        page.wait_for_timeout(1500)
        # the words name the resolution, so they change with every move
        watch = """key => new Promise(done => {
            const words = document.querySelector('#verdict'), start = performance.now();
            new MutationObserver((_, o) => {
                if (words.innerText.includes('fed ' + key + ' px')) {
                    o.disconnect(); done(performance.now() - start); }
            }).observe(words, {childList: true, subtree: true, characterData: true});
            const slider = document.querySelector('input[type=range]');
            slider.value = key;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            slider.dispatchEvent(new Event('change', {bubbles: true}));
        })"""
        sizes = [14, 12, 10, 8, 6, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32] * 2
        times = []
        for size in sizes:
            times.append(page.evaluate(watch, size))
            page.wait_for_timeout(150)
        browser.close()
    times.sort()
    return {
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[int(0.95 * len(times))], 1),
        "worst_ms": round(times[-1], 1),
        "moves": len(times),
    }


def together(address: str, folder: Path, clients: int, each: int = 3) -> dict[str, float]:
    """Many clients at once, each with pictures of its own."""
    files = [photo(folder, 10_000 + i) for i in range(clients)]
    answered, times = [], []

    def ask(file: str) -> None:
        client = Client(address, verbose=False)
        for size in (8, 12, 16)[:each]:
            start = time.perf_counter()
            found = client.predict(handle_file(file), size, MODELS, api_name="/compare")
            times.append(time.perf_counter() - start)
            answered.append(found["resolution_px"] == size)

    threads = [threading.Thread(target=ask, args=(file,)) for file in files]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "clients": clients,
        "requests": clients * each,
        "answered": sum(answered),
        "seconds": round(time.perf_counter() - start, 1),
        "median_s": round(statistics.median(times), 2),
        "worst_s": round(max(times), 2),
    }


def memory(address: str, process: subprocess.Popen, folder: Path, requests: int) -> dict:
    """Resident memory of the server over many requests, each with a new picture."""
    client = Client(address, verbose=False)
    rows = {0: _resident(process)}
    start = time.perf_counter()
    for i in range(1, requests + 1):
        file = photo(folder, 20_000 + i)
        client.predict(handle_file(file), 4 + 2 * (i % 15), MODELS, api_name="/compare")
        Path(file).unlink()
        if i % max(1, requests // 10) == 0:
            rows[i] = _resident(process)
    return {"mib": rows, "requests_per_s": round(requests / (time.perf_counter() - start), 1)}


def _resident(process: subprocess.Popen) -> int:
    """MiB of memory that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def main() -> None:
    """Measure once each; slider moves forty times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    paths.settle()
    with tempfile.TemporaryDirectory() as name, server() as (address, process, started):
        folder = Path(name)
        found = {"start_s": round(started, 1)}
        found["first_answer_s"] = round(first_answer(address, folder), 2)
        found["slider"] = slider(address)
        found["together"] = together(address, folder, options.clients)
        found["memory"] = memory(address, process, folder, options.requests)
    content = found | {"machine": describe_machine(torch.device("cpu"))}
    storage.save_json(paths.reports_dir() / "benchmarks" / "demo-cpu.json", content)
    print(content)


if __name__ == "__main__":
    main()
