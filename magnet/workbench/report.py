"""A run's report: one HTML file with its scores, curves and pictures that opens without a server or a network.

magnet report RUN
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

import magnet
from magnet import runs
from magnet.data import read_refer
from magnet.evaluate import read_results
from magnet.predictor import Predictor
from magnet.workbench import plots
from magnet.workbench.diagnostics import choose_examples, load_examples, phrase_attention

METRICS = ("oIoU", "mIoU", "P@0.5", "P@0.7", "P@0.9")
OWN = "this run"
# as they are by IoU: even the worst of a good run may be right
QUARTERS = {"successes": "Best quarter", "typical": "Middle quarter", "failures": "Worst quarter"}
NUM_EXAMPLES, NUM_ATTENTION = 8, 2  # of each gallery


@dataclass(frozen=True)
class Picture:
    """A PNG as base64, what it shows for those who cannot see it, its width in pixels, and the lines beneath it."""

    png: str
    shows: str
    width: int
    caption: str = ""
    note: str = ""


def write_report(run: runs.Run | str | Path, results: dict[str, pd.DataFrame] | None = None) -> Path:
    """Write report.html into a run's `outputs` from what is there: log, results, summary.csv with baselines, weights.

    results: of `own_results`, where they are at hand. Every text that comes from data is escaped. What is not there yet
    or cannot be read is left out, and the page says why. Without `results`, raises ValueError for a damaged table.
    """
    run = runs.find(run)
    results, missing = own_results(run) if results is None else results, []
    scores = _scores(run, results)
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(PAGE)
    html = page.render(
        run=run, training=_training(run), metrics=METRICS,
        scores=scores.to_dict("records"), figures=_figures(run, results, scores),
        galleries=_galleries(run, results, missing), missing=missing, files=_files(run.outputs),
        configuration=_pretty(run.folder / "config.json"), environment=_pretty(run.folder / "environment.json"),
    )  # fmt: skip
    return runs.atomic_write(run.outputs / "report.html", lambda file: file.write_text(html, encoding="utf-8"))


def own_results(run: runs.Run) -> dict[str, pd.DataFrame]:
    """The run's results tables by split, under the protocol `original` and on its own data. Shipped weights have none
    beside them: every split but that of the training is scored now."""
    own = run.config.data
    if run.is_shipped:
        expressions = read_refer(own.root, own.name, own.split_by, own.polygon_overlap)
        splits = [split for split in expressions["split"].unique() if split != "train"]
        return {split: magnet.evaluate(run, split=split) for split in splits}
    tables = [read_results(path) for path in sorted((run.folder / "eval").glob("*-original.parquet"))]
    tables = [t for t in tables if (t.attrs["name"], t.attrs["split_by"]) == (own.name, own.split_by)]
    first = {own.val_split: -1}
    return {t.attrs["split"]: t for t in sorted(tables, key=lambda t: first.get(t.attrs["split"], 0))}


def no_results(run: runs.Run) -> str:
    """What to do where `own_results` are empty; there may be tables of other data, or under another protocol."""
    own = run.config.data
    command = f"magnet evaluate {run.name} --split {own.val_split} --protocol original"
    return f"no results yet on {own.name} ({own.split_by}) under the protocol `original`; make them with: {command}"


def _training(run: runs.Run) -> str:
    """How long it was trained; without a log, which shipped weights lack, what its configuration asks for, if a number.

    It starts with a comma, as it ends the page's first sentence.
    """
    done = max((line["step"] for line in run.log()), default=None)
    num_steps, asked = (done, "") if done is not None else (run.config.optim.num_steps, "configured for ")
    return "" if num_steps is None else f", {asked}{num_steps:,} steps of {run.config.optim.batch_size} pictures"


def _scores(run: runs.Run, results: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per split and model: the run's own tables, then the baselines that summary.csv holds for those splits."""
    own = pd.DataFrame([{"split": split, "model": OWN, **magnet.summarize(table)} for split, table in results.items()])
    path = run.folder / "summary.csv"
    if own.empty or not path.exists():
        return own
    others = pd.read_csv(path)
    others = others[(others["model"] != run.config.recipe) & others["split"].isin(results)]
    others["model"] = others["model"].str.replace("_", " ")
    return pd.concat([own, others]).sort_values("split", key=lambda s: s.map(list(results).index), kind="stable")


