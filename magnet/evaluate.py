"""Every expression of a split, scored: a model's predictions, or a file of predictions made elsewhere.

    table = magnet.evaluate("magnet_tiny", split="val")           # a run, by recipe, name or folder
    table = magnet.score("predictions.jsonl", ("data", "refcoco", "unc"), split="val")
    magnet.summarize(table)

Both give a results table: sent_id, ref_id, image_id, I and U (pixels), iou (0 to 1), the expression's text and tags,
and rle, the predicted mask at the image's own size. The true mask stays in the expression table; sent_id joins the two.
attrs say how the numbers were made.
"""

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from magnet import runs
from magnet.config import Config, DataConfig
from magnet.data import add_token_tags, data_root, load_tokenizer, read_refer, select_split, squash_mask
from magnet.data.dataset import PicturesDataset
from magnet.data.masks import checked_rle
from magnet.memory import is_out_of_memory
from magnet.metrics import (
    Protocol,
    find_protocol,
    intersection_union,
    rle_decode,
    rle_encode,
    rle_encode_all,
    rle_intersection_union,
)
from magnet.models.base import ReferringNetwork, reads_what_it_looked_at
from magnet.models.checkpoints import is_checkpoint
from magnet.models.released import load_released, released_config
from magnet.packed_linear import packed

PIXELS_AT_ONCE = 8 * 480**2  # default batch: 8 images at 480, 200 at 96
NOT_RESULTS = ["ann_id", "category_id", "split", "file", "program", "rle"]  # stay in the expression table
Score = tuple[int, int, str]  # I, U and rle of one expression
NUM_SHOWN = 5  # sent_ids spelled out in an error


