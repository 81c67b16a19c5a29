"""MagNet: vision and language change each other stage by stage; a query decoder finds the mask (CVPR 2024)."""

from torch import Tensor, nn

from magnet.config import ModelConfig
from magnet.models.attention import LanguageGate
from magnet.models.base import ReferringNetwork
from magnet.models.cam import CAMImageSide, CAMTextSide
from magnet.models.language import say_groups
from magnet.models.mask_detail import MaskDetail
from magnet.models.pixel_decoder import PixelDecoder
from magnet.models.pwam import PWAMImageSide, matched_image_side, matched_text_side
from magnet.models.query_decoder import QueryDecoder

WIDTH = 256  # of both decoders, as released
FUSIONS, TEXT_SIDES = ("pwam", "pwam_matched", "cam"), ("live", "released")


class MagNet(ReferringNetwork):
    """MagNet, and the studies' baseline.

    Stage i of the vision backbone and group i of the language layers run, then exchange what they had before the
    exchange. `config.fusion` says how: "cam" both ways at several scales; "pwam" LAVT's way, pixels read words;
    "pwam_matched" the same with as many parameters as "cam".
    """

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__(config, vocab_size)
        channels, words = self.vision.channels, self.language.width
        _check(config, channels)
        say_groups(*self.language.group_sizes)
        self.image_sides, self.text_sides = _sides(config, channels, words)
        activation = nn.functional.gelu if config.fusion == "cam" else nn.functional.relu
        self.gates = nn.ModuleList(LanguageGate(c, config.gate_init, activation) for c in channels[:-1])
        width = config.decoder_width or WIDTH
        self.pixel_decoder = PixelDecoder(
            channels, width, num_layers=config.pixel_decoder_layers, num_heads=config.num_heads,
            num_points=config.num_points, feedforward=config.pixel_decoder_feedforward,
        )  # fmt: skip
        self.query_decoder = QueryDecoder(
            width, num_scales=len(channels) - 1, num_layers=config.decoder_layers, num_heads=config.num_heads,
            feedforward=config.decoder_feedforward, detail=config.mask_detail,
        )  # fmt: skip
        self.target = nn.Linear(width, 1) if config.no_target == "head" else None
        self.detail = MaskDetail(width, config.mask_detail, self.vision.strides[0]) if config.mask_detail else None

    def look(self, images: Tensor) -> dict:
        seen = super().look(images)
        return seen if self.detail is None else {**seen, "image_detail": self.detail.image(images)}

    def read(self, seen: dict, token_ids: Tensor, token_mask: Tensor, pictures: Tensor | None = None) -> dict:
        features = super().read(seen, token_ids, token_mask, pictures)
        if self.detail is None:
            return features
        detail = seen["image_detail"]  # spread only where the decoder cannot pair it up itself
        return {**features, "image_detail": detail if pictures is None else detail[pictures]}

    def _first_words(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return self.language.embed(token_ids)

    def _meet(self, index: int, x: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        words = self.language.group(index, words, token_mask)
        placed = self._placed(x)
        fused, features = self.image_sides[index](placed, words, token_mask)
        if index == len(self.gates):  # after the last stage nothing would read the exchange
            return x, words, features
        changed = self.text_sides[index](words, placed, token_mask) if self.text_sides else words
        return self.gates[index](x, fused), changed, features

    def _decode(self, features: dict) -> dict:
        """What `encode` gave -> the same, with mask_logits (B,H/4,W/4), or H/2 with `mask_detail`: above 0 is
        foreground, aux_mask_logits, the predictions before the last one in order, mask_features (B,width,H/4,W/4), and
        with no_target="head" target_logit (B,): below 0 the sentence means nothing.
        """
        maps, mask_features = self.pixel_decoder(features["stage_features"], self._checkpointed)
        detail = None if self.detail is None else self.detail(features["image_detail"], mask_features)
        (*aux_mask_logits, mask_logits), query = self.query_decoder(maps[:-1], mask_features, detail)
        masks = {"mask_logits": mask_logits, "aux_mask_logits": aux_mask_logits, "mask_features": mask_features}
        return {**features, **masks, **({"target_logit": self.target(query)[:, 0, 0]} if self.target else {})}


def _sides(config: ModelConfig, channels: list[int], words: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """What pixels read, after every stage, and what words read, after every stage but the last."""
    inner = channels[:-1]
    if config.fusion == "cam":
        image_sides = [CAMImageSide(c, words, config.pyramid) for c in channels]
        text_sides = [CAMTextSide(c, words, config.text_side) for c in inner]
    elif config.fusion == "pwam_matched":
        image_sides = [matched_image_side(c, words, config.pyramid) for c in channels]
        text_sides = [matched_text_side(c, words) for c in inner]
    else:
        image_sides, text_sides = [PWAMImageSide(c, words) for c in channels], []
    return nn.ModuleList(image_sides), nn.ModuleList(text_sides)


def _check(config: ModelConfig, channels: list[int]) -> None:
    """Raises ValueError for sizes that the parts cannot have."""
    width, sizes = config.decoder_width or WIDTH, ("num_heads", "num_points", "decoder_feedforward")
    for name, value, known in (("fusion", config.fusion, FUSIONS), ("text_side", config.text_side, TEXT_SIDES)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")
    least = {name: (getattr(config, name), 1) for name in (*sizes, "pixel_decoder_feedforward")}
    least |= {name: (getattr(config, name), 0) for name in ("decoder_layers", "pixel_decoder_layers", "mask_detail")}
    for name, (value, low) in (least | {"pyramid": (min(config.pyramid, default=0), 1)}).items():
        if value < low:
            raise ValueError(f"{name} has {value}: at least {low} is needed")
    if config.fusion == "cam" and any(c % 4 for c in channels):
        raise ValueError(f"fusion='cam' splits channels by 4, but {config.vision.name!r} has {channels}")
    if width % 4 or width % config.num_heads:
        raise ValueError(f"decoder_width={width} must be a multiple of 4 and of num_heads={config.num_heads}")
