"""The expression table as training and evaluation items.

Pictures are squashed to S x S: bilinear with PIL's antialiasing for the image, nearest for the mask, as LAVT's and
MagNet's published numbers were made. Every item is a pure function of (seed, epoch, index).
"""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from magnet.config import DataConfig
from magnet.data.refer import read_refer, select_split
from magnet.data.text import encode, load_tokenizer, report
from magnet.metrics import rle_decode

REPAIR = "fetch it anew, if it is COCO's: magnet data download images --repair"
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def read_image(file: Path, height: int, width: int) -> Image.Image:
    """The RGB picture; an error names the file when it is missing, unreadable or of another size than stated."""
    try:
        with Image.open(file) as image:
            found = (image.width, image.height)
            if found == (width, height):
                image.load()
                return to_rgb(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} does not exist; {_remedy(file.parent)}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not readable as an image ({error}); {REPAIR}") from error
    found = f"{found[0]} x {found[1]} pixels"
    raise ValueError(f"{file} is {found}, instances.json says {width} x {height}; {REPAIR}")


def _remedy(folder: Path) -> str:
    others = [path for path in folder.parent.glob("*201[0-9]") if path.is_dir() and path != folder]
    if not any(folder.glob("*")) and others:
        return f"{others[0]} is there instead, of another year: the RefCOCO family shows pictures of COCO's train2014"
    return "`magnet data download images` fetches what is missing, data/README.md says where images belong"


def check_images(table: pd.DataFrame, num_threads: int | None = None) -> list[str]:
    """Decode every picture of the table once; what is wrong, one line per file (empty: all is well)."""

    def problem(record: tuple) -> str | None:
        try:
            read_image(Path(table.attrs["images"]) / record[0], *record[1:])
        except (OSError, ValueError) as error:
            return str(error)

    files = table[["file", "height", "width"]].drop_duplicates().itertuples(index=False, name=None)
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        return [found for found in pool.map(problem, files) if found]


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image in RGB, itself where it is so already. Grey becomes grey RGB, of 16 bits the upper eight are kept;
    transparency is dropped. Raises ValueError for 32-bit values, which say nowhere what is white."""
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F"):
        raise ValueError(f"its values have 32 bits (mode {image.mode}); save it with 8 or 16")
    if image.mode.startswith("I;16"):  # PIL would make everything above 255 white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # on its own PIL warns here
    return image.convert("RGB")


def squash_image(image: Image.Image, size: int) -> np.ndarray:
    """PIL image -> (S, S, 3) uint8; bilinear, antialiased when it shrinks."""
    return np.array(to_rgb(image).resize((size, size), Image.Resampling.BILINEAR))


def squash_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool -> (S, S) bool by the nearest pixel centre."""
    picture = Image.fromarray(mask.T.astype(np.uint8))  # lying on its side, as decoded run lengths lie in memory
    return np.array(picture.resize((size, size), Image.Resampling.NEAREST)).T.astype(bool)


