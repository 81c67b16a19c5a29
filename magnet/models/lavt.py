"""LAVT: language enters a vision backbone after every stage (Yang et al., CVPR 2022), the field's baseline."""

from torch import Tensor, nn

from magnet.config import ModelConfig
from magnet.models.attention import LanguageGate, PixelWordAttention, to_map, to_tokens
from magnet.models.base import ReferringNetwork
from magnet.models.decoders import LAVTDecoder


class LAVT(ReferringNetwork):
    """Referring segmentation of images (B,3,H,W), ImageNet-normalised, of any size, by expressions of T tokens."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__(config, vocab_size)
        channels = self.vision.channels
        self.fusions = nn.ModuleList(PixelWordAttention(c, self.language.width) for c in channels)
        self.gates = nn.ModuleList(LanguageGate(c, config.gate_init) for c in channels[:-1])  # nothing reads the last
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.decoder = LAVTDecoder(channels, config.decoder_norm, config.decoder_width)

    def encode(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (B,3,H,W), token ids and mask (B,T) -> stage_features, word_features (B,T,D), token_mask, image_size.

        stage_features[i] (B,C_i,H_i,W_i) is what the decoder reads: the normalised fused features of stage i.
        """
        words = self.language(token_ids, token_mask)
        x, maps = self.vision.stem(images), []
        for index in range(self.vision.num_stages):
            x, fused = self._checkpointed(self._stage, index, x, words, token_mask)
            maps.append(fused)
        return {
            "stage_features": maps,
            "word_features": words,
            "token_mask": token_mask,
            "image_size": tuple(images.shape[-2:]),
        }

    def decode(self, features: dict) -> dict:
        """What `encode` gave -> the same, with class_logits (B,2,H,W), mask_logits (B,H,W): above 0 is foreground,
        and mask_features (B,width,H/4,W/4), the decoder's last map before its classifier."""
        logits, mask_features = self.decoder(features["stage_features"], features["image_size"])
        return {
            **features,
            "class_logits": logits,
            "mask_logits": logits[:, 1] - logits[:, 0],
            "aux_mask_logits": [],
            "mask_features": mask_features,
        }

    def _stage(self, index: int, x: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.vision.stage(index, x)
        fused = self.fusions[index](x, words, token_mask)
        normed = to_map(self.norms[index](to_tokens(fused)), fused.shape[-2:])
        return self.gates[index](x, fused) if index < len(self.gates) else x, normed
