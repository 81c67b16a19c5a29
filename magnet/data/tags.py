"""What makes an expression easy or hard, as columns: every analysis is a group-by on these.

Words are found by lists. That is cheap and explainable, and approximate: made to split thousands of expressions into
groups, not to parse one. The groups are those of the papers' error analyses; the lists are our choice.
"""

import re
from collections import Counter

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.data.text import token_counts

COCO_AREAS = (32**2, 96**2)  # pixels: small below the first, large from the second on
RARE_SHARE = 1 / 5000  # a word in a smaller share of the training expressions is rare, as in RefShapes' testR


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOCATION = _words("""left right leftmost rightmost topmost bottommost uppermost lowermost lefthand righthand left-hand
    right-hand top bottom upper lower middle center centre central mid corner foreground background front back rear
    far""")
NOT_LOCATION = re.compile(r"\b(?:in front of|on top of|back of|looking back|(?:it'?s|his|her|their) back|right now)\b")
PICTURE = _words("picture pic image photo photograph frame scene view camera")
RELATION = _words("""with in on at by near beside besides behind above below under underneath beneath over between among
    amongst around inside outside within against across along alongside beyond through toward towards into onto off atop
    opposite facing touching holding wearing carrying riding pulling pushing eating drinking using petting feeding
    hugging kissing chasing following watching leaning reaching""")
RELATION_PHRASES = _words("""next_to close_to closest_to nearest_to nearest_the farthest_from furthest_from adjacent_to
    attached_to surrounded_by covered_in covered_with left_of right_of in_front_of on_top_of to_the_left_of
    to_the_right_of""")
FILLERS = _words("a an the its it's his her their this that very far to all")
# comparatives too
SUPERLATIVE = _words("""biggest largest smallest tallest shortest longest closest nearest furthest farthest highest
    lowest oldest youngest darkest lightest brightest palest fattest thinnest thickest widest narrowest heaviest
    cleanest newest leftmost rightmost topmost bottommost uppermost lowermost frontmost most least bigger larger smaller
    taller shorter longer closer nearer further farther higher older younger darker lighter brighter paler fatter
    thinner thicker wider narrower heavier cleaner newer more less than""")
ORDINAL = _words("first second third fourth fifth sixth seventh eighth ninth tenth last")
ATTRIBUTE = _words("""red green blue yellow orange purple pink brown black white gray grey beige tan gold golden silver
    maroon navy teal turquoise cyan magenta violet cream khaki olive blond blonde brunette dark light bright pale
    colored coloured colorful colourful big small large little tiny huge tall short long thin thick fat wide narrow
    skinny chubby giant young old adult elderly bald balding bearded striped stripe stripes stripy dotted dots spotted
    spots checked checkered checkerboard plaid plain floral patterned wooden metal metallic plastic glass leather brick
    furry fluffy hairy shiny dirty clean empty full open closed broken round square rectangular circular oval triangular
    curved sitting standing lying laying walking running jumping sleeping smiling seated crouching kneeling bending""")
NEGATION = _words("not no without none never neither nor nobody nothing except excluding non")
PRONOUN = _words("""it he she they them him her his hers its it's their theirs himself herself itself themselves""")

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_TORN = re.compile(r"(?<=\w) (-|'(?= (?:s|t|re|ll|ve|d|m)\b)) (?=\w)")  # RefCOCOg is tokenized: "it ' s", "t - shirt"
_ORDINAL_NUMBER = re.compile(r"\d+(?:st|nd|rd|th)")


