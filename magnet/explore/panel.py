"""What the widgets that ask a network share: a line that says what goes on, and places below it for what is found."""

import io
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from magnet.explore.parts import StandIn, as_image
from magnet.predictor import read_picture

LARGEST = 640  # pixels of an own picture's longer side; a larger one is read and shown shrunk to this


def read_small(picture: Image.Image | np.ndarray | str | Path | io.BytesIO) -> tuple[np.ndarray, list[str]]:
    """A picture, anything `read_picture` takes, as (H,W,3) uint8 of at most 640 pixels, and a remark if it was larger.

    Raises as `read_picture` does."""
    image = read_picture(picture)
    if max(image.size) <= LARGEST:
        return np.asarray(image), []
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    said = f"read and shown at {small.width} × {small.height} of its {image.width} × {image.height} pixels"
    return np.asarray(small), [said]


class Panel(StandIn, w.VBox):
    """Controls, a status line and `num_places` places, one below the other, that show in a notebook as a cell's value.

    Subclasses call `_work` from their controls and `_show` in it, and give `_figures` to viewers without a kernel.
    """

    def __init__(self, controls: Sequence[w.Widget], num_places: int):
        self.status = w.HTML(layout={"min_height": "1.6em"})
        self.places = [w.HTML(layout={"display": "none"}) for _ in range(num_places)]
        super().__init__([*controls, self.status, *self.places])

    @property
    def said(self) -> str:
        """What the status line says, in HTML."""
        return self.status.value

    def stand_in(self) -> Image.Image:
        """The figures that belong to what is shown, one below the other; a white pixel where there are none."""
        drawn = [as_image(figure) for figure in self._figures()]
        size = max((one.width for one in drawn), default=1), sum(one.height for one in drawn) or 1
        page = Image.new("RGB", size, "white")
        for number, one in enumerate(drawn):
            page.paste(one, (0, sum(above.height for above in drawn[:number])))
        return page

    def _figures(self) -> list[Figure]:
        raise NotImplementedError

    def _work(self, function: Callable[..., Sequence[str]], *args) -> None:
        """Run what gives remarks; while it runs the status says so, and afterwards what it gave or what was wrong."""
        self.status.value, start = "<i>working …</i>", time.perf_counter()
        try:
            remarks = [*function(*args), f"{time.perf_counter() - start:.2f} s"]
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            remarks = [f"⚠ {error}"]
        self.status.value = escape(" · ".join(remarks))

    def _show(self, number: int, html: str) -> None:
        """Put something, or "" for nothing, in the place of that number."""
        place = self.places[number]
        place.value = html
        place.layout.display = None if html else "none"
