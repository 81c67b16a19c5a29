"""Losses between the predicted and the true mask. All compute in float32, whatever the network ran in.

A term takes the model's outputs and the batch, and averages over images last: the loss of a batch is the mean of the
losses of its images, however they are spread over processes or accumulation steps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(outputs: dict, batch: dict, weights: tuple[float, float] = (0.9, 1.1)) -> Tensor:
    """Two-class cross-entropy of `class_logits` (B,2,h,w) with weights for background and foreground (LAVT).

    Per image the weighted mean over its pixels, then the mean over images. LAVT's code divides by the weights of the
    whole batch instead, which would depend on how a batch is split (our choice).
    """
    logits, target = _resized(outputs["class_logits"], batch), batch["masks"]
    per_pixel = F.cross_entropy(logits, target.long(), reduction="none")  # (B,S,S)
    weight = weights[0] + (weights[1] - weights[0]) * target.float()
    return ((per_pixel * weight).sum((1, 2)) / weight.sum((1, 2))).mean()


def dice(outputs: dict, batch: dict) -> Tensor:
    """Two-class Dice of `class_logits` (B,2,h,w): mean over images and classes of 1 - 2Σpg/(Σ(p²+g) + 1e-6).

    The loss of LAVT's stronger, one-module variant.
    """
    probability = _resized(outputs["class_logits"], batch).softmax(dim=1)
    foreground = batch["masks"].float()
    truth = torch.stack([1 - foreground, foreground], dim=1)
    overlap = (probability * truth).sum((2, 3))
    total = (probability.square() + truth).sum((2, 3))
    return (1 - 2 * overlap / (total + 1e-6)).mean()


def mask_bce(outputs: dict, batch: dict) -> Tensor:
    """Binary cross-entropy of every prediction (B,h,w), mean over pixels and images, summed over predictions."""
    logits = _predictions(outputs, batch)
    truth = batch["masks"].float()[:, None].expand_as(logits)
    per_pixel = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return per_pixel.mean((2, 3)).sum(1).mean()


def mask_dice(outputs: dict, batch: dict) -> Tensor:
    """Dice of the foreground: 1 - (2Σpg + 1) / (Σp + Σg + 1), mean over images, summed over predictions.

    The form and the ones are Mask2Former's; with them an empty mask costs nothing where nothing is predicted.
    """
    probability = _predictions(outputs, batch).sigmoid()
    truth = batch["masks"].float()[:, None]
    overlap, total = (probability * truth).sum((2, 3)), probability.sum((2, 3)) + truth.sum((2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).sum(1).mean()


def no_target(outputs: dict, batch: dict) -> Tensor:
    """Binary cross-entropy of target_logit (B,), which says whether the sentence means anything at all."""
    has_target = batch["masks"].flatten(1).any(1).float()
    return F.binary_cross_entropy_with_logits(outputs["target_logit"].float(), has_target)


def _predictions(outputs: dict, batch: dict) -> Tensor:
    """(B,P,S,S): the mask logits of all P predictions, the last one last, at the size of the masks."""
    return _resized(torch.stack([*outputs["aux_mask_logits"], outputs["mask_logits"]], dim=1), batch)


def _resized(logits: Tensor, batch: dict) -> Tensor:
    """Logits in float32 at the size of the masks."""
    size = batch["masks"].shape[-2:]
    if logits.shape[-2:] == size:
        return logits.float()
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)
