"""How a visitor's picture comes in, and how an error goes out."""

import functools
import os
from collections.abc import Callable
from unittest.mock import patch

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder, is_in_or_equal

from app import pictures
from horkd.errors import HorkdError

__all__ = ["Photo", "gr", "told"]


@functools.lru_cache(maxsize=32)
def _read(path: str, size: int, changed: int) -> pictures.Picture:
    return pictures.read(path)


def _error(message: str) -> gr.Error:
    return gr.Error(message[:1].upper() + message[1:], print_exception=False, duration=None)


def told(answer: Callable) -> Callable:
    """A function whose `HorkdError` reaches the visitor as one line."""

    @functools.wraps(answer)
    def wrapped(*arguments, **named):
        try:
            return answer(*arguments, **named)
        except HorkdError as error:
            raise _error(str(error)) from None

    return wrapped


# Gradio writes a stub beside the file of every new component, and this is no place for one.
with patch("gradio.component_meta.create_or_modify_pyi"):

    class Photo(gr.Image):
        """An image that is read by `pictures.read`, in the browser and through the interface alike.

        Gradio would open the file by itself, and answer a damaged one with a trace and a server
        path; and it would fetch an address that is sent in place of a file.
        """

        is_template = True

        def preprocess(self, payload: ImageData | None) -> pictures.Picture | None:
            """The picture, or None if there is none."""
            if payload is None:
                return None
            path = payload.path
            if not path or not is_in_or_equal(path, get_upload_folder()):
                raise _error("send the picture as a file")
            try:
                state = os.stat(path)
            except (OSError, ValueError):
                raise _error("this picture is no longer here: send it again") from None
            try:
                return _read(path, state.st_size, state.st_mtime_ns)
            except HorkdError as error:
                raise _error(str(error)) from None

        def example_payload(self) -> dict:
            """What the page on the interface shows; gradio's own is an address elsewhere."""
            return {"path": "photo.jpg", "meta": {"_type": "gradio.FileData"}}

        async def async_move_resource_to_block_cache(self, url_or_file_path):
            """Refuse addresses: this server fetches nothing."""
            if str(url_or_file_path).lower().startswith(("http:", "https:")):
                raise _error("addresses are not fetched: send the picture as a file")
            return await super().async_move_resource_to_block_cache(url_or_file_path)
