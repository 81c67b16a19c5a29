"""What every method is made of: a vision and a language backbone that meet in `encode`, and a `decode`."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magnet.config import ModelConfig
from magnet.models.language import LanguageBackbone
from magnet.models.vision import VisionBackbone


class ReferringNetwork(nn.Module):
    """Referring segmentation of images (B,3,H,W), ImageNet-normalised, of any size, by expressions of T tokens.

    A method adds `decode(features)`, which gives a dict with mask_logits, and two steps of `encode`:
    `_first_words(token_ids, token_mask)` -> words (B,T,D), and `_stage(index, pixels, words, token_mask)` -> pixels and
    words for the next stage, and what the decoder reads.
    """

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.config = config
        self.vision = VisionBackbone(config.vision, pad_then_roll=config.pad_then_roll)
        if self.vision.num_stages < 2:
            raise ValueError(f"vision.name={config.vision.name!r} has one stage; the decoders read two or more")
        self.language = LanguageBackbone(config.language, vocab_size, num_groups=self.vision.num_stages)

    def encode(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (B,3,H,W), token ids and mask (B,T) -> stage_features, word_features (B,T,D), token_mask, image_size.

        stage_features[i] (B,C_i,H_i,W_i) is what the decoder reads; word_features left the last language layer.
        """
        words, x, maps = self._first_words(token_ids, token_mask), self.vision.stem(images), []
        for index in range(self.vision.num_stages):
            x, words, fused = self._run_stage(index, x, words, token_mask)
            maps.append(fused)
        features = {"stage_features": maps, "word_features": words}
        return {**features, "token_mask": token_mask, "image_size": tuple(images.shape[-2:])}

    def forward(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (B,3,H,W), token ids and mask (B,T) -> all that `encode` and `decode` give."""
        return self.decode(self.encode(images, token_ids, token_mask))

    def _run_stage(self, *inputs) -> tuple[Tensor, Tensor, Tensor]:
        if self.config.gradient_checkpointing and self.training:
            return checkpoint(self._stage, *inputs, use_reentrant=False)
        return self._stage(*inputs)
