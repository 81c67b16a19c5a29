"""What every method is made of: a vision and a language backbone that meet in `encode`, and a `decode`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magnet.config import ModelConfig
from magnet.models.language import LanguageBackbone
from magnet.models.no_target import withhold
from magnet.models.positions import sine_position
from magnet.models.vision import VisionBackbone


class ReferringNetwork(nn.Module):
    """Referring segmentation of images (B,3,H,W), ImageNet-normalised, of any size, by expressions of T tokens.

    A method adds `_decode(features)`, which gives a dict with mask_logits, and two steps of `encode`:
    `_first_words(token_ids, token_mask)` -> words (B,T,D), and `_meet(index, pixels, words, token_mask)`, where what
    left stage `index` and the words meet -> pixels and words for the next stage, and what the decoder reads.

    There may be several sentences a picture: of S pictures and B = k·S sentences, sentence j is about picture j mod S.
    `encode` is `look`, what no word changes, computed once a picture, and then `read`: who keeps what `look` gave can
    ask about the same pictures again.
    """

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.config = config
        if config.gate_init not in ("normal", "zero"):
            raise ValueError(f"gate_init={config.gate_init!r} is not one of normal, zero")
        if config.no_target not in ("none", "area", "head"):
            raise ValueError(f"no_target={config.no_target!r} is not one of none, area, head")
        if config.decoder_width is not None and config.decoder_width < 1:
            raise ValueError(f"decoder_width={config.decoder_width}: at least 1 is needed, or None")
        self.vision = VisionBackbone(config.vision, pad_then_roll=config.pad_then_roll)
        if self.vision.num_stages < 2:
            raise ValueError(f"vision.name={config.vision.name!r} has one stage; the decoders read two or more")
        if config.pixel_positions and any(c % 4 for c in self.vision.channels):
            raise ValueError(f"pixel_positions needs channels in fours, but the stages have {self.vision.channels}")
        self.language = LanguageBackbone(config.language, vocab_size, num_groups=self.vision.num_stages)

    def encode(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (S,3,H,W), token ids and mask (B,T) -> stage_features, pixel_features, word_features (B,T,D),
        token_mask, image_size, and seen, what `look` gave. Raises ValueError where B is no multiple of S.

        stage_features[i] (B,C_i,H_i,W_i) is what the decoder reads; pixel_features (B,C,H,W) left the last stage of the
        vision backbone, word_features the last language layer.
        """
        if len(token_ids) % len(images):
            raise ValueError(f"{len(token_ids)} sentences do not divide among {len(images)} pictures")
        return self.read(self.look(images), token_ids, token_mask)

    def look(self, images: Tensor) -> dict:
        """Images (S,3,H,W) -> what of them depends on no word: first_map (S,C,H',W'), which left stem and first stage,
        and image_size."""
        first = self._checkpointed(lambda x: self.vision.stage(0, self.vision.stem(x)), images)
        return {"first_map": first, "image_size": tuple(images.shape[-2:])}

    def read(self, seen: dict, token_ids: Tensor, token_mask: Tensor, pictures: Tensor | None = None) -> dict:
        """What `look` gave and B sentences -> as `encode`. pictures: which of the S each is about, int64 (B,); None:
        picture j mod S."""
        words, x, maps = (
            self._first_words(token_ids, token_mask),
            spread(seen["first_map"], len(token_ids), pictures),
            [],
        )
        for index in range(self.vision.num_stages):
            x, words, fused = self._checkpointed(self._stage, index, x, words, token_mask)
            maps.append(fused)
        features = {"stage_features": maps, "pixel_features": x, "word_features": words}
        return {**features, "token_mask": token_mask, "image_size": seen["image_size"], "seen": seen}

    def forward(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        """Images (S,3,H,W), token ids and mask (B,T) -> all that `encode` and `decode` give."""
        return self.decode(self.encode(images, token_ids, token_mask))

    def decode(self, features: dict) -> dict:
        """What `encode` gave -> the same with mask_logits and what else the method's `_decode` says. In evaluation mode
        mask_logits are withheld where the network says that nothing is meant (`no_target`)."""
        outputs = self._decode(features)
        return outputs if self.training else withhold(outputs, self.config.no_target)

    def _placed(self, pixels: Tensor) -> Tensor:
        """Pixels (B,C,H,W) as they meet words: with `pixel_positions` they say where they are."""
        return pixels + sine_position(pixels).to(pixels.dtype) if self.config.pixel_positions else pixels

    def _checkpointed(self, function: Callable, *inputs):
        """What the function gives. With `gradient_checkpointing` only inputs are kept, and the backward pass computes
        the rest again: so of each stage with its exchange, and of each layer that would hold as much."""
        if self.config.gradient_checkpointing and self.training:
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _stage(self, index: int, x: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._meet(index, self.vision.stage(index, x) if index else x, words, token_mask)


def reads_what_it_looked_at(model: nn.Module) -> bool:
    """Whether `model.encode` is `look` and then `read`, with nothing of its own before, behind or in between."""
    return getattr(type(model), "encode", None) is ReferringNetwork.encode and "encode" not in vars(model)


def spread(x: Tensor, num: int, pictures: Tensor | None) -> Tensor:
    """What belongs to S pictures (S,...) -> the same for each of `num` sentences, (num,...)."""
    if pictures is not None:
        return x[pictures]
    return torch.cat([x] * (num // len(x))) if len(x) < num else x  # unlike repeat, cat keeps the layout