def _figures(run: runs.Run, results: dict, scores: pd.DataFrame) -> dict[str, Picture]:
    figures = {}
    if results:
        models = {name: rows.set_index("split") for name, rows in scores.groupby("model", sort=False)}
        bars = plots.summary_bars(models.pop(OWN), models, name=OWN)
        title = "Scores beside the baselines" if models else "Scores"
        figures[title] = _picture(bars, "mIoU with intervals by split")
    kinds = [table for table in results.values() if "kind" in table]
    if kinds:
        by_kind = magnet.summarize(pd.concat(kinds), "kind")
        figures["By kind of expression, all splits together"] = _picture(
            plots.summary_bars(by_kind), "mIoU with intervals by kind of expression"
        )
    if any("loss" in line for line in run.log()):
        figures["Training"] = _picture(
            plots.training_curves(run.log()), "Loss, learning rate and validation scores over training steps"
        )
    return figures


def _galleries(run: runs.Run, results: dict, missing: list[str]) -> dict[str, list[Picture]]:
    """Pictures with truth and prediction from the first split, and what single words are read for."""
    if not results:
        missing.append(no_results(run))
        return {}
    data, table = run.config.data, next(iter(results.values()))
    try:
        expressions = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    except (FileNotFoundError, ValueError) as error:
        missing.append(f"no pictures, as the data could not be read: {error}")
        return {}
    chosen = _examples(expressions, table, missing)
    galleries = {QUARTERS[name]: [_answer(example) for example in examples] for name, examples in chosen.items()}
    shown = [example for name in ("successes", "failures") for example in chosen.get(name, [])[:NUM_ATTENTION]]
    return galleries | _attention(run, shown, missing)


def _examples(expressions: pd.DataFrame, table: pd.DataFrame, missing: list[str]) -> dict[str, list[plots.Example]]:
    """The chosen examples whose picture can be read, by quarter; a quarter without any is left out."""
    chosen, errors = choose_examples(table, NUM_EXAMPLES), []
    readable = {name: [] for name in chosen}
    for name, sent_id in ((name, sent_id) for name, ids in chosen.items() for sent_id in ids):
        try:
            readable[name] += load_examples(expressions, [sent_id], table)
        except (FileNotFoundError, ValueError) as error:
            errors.append(error)
    if errors:
        num = sum(map(len, chosen.values()))
        missing.append(f"examples whose picture cannot be read, {len(errors)} of {num}; the first: {errors[0]}")
    return {name: examples for name, examples in readable.items() if examples}


def _answer(example: plots.Example) -> Picture:
    figure = plots.prediction_grid([example], captions=False)
    return _picture(figure, "Truth dashed, prediction filled", example.text, f"IoU\u00a0{example.iou:.2f}")


def _attention(run: runs.Run, examples: list[plots.Example], missing: list[str]) -> dict[str, list[Picture]]:
    """The gallery of attention; nothing where there is no example, or no network that could be asked."""
    if not examples:
        return {}
    try:
        predictor = magnet.load(run.folder)
        return {"Attention per word": [_reading(predictor, example) for example in examples]}
    except (FileNotFoundError, ValueError) as error:
        missing.append(f"attention per word: {error}")
        return {}


