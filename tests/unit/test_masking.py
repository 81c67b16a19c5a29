"""Hidden words: which, how often, and what stands in their place."""

from types import SimpleNamespace

import pytest
import torch

from magnet.config import GroundingConfig
from magnet.data import encode, load_tokenizer
from magnet.data.masking import WordMasking

TOKENIZER = load_tokenizer("refshapes")
PAD, UNK, CLS, SEP, MASK = TOKENIZER.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
SENTENCE = "the crimson half-moon left of the ring"  # crim ##son is one word of two pieces


def hide(sentences: list[str], seed: int = 0, **options):
    token_ids, token_mask = encode(TOKENIZER, sentences, num_tokens=16)
    masking = WordMasking(GroundingConfig(**options), TOKENIZER)
    hidden_ids, hidden = masking(token_ids, token_mask, torch.Generator().manual_seed(seed))
    return token_ids, token_mask, hidden_ids, hidden


def share(condition) -> float:
    return condition.float().mean().item()


def test_tokens_are_hidden_independently_at_the_ratio():
    token_ids, _, _, hidden = hide([SENTENCE] * 8000, ratio=0.3)
    places = (token_ids[0] > MASK).nonzero()[:, 0]  # 10 pieces
    rates = hidden[:, places].float().mean(0)
    assert len(places) == 10 and (rates - 0.3).abs().max() < 0.03
    pairs = torch.corrcoef(hidden[:, places].T.float()) - torch.eye(10)
    assert pairs.abs().max() < 0.05
    assert share(~hidden.any(1)) == pytest.approx(0.7**10, abs=0.01)


def test_specials_unknown_words_and_padding_stay():
    token_ids, token_mask, hidden_ids, hidden = hide([SENTENCE, "a \u4e2d star"], ratio=1.0, replacement="bert")
    special = torch.isin(token_ids, torch.tensor([PAD, UNK, CLS, SEP]))
    assert UNK in token_ids and torch.equal(hidden, ~special) and not hidden[token_mask == 0].any()
    assert torch.equal(hidden_ids[special], token_ids[special])


def test_replacements_come_as_often_as_promised():
    token_ids, _, hidden_ids, hidden = hide([SENTENCE] * 5000, ratio=0.5)
    assert share(hidden_ids[hidden] == MASK) == pytest.approx(0.9, abs=0.01)
    rest = hidden & (hidden_ids != MASK)
    assert torch.equal(hidden_ids[rest | ~hidden], token_ids[rest | ~hidden]), "the rest is unchanged"
    token_ids, _, hidden_ids, hidden = hide([SENTENCE] * 5000, ratio=0.5, replacement="bert")
    assert share(hidden_ids[hidden] == MASK) == pytest.approx(0.8, abs=0.01)
    assert share(hidden_ids[hidden] == token_ids[hidden]) == pytest.approx(0.1, abs=0.01)
    random = hidden & (hidden_ids != MASK) & (hidden_ids != token_ids)
    assert hidden_ids[random].unique().numel() > 0.9 * (len(TOKENIZER) - 5) and hidden_ids[random].min() > MASK


def test_at_least_one_is_hidden_wherever_one_can_be():
    _, _, hidden_ids, hidden = hide([SENTENCE] * 3000 + [""], ratio=0.0, at_least_one=True)
    assert (hidden[:-1].sum(1) == 1).all() and not hidden[-1].any() and hidden_ids[-1].max() == SEP
    chosen = hidden[:-1].float().mean(0)
    assert (chosen[chosen > 0] - 1 / 10).abs().max() < 0.03, "each with the same chance"
    usual, forced = hide([SENTENCE] * 500, ratio=0.2)[3], hide([SENTENCE] * 500, ratio=0.2, at_least_one=True)[3]
    lucky = usual.any(1)
    assert 0 < lucky.sum() < 500 and torch.equal(usual[lucky], forced[lucky]), "chance is left alone where it hides one"


@pytest.mark.parametrize("replacement", ["mask90", "bert"])
def test_whole_words_are_hidden_together(replacement):
    token_ids, _, hidden_ids, hidden = hide([SENTENCE] * 3000, ratio=0.5, whole_words=True, replacement=replacement)
    pieces = TOKENIZER.convert_ids_to_tokens(token_ids[0])
    first, second = pieces.index("crim"), pieces.index("##son")
    assert torch.equal(hidden[:, first], hidden[:, second])
    assert torch.equal(hidden_ids[:, first] == MASK, hidden_ids[:, second] == MASK)
    assert share(hidden[:, first]) == pytest.approx(0.5, abs=0.03)
    assert share(hidden[:, first] == hidden[:, first - 1]) == pytest.approx(0.5, abs=0.03), "other words by themselves"
    single = hide([SENTENCE] * 3000, ratio=0.5)[3]
    assert share(single[:, first] == single[:, second]) == pytest.approx(0.5, abs=0.03)


def test_vocabularies_that_mark_the_beginning_of_words():
    pieces = ["<s>", "</s>", "<mask>", "cr", "imson", "Ġring", "Ġhalf", "moon"]
    tokenizer = type("ByteLevel", (), {"__len__": lambda self: len(pieces)})()
    tokenizer.mask_token_id, tokenizer.all_special_ids = 2, [0, 1, 2]
    tokenizer.convert_ids_to_tokens = lambda ids: [pieces[i] for i in ids]
    tokenizer.backend_tokenizer = SimpleNamespace(model=SimpleNamespace(continuing_subword_prefix=None))
    masking = WordMasking(GroundingConfig(ratio=0.5, whole_words=True), tokenizer)
    token_ids = torch.tensor([[0, 3, 4, 5, 6, 7, 1]]).repeat(200, 1)
    _, hidden = masking(token_ids, torch.ones_like(token_ids), torch.Generator().manual_seed(0))
    assert torch.equal(hidden[:, 1], hidden[:, 2]) and torch.equal(hidden[:, 4], hidden[:, 5])
    assert not torch.equal(hidden[:, 2], hidden[:, 3]) and not torch.equal(hidden[:, 3], hidden[:, 4])


def test_the_seed_decides():
    again = [hide([SENTENCE] * 20, seed=seed)[2] for seed in (5, 5, 6)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"grounding\.ratio=1\.5"):
        WordMasking(GroundingConfig(ratio=1.5), TOKENIZER)
    with pytest.raises(ValueError, match="'mask80': one of mask90, bert"):
        WordMasking(GroundingConfig(replacement="mask80"), TOKENIZER)
    with pytest.raises(ValueError, match="no mask token"):
        WordMasking(GroundingConfig(), SimpleNamespace(mask_token_id=None))
