"""Given weights on whole splits, under both protocols at once, resumable, in shards; beside what was published.

    table = benchmark_weights("magnet_refcoco.pth", "data")           # its own three columns
    table = benchmark_weights(folder, "data", columns="all")          # the nine of the papers

Every split is scored in parts of whole pictures. A part that is done is a file, and is not done again: whoever is
stopped goes on, and several processes (`shard`) fill the same folder. What a part depends on is in its folder's name:
weights, precision, expressions, tokens, network, how pictures are prepared. The code is not: its commit is in the part.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from magnet import runs
from magnet.config import Config
from magnet.data import encode, load_tokenizer, read_refer, select_split, splits
from magnet.data.family import miscounted
from magnet.evaluate import best_device, progress_bar, score_expressions
from magnet.metrics import find_protocol
from magnet.models.checkpoints import Origin, find_checkpoint, is_checkpoint, origin_of, sha256
from magnet.models.released import load_released, released_config
from magnet.statistics import compare, summarize
from magnet.workbench.published import COLUMNS, PUBLISHED, find_columns

_logger = logging.getLogger(__name__)
PROTOCOLS = ("paper", "original")  # published numbers are made under the first
PART = 512  # expressions of a part, about
FORMAT = 1  # of the parts; count up where they would be read as what they are not
FOLDER = Path("results/benchmark")
CHANGES = {"": "difference", " (low)": "low", " (high)": "high"}


def benchmark_weights(
    source: str | Path, root: str | Path | None = None, columns: str | Mapping[str, tuple] = "own",
    precision: str = "float32", shard: tuple[int, int] = (0, 1), batch_size: int | None = None,
    folder: Path = FOLDER, progress: bool = True, allow_miscounted: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """One row for each column and protocol: scores in percent with 95 % intervals, expressions, cost, published oIoU.

    Published numbers stand on the rows under `paper`, the protocol they were made under.

    Args:
        source: a released file, its name on the hub, or a run; the folder that a file was converted to is like it.
        columns: "own", those of the data the weights were made for; other names, see `find_columns`; or name -> (data
            set, split_by, split).
        precision: "float32", or "bfloat16": then the change against float32, paired, where that is measured, too.
        shard: (i, n): this process takes every n-th part, from i on. Rows are for columns that are whole by then; of
            the others a warning says how much is there.
        folder: <folder>/<weights>-<fingerprint>-<precision>/<column>-<fingerprint>/ gets the parts.
        allow_miscounted: score a split that has other numbers than the published one, too, and leave the published
            cells of its rows empty.
    Raises FileNotFoundError or ValueError where a data set, its pictures, the weights or the words are not there or not
    sound; ValueError with both numbers where a split has other counts than the published one.
    """
    path, config, origin = _weights(source)
    tokenizer = load_tokenizer(config.model.language.vocabulary)  # before all that takes time
    if isinstance(columns, str):
        columns = find_columns(columns, lambda: _own_columns(config, root, origin))
    expressions = {name: _expressions(root, config, *column) for name, column in columns.items()}
    wrong = _miscounted(expressions, allow_miscounted)
    home = folder / f"{_name(path)}-{sha256(path)[:8]}-{precision}"
    places = {
        name: home / "-".join((*column, part_digest(expressions[name], tokenizer, config)))
        for name, column in columns.items()
    }
    missing = [part for name in columns for part in _missing(expressions[name], places[name], shard)]
    if missing:
        model = load_released(path) if is_checkpoint(path) else runs.find(source).load_model()
        settings = config, precision, batch_size
        _score_parts(model.to(best_device()), missing, settings, progress)
    rows = []
    for name in columns:
        for protocol, table in _whole(name, expressions[name], places[name]).items():
            row = _row(name, protocol, table, comparable=protocol == PROTOCOLS[0] and name not in wrong)
            rows.append(row if precision == "float32" else row | _less_float32(table, places[name], protocol))
    return pd.DataFrame(rows)


def _weights(source: str | Path) -> tuple[Path, Config, Origin | None]:
    if is_checkpoint(source):
        path = find_checkpoint(source)
        return path, released_config(path), origin_of(path)
    run = runs.find(source)
    return run.checked_weights(), run.config, origin_of(run)


def _name(path: Path) -> str:
    return path.stem if is_checkpoint(path) else path.parent.name


def digest(expressions: pd.DataFrame) -> str:
    """Of sentences, pictures and true masks: what is scored."""
    facts = expressions[["sent_id", "text", "rle", "file"]].to_csv(index=False)
    return hashlib.sha256(facts.encode()).hexdigest()[:8]


def part_digest(expressions: pd.DataFrame, tokenizer, config: Config) -> str:
    """Of all that a part depends on beside the weights, the precision and the code."""
    token_ids, _ = encode(tokenizer, expressions["text"].tolist(), config.data.num_tokens, config.data.words)
    model = runs.config_to_dict(config.model)
    del model["language"]["vocabulary"]  # where the words lie; what they are is in token_ids
    network = json.dumps([FORMAT, config.data.image_size, model], sort_keys=True)
    facts = digest(expressions) + network
    return hashlib.sha256(facts.encode() + token_ids.numpy().tobytes()).hexdigest()[:8]


def _miscounted(expressions: Mapping[str, pd.DataFrame], allowed: bool) -> dict[str, list[str]]:
    """Column -> where its split has other numbers than the published one; ValueError if there are any and none may."""
    wrong = {}
    for name, table in expressions.items():
        split = table["split"].iat[0]
        if lines := [line for line in miscounted(table) if line.startswith(f"{split}: ")]:
            wrong[name] = lines
    if wrong and not allowed:
        said = "; ".join(f"{name}: {', '.join(lines)}" for name, lines in wrong.items())
        raise ValueError(
            f"not the published split, {said}. Scores on it do not compare with the published ones: is a file cut short"
            " or another's? Moved away, `magnet data download` fetches it; --allow-miscounted scores what is there"
        )
    return wrong


def _own_columns(config: Config, root: str | Path | None, origin: Origin | None) -> dict[str, tuple]:
    """The columns of the data set that the weights were made for; of RefShapes, or one's own data, all splits but
    training's. Released files for several sets, or whose name says nothing, get all nine."""
    data = config.data
    if origin and not origin.learnt_from:
        return COLUMNS
    if own := {name: column for name, column in COLUMNS.items() if column[:2] == (data.name, data.split_by)}:
        return own
    found = splits(read_refer(root or data.root, data.name, data.split_by))
    return {f"{data.name} {s}": (data.name, data.split_by, s) for s in found if s != data.train_split}


