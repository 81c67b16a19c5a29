"""Masks of COCO annotations: polygons and both forms of run lengths, as compressed run lengths (RLE)."""

from operator import index

import numpy as np
from pycocotools import mask as coco

from magnet.metrics import rle_decode, rle_encode

NUM_SIDES_OUTSIDE = 10  # polygons reaching further out than this many image sides are damage, not cut-off objects
NUM_PIXELS_OUTSIDE = 1  # COCO's own outlines pass the border by less


def object_rle(segmentation, height: int, width: int, polygon_overlap: str = "hole") -> tuple[dict, list[str]]:
    """An object's compressed RLE, and what is odd about it: polygons of fewer than 3 points, which are passed over, and
    outlines that leave the picture, which are cut at its border.

    segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or an RLE with counts as a list or a string.
    Raises ValueError for a mask without a pixel, coordinates that are no numbers or far outside, and damaged RLE.
    """
    if height < 1 or width < 1:
        raise ValueError(f"the image is said to be {width} x {height} pixels")
    if isinstance(segmentation, dict):
        rle, oddities = checked_rle(segmentation, height, width), []
    else:
        rle, oddities = _polygons_rle(segmentation, height, width, polygon_overlap)
    if not coco.area(rle):
        raise ValueError(f"the mask covers no pixel: segmentation {str(segmentation)[:80]}")
    return rle, oddities


def checked_rle(rle: dict, height: int, width: int) -> dict:
    """COCO run lengths {"size", "counts"}, counts as a list or a string -> the same mask, compressed, as pycocotools
    itself writes it: runs of no pixel amid the others make its merging give wrong masks, hang or write past its memory.

    Raises ValueError where they are damaged or of another size.
    """
    size, counts = [int(side) for side in rle["size"]], rle["counts"]
    if size != [height, width]:
        raise ValueError(f"the mask is {size[0]} × {size[1]}, not {height} × {width} (its size: height × width)")
    if isinstance(counts, str | bytes):
        return _written_anew(counts, height, width)
    try:
        counts = [index(run) for run in counts]
    except TypeError as error:
        raise ValueError(f"counts are no list of whole numbers: {str(counts)[:80]}") from error
    if sum(counts) != height * width or min(counts) < 0:
        raise ValueError(f"its runs sum to {sum(counts)} pixels, not to {height} × {width}, or one is below 0")
    return _written_anew(coco.frPyObjects({"size": size, "counts": counts}, height, width)["counts"], height, width)


def _written_anew(counts: str | bytes, height: int, width: int) -> dict:
    return {"size": [height, width], "counts": rle_encode(rle_decode(counts, height, width)).encode("ascii")}


def _polygons_rle(polygons: list, height: int, width: int, polygon_overlap: str) -> tuple[dict, list[str]]:
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError(f"segmentation is neither polygons nor RLE: {str(polygons)[:80]}")
    usable = [polygon for polygon in polygons if len(polygon) >= 6]
    if not usable:
        raise ValueError(f"no polygon of 3 points or more: segmentation {str(polygons)[:80]}")
    oddities = _oddities(len(polygons) - len(usable), max(_reach(polygon, height, width) for polygon in usable))
    return _overlaid(coco.frPyObjects(usable, height, width), polygon_overlap), oddities


def _reach(polygon: list, height: int, width: int) -> float:
    """How many pixels a polygon reaches out of the picture, below 0 inside."""
    points = np.asarray(polygon, dtype=np.float64)
    outside = max(-points.min(), points[::2].max() - width, points[1::2].max() - height)
    if len(polygon) % 2 or not outside <= NUM_SIDES_OUTSIDE * max(height, width):  # catches NaN as well
        raise ValueError(f"polygon is no list of x, y near a {width} x {height} image: {str(polygon)[:80]}")
    return outside


def _oddities(num_ignored: int, outside: float) -> list[str]:
    found = [f"{num_ignored} polygons of under 3 points"] if num_ignored else []
    if outside > NUM_PIXELS_OUTSIDE:
        found.append(f"its outline leaves the picture by {outside:.4g} pixels and is cut at the border")
    return found


def _overlaid(rles: list[dict], polygon_overlap: str) -> dict:
    if len(rles) == 1:
        return rles[0]
    union = coco.merge(rles)
    if polygon_overlap == "union" or coco.area(union) == coco.area(rles).sum():  # disjoint: nothing to leave out
        return union
    num_layers = np.zeros(rles[0]["size"], np.uint8 if len(rles) < 256 else np.uint32, order="F")
    for rle in rles:  # one at a time: many polygons on a large picture would not fit side by side
        num_layers += coco.decode(rle)
    return coco.encode(np.asfortranarray(num_layers == 1, dtype=np.uint8))
