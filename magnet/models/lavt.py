"""LAVT: language enters a vision backbone after every stage (Yang et al., CVPR 2022), the field's baseline."""

from torch import Tensor, nn

from magnet.config import ModelConfig
from magnet.models.attention import LanguageGate, PixelWordAttention, to_map, to_tokens
from magnet.models.base import ReferringNetwork
from magnet.models.decoders import LAVTDecoder


class LAVT(ReferringNetwork):
    """All words are read before the first stage; stage_features are the fused features, normalised."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__(config, vocab_size)
        if config.no_target == "head":
            raise ValueError("no_target='head' needs MagNet's query; with LAVT take 'area'")
        channels = self.vision.channels
        self.fusions = nn.ModuleList(PixelWordAttention(c, self.language.width) for c in channels)
        self.gates = nn.ModuleList(LanguageGate(c, config.gate_init) for c in channels[:-1])  # nothing reads the last
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.decoder = LAVTDecoder(channels, config.decoder_norm, config.decoder_width)

    def _first_words(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return self.language(token_ids, token_mask)

    def _meet(self, index: int, x: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = self.fusions[index](self._placed(x), words, token_mask)
        normed = to_map(self.norms[index](to_tokens(fused)), fused.shape[-2:])
        return self.gates[index](x, fused) if index < len(self.gates) else x, words, normed

    def _decode(self, features: dict) -> dict:
        """What `encode` gave -> the same, with class_logits (B,2,H,W), mask_logits (B,H,W): above 0 is foreground,
        and mask_features (B,width,H/4,W/4), the decoder's last map before its classifier."""
        logits, mask_features = self.decoder(features["stage_features"], features["image_size"])
        masks = {"class_logits": logits, "mask_logits": logits[:, 1] - logits[:, 0], "aux_mask_logits": []}
        return {**features, **masks, "mask_features": mask_features}
