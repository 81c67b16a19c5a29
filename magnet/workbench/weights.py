"""Given weights on whole splits, beside the published table: under both protocols at once, resumable, in shards.

    table = benchmark_weights("magnet_refcoco.pth", "data")           # its own three columns
    table = benchmark_weights(folder, "data", columns=COLUMNS)        # all nine

Every split is scored in parts of whole pictures. A part that is done is a file, and is not done again: whoever is
stopped goes on, and several processes (`shard`) fill the same folder.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from magnet import runs
from magnet.config import Config
from magnet.data import read_refer, select_split, splits
from magnet.evaluate import best_device, progress_bar, score_expressions
from magnet.metrics import find_protocol
from magnet.models.checkpoints import KNOWN, find_checkpoint, is_checkpoint
from magnet.models.released import load_released, released_config
from magnet.statistics import compare, summarize
from magnet.workbench.published import COLUMNS, PUBLISHED

PROTOCOLS = ("paper", "original")
PART = 512  # expressions of a part, about
FOLDER = Path("results/benchmark")
CHANGES = {"": "difference", " (low)": "low", " (high)": "high"}
FOR_ONE_SET = KNOWN.keys() - {"magnet_all.pth"}


def benchmark_weights(
    source: str | Path, root: str | Path | None = None, columns: Mapping[str, tuple] | None = None,
    precision: str = "float32", shard: tuple[int, int] = (0, 1), batch_size: int | None = None,
    folder: Path = FOLDER, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """One row for each column and protocol: scores in percent with 95 % intervals, expressions, cost, published oIoU.

    Args:
        source: a released file or its name on the hub, or a run.
        columns: name -> (data set, split_by, split); None: those of the data the weights were made for.
        precision: "float32", or "bfloat16": then the change against float32, paired, where that is measured, too.
        shard: (i, n): this process takes every n-th part, from i on. Rows are for columns that are whole by then.
        folder: <folder>/<weights>-<fingerprint>-<precision>/<column>-<fingerprint>/ gets the parts.
    Raises FileNotFoundError or ValueError where a data set, its pictures or the weights are not there or not sound.
    """
    path, config = _weights(source)
    columns = columns or _own_columns(config, root, path)
    expressions = {name: _expressions(root, config, *column) for name, column in columns.items()}
    home = folder / f"{_name(path)}-{_fingerprint(path)}-{precision}"
    places = {name: home / "-".join((*column, digest(expressions[name]))) for name, column in columns.items()}
    missing = [part for name in columns for part in _missing(expressions[name], places[name], shard)]
    if missing:
        model = load_released(path) if is_checkpoint(path) else runs.find(source).load_model()
        settings = config, precision, batch_size
        _score_parts(model.to(best_device()), missing, settings, progress)
    rows = []
    for name in columns:
        for protocol, table in _whole(expressions[name], places[name]).items():
            rows.append(_row(name, protocol, table, places[name], home, precision))
    return pd.DataFrame(rows)


def _weights(source: str | Path) -> tuple[Path, Config]:
    if is_checkpoint(source):
        path = find_checkpoint(source)
        return path, released_config(path)
    run = runs.find(source)
    return run.checked_weights(), run.config


def _name(path: Path) -> str:
    return path.stem if is_checkpoint(path) else path.parent.name


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def digest(expressions: pd.DataFrame) -> str:
    facts = expressions[["sent_id", "text", "rle"]].to_csv(index=False)
    return hashlib.sha256(facts.encode()).hexdigest()[:6]


def _own_columns(config: Config, root: str | Path | None, path: Path) -> dict[str, tuple]:
    """The columns of the data set that the weights were made for; of RefShapes, or one's own data, all splits but
    training's. Released files for several sets, or whose name says nothing, get all nine."""
    data = config.data
    if is_checkpoint(path) and path.name not in FOR_ONE_SET:
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
    return [(file, part) for number, part in numbered if not (file := place / f"{number:04}.parquet").exists()]


def _score_parts(model, missing: Iterable[tuple[Path, pd.DataFrame]], settings: tuple, progress: bool) -> None:
    (config, precision, batch_size), rules = settings, [find_protocol(name) for name in PROTOCOLS]
    total = sum(len(part) for _, part in missing)
    with progress_bar(progress, total=total, unit="expr") as bar:
        for file, part in missing:
            began = time.perf_counter()
            tables = score_expressions(
                model, part, config.data, config.model.language.vocabulary, rules, batch_size, precision, progress=False
            )
            both = pd.concat([table.assign(protocol=rule.name) for table, rule in zip(tables, rules)])
            both["seconds"] = (time.perf_counter() - began) / len(part)
            both.attrs = tables[0].attrs
            runs.atomic_write(file, lambda path, both=both: both.to_parquet(path, index=False))
            bar.update(len(part))


def _whole(expressions: pd.DataFrame, place: Path) -> dict[str, pd.DataFrame]:
    """The table of each protocol, if all parts are there: every expression once. Raises ValueError where one is not."""
    files = [place / f"{number:04}.parquet" for number in range(len(parts(expressions, PART)))]
    if not all(file.exists() for file in files):
        return {}
    found = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    tables = {}
    for protocol in PROTOCOLS:
        table = found[found["protocol"] == protocol].drop(columns="protocol").reset_index(drop=True)
        if table["sent_id"].tolist() != expressions["sent_id"].tolist():
            raise ValueError(f"{place} was made for other expressions; move it away and run the command again")
        table.attrs = {**pd.read_parquet(files[0]).attrs, "protocol": protocol}
        tables[protocol] = table
    return tables


# Rows -----------------------------------------------------------------------------------------------------------------


def _row(column: str, protocol: str, table: pd.DataFrame, place: Path, home: Path, precision: str) -> dict:
    row = {
        "column": column,
        "protocol": protocol,
        **summarize(table),
        "seconds_per_expression": table["seconds"].mean(),
    }
    row |= {f"published: {method}": values.get(column) for method, values in PUBLISHED.items()}
    if precision == "float32":
        return row
    exact = home.with_name(home.name.removesuffix(precision) + "float32") / place.name
    changes = _changes(table, protocol, exact)
    return row | {f"oIoU less float32's{end}": changes[name] for end, name in CHANGES.items()}


def _changes(table: pd.DataFrame, protocol: str, exact: Path) -> Mapping:
    """oIoU less that of float32, with its interval; NaN where float32 is not measured."""
    files = sorted(exact.glob("*.parquet"))
    other = pd.concat([pd.read_parquet(file) for file in files]) if files else None
    if other is None or sorted(other["sent_id"].unique()) != sorted(table["sent_id"]):
        return dict.fromkeys(CHANGES.values(), float("nan"))
    other = other[other["protocol"] == protocol]
    other.attrs = table.attrs
    return compare(table, other).set_index("metric").loc["oIoU"]
