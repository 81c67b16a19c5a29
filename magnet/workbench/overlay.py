"""An answer as a drawing that the browser scales: the picture, and over it the masks as outlines, in one SVG.

side_by_side({"LAVT": draw_example(example), "MagNet": draw_example(other)}, legend())         # a piece of a page

Milliseconds, where matplotlib takes tenths of seconds; marks as in plots.py: the truth dashed, the answer filled blue,
other candidates dotted. Each mark has two brightnesses, so that it shows on any picture, in grey, and in dark pages.
"""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from html import escape

import contourpy
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from magnet.workbench.plots import BLUE, ORANGE, Example

LARGEST = 960  # pixels of the longer side of what is drawn; larger pictures and masks are shrunk to it
HIGHEST = 26  # rem of the page
HEAT = "magma"  # its colours also rise in grey
MARKS = {"answer": "answer (filled)", "truth": "truth (dashed)", "other": "other objects of this kind (dotted)"}
STYLE = f"""
.overlay {{ background: #d1d1d1; border-radius: 4px; width: 100%; height: auto; display: block }}
.overlay rect {{ vector-effect: non-scaling-stroke }}
.overlay use, .overlay rect {{ fill: none; stroke-width: 2 }}
.overlay .under {{ stroke-width: 4 }}
.overlay .answer {{ stroke: {BLUE}; fill: {BLUE}40 }} .overlay .under.answer {{ stroke: #fff; fill: none }}
.overlay .truth {{ stroke: {ORANGE}; stroke-dasharray: 5 3 }} .overlay .under.truth {{ stroke: #000 }}
.overlay .other {{ stroke: #fff; stroke-dasharray: 1.5 3 }}
.overlay .under.other {{ stroke: #000; stroke-dasharray: none; stroke-width: 3; opacity: .7 }}
.side-by-side {{ display: grid; gap: .5rem; margin-bottom: .3rem }}
.side-by-side figure {{ margin: 0; line-height: 1.3; overflow-wrap: anywhere }}
.sample {{ white-space: nowrap; margin-right: 1rem }}
.sample svg {{ display: inline-block; width: 3rem; height: 1.2rem; vertical-align: middle; margin-right: .3rem }}
"""


def draw_example(example: Example, competitors: Sequence[np.ndarray] = ()) -> str:
    """`draw_answer` for an example and the masks (H,W) bool of the other objects of the kind meant."""
    outlines = [outline(mask) for mask in (example.truth, example.prediction)]
    others = [outline(mask) for mask in competitors]
    return draw_answer(jpeg(example.image), example.truth.shape, *outlines, others, "Truth dashed, answer filled")


def draw_answer(
    picture: str, size: tuple[int, int], truth: str = "", answer: str = "", others: Sequence[str] = (), said: str = ""
) -> str:
    """An SVG element of class overlay.

    Args: picture: a data URL, "" for a grey canvas; size: its height and width in pixels; truth, answer, others: paths
        of `outline`, "" for none; said: what it shows, for readers who do not see it.
    """
    height, width = size
    image = f'<image href="{picture}" width="{width}" height="{height}"/>' if picture else ""
    marks = [*(("other", path) for path in others), ("answer", answer), ("truth", truth)]
    drawn = "".join(_mark(kind, path) for kind, path in marks if path)
    return _svg(size, image + drawn, said)


def draw_heat(picture: str, size: tuple[int, int], heat: np.ndarray, said: str = "") -> str:
    """An SVG element of class overlay: the picture in grey, and over it the numbers (h,w), 0 to 1, as colours."""
    height, width = size
    place = f'width="{width}" height="{height}" preserveAspectRatio="none"'
    grey = f'<image href="{picture}" {place} style="filter: grayscale(1) brightness(1.2)"/>'
    colours = f'<image href="{_colours(heat)}" {place} style="opacity: .65; image-rendering: pixelated"/>'
    return _svg(size, grey + colours, said)


