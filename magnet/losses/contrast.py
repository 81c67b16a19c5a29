"""CoupAlign's auxiliary loss (NeurIPS 2022): an object's pixels gather around their mean, away from all others.

The paper names the idea; samples, temperature and formula are our choice.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from magnet.losses.alignment import covered, image_mean, log_sum, sample, unit


def pixel_contrast(outputs: dict, batch: dict, num_samples: int = 128, temperature: float = 0.1) -> Tensor:
    """mean_i [-z_i·c/τ + log(e^{z_i·c/τ} + Σ_j e^{z_i·z_j/τ})], z mask_features (B,C,h,w) of length 1, in float32.

    i are at most `num_samples` pixels of the object, c is their mean, of length 1; j are as many others, anew at every
    call. Mean over an image's i, then over images; one without object pixels or without others counts as zero.
    """
    with torch.autocast(batch["masks"].device.type, enabled=False):
        pixels, inside = unit(outputs["mask_features"].flatten(2).transpose(1, 2)), covered(outputs, batch)
        (own, valid), (others, other_valid) = (sample(pixels, where, num_samples) for where in (inside, ~inside))
        centre = unit((own * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1))  # (B,C)
        same = (own @ centre[:, :, None])[..., 0] / temperature  # (B,S)
        different = log_sum(own @ others.transpose(1, 2) / temperature, other_valid[:, None])
        return image_mean(F.softplus(different - same), valid, other_valid)
