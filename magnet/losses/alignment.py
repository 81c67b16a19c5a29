"""Alignment losses (MagNet's CAL, CVPR 2024): an object's pixels part from the others, and near the sentence.

Both compare mask_features, whose stride is that of the finest stage: 4 as published, 8 in magnet_tiny. The paper names
the idea; samples, temperatures and formulas are our choice.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.config import AlignmentConfig

FAR = -1e9  # stands for -inf where a gradient must stay finite


class Alignment(nn.Module):
    """The two terms as `config` weighs them; a term of weight 0 is neither computed nor has parameters.

    word_width: D of word_features; feature_width: C of mask_features.
    """

    def __init__(self, config: AlignmentConfig, word_width: int, feature_width: int):
        super().__init__()
        _check(config)
        self.config = config
        self.text = nn.Linear(word_width, feature_width) if config.pixel_text else None

    def forward(self, outputs: dict, batch: dict) -> dict[str, Tensor]:
        """mask_features (B,C,h,w), word_features (B,T,D), token_mask (B,T); masks (B,S,S) -> terms, in float32."""
        config, terms = self.config, {}
        with torch.autocast(batch["masks"].device.type, enabled=False):  # similarities too are float32
            pixels, inside = unit(outputs["mask_features"].flatten(2).transpose(1, 2)), covered(outputs, batch)
            own, others = (sample(pixels, where, config.num_samples) for where in (inside, ~inside))
            if config.pixel_pixel:
                terms["pixel_pixel"] = pixel_pixel(own, others, config.pixel_temperature)
            if self.text is not None:
                text = unit(self.text(self.sentence(outputs)))
                terms["pixel_text"] = pixel_text(own, others, text, config.text_temperature)
        return terms

    def sentence(self, outputs: dict) -> Tensor:
        """(B,D) float32."""
        words, mask = outputs["word_features"].float(), outputs["token_mask"][:, :, None].float()
        return words[:, 0] if self.config.sentence == "first" else (words * mask).sum(1) / mask.sum(1).clamp(min=1)

    @staticmethod
    def statistics(outputs: dict, batch: dict) -> dict[str, Tensor]:
        """What share of the sentences counts as zero: without_pixel in both terms, without_pair in pixel-pixel."""
        num = covered(outputs, batch).sum(1)
        shares = {"without_pixel": num < 1, "without_pair": num < 2}
        return {f"alignment_{name}": share.float().mean() for name, share in shares.items()}


def _check(config: AlignmentConfig) -> None:
    if config.sentence not in ("mean", "first"):
        raise ValueError(f"alignment.sentence={config.sentence!r}: one of 'mean', 'first'")
    for name in ("pixel_pixel", "pixel_text"):
        if not 0 <= getattr(config, name) < inf:  # nan is not
            raise ValueError(f"alignment.{name}={getattr(config, name)}: at least 0 is needed")
    for name in ("pixel_temperature", "text_temperature"):
        if not 0 < getattr(config, name) < inf:
            raise ValueError(f"alignment.{name}={getattr(config, name)}: above 0 is needed")
    if config.num_samples < 2 or config.num_samples != int(config.num_samples):
        raise ValueError(f"alignment.num_samples={config.num_samples}: a whole number from 2 on is needed, for a pair")


Samples = tuple[Tensor, Tensor]  # unit vectors (B,S,C), and which of them are there, bool (B,S)


def pixel_pixel(own: Samples, others: Samples, temperature: float) -> Tensor:
    """-mean_i log(p_i / (p_i + Σ_k e^{z_i·z_k/τ})), p_i = mean_{j≠i} e^{z_i·z_j/τ}; i, j of the object, k others.

    Mean over an image's i, then over images; one without two object pixels or without others counts as zero.
    """
    (z, valid), (other, other_valid) = own, others
    not_self = ~torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    num_partners = (valid.sum(1, keepdim=True) - 1).clamp(min=1)
    same = log_sum(z @ z.transpose(1, 2) / temperature, valid[:, None] & not_self) - num_partners.log()  # (B,S)
    different = log_sum(z @ other.transpose(1, 2) / temperature, other_valid[:, None])
    return image_mean(F.softplus(different - same), valid & (valid.sum(1, keepdim=True) > 1), other_valid)


def pixel_text(own: Samples, others: Samples, text: Tensor, temperature: float) -> Tensor:
    """-mean_i log(e^{z_i·t/τ} / (e^{z_i·t/τ} + Σ_k e^{z_k·t/τ})); t (B,C) the sentence, i of the object, k others.

    Mean over an image's i, then over images; one without object pixels or without others counts as zero.
    """
    (z, valid), (other, other_valid) = own, others
    same, different = ((points @ text[:, :, None])[..., 0] / temperature for points in (z, other))  # (B,S)
    return image_mean(F.softplus(log_sum(different, other_valid)[:, None] - same), valid, other_valid)


def sample(pixels: Tensor, where: Tensor, num: int) -> Samples:
    """At most `num` of the pixels (B,N,C) where `where` (B,N) holds, at random without repetition (torch's RNG)."""
    draw = torch.rand(where.shape, device=where.device).masked_fill(~where, -1.0)
    drawn, index = draw.topk(min(num, where.shape[1]), dim=1)
    return pixels.gather(1, index[:, :, None].expand(-1, -1, pixels.shape[2])), drawn >= 0


def unit(x: Tensor) -> Tensor:
    """Vectors (...,C) of length 1 in float32; those shorter than 1e-3 stay shorter, for the gradient's sake."""
    return F.normalize(x.float(), dim=-1, eps=1e-3)


def covered(outputs: dict, batch: dict) -> Tensor:
    """Which positions of mask_features the object covers by more than half: (B,h·w) bool."""
    share = F.adaptive_avg_pool2d(batch["masks"].float()[:, None], outputs["mask_features"].shape[-2:])
    return share.flatten(1) > 0.5


def log_sum(values: Tensor, valid: Tensor) -> Tensor:
    """log Σ e^value over the valid ones of the last axis; very low, but finite, where there are none."""
    return values.masked_fill(~valid, FAR).logsumexp(-1)


def image_mean(losses: Tensor, valid: Tensor, other_valid: Tensor) -> Tensor:
    """(B,S) -> the mean over an image's valid ones, then over images."""
    valid = valid & other_valid.any(1, keepdim=True)
    return (losses.where(valid, 0.0).sum(1) / valid.sum(1).clamp(min=1)).mean()