@torch.no_grad()  # not inference_mode: what a model caches here must stay usable in training
def evaluate(
    source: "runs.Run | str | Path | torch.nn.Module",
    data: DataConfig | tuple | None = None,
    split: str = "val",
    protocol: str = "original",
    batch_size: int | None = None,
    *,
    config: Config | None = None,
    num_expressions: int | None = None,
    precision: str = "float32",
    cached: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """The results table of a model on one split, every expression once, in the expression table's order.

    A run's table on a whole split is also written to eval/<dataset>-<split>-<protocol>.parquet in its folder, if it was
    made in float32.
    The model keeps its device and its training mode. Call it in one process only.

    Args:
        source: a run, its folder, name or recipe; a released .pth file; or a model, which needs `config` as well.
        data: a DataConfig, or (root, name, split_by) with the rest as in training; None: the data of the training.
        protocol: "paper", "original", "cris" or "gres"; see metrics.py.
        batch_size: None: as many images as make up 8 of 480 x 480.
        config: with a model: says how images and words are prepared.
        num_expressions: only so many, evenly spread over the split.
        precision: "float32", or "bfloat16" for autocast.
        cached: give back the table of an earlier call where the weights have not changed since.
    Raises ValueError for settings or data that do not exist, FloatingPointError naming the expressions whose logits
    are not finite.
    """
    rule = find_protocol(protocol)
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: one of 'float32', 'bfloat16'")
    label = Path(source).name if is_checkpoint(source) else type(source).__name__
    if is_checkpoint(source):
        config, source = released_config(source), load_released(source).to(best_device())
    run = None if isinstance(source, torch.nn.Module) else runs.find(source)
    config = run.config if run else config
    if config is None:
        raise ValueError("a model alone does not say how to prepare images and words; give config=, or a run")
    data = _data_config(data, config.data)
    is_kept = run and num_expressions is None and precision == "float32"
    path = results_path(run, data, split, protocol) if is_kept else None
    if cached and path and path.exists() and path.stat().st_mtime >= run.weights.stat().st_mtime:
        return read_results(path)
    expressions = _spread(_read_split(data, split), num_expressions)
    model = run.load_model().to(best_device()) if run else source
    settings = {"batch_size": batch_size, "precision": precision, "progress": progress}
    table = score_expressions(model, expressions, data, config.model.language.vocabulary, (rule,), **settings)[0]
    table.attrs |= {"split": split, "source": run.name if run else label}
    if path:
        runs.atomic_write(path, table.to_parquet)
    return table


@torch.no_grad()
def score_expressions(
    model: torch.nn.Module, expressions: pd.DataFrame, data: DataConfig, vocabulary: str, rules: Sequence[Protocol],
    batch_size: int | None = None, precision: str = "float32", progress: bool = True,
) -> list[pd.DataFrame]:  # fmt: skip
    """Results tables of some rows of an expression table, one for each rule, all from the same predictions.

    Sentences about one picture are read together: what of it depends on no word is computed once. Arguments and errors
    are those of `evaluate`.
    """
    tokenizer = load_tokenizer(vocabulary)
    expressions = add_token_tags(expressions, tokenizer, data.num_tokens).reset_index(drop=True)
    most = batch_size or max(1, PIXELS_AT_ONCE // data.image_size**2)
    dataset = PicturesDataset(expressions, data, tokenizer, most, with_masks=not all(rule.own_size for rule in rules))
    scored = _score_batches(model, _loader(dataset, data), expressions, rules, precision, progress)
    tables = [_results(expressions, column, rule) for column, rule in zip(scored, rules)]
    for table in tables:
        table.attrs["precision"] = precision
    return tables


def score(
    predictions: str | Path, data: DataConfig | tuple, split: str = "val", protocol: str = "original"
) -> pd.DataFrame:
    """The results table of predictions made elsewhere, exactly one for every expression of the split.

    Args:
        predictions: a JSON list, JSON lines or a parquet table of records with sent_id and rle. rle is a COCO mask
            {"size": [height, width], "counts": compressed string or list}, or the compressed string alone.
            Masks have the image's own size, or the network's square, data.image_size, under "paper".
        data: a DataConfig or (root, name, split_by).
    Raises ValueError naming the file and the sent_ids that are missing, unknown, repeated or of a wrong size.
    """
    rule, data, path = find_protocol(protocol), _data_config(data, DataConfig()), Path(predictions)
    expressions = _read_split(data, split)
    records = _by_sent_id(_read_records(path), expressions, path)
    scored = []
    for row in expressions.itertuples():
        size = (row.height, row.width) if rule.own_size else (data.image_size, data.image_size)
        try:
            mask = _decode_record(records[row.sent_id], *size)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: sent_id {row.sent_id}: {error}") from error
        truth = rle_decode(row.rle, row.height, row.width)
        truth = truth if rule.own_size else squash_mask(truth, data.image_size)
        own = Image.fromarray(mask.astype(np.uint8)).resize((row.width, row.height), Image.Resampling.NEAREST)
        scored.append((*intersection_union(mask, truth), rle_encode(np.array(own))))
    table = _results(expressions, scored, rule)
    table.attrs |= {"split": split, "source": path.name}
    return table


def results_path(run: runs.Run, data: DataConfig, split: str, protocol: str) -> Path | None:
    """eval/<dataset>-<split>-<protocol>.parquet in the run folder; None where text or image are prepared otherwise, or
    where the weights are shipped ones, whose folder is not the user's.

    <dataset> is the name, with the split_by behind it where the run was trained under another one.
    """
    own = run.config.data
    if run.is_shipped:
        return None
    if data.name == own.name and data_root(data.root).resolve() != data_root(own.root).resolve():
        return None  # other pictures under the same name
    elsewhere = {key: getattr(data, key) for key in ("root", "name", "split_by", "num_workers")}
    if replace(own, **elsewhere) != data:
        return None  # a table made blind to the text, say, must not replace the real one
    dataset = data.name if data.split_by == own.split_by else f"{data.name}_{data.split_by}"
    return run.folder / "eval" / f"{dataset}-{split}-{protocol}.parquet"


def read_results(path: str | Path) -> pd.DataFrame:
    """A results table that `evaluate` wrote; ValueError names a damaged file."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise ValueError(f"{path} is damaged ({error}); delete it and evaluate again") from error


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resize_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B,h,w) -> (B,H,W) float32, bilinear with align_corners=True, as MagNet and LAVT upsample their masks."""
    return F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=True)[:, 0]


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """model.eval() for a while; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def evaluation_in(precision: str, model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the network computes in this precision; its weights must not change."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"), packed(model):
        yield


def progress_bar(shown: bool, **options) -> tqdm:
    kernel = sys.modules.get("ipykernel.kernelapp")
    in_notebook = kernel is not None and kernel.IPKernelApp.initialized()
    out = sys.stdout if in_notebook else sys.stderr  # notebooks keep plain text, not a red box
    return tqdm(disable=not shown, file=out, **options)


# A model's predictions ------------------------------------------------------------------------------------------------


def _loader(dataset: PicturesDataset, data: DataConfig) -> DataLoader:
    workers = data.num_workers if len(dataset) > 1 else 0  # one batch leaves nothing to overlap
    return DataLoader(dataset, batch_size=None, num_workers=workers, worker_init_fn=ignore_interrupts)


def ignore_interrupts(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle


def _score_batches(
    model: torch.nn.Module, loader: DataLoader, expressions: pd.DataFrame, rules: Sequence[Protocol], precision: str,
    shown: bool,
) -> list[list[Score]]:  # fmt: skip
    """For each rule the scores in the expressions' order."""
    scored, device = [[None] * len(expressions) for _ in rules], _device(model)
    # around all batches, not each: so weights become bfloat16 once
    quick = evaluation_in(precision, model, device)
    with evaluation_mode(model), quick, progress_bar(shown, total=len(expressions), unit="expr") as bar:
        for batch in loader:
            rows, number = expressions.iloc[batch["rows"].tolist()], len(batch["rows"])
            logits = _logits(model, batch, loader.dataset.batch_size)
            squashed = batch["masks"].numpy() if "masks" in batch else None
            for column, rule in zip(scored, rules):
                for row, score in zip(batch["rows"].tolist(), _score_batch(logits, rows, squashed, rule)):
                    column[row] = score
            bar.update(number)
    return scored


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


def _logits(model: torch.nn.Module, batch: dict, most: int) -> torch.Tensor:
    """(B,h,w) on the model's device, at most `most` sentences at a time."""
    images, *parts = (batch[name].to(_device(model)) for name in ("images", "pictures", "token_ids", "token_mask"))
    try:
        ask = asker(model, images)
        logits = torch.cat([ask(*some) for some in zip(*(part.split(most) for part in parts))])
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise MemoryError(_too_large(batch, most)) from error
        raise
    broken = ~torch.isfinite(logits).flatten(1).all(1).cpu()
    if broken.any():
        sent_ids = batch["sent_ids"][broken].tolist()[:NUM_SHOWN]
        raise FloatingPointError(
            f"logits are NaN or infinite for sent_id {sent_ids}: weights or images hold such values, "
            'or bfloat16 is too coarse for this model; try precision="float32"'
        )
    return logits


def _too_large(batch: dict, most: int) -> str:
    (pictures, _, size, _), sentences = batch["images"].shape, min(most, len(batch["pictures"]))
    fewer = f"batch_size={sentences // 2}" if sentences > 1 else "a smaller network"
    return (
        f"out of memory with {pictures} pictures of {size} px and {sentences} sentences at once; try {fewer}, "
        'a smaller data.image_size, or precision="bfloat16" where the hardware has it'
    )


def asker(model: torch.nn.Module, images: torch.Tensor) -> Callable[..., torch.Tensor]:
    """(pictures, token_ids, token_mask) -> mask logits; our own networks look at each picture once."""
    if not _is_plain(model):
        return lambda pictures, ids, mask: model(images[pictures], ids, mask)["mask_logits"]
    seen = model.look(images)
    return lambda pictures, ids, mask: model.decode(model.read(seen, ids, mask, pictures))["mask_logits"]


def _is_plain(model: torch.nn.Module) -> bool:
    """Whether its answer is what `look`, `read` and `decode` give, with nothing of its own or hung on in between."""
    inherited = reads_what_it_looked_at(model) and type(model).forward is ReferringNetwork.forward
    return inherited and not ("forward" in vars(model) or model._forward_hooks or model._forward_pre_hooks)


def _score_batch(logits: torch.Tensor, rows: pd.DataFrame, squashed: np.ndarray | None, rule: Protocol) -> list[Score]:
    """`squashed` are the true masks as the network sees them, (B,S,S) bool, for a rule that asks for them."""
    sizes = list(zip(rows["height"].tolist(), rows["width"].tolist()))
    rles = _own_size_rles(logits, sizes, rule.threshold)
    if rule.own_size:
        pixels = [rle_intersection_union(*both, *size) for *both, size in zip(rles, rows["rle"], sizes)]
    else:
        masks = (resize_logits(logits, squashed.shape[-2:]) > rule.threshold).cpu().numpy()
        pixels = zip(*intersection_union(masks, squashed))
    return [(*both, rle) for both, rle in zip(pixels, rles)]


def _own_size_rles(logits: torch.Tensor, sizes: list[tuple[int, int]], threshold: float) -> list[str]:
    """The mask of each of the B logits at its picture's size (H,W); those of one size are resized together."""
    rles = {}
    for size in set(sizes):
        same = [i for i, other in enumerate(sizes) if other == size]
        rles |= dict(zip(same, rle_encode_all(resize_logits(logits[same], size) > threshold)))
    return [rles[i] for i in range(len(sizes))]


# Predictions made elsewhere -------------------------------------------------------------------------------------------


def _read_records(path: Path) -> list[dict]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a JSON, JSON-lines or parquet file of predictions")
    try:
        records = pd.read_parquet(path).to_dict("records") if path.suffix == ".parquet" else _read_json(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); write or fetch it again") from error
    for number, record in enumerate(records):
        if not isinstance(record, dict) or "rle" not in record or not isinstance(record.get("sent_id"), int):
            raise ValueError(f"{path}: record {number} has no rle, or no whole number as sent_id: {str(record)[:80]}")
    return records


def _read_json(path: Path) -> list:
    """A JSON list, or JSON lines, joined to a list: an error names the line, counted without blank ones."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return json.loads(text)
    return json.loads("[" + ",\n".join(line for line in text.splitlines() if line.strip()) + "]")


def _by_sent_id(records: list[dict], expressions: pd.DataFrame, path: Path) -> dict[int, dict]:
    found, wanted = Counter(record["sent_id"] for record in records), set(expressions["sent_id"])
    problems = {
        "come more than once": [sent_id for sent_id, count in found.items() if count > 1],
        "are not in this split": [sent_id for sent_id in found if sent_id not in wanted],
        "have no prediction": sorted(wanted - set(found)),
    }
    for problem, sent_ids in problems.items():
        if sent_ids:
            where = f"{expressions.attrs['name']} {expressions.attrs['split_by']}, {len(wanted)} expressions"
            raise ValueError(f"{path}: {len(sent_ids)} sent_ids {problem} ({where}), first {sent_ids[:NUM_SHOWN]}")
    return {record["sent_id"]: record for record in records}


def _decode_record(record: dict, height: int, width: int) -> np.ndarray:
    """The predicted mask (height,width) bool; ValueError where the record's is of another size or damaged."""
    rle = record["rle"]
    if not isinstance(rle, dict):  # a bare string: the size may stand beside it, as in our own tables
        rle = {"size": [record.get("height", height), record.get("width", width)], "counts": rle}
    return rle_decode(checked_rle(rle, height, width)["counts"], height, width)


# Settings, expressions, results ---------------------------------------------------------------------------------------


def _data_config(data: DataConfig | tuple | None, own: DataConfig) -> DataConfig:
    if data is None or isinstance(data, DataConfig):
        return data or own
    root, name, split_by = data
    return replace(own, root=None if root is None else str(root), name=name, split_by=split_by)


def _read_split(data: DataConfig, split: str) -> pd.DataFrame:
    return select_split(read_refer(data.root, data.name, data.split_by, data.polygon_overlap), split)


def _spread(expressions: pd.DataFrame, num_expressions: int | None) -> pd.DataFrame:
    if num_expressions is None or num_expressions >= len(expressions):
        return expressions
    if num_expressions < 1:
        raise ValueError(f"num_expressions={num_expressions}: at least 1 is needed, or None for all")
    return expressions.iloc[np.linspace(0, len(expressions) - 1, num_expressions).round().astype(int)]


def _results(expressions: pd.DataFrame, scored: list[Score], rule: Protocol) -> pd.DataFrame:
    table = expressions.drop(columns=NOT_RESULTS, errors="ignore").reset_index(drop=True)
    intersection, union, rles = (np.array(column) for column in zip(*scored))
    numbers = {"I": intersection, "U": union, "iou": rule.iou(intersection, union)}
    for place, (name, values) in enumerate(numbers.items(), start=table.columns.get_loc("image_id") + 1):
        table.insert(place, name, values)
    table["rle"] = rles
    data = {key: expressions.attrs[key] for key in ("name", "split_by", "polygon_overlap")}
    table.attrs = {**data, "protocol": rule.name}
    return table
