"""What is known of a data set by its name, without reading it."""

from collections.abc import Callable
from dataclasses import dataclass

from horkd.data.images import Dataset


@dataclass(frozen=True)
class Source:
    """A named data set: how it is read, and what can be said of it before.

    Attributes:
        load: reads it, by its full name (with `@SIZE`, where there is one) and a number of training
            images per class or None.
        size: side of its images in pixels, by its full name.
        images: how many a network is trained on, by full name, number per class, and whether the
            validation split is held out.
        kind: "images" (classification), "faces" or "retrieval": which studies it is for.
        classes: of a set that is classified; 0 for others.
        version: of the drawing, of a set that is drawn here.
        left_out: whether pages do without it, by its full name: a set for tests alone that is not
            on this machine. That any other one is missing is an error.
    """

    load: Callable[[str, int | None], Dataset]
    size: Callable[[str], int]
    images: Callable[[str, int | None, bool], int]
    kind: str = "images"
    classes: int = 0
    version: int | None = None
    left_out: Callable[[str], bool] = lambda name: False
