"""Mask Grounding (MagNet, CVPR 2024): predict hidden words from the sentence's rest, the image and the true mask.

    grounding = MaskGrounding(GroundingConfig(), model, tokenizer)
    loss, statistics = grounding(model, batch)                  # two passes: `encode` runs once more, on hidden words

It serves any network with `encode`, `vision.channels` and `language`; nothing of it is needed after training. Given
what the network's own `look` gave for the first pass, the second only asks its `read`.
"""

from contextlib import nullcontext
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.config import GroundingConfig
from magnet.data.masking import WordMasking
from magnet.models.attention import to_tokens

SEEN = {"text": (False, False), "image": (True, False), "mask": (True, True)}  # context -> pixels, mask
MASK_NUMBERS = {"centre": 2, "box": 7, "pooled": None}  # what describes a mask; None: as many as the pixels' channels


class MaskGrounding(nn.Module):
    """The three parts the paper names: hidden words, a mask encoder and a predictor (their sizes are our choice).

    The predictor is a transformer over [words; stage-4 pixels; mask], with a masked-language head that shares the
    network's word embeddings. Raises ValueError for a setting that does not exist or does not fit.
    """

    def __init__(self, config: GroundingConfig, model: nn.Module, tokenizer):
        super().__init__()
        channels, width = model.vision.channels[-1], model.language.width
        _check(config, width)
        self.config, self.hide = config, WordMasking(config, tokenizer)
        self.pixel = nn.Linear(channels, width)
        self.place = _two_layers(2, width) if config.pixel_positions else None
        self.mask = _two_layers(MASK_NUMBERS[config.mask_encoder] or channels, width)
        sizes = (width, config.num_heads, 4 * width, config.dropout)
        layer = nn.TransformerEncoderLayer(*sizes, activation="gelu", batch_first=True)
        self.predictor = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        vocab_size, size = _word_embeddings(model).shape  # tied: they stay the model's own
        self.transform = nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.LayerNorm(size))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def hide_words(self, batch: dict) -> tuple[Tensor, Tensor]:
        """The batch's sentences with words hidden (B,T), and where (B,T) bool; none where the true mask is empty."""
        return self.hide(batch["token_ids"], _with_object(batch))

    def predict(
        self, model: nn.Module, batch: dict, hidden: tuple[Tensor, Tensor],
        features: dict | None = None, context: str | None = None, looked: dict | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits over the vocabulary, float32 (n,V), for the n hidden tokens in reading order.

        Args:
            batch: images (B,3,H,W), token_ids and token_mask (B,T), masks (B,S,S) of 0 and 1.
            hidden: what `hide_words` gave.
            features: what `encode` gave for the hidden sentences; None: it is run here.
            context: "text", "image" or "mask"; None: as configured. With "text" the network gets a blank picture too,
                because its words may read pixels.
            looked: what the network's `look` gave for these images: it is read again, but for "text"; None: `encode`
                runs.
        """
        sees_pixels, sees_mask = SEEN[context or self.config.context]
        if features is None:
            asked = hidden[0], batch["token_mask"]
            if looked is not None and sees_pixels:
                features = model.read(looked, *asked)
            else:
                images = batch["images"] if sees_pixels else torch.zeros_like(batch["images"])
                features = model.encode(images, *asked)
        words, pixels = features["word_features"], features["pixel_features"]  # (B,T,D), (B,C,H,W)
        parts = [words, self._pixel_tokens(pixels), self.mask(self._describe(batch["masks"], pixels))[:, None]]
        seen = [batch["token_mask"].bool(), *(words.new_full(p.shape[:2], see, dtype=torch.bool)
                                              for p, see in zip(parts[1:], (sees_pixels, sees_mask)))]  # fmt: skip
        rows = hidden[1].any(1)  # sentences that nothing is asked of need no reading
        rows[0] |= ~rows.any()  # but one, as every weight must get a gradient
        tokens, unseen = torch.cat(parts, dim=1)[rows], ~torch.cat(seen, dim=1)[rows]
        # a CPU's fused attention is slow in bfloat16, and each of its products there keeps most of a megabyte for every
        # shape that it ever had: so none has as many rows as tokens are hidden
        with nullcontext() if words.is_cuda else torch.autocast(words.device.type, enabled=False):
            states = self._read(tokens if words.is_cuda else tokens.float(), unseen, hidden[1][rows])
            return F.linear(self.transform(states), _word_embeddings(model), self.bias).float()

    def forward(
        self, model: nn.Module, batch: dict, hidden: tuple[Tensor, Tensor] | None = None,
        features: dict | None = None, looked: dict | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """The mean cross-entropy over all hidden tokens, a zero with a gradient where there are none, and statistics.

        Arguments are those of `predict`. Statistics: hidden tokens and how often all or none of the words that may be
        hidden were, per sentence, how often there was no such word; accuracy over the hidden tokens.
        """
        hidden = hidden or self.hide_words(batch)
        if self.config.shuffled_masks:  # sentences of one picture never follow each other, unless there is one alone
            batch = {**batch, "masks": batch["masks"].roll(1, 0)}
        logits, truth = self.predict(model, batch, hidden, features, looked=looked), batch["token_ids"][hidden[1]]
        loss = F.cross_entropy(logits, truth, reduction="sum") / max(1, len(truth))
        return loss, self._statistics(batch, hidden[1], logits.argmax(1) == truth)

    def _read(self, tokens: Tensor, unseen: Tensor, hidden: Tensor) -> Tensor:
        """Tokens (B,N,D), unseen (B,N) -> the predictor's states (n,D) at hidden (B,T).

        Its last layer, where all the others have read what they need, is computed for hidden words alone.
        """
        *layers, last = self.predictor.layers
        for layer in layers:
            tokens = layer(tokens, src_key_padding_mask=unseen)
        places = hidden.long().argsort(dim=1, descending=True, stable=True)[:, : max(1, hidden.sum(1).max())]
        asked = tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))  # (B,most hidden of one,D)
        read = last.self_attn(asked, tokens, tokens, key_padding_mask=unseen, need_weights=False)[0]
        asked = last.norm1(asked + last.dropout1(read))
        asked = last.norm2(asked + last.dropout2(last.linear2(last.dropout(last.activation(last.linear1(asked))))))
        return asked[hidden.gather(1, places)]

    def _pixel_tokens(self, pixels: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,H·W,D)."""
        tokens = self.pixel(to_tokens(pixels))
        if self.place is None:
            return tokens
        y, x = (_positions(n, pixels.device) for n in pixels.shape[-2:])
        return tokens + self.place(torch.cartesian_prod(y, x).flip(1))  # x first, as in a mask's centre

    def _describe(self, masks: Tensor, pixels: Tensor) -> Tensor:
        """Masks (B,S,S) -> what the mask encoder reads: (B,2), (B,7) or (B,C)."""
        masks = masks.float()
        if self.config.mask_encoder == "pooled":
            share = F.adaptive_avg_pool2d(masks[:, None], pixels.shape[-2:])  # of each stage-4 position
            return (share * pixels).sum((2, 3)) / share.sum((2, 3)).clamp(min=1e-6)
        return describe_masks(masks)[:, : MASK_NUMBERS[self.config.mask_encoder]]

    def _statistics(self, batch: dict, hidden: Tensor, right: Tensor) -> dict[str, Tensor]:
        candidates = self.hide.candidates(batch["token_ids"], _with_object(batch))
        none, possible = ~hidden.any(1), candidates.any(1)
        values = {
            "hidden_tokens": hidden.sum() / len(hidden),
            "none_hidden": (none & possible).float().mean(),
            "all_hidden": ((hidden == candidates).all(1) & possible).float().mean(),
            "nothing_to_hide": 1 - possible.float().mean(),
            "accuracy": right.sum() / max(1, len(right)),
        }
        return {f"grounding_{name}": value for name, value in values.items()}


def _with_object(batch: dict) -> Tensor:
    """The token mask (B,T), without the sentences whose true mask is empty."""
    return batch["token_mask"] * batch["masks"].flatten(1).any(1)[:, None]


def describe_masks(masks: Tensor) -> Tensor:
    """Masks (B,H,W) of 0 and 1 -> (B,7): mean x and y, first x and y, last x and y, area.

    Positions are pixel centres, from -1 (left, top) to 1; the area is a share, from 0 to 1. Empty masks
    give finite numbers that mean nothing.
    """
    area = masks.sum((1, 2))
    mean, first, last = [], [], []
    for profile in (masks.sum(1), masks.sum(2)):  # (B,W), (B,H)
        position, occupied = _positions(profile.shape[1], masks.device), profile > 0
        mean.append((profile * position).sum(1) / area.clamp(min=1))
        first.append(position.where(occupied, 1.0).amin(1))
        last.append(position.where(occupied, -1.0).amax(1))
    return torch.stack([*mean, *first, *last, area / masks[0].numel()], dim=1)


def _positions(num: int, device: torch.device) -> Tensor:
    """Centres of `num` pixels along an axis that goes from -1 to 1."""
    return (2 * torch.arange(num, device=device) + 1) / num - 1


def _two_layers(inputs: int, width: int) -> nn.Sequential:
    """The norm (our choice) makes places as loud as words and pixels, so that they are read sooner."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))


def _word_embeddings(model: nn.Module) -> Tensor:
    return model.language.encoder.get_input_embeddings().weight


def _check(config: GroundingConfig, width: int) -> None:
    known = {"mask_encoder": MASK_NUMBERS, "context": SEEN, "passes": (1, 2)}
    for name, values in known.items():
        if getattr(config, name) not in values:
            raise ValueError(f"grounding.{name}={getattr(config, name)!r}: one of {', '.join(map(str, values))}")
    if config.passes == 1 and config.context == "text":
        raise ValueError("grounding.context='text' needs passes=2: in one pass the words have read the picture")
    if not 0 <= config.weight < inf or config.num_heads < 1:
        raise ValueError(f"grounding.weight={config.weight}, num_heads={config.num_heads}: at least 0 and 1 are needed")
    if config.num_layers < 1:
        raise ValueError(f"grounding.num_layers={config.num_layers}: without a layer words see neither image nor mask")
    if width % config.num_heads:
        raise ValueError(f"grounding.num_heads={config.num_heads} does not divide the words' width, {width}")
