"""What single words do, for the screen: milliseconds, where the figure of word_plots.py takes tenths of seconds.

draw_occlusion(jpeg(image), image.shape[:2], occlude(predictor, "the red star"))         # a piece of a page
"""

from html import escape

import pandas as pd

from magnet.explore.occlusion import WAYS
from magnet.explore.word_plots import MARKS, MEASURES
from magnet.metrics import rle_decode
from magnet.workbench.overlay import draw_answer, outline, side_by_side

LOOK = """<style>
.word-table { border-collapse: collapse; font-variant-numeric: tabular-nums; line-height: 1.4 }
.word-table th { font-weight: normal; text-align: left; padding: 0 .8rem 0 0 } .word-table td { padding: 0 .8rem 0 0 }
.word-table td:first-child { overflow-wrap: anywhere }
.word-table i { display: inline-block; height: .6rem; margin-left: .3rem; vertical-align: middle }
</style>"""


def draw_occlusion(picture: str, size: tuple[int, int], table: pd.DataFrame) -> str:
    """HTML of what `occlude` found: the whole sentence's mask, that of the variant which changes it most, and for every
    word the IoUs without it, as numbers with bars. picture, size: as for `draw_answer`."""
    words = table[table["way"] != "whole"]
    shown = {"whole": table.iloc[0], "most changed": words.loc[words["same"].idxmin()]}
    drawings = {
        f"{what}: {row['text']}": draw_answer(picture, size, answer=outline(rle_decode(row["rle"], *size)))
        for what, row in shown.items()
    }
    measures = {name: title for name, title in MEASURES.items() if words[name].notna().any()}
    spans = "".join(f'<th colspan="2">{title}</th>' for title in measures.values())
    ways = "".join(f"<th>{way}</th>" for way in WAYS) * len(measures)
    rows = "".join(_row(word, part, measures) for word, part in words.groupby(["position", "word"]))
    head = f"<tr><th></th>{spans}</tr><tr><th>word</th>{ways}</tr>"
    whole = "".join(f'<td colspan="2">{table.iloc[0][name]:.2f}</td>' for name in measures)
    found = f'{LOOK}<table class="word-table">{head}<tr><td>none left out</td>{whole}</tr>{rows}</table>'
    return side_by_side(drawings, found, "min(100%, 14rem)")


def _row(word: tuple[int, str], part: pd.DataFrame, measures: dict[str, str]) -> str:
    """The cells of one word; part: its rows, one for each way."""
    values = part.set_index("way")
    cells = "".join(_cell(values.loc[way, name], MARKS[way][0]) for name in measures for way in WAYS)
    return f"<tr><td>{word[0] + 1} {escape(word[1])}</td>{cells}</tr>"


def _cell(value: float, color: str) -> str:
    return f'<td>{value:.2f}<i style="width: {3 * value:.2f}rem; background: {color}"></i></td>'
