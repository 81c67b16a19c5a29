"""CoupAlign's mask proposals for one phrase, by the weight that the sentence gives them, and how well they cover it.

predictor.set_image("picture.png")
read_proposals(predictor, "the red star")
ProposalViewer(predictor, "picture.png", "the red star")
"""

from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from magnet.data import encode
from magnet.evaluate import evaluation_mode, resize_logits
from magnet.explore.occlusion import iou
from magnet.explore.panel import Panel, read_small
from magnet.metrics import rle_decode, rle_encode
from magnet.predictor import Predictor
from magnet.workbench.overlay import draw_answer, jpeg, legend, outline, side_by_side
from magnet.workbench.plots import show_masks


@torch.no_grad()
def read_proposals(predictor: Predictor, text: str, truth: np.ndarray | None = None) -> pd.DataFrame:
    """One row for each of the N proposals, the largest weight first: proposal (its number in the network), weight (0 to
    1), area (share of the picture), iou (with `truth`, (H,W) bool; NaN without) and rle (at the picture's size).

    Raises ValueError for a network without proposals, RuntimeError before `set_image`.
    """
    if predictor.image is None:
        raise RuntimeError("no picture yet; call set_image first")
    tokens = encode(predictor.tokenizer, [text], predictor.data.num_tokens, predictor.data.words)
    with evaluation_mode(predictor.model):
        outputs = predictor.model(predictor.image, *(part.to(predictor.device) for part in tokens))
    if "proposal_logits" not in outputs:
        name = type(predictor.model).__name__
        raise ValueError(f"{name} makes no proposals; a network of method='coupalign' does")
    rows = []
    for logits in outputs["proposal_logits"][0]:
        mask = (resize_logits(logits[None], predictor.size)[0] > 0).cpu().numpy()
        score = np.nan if truth is None else iou(mask, truth)
        rows.append({"area": mask.mean(), "iou": score, "rle": rle_encode(mask)})
    table = pd.DataFrame(rows)
    table.insert(0, "weight", outputs["proposal_weights"][0].float().cpu().numpy())
    table.insert(0, "proposal", range(len(table)))
    return table.sort_values("weight", ascending=False, kind="stable", ignore_index=True)


class ProposalViewer(Panel):
    """Enter asks: the proposals with the largest weights, after the answer that they make together.

    With `truth`, (H,W) bool, each has its IoU with it, and the best of all is named: what no weighting could mend.
    Of another network than CoupAlign it says that there are none. Args: picture: anything `read_picture` takes.
    """

    def __init__(
        self, predictor: Predictor, picture: Image.Image | np.ndarray | str | Path, text: str = "",
        truth: np.ndarray | None = None, num_shown: int = 7,
    ):  # fmt: skip
        self.predictor, self.num_shown = predictor, num_shown
        self.image, self.remarks = read_small(picture)
        self.truth = None if truth is None else _resized(truth, self.image.shape[:2])
        self.table: pd.DataFrame | None = None
        self.masks: dict[str, np.ndarray] = {}  # title -> (H,W) bool, of what is shown
        self.phrase = widgets.Text(text, description="phrase", continuous_update=False)
        self.phrase.observe(lambda change: self.ask(change["new"]), "value")
        super().__init__([self.phrase], num_places=1)
        if text:
            self.ask(text)

    def ask(self, text: str) -> None:
        """What Enter does."""
        self._work(self._ask, text)

    def _ask(self, text: str) -> list[str]:
        self.table, self.masks = None, {}
        self._show(0, "")
        self.predictor.set_image(self.image)
        mask, score = self.predictor.predict(text)
        self.table = read_proposals(self.predictor, text, self.truth)
        shown = self.table.head(self.num_shown)
        masks = [rle_decode(rle, *mask.shape) for rle in shown["rle"]]
        titles = [f"answer, score {score:.2f}", *map(_title, shown.itertuples())]
        self.masks = dict(zip(titles, [mask, *masks]))
        self._draw(jpeg(self.image), "" if self.truth is None else outline(self.truth))
        return [f"{len(shown)} of {len(self.table)} proposals, by weight", *self._coverage(), *self.remarks]

    def _draw(self, picture: str, truth: str) -> None:
        drawings = {title: draw_answer(picture, mask.shape, truth, outline(mask)) for title, mask in self.masks.items()}
        self._show(0, side_by_side(drawings, legend(("answer", "truth")[: 1 + bool(truth)]), "12rem"))

    def _figures(self) -> list[Figure]:
        return [show_masks(self.image, [*self.masks.values()], [*self.masks])] if self.masks else []

    def _coverage(self) -> list[str]:
        if self.truth is None:
            return []
        best = self.table.loc[self.table["iou"].idxmax()]
        return [f"best of all: number {best['proposal']}, IoU {best['iou']:.2f}, weight {best['weight']:.2f}"]


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H,W) bool at another height and width, by the nearest pixels; itself at its own."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _title(row) -> str:
    found = "" if np.isnan(row.iou) else f", IoU {row.iou:.2f}"
    return f"number {row.proposal}: weight {row.weight:.2f}{found}"
