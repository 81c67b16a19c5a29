"""Training scenes without end, as a data set: what `magnet.data.training_set` gives where `data.fresh` is set."""

from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset

from magnet.config import DataConfig
from magnet.data.dataset import make_item
from magnet.data.text import encode
from magnet.refshapes.language import RULES
from magnet.refshapes.sampling import Sample, sample

_SCENES_PER_BLOCK, _EXPRESSIONS_PER_SCENE = 1024, 6  # a block is 90 MB at 96 px


class FreshShapes(Dataset):
    """RefShapes training scenes without end: item i is a pure function of (seed, i), for i below 2^31.

    Scenes come in blocks that are gone through until each has been met with six expressions (some twice where a scene
    has fewer), since drawing a picture takes longer than reading a sentence: one at a time, or with
    data.sentences_per_image several at once. The kinds are mixed as in RefShapes' own training split. With
    data.easy_first, the share of scenes spoken of by data.easy_kinds alone ("the red star") falls from all to none over
    that many sentences, within each block anew: relations are learnt once what they relate can be told apart (a
    curriculum, our choice). Raises ValueError for a kind that does not exist, for none, or for sentences that six is no
    multiple of. Of the scenes data.no_target_share and data.multi_target_share are spoken of by sentences that mean no
    object, or several, whose mask is one.
    """

    def __init__(self, data: DataConfig, tokenizer, seed: int):
        known = RULES["train"].kinds
        if unknown := set(data.easy_kinds) - known.keys():
            raise ValueError(f"data.easy_kinds: no kind {sorted(unknown)}; there are {', '.join(known)}")
        if data.easy_first and not data.easy_kinds:
            raise ValueError("data.easy_kinds is empty: name a kind, or set data.easy_first=0")
        if _EXPRESSIONS_PER_SCENE % max(1, data.sentences_per_image) or data.sentences_per_image < 1:
            raise ValueError(f"data.sentences_per_image={data.sentences_per_image}: scenes have 6, take 1, 2, 3 or 6")
        if not 0 <= data.no_target_share + data.multi_target_share <= 1:
            raise ValueError("data.no_target_share and data.multi_target_share are shares: together 0 to 1")
        self.turns = _EXPRESSIONS_PER_SCENE // data.sentences_per_image  # in which a block is gone through
        self.data, self.tokenizer, self.seed = data, tokenizer, seed
        self.scene = lru_cache(maxsize=_SCENES_PER_BLOCK)(self._draw)

    def __len__(self) -> int:
        return 2**31

    def _draw(self, number: int) -> Sample:
        chance, other = np.random.default_rng([self.seed, number]).random(2)
        several = self.data.no_target_share + self.data.multi_target_share
        answer = "none" if other < self.data.no_target_share else "many" if other < several else "one"
        eased = number * _EXPRESSIONS_PER_SCENE < (1 - chance) * self.data.easy_first
        return sample(self.seed, number, "train", self.data.image_size, kinds=self.data.easy_kinds if eased else None,
                      answer=answer)  # fmt: skip

    def __getitem__(self, index: int) -> dict:
        block, place = divmod(index, _SCENES_PER_BLOCK * self.turns)
        turn, number = divmod(place, _SCENES_PER_BLOCK)
        scene, num = self.scene(block * _SCENES_PER_BLOCK + number), self.data.sentences_per_image
        said = [scene.expressions[(turn * num + i) % len(scene.expressions)] for i in range(num)]
        texts, masks = [one.text for one in said], np.stack([scene.masks[list(one.targets)].any(0) for one in said])
        tokens = encode(self.tokenizer, texts, self.data.num_tokens, self.data.words)
        sent_ids = torch.arange(index * num, (index + 1) * num)
        parts = [masks, *tokens, sent_ids]
        return make_item(scene.image, *(part[0] if num == 1 else part for part in parts))
