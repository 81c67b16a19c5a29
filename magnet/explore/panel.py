"""What the widgets that ask a network share: a line that says what goes on, figures below it, and a PNG of them all."""

import base64
import io
import time
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
from matplotlib.figure import Figure
from PIL import Image

DPI = 80  # of figures on the screen


class Panel:
    """Controls, a status line and figures, one below the other, that show in a notebook as the value of a cell.

    Viewers without a kernel get the figures as one PNG. Subclasses call `_work` from their controls and `_show` in it.
    """

    def __init__(self, controls: Sequence[widgets.Widget], num_figures: int):
        self.status = widgets.HTML(layout=widgets.Layout(min_height="1.6em"))
        self.figures = [widgets.Image(format="png", layout=_unseen()) for _ in range(num_figures)]
        self.box = widgets.VBox([*controls, self.status, *self.figures])

    @property
    def said(self) -> str:
        """What the status line says, in HTML."""
        return self.status.value

    def png(self) -> bytes:
        """The figures as they are now, one below the other; a white pixel where there are none."""
        shown = [Image.open(io.BytesIO(one.value)).convert("RGB") for one in self.figures if one.value]
        size = max((one.width for one in shown), default=1), sum(one.height for one in shown) or 1
        page = Image.new("RGB", size, "white")
        for number, one in enumerate(shown):
            page.paste(one, (0, sum(above.height for above in shown[:number])))
        return to_png(page)

    def _repr_mimebundle_(self, **options) -> dict:
        picture = base64.b64encode(self.png()).decode()
        return {**self.box._repr_mimebundle_(**options), "image/png": picture}

    def _work(self, function: Callable[..., Sequence[str]], *args) -> None:
        """Run what gives remarks; while it runs the status says so, and afterwards what it gave or what was wrong."""
        self.status.value, start = "<i>working …</i>", time.perf_counter()
        try:
            remarks = [*function(*args), f"{time.perf_counter() - start:.2f} s"]
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            remarks = [f"⚠ {error}"]
        self.status.value = escape(" · ".join(remarks))

    def _show(self, number: int, figure: Figure | Image.Image | None) -> None:
        """Put a figure, a picture or nothing in the place of that number."""
        place = self.figures[number]
        place.value = b"" if figure is None else to_png(figure)
        place.layout.display = None if place.value else "none"


def _unseen() -> widgets.Layout:
    return widgets.Layout(display="none", max_width="100%", object_fit="scale-down")


def to_png(figure: Figure | Image.Image) -> bytes:
    """A matplotlib figure or a PIL image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(buffer, format="png", dpi=DPI)
    else:
        figure.save(buffer, format="png")
    return buffer.getvalue()