def heat_scale(top: float, what: str) -> str:
    """What the colours of `draw_heat` mean, from 0 to `top`, in one line of HTML."""
    steps = ", ".join(to_hex(colormaps[HEAT](k / 8)) for k in range(9))
    bar = f"display: inline-block; width: 8rem; height: .8rem; background: linear-gradient(90deg, {steps})"
    return f'<span class="sample">0 <span style="{bar}"></span> {top:.2f}, {escape(what)}</span>'


def side_by_side(drawings: Mapping[str, str], below: str = "", width: str = "minmax(14rem, 1fr)") -> str:
    """Drawings (title -> SVG) in a row, in several where one is too short, and a line of HTML below them.

    Args: width: of each, in the words of CSS grids.
    """
    columns = f"grid-template-columns: repeat(auto-fit, {width})"
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>" for title, svg in drawings.items()
    )
    return f'<style>{STYLE}</style><div class="side-by-side" style="{columns}">{figures}</div>{below}'


def legend(kinds: Sequence[str] = ("answer", "truth")) -> str:
    """What the marks mean, in one line of HTML."""
    box = 'x="3" y="3" width="44" height="14"'
    return "".join(
        f'<span class="sample"><svg class="overlay" viewBox="0 0 50 20"><rect class="under {kind}" {box}/>'
        f'<rect class="{kind}" {box}/></svg>{MARKS[kind]}</span> '
        for kind in kinds
    )


def _mark(kind: str, path: str) -> str:
    """The line over a wider one of the other brightness. Both refer to the path, which may be long, by its own hash: on
    a page with many drawings a name that comes twice still means the same path. The width is set on the path itself:
    rules of a style sheet that name what is around it do not reach what <use> copies."""
    name = "p" + hashlib.sha256(path.encode()).hexdigest()[:16]
    use = f'href="#{name}"/>'
    path = f'<path id="{name}" d="{path}" vector-effect="non-scaling-stroke"/>'
    return f'<defs>{path}</defs><use class="under {kind}" {use}<use class="{kind}" {use}'


def _svg(size: tuple[int, int], inside: str, said: str) -> str:
    box = f'viewBox="0 0 {size[1]} {size[0]}" style="max-width: {HIGHEST * size[1] / size[0]:.4g}rem"'
    return f'<svg class="overlay" {box} role="img" aria-label="{escape(said)}">{inside}</svg>'


def _colours(heat: np.ndarray) -> str:
    image, buffer = Image.fromarray(colormaps[HEAT](heat, bytes=True)), io.BytesIO()
    image.save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def jpeg(image: np.ndarray | None) -> str:
    """A picture (H,W,3) uint8 as a data URL, at most `LARGEST` pixels wide and high; "" for None."""
    if image is None:
        return ""
    small, buffer = Image.fromarray(image), io.BytesIO()
    small.thumbnail((LARGEST, LARGEST))
    small.save(buffer, "jpeg", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def outline(mask: np.ndarray, side: int = LARGEST) -> str:
    """The outline of a mask (H,W) bool as an SVG path in its picture's pixels, "" for an empty one.

    A mask with a longer side than `side` pixels is shrunk to it first.
    """
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    grey.thumbnail((side, side), Image.Resampling.BOX)
    scale = np.divide(mask.shape, grey.size[::-1])[::-1]  # x, y
    left, top, right, bottom = grey.getbbox() or (0, 0, 0, 0)  # a contour of the object alone takes a fraction of it
    shares = np.asarray(grey)[top:bottom, left:right] / 255
    lines = contourpy.contour_generator(z=np.pad(shares, 1)).lines(0.5) if shares.size else []
    # a pixel's middle is half a pixel from its edge, and the padding is one pixel wide
    return "".join(_closed((line - 0.5 + (left, top)) * scale) for line in lines)


def _closed(line: np.ndarray) -> str:
    """An SVG path along the points (N,2), those left out at which it does not turn."""
    step = np.diff(line, axis=0)
    turns = np.abs(step[1:, 0] * step[:-1, 1] - step[1:, 1] * step[:-1, 0]) > 1e-9
    corners = line[np.r_[True, turns, True]].round(1).tolist()  # Python writes its own numbers faster
    return "M" + " ".join(f"{x:g},{y:g}" for x, y in corners) + "z"