def add_tags(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the tags of its words and of its objects.

    num_words (int); has_location, has_relation (another thing is named), has_superlative (or comparative), has_ordinal,
    has_attribute, has_negation, has_rare_word (in fewer than 1 of 5,000 expressions of the table's train split, or of
    the whole table where there is none), has_ambiguous (a pronoun, or several relations, so that one can attach to
    several nouns; or the sentence's own kind is "ambiguous"), touches_border (bool); area_size ("small", "medium",
    "large": COCO's thresholds at the image's own size). Reads text, split, rle, height, width, area, and kind if there.
    """
    words = [words_of(text) for text in table["text"]]
    tags = pd.DataFrame([word_tags(sentence) for sentence in words], index=table.index)
    tags["has_rare_word"] = _has_rare_word(words, (table["split"] == "train").to_numpy())
    if "kind" in table:
        tags["has_ambiguous"] |= table["kind"] == "ambiguous"
    sizes = np.array(["small", "medium", "large"])
    tags["area_size"] = sizes[np.searchsorted(COCO_AREAS, table["area"], side="right")]
    tags["touches_border"] = _touches_border(table)
    return table.assign(**tags)


def add_token_tags(table: pd.DataFrame, tokenizer, num_tokens: int = 20) -> pd.DataFrame:
    """The table with num_tokens (int: specials included, before cutting) and cut (bool: more than `num_tokens`)."""
    counts = token_counts(tokenizer, table["text"].tolist())
    return table.assign(num_tokens=counts, cut=counts > num_tokens)


def words_of(text: str) -> list[str]:
    """Lower-case words; apostrophes and hyphens stay inside them, also where a tokenizer tore them out."""
    text = text.lower().replace("’", "'")
    return _WORD.findall(_TORN.sub(r"\1", text) if " ' " in text or " - " in text else text)


def word_tags(words: list[str]) -> dict:
    """The tags that depend on nothing but an expression's words."""
    present, num_relations = set(words), _num_relations(words)
    return {
        "num_words": len(words),
        "has_location": not LOCATION.isdisjoint(NOT_LOCATION.sub("", " ".join(words)).split()),
        "has_relation": num_relations > 0,
        "has_superlative": not SUPERLATIVE.isdisjoint(present),
        "has_ordinal": not ORDINAL.isdisjoint(present) or any(map(_ORDINAL_NUMBER.fullmatch, words)),
        "has_attribute": not ATTRIBUTE.isdisjoint(present),
        "has_negation": not NEGATION.isdisjoint(present) or any(word.endswith("n't") for word in words),
        "has_ambiguous": num_relations > 1 or not PRONOUN.isdisjoint(present),
    }


def _num_relations(words: list[str]) -> int:
    """Relation words and phrases followed by a thing, not by a place in the picture ("on the left")."""
    count = position = 0
    while position < len(words):
        length = _relation_length(words, position)
        position += length or 1
        rest = (word for word in words[position:] if word not in FILLERS)
        thing = next(rest, None) if length else None
        count += thing is not None and thing not in LOCATION and thing not in PICTURE
    return count


def _relation_length(words: list[str], start: int) -> int:
    """Number of words of the relation that begins at `start`, the longest reading; 0 for none."""
    for length in (4, 3, 2):
        if "_".join(words[start : start + length]) in RELATION_PHRASES:
            return length
    return int(words[start] in RELATION)


def _has_rare_word(words: list[list[str]], in_train: np.ndarray) -> list[bool]:
    train = [words[row] for row in np.flatnonzero(in_train)] or words
    counts = Counter(word for sentence in train for word in set(sentence))
    everything = {word for sentence in words for word in sentence}
    rare = {word for word in everything if counts[word] < RARE_SHARE * len(train)}
    return [not rare.isdisjoint(sentence) for sentence in words]


def _touches_border(table: pd.DataFrame) -> np.ndarray:
    sizes = zip(table["height"].tolist(), table["width"].tolist(), table["rle"].tolist())
    boxes = coco.toBbox([{"size": [height, width], "counts": rle} for height, width, rle in sizes])
    x0, y0, x1, y1 = boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    touches = (x0 <= 0) | (y0 <= 0) | (x1 >= table["width"].to_numpy()) | (y1 >= table["height"].to_numpy())
    return touches & (table["area"] > 0).to_numpy()  # the box of nothing lies in the corner
