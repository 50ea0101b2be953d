"""What a visitor's values become: pictures that are read by us, and errors of one line."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import patch
from urllib.parse import unquote

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder, is_in_or_equal
from starlette.responses import PlainTextResponse

from app import pictures
from horkd.errors import HorkdError

#: A picture, or why there is none.
Upload = pictures.Picture | HorkdError | None


@functools.lru_cache(maxsize=32)
def _read(path: str, size: int, changed: int) -> pictures.Picture:
    return pictures.read(path)


def forget() -> None:
    """Forget all decoded pictures."""
    _read.cache_clear()


def told(answer: Callable) -> Callable:
    """A function whose `HorkdError`s, those among its arguments too, reach the caller as a line."""

    @functools.wraps(answer)
    def wrapped(*arguments, **named):
        try:
            for value in arguments:
                if isinstance(value, HorkdError):
                    raise value
            return answer(*arguments, **named)
        except HorkdError as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    return wrapped


def sentence(error: HorkdError) -> str:
    """An error's line with a capital."""
    return str(error)[:1].upper() + str(error)[1:]


# Gradio writes a stub beside the file of every new component, and this is no place for one.
with patch("gradio.component_meta.create_or_modify_pyi"):

    class Photo(gr.Image):
        """An image that is read by `pictures.read`, in the browser and through the interface alike.

        Gradio would open the file by itself, and answer a damaged one with a trace and a server
        path; and it would fetch an address that is sent in place of a file.
        """

        is_template = True

        def preprocess(self, payload: ImageData | None) -> Upload:
            """The picture; why it cannot be read; or None if there is none."""
            if payload is None:
                return None
            path = payload.path
            if not path or not is_in_or_equal(path, get_upload_folder()):
                return HorkdError("send the picture as a file")
            try:
                state = os.stat(path)
                return _read(path, state.st_size, state.st_mtime_ns)
            except (OSError, ValueError):
                return HorkdError("this picture is no longer here: send it again")
            except HorkdError as error:
                return error

        def example_payload(self) -> dict:
            """What the page on the interface shows; gradio's own is an address elsewhere."""
            return {"path": "photo.jpg", "meta": {"_type": "gradio.FileData"}}

        async def async_move_resource_to_block_cache(self, url_or_file_path):
            """Refuse addresses, which this server does not fetch, and folders.

            Gradio stops deleting files once it meets a folder among them.
            """
            if not os.path.isfile(str(url_or_file_path)):
                raise gr.Error(
                    "This is no file that was sent: addresses are not fetched",
                    print_exception=False,
                )
            return await super().async_move_resource_to_block_cache(url_or_file_path)

    class Pixels(gr.Slider):
        """A slider that leaves it to the function to refuse a value, in one line."""

        is_template = True

        def preprocess(self, payload: object) -> object:
            """The value as it came."""
            return payload

    class Choice(gr.Radio):
        """Radio buttons that leave it to the function to refuse a value, in one line."""

        is_template = True

        def preprocess(self, payload: object) -> object:
            """The value as it came."""
            return payload


class Page(gr.Blocks):
    """A page that refuses values it cannot take in one line, and without a trace in its log.

    While it is served it forgets now and then what it was sent, and once more at the end. Nothing
    of that outlives the server.

    Args:
        forget: what forgets.
        every: seconds between two times.
        options: gradio's.
    """

    def __init__(self, forget: Callable[[], None], every: float, **options) -> None:
        super().__init__(**options)
        self._forget, self._every = forget, every

    def launch(self, *arguments, app_kwargs: dict | None = None, **options):
        """Serve it, as gradio does."""
        own = {"lifespan": self._served}
        return super().launch(*arguments, app_kwargs=own | (app_kwargs or {}), **options)

    @asynccontextmanager
    async def _served(self, app: object) -> AsyncIterator[None]:
        task = asyncio.create_task(self._forget_now_and_then())
        try:
            yield
        finally:
            task.cancel()
            self._forget()

    async def _forget_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self._forget()

    async def preprocess_data(self, *arguments, **named):
        """What gradio makes of the values that were sent."""
        try:
            return await super().preprocess_data(*arguments, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception:  # gradio's own errors name paths
            raise gr.Error(
                "These values cannot be taken: send pictures as files", print_exception=False
            ) from None


class Closed:
    """Middleware: gradio's routes that fetch addresses or tell of other visitors are not there.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer 404, or pass on."""
        path = unquote(scope.get("path", "")).lower()
        if any(part in path for part in ("http:", "https:", "proxy=", "/monitoring")):
            await PlainTextResponse("not found", 404)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
