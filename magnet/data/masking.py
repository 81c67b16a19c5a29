"""Hiding words: the sentences that Mask Grounding learns from."""

import torch
from torch import Tensor, nn

from magnet.config import GroundingConfig

REPLACEMENTS = {"mask90": (0.9, 0.0), "bert": (0.8, 0.1)}  # chances of [MASK] and of a random piece; else kept


class WordMasking(nn.Module):
    """Hides tokens (or whole words) of a sentence, each by itself with chance `config.ratio`.

    [CLS], [SEP], [UNK] and padding are never hidden. All pieces of a whole word get the same kind of replacement (our
    choice), so that none betrays the others. Random numbers are torch's: the seed of a training step fixes them.
    Raises ValueError for a ratio outside 0 to 1, an unknown replacement, a tokenizer without a mask token.
    """

    def __init__(self, config: GroundingConfig, tokenizer):
        super().__init__()
        if not 0 <= config.ratio <= 1:
            raise ValueError(f"grounding.ratio={config.ratio} is no chance; choose one from 0 to 1")
        if config.replacement not in REPLACEMENTS:
            raise ValueError(f"grounding.replacement={config.replacement!r}: one of {', '.join(REPLACEMENTS)}")
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no mask token; take a vocabulary such as BERT's")
        self.config, self.mask_id = config, tokenizer.mask_token_id
        ordinary = torch.ones(len(tokenizer), dtype=torch.bool)
        ordinary[tokenizer.all_special_ids] = False
        self.register_buffer("ordinary", ordinary, persistent=False)  # (V,) pieces that may be hidden
        self.register_buffer("begins", _begins_word(tokenizer) | ~ordinary, persistent=False)  # (V,)

    def candidates(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Which tokens may be hidden: (B,T) bool."""
        return self.ordinary[token_ids] & token_mask.bool()

    def forward(
        self, token_ids: Tensor, token_mask: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B,T) -> the sentence with words hidden, int64 (B,T), and where they are, bool (B,T)."""
        candidates = self.candidates(token_ids, token_mask)
        word = self._word_numbers(token_ids)
        draws = torch.rand(2, *token_ids.shape, generator=generator, device=token_ids.device)
        choice, kind = (draw.gather(1, word) for draw in draws)  # one number for all pieces of a word
        hidden = choice < self.config.ratio
        if self.config.at_least_one:
            hidden |= choice <= choice.masked_fill(~candidates, torch.inf).amin(1, keepdim=True)
        hidden &= candidates
        return self._replace(token_ids, hidden, kind, generator), hidden

    def _word_numbers(self, token_ids: Tensor) -> Tensor:
        """To which word of its sentence each token belongs, from 0: (B,T)."""
        begins = self.begins[token_ids]
        if not self.config.whole_words:
            begins = torch.ones_like(begins)
        begins[:, 0] = True
        begins[:, 1:] |= ~self.ordinary[token_ids[:, :-1]]  # byte-level vocabularies do not mark the first word
        return begins.long().cumsum(1) - 1

    def _replace(self, token_ids: Tensor, hidden: Tensor, kind: Tensor, generator: torch.Generator | None) -> Tensor:
        mask, random = REPLACEMENTS[self.config.replacement]
        ordinary = self.ordinary.nonzero()[:, 0]
        drawn = torch.randint(len(ordinary), token_ids.shape, generator=generator, device=token_ids.device)
        replaced = token_ids.where(~hidden | (kind < mask) | (kind >= mask + random), ordinary[drawn])
        return replaced.masked_fill(hidden & (kind < mask), self.mask_id)


def _begins_word(tokenizer) -> Tensor:
    """Which pieces begin a word, (V,) bool: WordPiece marks those that do not, other vocabularies those that do."""
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    return torch.tensor([not p.startswith(prefix) if prefix else p.startswith(("Ġ", "▁")) for p in pieces])
