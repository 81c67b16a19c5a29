"""Pictures of a photograph's size with blobs to speak of, made up: what a full-size evaluation has to read."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional as F

from magnet.metrics import rle_encode_all

HEIGHT, WIDTH = 480, 640
SENTENCES = ("the red star", "a blue ring left of the star", "the small green square", "the largest striped circle")


def make_photos(folder: Path, num: int, num_sentences: int = 7) -> pd.DataFrame:
    """An expression table of `num` JPEG files with `num_sentences` about each, in RefCOCO's proportions."""
    generator, records = torch.Generator().manual_seed(0), []
    for number in range(num):
        octaves = [torch.rand(1, 3, 480 >> k, 640 >> k, generator=generator) for k in range(2, 8)]
        image = sum(F.interpolate(x, (HEIGHT, WIDTH), mode="bilinear") for x in octaves)[0] * (255 / len(octaves))
        Image.fromarray(image.permute(1, 2, 0).byte().numpy()).save(folder / f"{number}.jpg", quality=90)
        rles = rle_encode_all(blobs(num_sentences, (HEIGHT, WIDTH), generator) > 0)
        records += [{"file": f"{number}.jpg", "image_id": number, "rle": rle} for rle in rles]
    table = pd.DataFrame(records).assign(height=HEIGHT, width=WIDTH)
    numbers = np.arange(len(table))
    table = table.assign(sent_id=numbers, ref_id=numbers, text=[SENTENCES[i % len(SENTENCES)] for i in numbers])
    table.attrs = {"images": str(folder), "name": "photos", "split_by": "made up", "polygon_overlap": "hole"}
    return table


def blobs(num: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Logits (num,H,W) whose foreground is a few smooth blobs, as masks are."""
    coarse = torch.randn(num, 1, 6, 6, generator=generator)
    return F.interpolate(coarse, size, mode="bicubic")[:, 0] - 1
