"""Where pixels are, as numbers that can be added to their features."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding


def sine_position(x: Tensor) -> Tensor:
    """For a map (B,C,H,W), C a multiple of 4: (1,C,H,W), float32, the same for every map of that shape.

    Half of the channels for the row, then half for the column: sine and cosine of (1..size)/size·2π at many rates
    (Mask2Former's, as released).
    """
    return _sine_position(x.shape[1:], x.device)


@lru_cache(maxsize=64)
def _sine_position(shape: torch.Size, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve training, too
        sine = Mask2FormerSinePositionEmbedding(num_position_features=shape[0] // 2, normalize=True)
        return sine((1, *shape), device, torch.float32)