def normalize(image: np.ndarray) -> torch.Tensor:
    """(S, S, 3) uint8 -> (3, S, S) float32 with ImageNet's mean 0 and deviation 1."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.sub_(255 * IMAGENET_MEAN).div_(255 * IMAGENET_STD)


class ExpressionDataset(Dataset):
    """Items of an expression table.

    table: from `read_refer`, usually one split of it. training: with data.sentences == "one" an item is an object with
    one of its sentences, drawn anew each epoch from (seed, epoch, ref_id); otherwise an item is an expression.
    Item numbers go on past the end: number e * len + i is item i in epoch e, so no state has to reach loader workers.
    Raises ValueError for an expression without any token, naming its sent_id; warns once about what the token rule
    cuts or does not know.
    """

    def __init__(self, table: pd.DataFrame, data: DataConfig, tokenizer, training: bool, seed: int = 0):
        if table.empty:
            name = table.attrs.get("name", "the table")
            raise ValueError(f"no expressions to read from {name}; see magnet.data.splits")
        check_texts(table, tokenizer, data.num_tokens)
        self.size, self.seed = data.image_size, seed
        self.images = Path(table.attrs["images"])
        columns = (table[name].tolist() for name in ("sent_id", "ref_id", "file", "height", "width", "rle"))
        self.rows = list(zip(*columns))  # a data frame takes longer to index than a small picture to read
        self.token_ids, self.token_mask = encode(tokenizer, table["text"].tolist(), data.num_tokens, data.words)
        per_object = training and data.sentences == "one"
        self.objects = list(table.groupby("ref_id", sort=False).indices.values()) if per_object else None

    def __len__(self) -> int:
        return len(self.objects or self.rows)

    def row(self, index: int) -> int:
        """The table row that item `index` shows."""
        epoch, item = divmod(index, len(self))
        if self.objects is None:
            return item
        rows = self.objects[item]
        ref_id = self.rows[rows[0]][1]
        return int(rows[np.random.default_rng([self.seed, epoch, ref_id]).integers(len(rows))])

    def __getitem__(self, index: int) -> dict:
        row = self.row(index)
        sent_id, _, file, height, width, rle = self.rows[row]
        image = squash_image(read_image(self.images / file, height, width), self.size)
        mask = squash_mask(rle_decode(rle, height, width), self.size)
        return make_item(image, mask, self.token_ids[row], self.token_mask[row], sent_id)


class PicturesDataset(Dataset):
    """Evaluation batches: whole pictures with all their sentences, about `batch_size` sentences in each.

    A picture is decoded once, whatever is said about it. Item i is a dict: images (M,3,S,S); for each of B sentences
    pictures (which of the M), rows (of the table), sent_ids, token_ids and token_mask (B,T); with_masks: masks (B,S,S)
    bool, which only a score at the network's own size needs. A picture with more sentences than `batch_size` is a batch
    of its own.
    """

    def __init__(self, table: pd.DataFrame, data: DataConfig, tokenizer, batch_size: int, with_masks: bool = True):
        check_texts(table, tokenizer, data.num_tokens)
        self.with_masks = with_masks
        self.table, self.size, self.batch_size = table, data.image_size, batch_size
        self.images = Path(table.attrs["images"])
        self.token_ids, self.token_mask = encode(tokenizer, table["text"].tolist(), data.num_tokens, data.words)
        self.batches: list[list[np.ndarray]] = [[]]
        for rows in table.groupby(["file", "height", "width"], sort=False).indices.values():
            if sum(map(len, self.batches[-1])) + len(rows) > batch_size and self.batches[-1]:
                self.batches.append([])
            self.batches[-1].append(rows)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict:
        groups = self.batches[index]
        rows = np.concatenate(groups)
        batch = {
            "images": torch.stack([self._picture(group[0]) for group in groups]),
            "pictures": torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups])),
            "rows": torch.from_numpy(rows), "sent_ids": torch.tensor(self.table["sent_id"].iloc[rows].tolist()),
            "token_ids": self.token_ids[rows], "token_mask": self.token_mask[rows],
        }  # fmt: skip
        return batch | ({"masks": self._masks(rows)} if self.with_masks else {})

    def _masks(self, rows: np.ndarray) -> Tensor:
        records = list(self.table[["rle", "height", "width"]].iloc[rows].itertuples(index=False, name=None))
        squashed = {mask: squash_mask(rle_decode(*mask), self.size) for mask in set(records)}  # sentences share objects
        return torch.from_numpy(np.stack([squashed[mask] for mask in records]))

    def _picture(self, row: int) -> Tensor:
        file, height, width = self.table[["file", "height", "width"]].iloc[row]
        return normalize(squash_image(read_image(self.images / file, height, width), self.size))


def make_item(image: np.ndarray, mask: np.ndarray, token_ids: Tensor, token_mask: Tensor, sent_id: int) -> dict:
    """{"image" (3,S,S), "mask" (S,S), "token_ids" (T,), "token_mask" (T,), "sent_id"} of uint8 (S,S,3), bool (S,S)."""
    picture = {"image": normalize(image), "mask": torch.from_numpy(mask).float()}
    return {**picture, "token_ids": token_ids, "token_mask": token_mask, "sent_id": sent_id}


def training_set(data: DataConfig, vocabulary: str, seed: int) -> Dataset:
    """What a run trains on: fresh RefShapes scenes without end where `data.fresh`, else the training split."""
    tokenizer = load_tokenizer(vocabulary)
    if data.fresh:
        if data.name != "refshapes":
            raise ValueError(f"only RefShapes can draw fresh scenes, not {data.name!r}; set --data.no-fresh")
        from magnet.refshapes.fresh import FreshShapes  # here: it makes its items as this file does

        return FreshShapes(data, tokenizer, seed)
    table = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    return ExpressionDataset(select_split(table, data.train_split), data, tokenizer, training=True, seed=seed)


def check_texts(table: pd.DataFrame, tokenizer, num_tokens: int) -> None:
    """Raise for expressions without a token, warn once about cut and unknown ones."""
    found = report(tokenizer, table["text"].tolist(), num_tokens)
    names = {
        what: ", ".join(f"{table['sent_id'].iat[row]} {table['text'].iat[row]!r}" for row in rows["first"])
        for what, rows in found.items()
    }
    if found["empty"]["count"]:
        raise ValueError(f"{found['empty']['count']} expressions hold no token: sent_id {names['empty']}; remove them")
    for what, said in (("cut", f"are cut at {num_tokens} tokens"), ("only_unknown", "hold only unknown words")):
        if count := found[what]["count"]:
            warnings.warn(f"{count} of {len(table)} expressions {said}: sent_id {names[what]}", stacklevel=3)


def collate(items: list[dict]) -> dict:
    """Items -> {"images" (N,3,S,S), "token_ids" (B,T), "token_mask" (B,T), "masks" (B,S,S), "sent_ids" (B,)}.

    B = N, or k·N where each item has k sentences, which then go round: sentence j is about picture j mod N.
    """
    names = {"image": "images", "mask": "masks", "sent_id": "sent_ids"}
    batch = {names.get(name, name): values for name, values in default_collate(items).items()}
    if batch["masks"].ndim == 4:
        batch |= {name: values.transpose(0, 1).flatten(0, 1) for name, values in batch.items() if name != "images"}
    return batch
