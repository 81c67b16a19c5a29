"""A run's wrong answers as one HTML page to filter: no kernel, no server, no network.

magnet report RUN

Pictures lie in the page as small WebP files, masks as outlines drawn over them, so a page of 500 has under 10 MB.
"""

import base64
import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from magnet import runs
from magnet.data import read_refer
from magnet.data.dataset import read_image
from magnet.metrics import rle_decode
from magnet.workbench.errors import KINDS, error_kinds, error_shares
from magnet.workbench.overlay import STYLE, draw_answer, legend, outline
from magnet.workbench.report import no_results, own_results

SIDES = (256, 192, 128, 96, 64, 32, 16, 8)  # pixels of the longer side; the first that fits is taken
PICTURE_BYTES, OUTLINE_CHARACTERS = 9000, 3000  # for each card; base64 makes four characters of three bytes
MEANINGS = {  # of `error_kinds`, in a few words
    "right": "an IoU of 0.5 or more", "wrong_instance": "another object of the same category",
    "wrong_category": "an object of another category", "background": "mostly no object at all",
    "merged": "several objects at once", "part": "the right object, but too little of it",
    "too_much": "the right object, and too much around it", "empty": "nothing is marked",
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """One wrong answer. drawing: an SVG element; has_picture: or else it is grey."""

    sent_id: int
    image_id: int
    split: str
    error: str
    iou: float
    text: str
    tags: list[str]
    drawing: str
    has_picture: bool


def write_gallery(
    run: runs.Run | str | Path, num_cards: int = 500, results: dict[str, pd.DataFrame] | None = None
) -> Path:
    """Write failures.html into a run's `outputs`: every answer that `error_kinds` does not call right, worst first.

    Of more than `num_cards`, a part is drawn by chance (always the same), so that the shares of kinds stay about true.
    results: of `own_results`, where they are at hand.
    Raises FileNotFoundError or ValueError where there are no results, or the data cannot be read; a picture that is
    missing becomes a grey canvas and is counted.
    """
    run = runs.find(run)
    results = own_results(run) if results is None else results
    if not results:
        raise FileNotFoundError(f"{run.folder} has {no_results(run)}")
    data = run.config.data
    expressions = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    answers = pd.concat([t.assign(split=split, error=error_kinds(t, expressions)) for split, t in results.items()])
    wrong = answers[answers["error"] != "right"]
    shown = wrong.sample(min(num_cards, len(wrong)), random_state=0).sort_values(["iou", "sent_id"])
    html = _page(run, answers, _cards(shown, expressions))
    return runs.atomic_write(run.outputs / "failures.html", lambda file: file.write_text(html, encoding="utf-8"))


def _page(run: runs.Run, answers: pd.DataFrame, cards: list[Card]) -> str:
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(PAGE)
    kinds, tags = Counter(card.error for card in cards), Counter(tag for card in cards for tag in card.tags)
    return page.render(
        run=run, cards=cards, num_answers=len(answers), num_wrong=int((answers["error"] != "right").sum()),
        splits=Counter(card.split for card in cards), kinds={kind: kinds[kind] for kind in KINDS if kinds[kind]},
        tags=dict(sorted(tags.items())), meanings=MEANINGS,
        shares=error_shares(answers["error"], answers).reset_index(names="kind").to_dict("records"),
        num_missing=sum(not card.has_picture for card in cards),
        style=STYLE, legend=legend(), script=SCRIPT, script_hash=_hash(SCRIPT),
    )  # fmt: skip


def _hash(script: str) -> str:
    """What the page's policy names the script by; no other script runs, whatever the data says."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _cards(shown: pd.DataFrame, expressions: pd.DataFrame) -> list[Card]:
    truths = expressions.set_index("sent_id").loc[shown["sent_id"]]
    folder = Path(expressions.attrs["images"])
    return [
        _card(answer, truth, folder / truth["file"])
        for (_, answer), (_, truth) in zip(shown.iterrows(), truths.iterrows())
    ]


def _card(answer: pd.Series, truth: pd.Series, file: Path) -> Card:
    size = int(truth["height"]), int(truth["width"])
    same = {name: answer[name] for name in ("sent_id", "image_id", "split", "error", "iou", "text")}
    picture, outlines = _picture(file, *size), [_outline(one["rle"], *size) for one in (truth, answer)]
    drawing = draw_answer(picture, size, *outlines, said="Truth dashed, answer filled")
    return Card(**same, tags=tags_of(answer), drawing=drawing, has_picture=bool(picture))


def tags_of(answer: pd.Series) -> list[str]:
    """The names of a row's tags: what its sentence has ("relation"), and what its object is ("small")."""
    tags = [name.removeprefix("has_").replace("_", " ") for name in answer.index if name.startswith("has_")]
    tags = [tag for tag in tags if answer["has_" + tag.replace(" ", "_")]]
    more = {"cut": answer.get("cut"), "at the border": answer.get("touches_border")}
    more["alone of its category"] = answer.get("num_same_category") == 1
    sizes = [answer["area_size"]] if "area_size" in answer else []
    return [*tags, *sizes, *(name for name, there in more.items() if there)]


def _picture(file: Path, height: int, width: int) -> str:
    """The picture as a data URL of WebP, as large as fits; "" for one that cannot be read."""
    try:
        image = read_image(file, height, width)
    except (OSError, ValueError):
        return ""
    for side in SIDES:
        small, buffer = image.copy(), io.BytesIO()
        small.thumbnail((side, side))
        small.save(buffer, "webp", quality=75)
        if buffer.tell() <= PICTURE_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _outline(rle: str, height: int, width: int) -> str:
    """The outline of a mask; coarser where it would be too long."""
    mask = rle_decode(rle, height, width)
    paths = (outline(mask, side) for side in SIDES)
    return next((path for path in paths if len(path) <= OUTLINE_CHARACTERS), "")


SCRIPT = """
const form = document.querySelector("form"), cards = [...document.querySelectorAll("figure")];
const fits = {
  split: (card, value) => card.dataset.split === value,
  error: (card, value) => card.dataset.error === value,
  tag: (card, value) => JSON.parse(card.dataset.tags).includes(value),
  least: (card, value) => +card.dataset.iou >= value,
  most: (card, value) => +card.dataset.iou <= value,
  text: (card, value) => card.dataset.text.toLowerCase().includes(value.toLowerCase()),
};
function filter() {
  const asked = [...new FormData(form)].filter(([, value]) => value !== "");
  for (const card of cards) card.hidden = !asked.every(([name, value]) => fits[name](card, value));
  const count = cards.filter(card => !card.hidden).length;
  document.querySelector("output").textContent = `${count} of ${cards.length} shown`;
}
form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
document.querySelector(".no-filters").remove();
filter();
"""

PAGE = """{% macro choice(label, name, counts) %}
<label>{{ label }} <select name="{{ name }}"><option value="">any</option>
{% for value, n in counts.items() %}
<option value="{{ value }}">{{ value.replace("_", " ") }} ({{ n }})</option>
{% endfor %}
</select></label>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
 script-src 'sha256-{{ script_hash }}'">
<title>Failures of {{ run.name }}</title>
<style>
:root { color-scheme: light dark; --text: #1b1b1b; --faint: #5c5c5c; --page: #fff; --line: #d9d9d9 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --faint: #a6a6a6; --page: #16181b; --line: #3a3d42 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 76rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere }
.faint { color: var(--faint) } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .1rem .8rem; text-align: right; border-bottom: 1px solid var(--line) }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
summary { cursor: pointer }
form { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center;
  padding: .6rem 0; background: var(--page); border-bottom: 1px solid var(--line) }
form[hidden] { display: none }
@media (max-width: 40rem), (max-height: 40rem) {
  form { position: static } th, td { padding: .1rem .3rem; font-size: .9rem }
}
select, input, button { font: inherit } select { max-width: 8.5rem }
input[type=number] { width: 3.5rem } input[type=search] { width: 8rem }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; margin-top: 1rem }
figure { margin: 0; content-visibility: auto; contain-intrinsic-size: auto 22rem }
figure[hidden] { display: none }
figcaption { overflow-wrap: anywhere; line-height: 1.35 } figcaption small { display: block; color: var(--faint) }
{{ style | safe }}
</style>
</head>
<body>
<h1>Failures of {{ run.name }}</h1>
<p class="faint">{{ "{:,}".format(num_wrong) }} of {{ "{:,}".format(num_answers) }} answers are wrong;
 {% if cards | length < num_wrong %}{{ "{:,}".format(cards | length) }}, drawn by chance,{% else %}all{% endif %}
 are here, the worst first.
{% if num_missing %}{{ num_missing }} pictures could not be read and are grey. {% endif %}
<span class="legend">{{ legend | safe }}</span></p>
<details><summary>All {{ "{:,}".format(num_answers) }} answers by kind</summary>
<div class="wide"><table>
<tr><th>kind</th><th>what is marked</th><th>percent</th><th>95 % over images</th></tr>
{% for row in shares %}
<tr><td>{{ row.kind.replace("_", " ") }}</td><td>{{ meanings[row.kind] }}</td>
<td>{{ "%.1f" | format(row.value) }}</td><td>{{ "%.1f–%.1f" | format(row.low, row.high) }}</td></tr>
{% endfor %}
</table></div></details>
<p class="no-filters">The filters need JavaScript; everything is shown.</p>
<form hidden>
{{ choice("split", "split", splits) }} {{ choice("kind", "error", kinds) }} {{ choice("tag", "tag", tags) }}
<label>IoU from <input type="number" name="least" min="0" max="1" step="0.05" placeholder="0"></label>
<label>to <input type="number" name="most" min="0" max="1" step="0.05" placeholder="1"></label>
<label>words <input type="search" name="text"></label>
<button type="reset">show all</button>
<output></output>
</form>
<main>
{% for card in cards %}
<figure data-split="{{ card.split }}" data-error="{{ card.error }}" data-tags="{{ card.tags | tojson | forceescape }}"
 data-iou="{{ "%.4f" | format(card.iou) }}" data-text="{{ card.text }}">
{{ card.drawing | safe }}
<figcaption>{{ card.text }}
<small>{{ card.error.replace("_", " ") }}, IoU&nbsp;{{ "%.2f" | format(card.iou) }}, {{ card.split }},
 sentence {{ card.sent_id }} of picture {{ card.image_id }}{% if card.tags %}; {{ card.tags | join(", ") }}{% endif %}
</small></figcaption></figure>
{% endfor %}
</main>
<script>{{ script | safe }}</script>
</body>
</html>
"""
