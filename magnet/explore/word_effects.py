"""What hiding each word does to the mask, over many sentences, beside the attention that the object's pixels pay it.

    effects = word_effects(magnet.load("refshapes-tiny"), expressions)
    summarize_effects(effects)                                        # by kind of word, with 95 % intervals

Two answers to "which word matters". The first changes the input and looks at the answer, the second looks inside
without changing anything, so where they disagree it is attention that did not tell (Jain and Wallace, 2019). Removed
words are compared, as [MASK] is strange to most networks: hiding "the" can change a mask that does well without it.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from magnet.data.dataset import read_image
from magnet.evaluate import progress_bar
from magnet.explore.occlusion import WAYS, occlude
from magnet.predictor import Predictor
from magnet.workbench.attention_mass import attention_inside
from magnet.workbench.intervals import with_intervals
from magnet.workbench.words import KINDS, word_kind


def word_effects(predictor: Predictor, expressions: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
    """One row for every word: sent_id, image_id, position (0 is the first), word, kind (words.KINDS), and

    hidden, removed: how much the mask changes without it, 1 − IoU with the whole sentence's mask, 0 to 1. lift: how
    much more an object's pixel reads it than the picture's mean pixel, the mean over the maps (attention_mass.py); NaN
    for words of several tokens, and where the network has no pixel-word attention.
    Words are what stands between spaces. Args: expressions: of `read_refer`.
    """
    parts = []
    for row in progress_bar(progress, iterable=expressions.itertuples(), total=len(expressions), unit="sentence"):
        predictor.set_image(read_image(Path(expressions.attrs["images"]) / row.file, row.height, row.width))
        asked = occlude(predictor, row.text)
        changed = 1 - asked[asked["way"].isin(WAYS)].pivot(index=["position", "word"], columns="way", values="same")
        parts.append(changed.reset_index().assign(sent_id=row.sent_id, image_id=row.image_id))
    table = pd.concat(parts, ignore_index=True)
    table["kind"] = table["word"].map(lambda word: word_kind(word.lower()))
    table = table.merge(_lifts(predictor, expressions), "left", ["sent_id", "position", "word"])
    return table[["sent_id", "image_id", "position", "word", "kind", *WAYS, "lift"]]


def _lifts(predictor: Predictor, expressions: pd.DataFrame) -> pd.DataFrame:
    """sent_id, position, word, lift. A token is the word at its place where it is spelt alike."""
    try:
        read = attention_inside(predictor, expressions, progress=False)
    except ValueError:  # not every network has pixel-word attention
        return pd.DataFrame({"sent_id": [], "position": [], "word": [], "lift": []})
    read = read.assign(position=read["token"] - 1, lift=read["inside"] / read["area"])  # [CLS] stands first
    return read.groupby(["sent_id", "position", "word"], as_index=False)["lift"].mean()


def summarize_effects(effects: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """Means by kind of word, with 95 % intervals over pictures: value, low, high, n (words).

    Rows (what, kind): "hidden", "removed" (percent of the mask changed) and "lift" (a ratio).
    """
    rows = {}
    for what in (*WAYS, "lift"):
        known = effects[effects[what].notna()]
        kinds = [kind for kind in KINDS if (known["kind"] == kind).any()]
        ratios = {kind: (known[what] * (known["kind"] == kind), known["kind"] == kind) for kind in kinds}
        if kinds:
            rows[what] = with_intervals(ratios, known["image_id"], num_draws)
            rows[what]["n"] = [int((known["kind"] == kind).sum()) for kind in kinds]
    if "lift" in rows:
        rows["lift"][["value", "low", "high"]] /= 100  # a ratio, no percentage
    return pd.concat(rows, names=["what", "kind"])


def same_word(effects: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """In how many sentences is the word that the object reads most also the one whose removal changes the mask most?

    "attention", "chance" (a word drawn blindly) and their paired "difference" (points): percent with 95 % intervals
    over pictures, and n (sentences). Only sentences in which some word changes half of the mask or more, and of them
    the words with a lift.
    """
    known = effects[effects["lift"].notna()]
    most = known.groupby("sent_id")["removed"].transform("max")
    known = known[most >= 0.5].assign(decides=known["removed"] == most)
    sentences = known.groupby("sent_id")
    read = known.loc[sentences["lift"].idxmax(), "decides"].to_numpy(float)
    blind, one = sentences["decides"].mean().to_numpy(), np.ones(len(read))
    ratios = {"attention": (read, one), "chance": (blind, one), "difference": (read - blind, one)}
    return with_intervals(ratios, sentences["image_id"].first(), num_draws if len(read) else 0)