def _expressions(root: str | Path | None, config: Config, name: str, split_by: str, split: str) -> pd.DataFrame:
    """The rows of a split, those of one picture side by side."""
    table = select_split(read_refer(root or config.data.root, name, split_by, config.data.polygon_overlap), split)
    order = np.argsort(pd.factorize(table["file"])[0], kind="stable")
    return table.iloc[order].reset_index(drop=True)


# Parts ----------------------------------------------------------------------------------------------------------------


def parts(expressions: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Runs of whole pictures, about `size` expressions each."""
    last = (expressions["file"] != expressions["file"].shift(-1)).to_numpy()
    ends, begun = [], 0
    for end in np.flatnonzero(last) + 1:
        if end - begun >= size or end == len(expressions):
            ends.append((begun, end))
            begun = end
    return [expressions.iloc[start:end] for start, end in ends]


def _missing(expressions: pd.DataFrame, place: Path, shard: tuple[int, int]) -> list[tuple[Path, pd.DataFrame]]:
    index, num = shard
    if not 0 <= index < num:
        raise ValueError(f"shard {index}/{num}: the first number is one from 0 to {num - 1}")
    numbered = list(enumerate(parts(expressions, PART)))[index::num]
    return [(file, part) for number, part in numbered if _read_part(file := place / f"{number:04}.parquet") is None]


def _read_part(file: Path) -> pd.DataFrame | None:
    """None where it is not there, or damaged, which is the same: its shard makes it anew."""
    try:
        return pd.read_parquet(file)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        _logger.warning("%s is damaged and counts as missing (%s)", file, error)
        return None


def _score_parts(model, missing: Iterable[tuple[Path, pd.DataFrame]], settings: tuple, progress: bool) -> None:
    (config, precision, batch_size), rules = settings, [find_protocol(name) for name in PROTOCOLS]
    commit, total = runs.environment()["commit"], sum(len(part) for _, part in missing)
    with progress_bar(progress, total=total, unit="expr") as bar:
        for file, part in missing:
            began = time.perf_counter()
            tables = score_expressions(
                model, part, config.data, config.model.language.vocabulary, rules, batch_size, precision, progress=False
            )
            both = pd.concat([table.assign(protocol=rule.name) for table, rule in zip(tables, rules)])
            both = both.assign(seconds=(time.perf_counter() - began) / len(part), commit=commit)
            both.attrs = tables[0].attrs
            runs.atomic_write(file, lambda path, both=both: both.to_parquet(path, index=False))
            bar.update(len(part))


def _whole(column: str, expressions: pd.DataFrame, place: Path) -> dict[str, pd.DataFrame]:
    """The table of each protocol, every expression once; while other shards' parts are missing none, which is said.

    Raises ValueError where the parts are of other expressions.
    """
    found = [_read_part(place / f"{number:04}.parquet") for number in range(len(parts(expressions, PART)))]
    if missing := sum(part is None for part in found):
        _logger.warning("not whole yet: %s, %d of %d parts", column, len(found) - missing, len(found))
        return {}
    attrs, found = found[0].attrs, pd.concat(found, ignore_index=True)
    _say_commits(found, place)
    tables = {}
    for protocol in PROTOCOLS:
        table = found[found["protocol"] == protocol].drop(columns="protocol").reset_index(drop=True)
        if table["sent_id"].tolist() != expressions["sent_id"].tolist():
            raise ValueError(f"{place} was made for other expressions; move it away and run the command again")
        table.attrs = {**attrs, "protocol": protocol}
        tables[protocol] = table
    return tables


def _say_commits(found: pd.DataFrame, place: Path) -> None:
    others = set(found["commit"].dropna()) - {now := runs.environment()["commit"]}
    if others:
        said = ", ".join(sorted(others))
        _logger.warning("%s: scored by commit %s, this is %s; delete it to score anew", place, said, now)


# Rows -----------------------------------------------------------------------------------------------------------------


def _row(column: str, protocol: str, table: pd.DataFrame, comparable: bool) -> dict:
    """comparable: the published numbers are of this split under this protocol."""
    seconds = {"seconds_per_expression": table["seconds"].mean()}
    published = {f"published: {method}": values.get(column) for method, values in PUBLISHED.items()}
    row = {"column": column, "protocol": protocol, **summarize(table), **seconds}
    return row | (published if comparable else dict.fromkeys(published))


def _less_float32(table: pd.DataFrame, place: Path, protocol: str) -> dict:
    home = place.parent
    exact = home.with_name(home.name.removesuffix("bfloat16") + "float32") / place.name
    changes = _changes(table, protocol, exact)
    return {f"oIoU less float32's{end}": changes[name] for end, name in CHANGES.items()}


def _changes(table: pd.DataFrame, protocol: str, exact: Path) -> Mapping:
    """oIoU less that of float32, with its interval; NaN where float32 is not measured."""
    parts = [part for file in sorted(exact.glob("*.parquet")) if (part := _read_part(file)) is not None]
    other = pd.concat(parts) if parts else None
    if other is None or sorted(other["sent_id"].unique()) != sorted(table["sent_id"]):
        return dict.fromkeys(CHANGES.values(), float("nan"))
    other = other[other["protocol"] == protocol]
    other.attrs = table.attrs
    return compare(table, other).set_index("metric").loc["oIoU"]
