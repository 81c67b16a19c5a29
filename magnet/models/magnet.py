"""MagNet: vision and language change each other stage by stage; a query decoder finds the mask (CVPR 2024)."""

from torch import Tensor, nn

from magnet.config import ModelConfig
from magnet.models.attention import LanguageGate, PixelWordAttention, to_map, to_tokens
from magnet.models.base import ReferringNetwork
from magnet.models.cam import CAMImageSide, CAMTextSide
from magnet.models.pixel_decoder import PixelDecoder
from magnet.models.query_decoder import QueryDecoder

WIDTH = 256  # of both decoders, as released


class MagNet(ReferringNetwork):
    """Referring segmentation of images (B,3,H,W), ImageNet-normalised, of any size, by expressions of T tokens.

    Stage i of the vision backbone and group i of the language layers run, then exchange what they had before the
    exchange. `config.fusion` says how: "cam" both ways at several scales, "pwam" LAVT's way from words to pixels.
    """

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__(config, vocab_size)
        channels, words = self.vision.channels, self.language.width
        _check(config, channels)
        if config.fusion == "cam":
            self.image_sides = nn.ModuleList(CAMImageSide(c, words, config.pyramid) for c in channels)
            self.text_sides = nn.ModuleList(CAMTextSide(c, words, config.text_side) for c in channels[:-1])
        else:
            self.image_sides = nn.ModuleList(PWAMImageSide(c, words) for c in channels)
            self.text_sides = nn.ModuleList()
        activation = nn.functional.gelu if config.fusion == "cam" else nn.functional.relu
        self.gates = nn.ModuleList(LanguageGate(c, config.gate_init, activation) for c in channels[:-1])
        width = config.decoder_width or WIDTH
        self.pixel_decoder = PixelDecoder(
            channels, width, num_layers=config.pixel_decoder_layers, num_heads=config.num_heads,
            num_points=config.num_points, feedforward=config.pixel_decoder_feedforward,
        )  # fmt: skip
        self.query_decoder = QueryDecoder(
            width, num_scales=len(channels) - 1, num_layers=config.decoder_layers, num_heads=config.num_heads,
            feedforward=config.decoder_feedforward,
        )  # fmt: skip

    def encode(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (B,3,H,W), token ids and mask (B,T) -> stage_features, word_features (B,T,D), token_mask, image_size.

        stage_features[i] (B,C_i,H_i,W_i) is what the decoder reads; word_features left the last language layer.
        """
        x, words, maps = self.vision.stem(images), self.language.embed(token_ids), []
        for index in range(self.vision.num_stages):
            x, words, fused = self._checkpointed(self._stage, index, x, words, token_mask)
            maps.append(fused)
        return {
            "stage_features": maps,
            "word_features": words,
            "token_mask": token_mask,
            "image_size": tuple(images.shape[-2:]),
        }

    def decode(self, features: dict) -> dict:
        """What `encode` gave -> the same, with mask_logits (B,H/4,W/4): above 0 is foreground, aux_mask_logits, the
        predictions before the last one in order, and mask_features (B,width,H/4,W/4)."""
        maps, mask_features = self.pixel_decoder(features["stage_features"])
        *aux_mask_logits, mask_logits = self.query_decoder(maps[:-1], mask_features)
        return {
            **features,
            "mask_logits": mask_logits,
            "aux_mask_logits": aux_mask_logits,
            "mask_features": mask_features,
        }

    def _stage(self, index: int, x: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.vision.stage(index, x)
        words = self.language.group(index, words, token_mask)
        fused, features = self.image_sides[index](x, words, token_mask)
        if index == len(self.gates):  # after the last stage nothing would read the exchange
            return x, words, features
        changed = self.text_sides[index](words, x, token_mask) if self.text_sides else words
        return self.gates[index](x, fused), changed, features


class PWAMImageSide(nn.Module):
    """LAVT's reading in the alignment module's place: pixel-word attention, and its LayerNorm for the decoder."""

    def __init__(self, channels: int, word_width: int):
        super().__init__()
        self.full = PixelWordAttention(channels, word_width)
        self.norm = nn.LayerNorm(channels)

    def forward(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.full(pixels, words, token_mask)
        return fused, to_map(self.norm(to_tokens(fused)), pixels.shape[-2:])


def _check(config: ModelConfig, channels: list[int]) -> None:
    """Raises ValueError for sizes that the parts cannot have."""
    width = config.decoder_width or WIDTH
    if config.fusion == "cam" and any(c % 4 for c in channels):
        raise ValueError(f"fusion='cam' splits channels by 4, but {config.vision.name!r} has {channels}")
    if len(channels) < 2:
        raise ValueError(f"vision.name={config.vision.name!r} has one stage; MagNet's decoder reads two or more")
    if width % 4 or width % config.num_heads:
        raise ValueError(f"decoder_width={width} must be a multiple of 4 and of num_heads={config.num_heads}")
