"""Swapped attribute words: what the changed sentence means, found a second way; answers of oracles and of the deaf."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS, tiny_config

import magnet
from magnet.predictor import Predictor
from magnet.refshapes import sample
from magnet.refshapes.programs import MAYBE, SURE, Facts, execute
from magnet.refshapes.words import NOUNS_AND_ADJECTIVES
from magnet.workbench.counterfactuals import ATTRIBUTES, KINDS, ask_swaps, summarize_swaps, swaps
from magnet.workbench.paraphrases import paraphrases
from magnet.workbench.scene_questions import NOTHING, ask_about_scenes, scene_ids

SIZE = 32


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    return swaps("val", 90)


def scene_of(pair):
    return sample(pair.seed, pair.scene, pair.split, 8).scene


def test_a_pair_differs_in_one_word_that_names_another_value(pairs):
    assert len(pairs) > 30 and set(pairs["attribute"]) >= {"colour", "shape", "texture"}
    for pair in pairs.itertuples():
        differ = {(a, b) for a, b in zip(pair.text.split(), pair.new_text.split(), strict=True) if a != b}
        assert differ == {(pair.word, pair.new_word)}
        assert {pair.old, pair.new} <= set(ATTRIBUTES[pair.attribute]) and pair.old != pair.new
        assert pair.word in NOUNS_AND_ADJECTIVES[pair.old] and pair.new_word in NOUNS_AND_ADJECTIVES[pair.new]


def test_both_sentences_mean_one_object_beyond_doubt_and_not_the_same(pairs):
    for pair in pairs.itertuples():
        facts = Facts(scene_of(pair))
        for program, target in ((pair.program, pair.target), (pair.new_program, pair.new_target)):
            meant = [execute(json.loads(program), facts, level) for level in (SURE, MAYBE)]
            assert meant == [1 << target] * 2
        assert pair.target != pair.new_target and pair.kind in KINDS


def test_a_plain_noun_phrase_read_word_by_word_fits_the_new_target_alone(pairs):
    """A second path for attributes: no program, only the words of the sentence and the objects' attributes."""
    value_of = {word: value for value, words in NOUNS_AND_ADJECTIVES.items() for word in words}
    plain = pairs[pairs["kind"] == "attribute"]
    assert len(plain) > 5
    for pair in plain.itertuples():
        words = pair.new_text.replace("plus sign", "cross").split()  # the one name that no single word gives away
        wanted = {value_of[word] for word in words if word in value_of} - {"thing"}
        fitting = [k for k, thing in enumerate(scene_of(pair).objects) if wanted <= set(thing[:4])]
        assert fitting == [pair.new_target], pair


def test_what_the_sentence_adds_is_needed(pairs):
    """ "The disc on the left" is not asked where there is one disc."""
    for pair in pairs[pairs["kind"] != "attribute"].itertuples():
        program, objects = json.loads(pair.new_program), scene_of(pair).objects
        while program[0] != "objects":
            program = program[1]
        assert sum(set(program[1].values()) <= set(thing[:4]) for thing in objects) > 1


def test_pairs_depend_on_their_scene_alone(pairs):
    pd.testing.assert_frame_equal(swaps("val", 30), pairs[pairs["scene"] < 30])
    assert not swaps("val", 30, seed=1).equals(pairs[pairs["scene"] < 30])


def test_a_split_of_other_sentences_is_refused():
    with pytest.raises(ValueError, match=r"'no_target' do not mean one object; those of train, val"):
        swaps("no_target", 1)
    with pytest.raises(ValueError, match="no split 'test'"):
        paraphrases("test", 1)


class Scripted:
    """Marks what a script says: (scene's picture, text) -> object, or None for nothing."""

    def __init__(self, questions: pd.DataFrame, objects: list):
        self.data = tiny_config().data
        self.script = dict(zip(zip(questions["scene"], questions["text"]), objects))
        drawn = {scene: sample(0, scene, "val", SIZE) for scene in questions["scene"].unique()}
        self.scenes = {one.image.tobytes(): (scene, one.masks) for scene, one in drawn.items()}

    def set_image(self, image):
        self.scene, self.masks = self.scenes[image.tobytes()]

    def predict(self, text):
        chosen = self.script[self.scene, text]
        return (np.zeros((SIZE, SIZE), bool) if chosen is None else self.masks[chosen]), 1.0


