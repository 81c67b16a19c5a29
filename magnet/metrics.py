"""From masks to numbers: run lengths, intersection and union, and the protocols that published tables mix.

Everything starts from I and U, intersection and union in pixels, of every expression:
IoU = I / U, mIoU = mean IoU, oIoU = ΣI / ΣU (also called cIoU), P@X = share of expressions with IoU at X.
"""

from dataclasses import dataclass
from math import log

import numpy as np
import pandas as pd
import torch
from pycocotools import mask as coco

PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a prediction becomes a number; results made under different protocols do not compare.

    own_size: scored at the image's own size; otherwise image and truth are squashed to the network's square.
    threshold: a pixel is foreground where its logit is greater.
    strict: P@X asks for IoU > X; otherwise IoU ≥ X.
    empty_union: IoU (0 or 1) where neither truth nor prediction has a pixel. 1 is gRefCOCO's rule, which comes with
        P@X over the expressions that have a target, N-acc and T-acc.
    """

    name: str
    own_size: bool = True
    threshold: float = 0.0
    strict: bool = False
    empty_union: float = 0.0

    def iou(self, intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
        """IoU (N,), 0 to 1, of pixel counts (N,)."""
        empty = np.asarray(union) == 0
        return np.where(empty, self.empty_union, intersection / np.where(empty, 1, union))

    def hits(self, iou: np.ndarray, at: float) -> np.ndarray:
        """Whether each IoU (N,) counts for P@`at`; ties are exact, as quotients of integers round like literals."""
        return np.asarray(iou) > at if self.strict else np.asarray(iou) >= at


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="paper", own_size=False),  # LAVT, MagNet: to compare with their tables
        Protocol(name="original"),  # our default
        Protocol(name="cris", threshold=log(0.35 / 0.65), strict=True),  # CRIS: sigmoid > 0.35
        Protocol(name="gres", empty_union=1.0),  # gRefCOCO, which calls mIoU gIoU and oIoU cIoU
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name; ValueError lists the names there are."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def rle_encode(mask: np.ndarray) -> str:
    """The compressed COCO run lengths of a bool mask (H,W)."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def rle_encode_all(masks: torch.Tensor) -> list[str]:
    """The same of a batch of bool masks (B,H,W) on any device: one copy, and no turn of the pixels here."""
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()  # (B,W,H): run lengths go down columns
    return [rle["counts"].decode("ascii") for rle in coco.encode(columns.transpose(2, 1, 0))]


def rle_decode(rle: str | bytes, height: int, width: int) -> np.ndarray:
    """The bool mask (height,width) of compressed COCO run lengths.

    Raises ValueError where the run lengths are damaged or belong to another size.
    """
    try:
        mask = coco.decode({"size": [height, width], "counts": rle})
        if not _fits(rle, height * width - 1):  # pycocotools leaves what the runs do not reach uninitialised
            return mask.astype(bool)
    except ValueError:
        pass
    raise ValueError(f"the run lengths {rle[:20]!r}… are damaged, or not those of a {height} × {width} mask")


def _fits(rle: str | bytes, num_pixels: int) -> bool:
    try:
        coco.decode({"size": [num_pixels, 1], "counts": rle})
    except ValueError:
        return False
    return True


def intersection_union(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in both and pixels in either, int64 (...), of bool masks (...,H,W): one pair or a batch."""
    if prediction.shape != truth.shape or prediction.dtype != bool or truth.dtype != bool:
        given = f"{prediction.dtype} {prediction.shape} and {truth.dtype} {truth.shape}"
        raise ValueError(f"two bool masks of one shape are needed, not {given}")
    return _count(prediction & truth), _count(prediction | truth)


def _count(masks: np.ndarray) -> np.ndarray:
    """Pixels of each bool mask (...,H,W): in bytes of eight, several times as fast as one by one."""
    return np.bitwise_count(np.packbits(masks.reshape(*masks.shape[:-2], -1), axis=-1)).sum(-1, dtype=np.int64)


def rle_intersection_union(prediction: str, truth: str | bytes, height: int, width: int) -> tuple[int, int]:
    """`intersection_union` of two masks (height,width) by their run lengths, which holds no pixel in memory.

    Both as `rle_encode` writes them; those of elsewhere go through `magnet.data.masks.checked_rle` first.
    """
    both = [{"size": [height, width], "counts": counts} for counts in (prediction, truth)]
    inside = int(coco.area(coco.merge(both, intersect=True)))
    return inside, int(coco.area(both).sum()) - inside


def ratios(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every metric of a results table as (numerator, denominator), float64 (N,): its value is the ratio of their sums.

    The rule follows table.attrs["protocol"], "original" where that is missing.
    """
    protocol = find_protocol(table.attrs.get("protocol", "original"))
    iou, one = table["iou"].to_numpy(float), np.ones(len(table))
    has_target = table["area"].to_numpy() > 0 if protocol.empty_union else one
    terms = {"oIoU": (table["I"], table["U"]), "mIoU": (iou, one)}
    terms |= {f"P@{at}": (protocol.hits(iou, at) * has_target, has_target) for at in PRECISION_AT}
    if protocol.empty_union:
        is_empty = (table["I"] + table["U"] - table["area"] == 0).to_numpy()  # predicted pixels = I + U - area
        terms |= {"N-acc": (is_empty & ~has_target, ~has_target), "T-acc": (~is_empty & has_target, has_target)}
    return {name: (np.asarray(top, float), np.asarray(bottom, float)) for name, (top, bottom) in terms.items()}