def _reading(predictor: Predictor, example: plots.Example) -> Picture:
    predictor.set_image(example.image)
    tokens, maps = phrase_attention(predictor, example.text)
    name = list(maps)[len(maps) // 2]
    figure = plots.attention_per_word(example.image, tokens, maps[name], num_columns=7)
    return _picture(figure, "Attention per word", example.text, f"{name}, IoU\u00a0{example.iou:.2f}")


def _picture(figure: Figure, shows: str, caption: str = "", note: str = "") -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    png = base64.b64encode(buffer.getvalue()).decode()
    return Picture(png, shows, round(figure.get_figwidth() * 96), caption, note)


def _pretty(path: Path) -> str:
    return json.dumps(runs.read_json(path), indent=2) if path.exists() else "not recorded"


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if name != "report.html" and "/." not in f"/{name}"]


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ run.name }}</title>
<style>
:root { color-scheme: light dark; --text: #1b1b1b; --faint: #5c5c5c; --page: #fff; --line: #d9d9d9; --own: #eaf3fa; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --faint: #a6a6a6; --page: #16181b; --line: #3a3d42; --own: #1d2f3d; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin-top: 2.5rem }
.faint { color: var(--faint) } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line) }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
tr.own td { font-weight: 600; background: var(--own) } td small { font-weight: 400; color: var(--faint) }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.gallery img { width: 100% } .gallery.broad { grid-template-columns: 1fr } .gallery.broad img { width: auto }
figure { margin: 0 } figcaption { overflow-wrap: anywhere; line-height: 1.35 }
pre { overflow-x: auto; font-size: .85rem; padding: .8rem; border: 1px solid var(--line); border-radius: 4px }
summary { cursor: pointer } ul { padding-left: 1.2rem } a { color: inherit }
</style>
</head>
<body>
<h1>{{ run.name }}</h1>
<p class="faint">{{ run.config.model.method }} on {{ run.config.data.name }} ({{ run.config.data.split_by }}),
 seed {{ run.config.seed }}{{ training }}.
 Scores are percent, with 95 % intervals over images; masks are compared at each picture's own size.</p>
{% if "failures.html" in files %}
<p><a href="failures.html">Failures: the wrong answers, to filter</a></p>
{% endif %}
{% for line in missing %}
<p><strong>Left out:</strong> {{ line }}</p>
{% endfor %}
{% if scores %}
<h2>Scores</h2>
<div class="wide"><table>
<tr><th>split</th><th>model</th><th>n</th>{% for metric in metrics %}<th>{{ metric }}</th>{% endfor %}</tr>
{% for row in scores %}
<tr{% if row.model == "this run" %} class="own"{% endif %}><td>{{ row.split }}</td><td>{{ row.model }}</td>
<td>{{ "{:,}".format(row.n) }}</td>
{% for m in metrics %}
<td>{{ "%.1f" | format(row[m]) }} <small>{{ "%.1f–%.1f" | format(row[m ~ "_low"], row[m ~ "_high"]) }}</small></td>
{% endfor %}
</tr>
{% endfor %}
</table></div>
{% endif %}
{% for title, picture in figures.items() %}
{% if title != "Scores" %}{# else it belongs to the table above #}
<h2>{{ title }}</h2>
{% endif %}
<img src="data:image/png;base64,{{ picture.png }}" alt="{{ picture.shows }}" width="{{ picture.width }}">
{% endfor %}
{% for title, pictures in galleries.items() %}
<h2>{{ title }}</h2>
<p class="faint">{% if title == "Attention per word" %}
The share of its attention that each place gives to each token, in one stage.
{% else %}
Truth dashed, prediction filled. Drawn at even steps from the {{ title | lower }} by IoU, one per picture.
{% endif %}</p>
<div class="gallery{{ " broad" if title == "Attention per word" }}">
{% for picture in pictures %}
<figure>
<img src="data:image/png;base64,{{ picture.png }}" alt="{{ picture.shows }}" width="{{ picture.width }}" loading="lazy">
<figcaption>{{ picture.caption }} <span class="faint">{{ picture.note }}</span></figcaption></figure>
{% endfor %}
</div>
{% endfor %}
<h2>How it was made</h2>
<details><summary>Configuration</summary><pre>{{ configuration }}</pre></details>
<details><summary>Environment</summary><pre>{{ environment }}</pre></details>
<details><summary>Files of this run</summary>
<ul>{% for name in files %}<li><a href="{{ name | urlencode }}">{{ name }}</a></li>{% endfor %}</ul></details>
</body>
</html>
"""
