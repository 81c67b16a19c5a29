"""What every method is made of: a vision and a language backbone that meet in `encode`, and a `decode`."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magnet.config import ModelConfig
from magnet.models.language import LanguageBackbone
from magnet.models.vision import VisionBackbone


class ReferringNetwork(nn.Module):
    """A method adds `encode(images, token_ids, token_mask)` and `decode(features)`, both giving a dict."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.config = config
        self.vision = VisionBackbone(config.vision, pad_then_roll=config.pad_then_roll)
        self.language = LanguageBackbone(config.language, vocab_size, num_groups=self.vision.num_stages)

    def forward(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (B,3,H,W), token ids and mask (B,T) -> all that `encode` and `decode` give."""
        return self.decode(self.encode(images, token_ids, token_mask))

    def _checkpointed(self, function, *inputs):
        if self.config.gradient_checkpointing and self.training:
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)