def scripted(pairs: pd.DataFrame, before: list, after: list) -> Scripted:
    both = pd.concat([pairs, pairs.assign(text=pairs["new_text"])])
    return Scripted(both, [*before, *after])


def test_who_listens_is_right_and_who_does_not_stays(pairs):
    pairs = pairs.drop_duplicates(["scene", "text"]).head(20)
    meant, new = pairs["target"].tolist(), pairs["new_target"].tolist()
    listens = ask_swaps(scripted(pairs, meant, new), pairs, progress=False)
    assert listens["right"].all() and listens["new_right"].all() and not listens["stayed"].any()
    assert (listens["iou"] == 1).all() and (listens["new_iou"] == 1).all() and listens.index.equals(pairs.index)
    deaf = ask_swaps(scripted(pairs, meant, meant), pairs, progress=False)
    assert deaf["right"].all() and not deaf["new_right"].any() and deaf["stayed"].all() and (deaf["new_iou"] == 0).all()
    mute = ask_swaps(scripted(pairs, meant, [None] * 20), pairs, progress=False)
    assert (mute["new_picked"] == NOTHING).all() and not (mute["new_right"] | mute["stayed"]).any()


def test_the_summary_counts_pairs_by_group():
    answers = pd.DataFrame({
        "split": "val", "seed": 0, "scene": [0, 3, 1, 2], "attribute": ["colour", "colour", "shape", "shape"],
        "kind": "location", "right": [True, True, True, False], "new_right": [True, False, True, True],
        "stayed": [False, True, False, False],
    })  # fmt: skip
    summary = summarize_swaps(answers, num_draws=200)["value"].unstack("what")
    assert summary.loc["all"].to_dict() == {"new_right": 75, "right": 75, "both": 50, "stayed": 25}
    assert summary.loc["shape"].to_dict() == {"new_right": 100, "right": 50, "both": 50, "stayed": 0}
    assert summarize_swaps(answers, "kind", 200).loc["location", "n"].tolist() == [4] * 4


def test_scenes_of_two_splits_are_not_taken_for_one():
    table = pd.DataFrame({"split": ["val", "val", "testA"], "seed": 0, "scene": [3, 3, 3]})
    first, second, third = scene_ids(table)
    assert first == second != third


def test_a_network_is_asked_about_the_picture_as_its_size_wants_it(pairs):
    """The answers are those that the predictor gives when asked by hand."""
    config = tiny_config()
    predictor = Predictor(magnet.build_model(config.model), config.data, "refshapes")
    questions = pairs.sample(6, random_state=0)
    answers = ask_about_scenes(predictor, questions, progress=False)
    assert answers.index.equals(questions.index) and (answers["image_size"] == SIZE).all()
    for question, answer in zip(questions.itertuples(), answers.itertuples()):
        drawn = sample(0, question.scene, "val", SIZE)
        predictor.set_image(drawn.image)
        mask, _ = predictor.predict(question.text)
        iou = [(mask & one).sum() / (mask | one).sum() for one in drawn.masks]
        assert answer.iou == pytest.approx(iou[question.target])
        assert answer.picked == (int(np.argmax(iou)) if max(iou) > 0 else NOTHING)
        assert answer.right == (answer.picked == question.target)


def test_scenes_are_those_of_the_data_set(pairs):
    """The sentences of the shipped val split mean the same objects."""
    table = magnet.data.select_split(magnet.data.read_refer(ASSETS, cache=False), "val")
    drawn = [one for scene in range(table["image_id"].nunique()) for one in sample(0, scene, "val", 8).expressions]
    assert sorted(json.dumps(one.program) for one in drawn) == sorted(table["program"])
