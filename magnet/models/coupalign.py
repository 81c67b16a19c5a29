"""CoupAlign (details ours): words and pixels change each other inside both encoders; a sentence weighs mask proposals.

Zhang et al., NeurIPS 2022. The skeleton is the paper's: word-pixel alignment, mask generator, sentence-mask alignment
and an auxiliary loss, `pixel_contrast`. Sizes and formulas are our choice; docs/fidelity.md has a row for each.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from magnet.config import CoupAlignConfig, ModelConfig
from magnet.models.attention import LanguageGate, PixelWordAttention, to_map, to_tokens
from magnet.models.base import ReferringNetwork
from magnet.models.decoders import LAVTDecoder, resize
from magnet.models.language import say_groups
from magnet.models.mask_generator import MaskGenerator
from magnet.models.sentence_mask import WEIGHTINGS, SentenceMaskAlignment
from magnet.models.word_pixel import WordPixelAttention

EXCHANGES = ("both", "pixels", "last", "none")


class CoupAlign(ReferringNetwork):
    """Stage i of the vision backbone and group i of the language layers run, then each reads what the other had before
    the exchange, as `config.coupalign.word_pixel` says. stage_features are LAVT's fused features, normalised; where
    pixels read nothing, the stage's own."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__(config, vocab_size)
        own, channels, words = config.coupalign, self.vision.channels, self.language.width
        _check(config, words)
        say_groups(*self.language.group_sizes)
        stages = range(len(channels))
        reading = {"last": stages[-1:], "none": stages[:0]}.get(own.word_pixel, stages)
        self.fusions = _at(reading, lambda i: PixelWordAttention(channels[i], words))
        self.gates = _at(reading[:-1], lambda i: LanguageGate(channels[i], config.gate_init))  # nothing reads the last
        read = stages if own.word_pixel == "both" else ()
        if own.weighting == "none":  # else the last one, too: [CLS] goes on to weigh the proposals
            read = read[:-1]
        self.text_sides = _at(read, lambda i: WordPixelAttention(channels[i], words, own.num_word_heads))
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.decoder = LAVTDecoder(channels, config.decoder_norm, config.decoder_width)
        self.decoder.classifier = None  # proposals take its place
        self.pixel_embedding = nn.Conv2d(self.decoder.width, own.width, kernel_size=1)
        self.mask_generator = MaskGenerator(
            channels[-1], own.width, num_proposals=own.num_proposals, num_layers=own.num_layers,
            num_heads=own.num_heads, feedforward=own.feedforward,
        )  # fmt: skip
        self.sentence_mask = SentenceMaskAlignment(
            own.width, words, own.num_proposals, own.weighting, own.soft_proposals
        )

    def _first_words(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return self.language.embed(token_ids)

    def _meet(self, index: int, x: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        words = self.language.group(index, words, token_mask)
        placed, stage = self._placed(x), str(index)
        fused = self.fusions[stage](placed, words, token_mask) if stage in self.fusions else x
        changed = self.text_sides[stage](words, placed) if stage in self.text_sides else words
        normed = to_map(self.norms[index](to_tokens(fused)), fused.shape[-2:])
        return self.gates[stage](x, fused) if stage in self.gates else x, changed, normed

    def _decode(self, features: dict) -> dict:
        """What `encode` gave -> the same, with class_logits (B,2,H,W), mask_logits (B,H,W): above 0 is foreground,
        mask_features (B,width,H/4,W/4), the pixel embedding, proposal_logits (B,N,H/4,W/4), every query's product with
        it, and proposal_weights (B,N), how well each fits the sentence, from 0 to 1."""
        maps, sentence = features["stage_features"], features["word_features"][:, 0]  # [CLS]
        pixels, queries = self.pixel_embedding(self.decoder.features(maps)), self.mask_generator(maps[-1])
        proposals = torch.einsum("bnc,bchw->bnhw", queries, pixels)
        logits, weights = self.sentence_mask(proposals, queries, sentence)
        logits = resize(logits, features["image_size"])
        masks = {"class_logits": logits, "mask_logits": logits[:, 1] - logits[:, 0], "aux_mask_logits": []}
        return {**features, **masks, "mask_features": pixels, "proposal_logits": proposals, "proposal_weights": weights}


def _at(stages: Iterable[int], make: Callable[[int], nn.Module]) -> nn.ModuleDict:
    """A part for each of these stages, by the stage's number."""
    return nn.ModuleDict({str(index): make(index) for index in stages})


def _check(config: ModelConfig, words: int) -> None:
    """Raises ValueError for settings that do not exist and sizes that the parts cannot have."""
    own = config.coupalign
    if config.no_target == "head":
        raise ValueError("no_target='head' needs MagNet's query; with CoupAlign take 'area'")
    for name, known in (("word_pixel", EXCHANGES), ("weighting", WEIGHTINGS)):
        if getattr(own, name) not in known:
            raise ValueError(f"coupalign.{name}={getattr(own, name)!r} is not one of {', '.join(known)}")
    for name in ("num_word_heads", "num_proposals", "width", "num_layers", "num_heads", "feedforward"):
        if getattr(own, name) < 1:
            raise ValueError(f"coupalign.{name}={getattr(own, name)}: at least 1 is needed")
    if own.word_pixel == own.weighting == "none":
        raise ValueError("coupalign.word_pixel='none' with weighting='none': then nothing reads the sentence")
    _check_heads(own, words)


def _check_heads(own: CoupAlignConfig, words: int) -> None:
    if own.width % 4 or own.width % own.num_heads:
        raise ValueError(f"coupalign.width={own.width} must be a multiple of 4 and of num_heads={own.num_heads}")
    if own.word_pixel == "both" and words % own.num_word_heads:
        raise ValueError(f"coupalign.num_word_heads={own.num_word_heads} does not divide the words' width, {words}")
