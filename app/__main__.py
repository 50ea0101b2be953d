"""`python -m app`: open the demo."""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

from horkd import paths
from horkd.errors import HorkdError, printable_output

if TYPE_CHECKING:
    import gradio

#: What is shown if nothing is named, below the published reports: the committed networks.
DEFAULTS = ("cpu-cifar100/models", "quick-glyphs/models", "faces-lfw/models")
TITLES = {"cifar100": "CIFAR-100: photos of 100 things", "glyphs": "Glyphs: 100 characters"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def load(places: Sequence[str | Path]) -> tuple[list, object | None]:
    """Exhibits, one a data set, and networks for faces or None.

    Args:
        places: as for `app.bench.load_models`.

    Raises:
        HorkdError: if there is nothing to show.
    """
    from app import reference
    from app.bench import Bench, load_models
    from app.faces import FaceBench
    from app.show import Exhibit
    from horkd.data import is_faces

    groups: dict[str, list] = {}
    sources: dict[str, list[Path]] = {}
    for place in map(Path, places):
        for model in load_models(place):
            groups.setdefault(model.data, []).append(model)
            sources.setdefault(model.data, []).append(place)
    exhibits, faces = [], None
    for data, models in groups.items():
        files = [p / "reference.safetensors" for p in dict.fromkeys(sources[data])]
        if is_faces(data):
            faces = FaceBench(models)
            for file in files:
                faces.load(file)
            continue
        if not models[0].classes:
            raise HorkdError(
                f"{models[0].name} gives features of {data} and no answers: the demo shows "
                "classifiers and networks for faces"
            )
        bench = Bench(models)
        known = next((r for file in files if (r := reference.load(file, bench))), None)
        if known is not None:
            bench = Bench(models, known.enlarge)
        named = ", ".join(os.path.relpath(p) for p in dict.fromkeys(sources[data]))
        exhibits.append(Exhibit(TITLES.get(data, data), bench, known, named))
    if not exhibits:
        raise HorkdError("there are no classifiers to show: name some with --models")
    return exhibits, faces


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, load the networks, serve the page.

    Args:
        argv: the options; those of the command line if None.
    """
    printable_output()
    parser = argparse.ArgumentParser(
        prog="python -m app", description="Teacher and student on a photo."
    )
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        help="an exported network, a folder of them, or a run's folder; repeatable "
        "(default: the networks of this repository)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument(
        "--root-path",
        type=_root_path,
        help="prefix, as /demo, or whole address under which a reverse proxy shows the page",
    )
    parser.add_argument("--open", action="store_true", help="open a browser")
    options = parser.parse_args(argv)
    _keep_memory_together()
    try:
        with _surroundings():
            paths.settle()
            serve(options)
    except KeyboardInterrupt:  # before gradio is ready to be stopped by it
        pass
    except HorkdError as error:
        sys.exit(f"horkd: {error}")
    except OSError as error:
        sys.exit(f"horkd: {error.filename or 'input or output'}: {error.strerror or error}")


def _root_path(text: str) -> str:
    """A prefix with one slash before it and none behind it; a whole address as it is."""
    text = text.strip().rstrip("/")
    if text.startswith(("http://", "https://")):
        return text
    if "?" in text or "#" in text or "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a prefix nor an address")
    return f"/{text.lstrip('/')}" if text else ""


def _keep_memory_together() -> None:
    """Two heaps for all threads instead of one each, which grow though little is in use (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """What this process is like while it serves; afterwards it is as it was before."""
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # requests run beside each other; one image gains little from more
        stack.enter_context(warnings.catch_warnings())
        # so that the folder for what visitors send is removed
        for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                before = signal.signal(number, lambda *_: sys.exit())
                stack.callback(signal.signal, number, before)
        yield


def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C; what visitors sent is gone afterwards."""
    places = [paths.typed_path(place) for place in options.models or ()] or [
        p for name in DEFAULTS if (p := paths.published_dir() / name).is_dir()
    ]
    if not places:
        raise HorkdError(
            "the networks of this repository are not here: start the demo in its checkout, or "
            "name your own with --models"
        )
    exhibits, faces = load(places)
    for exhibit in exhibits:  # the first visitor should not wait for a network's first call
        exhibit.bench.answers(torch.zeros(1, 3, exhibit.bench.full, exhibit.bench.full).byte())
        for model in exhibit.bench.models:
            model.cost  # noqa: B018
    warnings.simplefilter("ignore")  # of odd files; nobody who sent one reads them here
    with _environment():
        from app import page

        demo = page.build(exhibits, faces).queue(max_size=256, default_concurrency_limit=2)
        address = _listen(demo, options)
        print(f"Running on {address} (Ctrl-C stops it)", flush=True)
        if options.host not in LOOPBACK:
            print(f"horkd: everyone who reaches {options.host} can use this page", file=sys.stderr)
        demo.block_thread()


def _listen(demo: "gradio.Blocks", options: argparse.Namespace) -> str:
    """Serve the page beside this thread, and return its address.

    Raises:
        HorkdError: if there is no such port, or it is taken.
    """
    from starlette.middleware import Middleware

    from app import page, pictures, upload

    try:
        _, address, _ = demo.launch(
            server_name=options.host,
            server_port=options.port,
            root_path=options.root_path,
            inbrowser=options.open,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            show_error=False,
            max_file_size=pictures.LIMITS.bytes,
            state_session_capacity=256,  # nothing of a visitor's has to be remembered
            footer_links=["api"],
            app_kwargs={"middleware": [Middleware(upload.Closed)]},
            theme=page.theme(),
            css=page.CSS,
        )
    except (OSError, OverflowError) as error:
        raise HorkdError(f"cannot listen on {options.host}, port {options.port}: {error}") from None
    return address


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What gradio reads from the environment: a folder for what visitors send, and no proxy.

    At its start gradio asks the page's own address, and would ask it through a proxy; one of kind
    SOCKS even stops its import. The demo asks nobody else, so that it needs none.

    Raises:
        HorkdError: if there is no place for the folder.
    """
    try:
        uploads = tempfile.TemporaryDirectory(prefix="horkd-demo-")
    except OSError as error:
        raise HorkdError(
            f"there is no place for what visitors send ({error.strerror or error}): set TMPDIR to "
            "a folder that can be written to"
        ) from None
    with (
        uploads as folder,
        patch.dict(os.environ, GRADIO_TEMP_DIR=folder, NO_PROXY="*", no_proxy="*"),
    ):
        yield


if __name__ == "__main__":
    main()
