"""Do a network's mask proposals hold the object? What no weighting of them could mend.

proposal_coverage(run.load_model(), batches)        # batches: of magnet.data.collate
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from magnet.evaluate import evaluation_mode
from magnet.models.decoders import resize


@torch.no_grad()
def proposal_coverage(model: nn.Module, batches: Iterable[dict], at: float = 0.5) -> dict[str, float]:
    """How well the best of N proposals covers the object that a sentence means, over all sentences that mean one.

    best_iou: mean of the best proposal's IoU with the true mask; share_found: share of objects with a proposal of IoU
    `at` or more; both 0 to 1. num_objects: how many were counted.
    batches: images (S,3,H,W), masks (B,H,W), token_ids, token_mask (B,T), on the model's device. Raises ValueError for
    a network without proposals and where no sentence means an object.
    """
    with evaluation_mode(model):
        best = torch.cat([_best_iou(model, batch) for batch in batches] or [torch.zeros(0)])
    if not len(best):
        raise ValueError("none of the sentences means an object: there is nothing to cover")
    found = (best >= at).float().mean().item()
    return {"best_iou": best.mean().item(), "share_found": found, "num_objects": len(best)}


def _best_iou(model: nn.Module, batch: dict) -> Tensor:
    """Of the sentences that mean an object, (n,)."""
    outputs = model(batch["images"], batch["token_ids"], batch["token_mask"])
    if "proposal_logits" not in outputs:
        raise ValueError(f"{type(model).__name__} makes no proposals; a network of method='coupalign' does")
    has_object = batch["masks"].flatten(1).any(1)
    return proposal_iou(outputs["proposal_logits"][has_object], batch["masks"][has_object]).amax(1)


def proposal_iou(proposal_logits: Tensor, masks: Tensor) -> Tensor:
    """IoU (B,N), 0 to 1, of proposals (B,N,h,w), foreground above 0 at the masks' size, with true masks (B,H,W) of 0
    and 1; 0 where both are empty. One sentence at a time: all proposals at full size would not fit a memory."""
    rows = [_iou(logits, mask > 0.5) for logits, mask in zip(proposal_logits, masks)]
    return torch.stack(rows) if rows else proposal_logits.new_zeros(proposal_logits.shape[:2])


def _iou(logits: Tensor, mask: Tensor) -> Tensor:
    proposals = resize(logits[None].float(), mask.shape)[0] > 0  # (N,H,W)
    either = (proposals | mask).sum((1, 2))
    return (proposals & mask).sum((1, 2)) / either.clamp(min=1)
