"""Expressions: programs run as they read, describe exactly one object, and cannot be solved without word order."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

import magnet
from magnet.refshapes import words
from magnet.refshapes.language import KINDS, RULES, expressions
from magnet.refshapes.programs import MAYBE, SURE, Facts, execute, head, hops, mentions, sole, swap
from magnet.refshapes.sampling import sample
from magnet.refshapes.scene import HELD_OUT, Scene, SceneObject, draw_scene, stream

VOCABULARY = set((Path(magnet.__file__).parent / "assets/refshapes_vocab.txt").read_text().split("\n"))


def thing(shape: str, x: float, y: float, diameter: float = 0.2, colour: str = "red", texture: str = "plain"):
    return SceneObject(shape, colour, texture, "medium", x, y, diameter, 0.0, 0.0)


def facts_of(*things: SceneObject) -> Facts:
    return Facts(Scene((0,), things))


STAR, RING, HEART = (["objects", {"shape": shape}] for shape in ("star", "ring", "heart"))
STARS = (thing("star", 0.15, 0.2, 0.30), thing("star", 0.62, 0.8, 0.17, "blue"))
RINGS = (thing("ring", 0.42, 0.2, 0.2), thing("ring", 0.18, 0.8, 0.3, "blue", "striped"))
# a star and a ring side by side at the top, a ring and a star at the bottom; one heart in the top right corner
FACTS = facts_of(*STARS, *RINGS, thing("heart", 0.8, 0.25))


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (STAR, None),
        (["objects", {"shape": "star", "colour": "blue"}], 1),
        (["relation", STAR, "left of", RING], 0),  # Haddock: two rings, but only one with a star to its left
        (["relation", RING, "left of", STAR], 3),
        (["relation", RING, "above", RING], 2),
        (["relation", STAR, "below", HEART], 1),
        (["relation", STAR, "next to", RING], 0),
        (["location", RING, "top"], 2),
        (["location", STAR, "top left"], 0),
        (["location", HEART, "middle"], None),
        (["superlative", STAR, "largest"], 0),
        (["superlative", RING, "right"], 2),
        (["superlative", ["objects", {}], "left"], None),  # 0.15 and 0.18: too close to call
        (["ordinal", ["objects", {}], "smallest", 2], None),  # two are equal
        (["ordinal", ["objects", {}], "left", 4], 1),
        (["comparison", STAR, "larger", ["objects", {"shape": "ring", "colour": "red"}]], 0),
        (["comparison", STAR, "closer", HEART, ["objects", {"texture": "striped"}]], None),
        (["comparison", RING, "closer", HEART, ["objects", {"shape": "star", "colour": "blue"}]], 2),
        (["comparison", RING, "next to larger", STAR], 2),
        (["except", RING, ["objects", {"texture": "striped"}]], 2),
        (["except", STAR, ["superlative", STAR, "left"]], 1),
        (["that is", ["relation", STAR, "below", HEART], "blue"], 1),
        (["relation", HEART, "right of", ["that is", RING, "red"]], 4),
        (["relation", STAR, "left of", ["relation", RING, "left of", HEART]], 0),
    ],
)
def test_programs_pick_what_a_person_would(program, expected):
    assert sole(program, FACTS) == expected


def test_what_is_barely_true_is_only_maybe():
    near = facts_of(thing("star", 0.3, 0.5), thing("ring", 0.52, 0.75))  # neither beside nor clearly above
    program = ["relation", STAR, "left of", RING]
    assert execute(program, near, SURE) == 0 and execute(program, near, MAYBE) == 1


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match=r"'inside'.*relation"):
        execute(["inside", STAR], FACTS)


def test_sure_implies_maybe_for_everything_positive():
    for index in range(50):
        facts = Facts(draw_scene(0, index))
        sure, maybe = facts.links
        assert not (sure & ~maybe).any() and not (sure & np.eye(facts.num, dtype=bool)).any()
        assert all(not first & ~second for first, second in facts.places.values())


def test_swapping_roles_and_counting_hops():
    program = ["relation", STAR, "left of", ["relation", RING, "above", HEART]]
    assert swap(program) == ["relation", ["relation", RING, "above", HEART], "left of", STAR]
    assert swap(["comparison", STAR, "closer", RING, HEART]) == ["comparison", STAR, "closer", HEART, RING]
    assert swap(["location", STAR, "left"]) is None
    assert (hops(program), hops(STAR), head(program)) == (2, 0, STAR)
    assert mentions(program) == [STAR[1], RING[1], HEART[1]]


# ---- what is drawn, split by split

SPLITS = {split: [sample(4, index, split, 32) for index in range(72)] for split in RULES}


def drawn(split: str):
    return [(found, one) for found in SPLITS[split] for one in found.expressions]


@pytest.mark.parametrize("split", [split for split, rules in RULES.items() if rules.answer == "one"])
def test_exactly_one_object_satisfies_each_expression(split):
    for found, one in drawn(split):
        facts = Facts(found.scene)
        assert sole(one.program, facts) == one.target, one
        fitting = execute(head(one.program), facts).bit_count()
        assert fitting == one.distractors + 1 and (fitting > 1) == (one.kind != "attribute"), one


def test_special_splits_mean_none_or_several():
    for found, one in drawn("no_target"):
        assert execute(one.program, Facts(found.scene), MAYBE) == 0 and one.targets == ()
    for found, one in drawn("multi_target"):
        facts = Facts(found.scene)
        assert execute(one.program, facts) == execute(one.program, facts, MAYBE) == sum(1 << k for k in one.targets)
        assert len(one.targets) > 1 and one.text.startswith("every ")


def test_training_has_every_kind_and_several_expressions_per_scene():
    kinds = Counter(one.kind for _, one in drawn("train"))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 0.02 * kinds.total()
    assert np.mean([len(found.expressions) for found in SPLITS["train"]]) > 5.5
    assert all(len({one.text for one in found.expressions}) == len(found.expressions) for found in SPLITS["train"])
    fewer = [sample(4, index, image_size=32, num_expressions=1).expressions for index in range(72)]
    assert [one[0].text for one in fewer] == [found.expressions[0].text for found in SPLITS["train"]]


def test_val_weighs_the_kinds_equally():
    assert set(Counter(one.kind for _, one in drawn("val")).values()) == {2 * 72 // len(KINDS)}


def test_bags_of_words_and_head_phrases_are_right_half_the_time_on_test_b():
    """Each sentence stands beside one of the same words and another target: the best bag gets one of the two."""
    right_by_head = []
    for found in SPLITS["testB"]:
        facts = Facts(found.scene)
        bags = defaultdict(list)
        for one in found.expressions:
            bags[tuple(sorted(one.text.split()))].append(one.target)
            right_by_head.append(1 / execute(head(one.program), facts).bit_count())
        assert all(len(targets) == len(set(targets)) == 2 for targets in bags.values()), found.expressions
    assert np.mean(right_by_head) == 0.5
    assert {one.kind for _, one in drawn("testB")} == {"relation", "comparison"}
    assert {one.kind for _, one in drawn("testA")} == {"attribute", "location"}


def test_test_c_names_pairs_that_training_never_does():
    def held_out(one):
        return any((phrase.get("colour"), phrase.get("shape")) in HELD_OUT for phrase in mentions(one.program))

    assert all(held_out(one) for _, one in drawn("testC"))
    for split in ("train", "val", "testA", "testB", "testR", "no_target"):
        assert not any(held_out(one) for _, one in drawn(split))


def test_test_r_uses_words_rarer_than_one_in_five_thousand(monkeypatch):
    rare = {word for patterns in words.RARE.values() for pattern in patterns for word in plain_words(pattern)}
    assert all(rare & set(plain_words(one.text)) for _, one in drawn("testR"))
    said = Counter()
    say = words.Voice.say

    def counted(voice, concept, common):
        said[concept] += 1
        return say(voice, concept, common)

    monkeypatch.setattr(words.Voice, "say", counted)
    scenes = [draw_scene(9, index) for index in range(300)]
    num = sum(len(expressions(scene, RULES["train"], stream(scene.key, "words"), 0, 6)) for scene in scenes)
    for concept, patterns in words.RARE.items():
        likeliest = 1 / sum(rank**-words.ZIPF for rank in range(1, len(patterns) + 1))
        assert said[concept] / num * words.RARE_SHARE * likeliest < 1 / 5000 / 1.3, concept


def plain_words(pattern: str) -> list[str]:
    return pattern.replace("{}", " ").replace("{a}", " ").replace(",", " ").split()


def test_rare_words_fall_into_pieces_and_the_rest_of_the_language_is_known_whole():
    from magnet.data.text import load_tokenizer

    tokenizer = load_tokenizer("refshapes")
    for patterns in words.RARE.values():
        for pattern in patterns:
            for word in plain_words(pattern):
                pieces = tokenizer.tokenize(word)
                assert word in VOCABULARY or (2 <= len(pieces) <= 3 and "[UNK]" not in pieces), (word, pieces)
            assert any(word not in VOCABULARY for word in plain_words(pattern))
    for split in ("train", "val", "testA", "testB", "testC"):
        for _, one in drawn(split):
            pieces = tokenizer.tokenize(one.text)
            assert "[UNK]" not in pieces and len(pieces) <= 20
            rare = any(word not in VOCABULARY for word in plain_words(one.text.replace("-", " ").replace("'", " ")))
            assert rare == any(piece.startswith("##") for piece in pieces), one.text
    assert tokenizer.convert_tokens_to_ids("[PAD]") == 0


def test_words_follow_a_long_tail():
    counts = Counter(word for _, one in drawn("train") for word in one.text.split())
    assert counts["star"] > 2 * counts["pointed"] > 0 and counts["circle"] > counts["disc"] > 0
    frequencies = sorted(counts.values(), reverse=True)
    assert frequencies[0] > 30 * frequencies[len(frequencies) // 2]


def test_one_reading_of_an_ambiguous_sentence_describes_one_object():
    seen = Counter()
    for split in ("train", "val"):
        for found, one in drawn(split):
            assert one.ambiguous == (one.kind == "ambiguous") == (one.other_reading is not None)
            if one.ambiguous:
                assert sole(one.other_reading, Facts(found.scene)) is None
                seen[one.program[0]] += 1
    assert {"that is", "relation", "except"} <= set(seen)


def test_neither_hop_of_two_is_idle_and_no_other_attachment_misleads():
    for split in ("train", "val"):
        for found, one in drawn(split):
            if one.kind == "two_hop":
                facts = Facts(found.scene)
                _, noun, first, (_, middle, second, anchor) = one.program
                assert one.hops == 2 and sole(["relation", noun, first, middle], facts) is None
                assert execute(middle, facts).bit_count() > 1
                misread = sole(["relation", ["relation", noun, first, middle], second, anchor], facts)
                assert misread in (None, one.target)
