"""What a study is: every one that comes with the package can be trained, and its contrasts are those of its design."""

import json
from dataclasses import replace

import pytest

import magnet
from magnet import runs
from magnet.config import AlignmentConfig, GroundingConfig
from magnet.objective import Objective
from magnet.optimizer import build_optimizer
from magnet.recipes import RECIPES
from magnet.workbench import studies
from magnet.workbench.benchmark import offline
from magnet.workbench.demo import demo_config
from magnet.workbench.study import Study, changed, read_study

OWN = {
    "name": "own", "claim": "c", "refuted_by": "r", "variants": {"plain": {}, "with": {"grounding": {"ratio": 0.3}}},
    "comparisons": [["ratio 0.3", "with", "plain"]], "seeds": [3, 4],
}  # fmt: skip


def study(**fields) -> Study:
    return Study(
        **{"name": "s", "claim": "c", "refuted_by": "r", "variants": {"a": {}, "b": {"grounding": {}}}} | fields
    )


def as_read(config):
    """With lists for an option's tuples, as every configuration is read from its file."""
    return runs.config_from_dict(runs.config_to_dict(config))


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_can_be_trained_and_says_what_would_refute_it(name):
    found = studies.find(name)
    assert found.name == name and found.claim and found.refuted_by and len(found.seeds) == 5
    recipes = {found.recipe, *(changes.get("recipe", found.recipe) for changes in found.variants.values())}
    if missing := recipes - set(RECIPES):
        pytest.skip(f"no recipe {missing} yet")
    digests = [found.digest(variant, seed) for variant in found.variants for seed in found.seeds]
    assert len(set(digests)) == len(digests), "two runs would be the same"
    for variant in found.variants:
        config = found.config(variant, seed=0)
        objective = Objective(replace(config, model=offline(config.model)))
        build_optimizer(objective, config.optim)  # refuses patterns that match no parameter
    contrasts = found.contrasts()
    assert contrasts and all(sum(weights.values()) == 0 for weights in contrasts.values())
    assert {variant for weights in contrasts.values() for variant in weights} == set(found.variants), (
        "one is for nothing"
    )


def test_components_is_a_whole_factorial_and_differs_in_its_parts_alone():
    found = studies.find("components")
    plain, everything = found.config("baseline", 2), found.config("grounding_cam_alignment", 2)
    assert plain.model.fusion == "pwam" and plain.grounding is None and plain.alignment is None and plain.seed == 2
    assert everything.grounding == GroundingConfig() and everything.alignment == AlignmentConfig()
    assert replace(everything, grounding=None, alignment=None, model=replace(everything.model, fusion="pwam")) == plain
    assert found.factorial["cam_alignment"] == ("CAM", "CAL") and len(found.contrasts()) == 8


def test_a_run_is_the_recipe_at_a_laptops_length():
    recipe, config = magnet.recipe("magnet_tiny"), studies.find("components").config("cam", 0)
    assert config.optim.num_steps == config.optim.val_every == 500
    assert config.data.easy_first == round(recipe.data.easy_first * 500 / recipe.optim.num_steps)
    assert as_read(config).model == as_read(recipe).model, (
        "the backbone learns names as long as the recipe's, and is shared with it"
    )
    assert study(num_steps=None).config("a", 0) == as_read(recipe)


def test_other_recipes_get_the_same_data_and_length():
    found = studies.find("prior_methods")
    lavt, base = found.config("lavt", 0), studies.find("components").config("cam", 0)
    assert lavt.model.method == "lavt" and lavt.recipe == "refshapes_tiny_lavt"
    assert lavt.data == base.data and lavt.optim == base.optim


def test_only_the_weight_differs_and_its_ends_are_runs_of_prior_methods():
    found, prior = studies.find("grounding_weight"), studies.find("prior_methods")
    assert found.digest("none", 0) == prior.digest("lavt", 0)
    assert found.digest("weight_100", 0) == prior.digest("lavt_grounding", 0)
    for variant, weight in (("weight_3", 0.03), ("weight_10", 0.1), ("weight_30", 0.3), ("weight_100", 1.0)):
        config = found.config(variant, 2)
        assert config.grounding == GroundingConfig(weight=weight)
        assert replace(config, grounding=None) == found.config("none", 2)


def test_what_starts_from_another_goes_on_with_new_scenes_and_depends_on_it():
    found = studies.find("prior_methods")
    first, later = found.config("lavt", 1), found.config("lavt_longer_grounding", 1)
    assert found.start("lavt_longer_grounding") == "lavt" and found.start("lavt") is None
    assert first.data.easy_first > 0 == later.data.easy_first and later.seed not in found.seeds
    assert later.optim == first.optim and later.grounding == GroundingConfig()
    two = study(variants={"a": {}, "b": {"init": "a"}})
    other = study(variants={"a": {"grounding": {}}, "b": {"init": "a"}})
    assert two.config("b", 0) == other.config("b", 0) and two.digest("b", 0) != other.digest("b", 0)


def test_the_factorials_effects_by_hand():
    found = study(
        variants={name: {} for name in ("none", "a", "b", "ab")},
        factorial={"none": (), "a": ("A",), "b": ("B",), "ab": ("A", "B")},
    ).contrasts()
    assert found == {
        "A": {"none": -0.5, "a": 0.5, "b": -0.5, "ab": 0.5},
        "B": {"none": -0.5, "a": -0.5, "b": 0.5, "ab": 0.5},
        "A × B": {"none": 1.0, "a": -1.0, "b": -1.0, "ab": 1.0},
    }


def test_the_components_effects_are_those_put_in():
    """Scores made of known parts: main effects are means over the others, interactions points beyond the sum."""
    found = studies.find("components")
    scores = {}
    for variant, on in found.factorial.items():
        grounding, cam, alignment = ("Mask Grounding" in on), ("CAM" in on), ("CAL" in on)
        scores[variant] = (
            40 + 3 * grounding + 5 * cam + 1 * alignment + 2 * grounding * cam + 4 * grounding * cam * alignment
        )
    scores["matched"] = 44
    effects = {name: sum(w * scores[v] for v, w in weights.items()) for name, weights in found.contrasts().items()}
    assert effects["Mask Grounding"] == pytest.approx(3 + 2 / 2 + 4 / 4)
    assert effects["CAM"] == pytest.approx(5 + 2 / 2 + 4 / 4) and effects["CAL"] == pytest.approx(1 + 4 / 4)
    assert effects["Mask Grounding × CAM"] == pytest.approx(2 + 4 / 2)
    assert effects["CAM × CAL"] == effects["Mask Grounding × CAL"] == pytest.approx(4 / 2)
    assert effects["Mask Grounding × CAM × CAL"] == pytest.approx(4)
    assert effects["CAM − control of equal size"] == pytest.approx(1)


def test_naming_beforehand_is_worth_more_than_another_backbone_where_the_contrast_is_above_0():
    """Both are gains over a ResNet that knows nothing, so their difference does not hold its score."""
    contrasts = studies.find("backbones").contrasts()
    for name in ("convnext", "swin"):
        named, other = {"resnet": 1.0, "resnet_random": -1.0}, {f"{name}_random": 1.0, "resnet_random": -1.0}
        variants = named.keys() | other.keys()
        difference = {one: named.get(one, 0.0) - other.get(one, 0.0) for one in variants}
        found = contrasts[f"resnet named before − {name} random"]
        assert found == {one: weight for one, weight in difference.items() if weight}


def test_both_alignment_terms_are_compared_with_each_alone():
    contrasts = studies.find("alignment").contrasts()
    assert contrasts["both − pixel-pixel alone"] == {"both": 1.0, "pixel_pixel": -1.0}
    assert contrasts["both − pixel-text alone"] == {"both": 1.0, "pixel_text": -1.0}


def test_no_contrast_is_the_recipe_without_its_contrast():
    if "coupalign_tiny" not in RECIPES:
        pytest.skip("no recipe coupalign_tiny yet")
    found = studies.find("coupalign")
    whole, without = found.config("coupalign", 0), found.config("no_contrast", 0)
    assert without.losses == {name: w for name, w in whole.losses.items() if name != "pixel_contrast"}
    assert whole.losses.keys() - without.losses.keys() == {"pixel_contrast"}


def test_nested_changes_and_their_errors():
    config = as_read(magnet.recipe("magnet_tiny"))
    made = changed(config, {"model": {"fusion": "pwam", "vision": {"drop_path": 0.1}}, "grounding": {"ratio": 0.3}})
    assert made.model.fusion == "pwam" and made.grounding == GroundingConfig(ratio=0.3)
    assert made.model.vision == replace(config.model.vision, drop_path=0.1) and made.data == config.data
    assert changed(made, {"grounding": {"passes": 1}}).grounding == GroundingConfig(ratio=0.3, passes=1)
    assert changed(made, {"grounding": None}).grounding is None and changed(config, {}) == config
    with pytest.raises(ValueError, match=r"no setting model\.fusoin; there are .*model\.fusion"):
        changed(config, {"model": {"fusoin": "cam"}})
    with pytest.raises(ValueError, match="no setting steps; there are recipe, seed"):
        changed(config, {"steps": 3})
    with pytest.raises(ValueError, match="fusion='camm': one of 'pwam', 'pwam_matched', 'cam' is needed"):
        changed(config, {"model": {"fusion": "camm"}})


def test_a_study_of_ones_own_from_a_file(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(OWN))
    found = studies.find(str(path))
    assert found == read_study(path) and found.chosen() == [("plain", 3), ("with", 3), ("plain", 4), ("with", 4)]
    assert found.config("with", 4).grounding == GroundingConfig(ratio=0.3)
    assert found.contrasts() == {"ratio 0.3": {"with": 1.0, "plain": -1.0}}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"variant": {}}, r"own\.json: no field 'variant' in a study; there are name, claim, refuted_by, variants"),
        ({"variants": {"plain": {"groundin": {}}}, "comparisons": []}, r"own\.json: no setting groundin; there are"),
        (
            {"comparisons": [["x", "with", "plian"]]},
            r"comparison 'x': no variant 'plian' in own; there are plain, with",
        ),
        ({"variants": {"a-b": {}}, "comparisons": []}, "'a-b' names a study or variant"),
        ({"name": "../x"}, r"'\.\./x' names a study"),
        ({"recipe": "magnet_huge"}, r"own\.json: no recipe 'magnet_huge'; there are"),
        ({"factorial": {"plain": []}, "seeds": [0], "variants": {"plain": {}, "with": {}, "x": {"init": "y"}}}, "'y'"),
        ({"factorial": {"plain": [], "with": ["A", "B"]}}, "each set of A, B must be on in exactly one variant"),
        ({"variants": {"plain": {}, "with": {"init": "plain"}, "x": {"init": "with"}}}, "starts from another"),
        ({"seeds": ["zero"]}, "seeds"),
        ({"errors": ["nonsense"]}, "no kind 'nonsense'; there are right, wrong_instance"),
        ({"comparisons": [["x", "with", "plain"], ["x", "plain", "with"]]}, "each needs a name that no other"),
        ({"seeds": []}, r"own\.json: seeds of own is empty"),
        ({"claim": "  "}, "claim of own is empty"),
        ({"comparisons": [["x", "with", "with"]]}, "comparison 'x' of own compares 'with' with itself"),
        ({"variants": {"plain": {}, "with": {"seed": 7}}}, "seed in with of own: seeds are the study's own field"),
        ({"changes": {"data": {"root": "elsewhere"}}}, r"data\.root in changes of own: .* --root"),
        ({"variants": {"plain": {}, "with": {"log_every": 7}}}, "variants 'plain' and 'with' are the same"),
        ({"name": "tiny_effects"}, "'tiny_effects': what ends in _effects, _groups, _errors is a table"),
        ({"name": "a" * 101}, "names a study or variant"),
        ({"variants": {"plain": {}, "with": {"grounding": {"ratio": "0.3"}}}}, r"ratio='0\.3'"),
        ({"seeds": [0, 3, 0]}, r"own\.json: seeds = \[0, 3, 0\] of own: one comes twice"),
        ({"seeds": [0, -1]}, r"own\.json: seeds = \[0, -1\] of own: they start at 0"),
        ({"seeds": 3}, r"own\.json: seeds = 3: a list is needed"),
        ({"splits": "val"}, r"own\.json: splits = 'val': a list is needed"),
        ({"splits": ["val", "val"]}, "one comes twice"),
        ({"comparisons": ["abc"]}, "comparisons = 'abc': a list is needed"),
        ({"factorial": {"plain": [], "with": "CAM"}}, "factorial.with = 'CAM': a list is needed"),
        ({"variants": {}}, r"own\.json: variants of own is empty"),
        ({"refuted_by": ""}, r"own\.json: refuted_by of own is empty"),
        ({"num_steps": 0}, r"own\.json: num_steps = 0 of own: 1 or more, or null"),
        ({"num_steps": -3}, "num_steps = -3"),
        ({"num_expressions": 0}, "num_expressions = 0"),
    ],
)
def test_files_that_are_no_study_are_refused(tmp_path, changes, message):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(OWN | changes))
    with pytest.raises(ValueError, match=message):
        read_study(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"own"'])
def test_a_file_without_an_object_is_no_study(tmp_path, text):
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"own\.json holds no object .* with the fields name, claim, refuted_by"):
        read_study(path)


def test_a_file_cannot_take_the_name_of_a_study_that_is_there(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(OWN | {"name": "components"}))
    with pytest.raises(ValueError, match=r"own\.json: name = 'components' is a study that comes with the package"):
        studies.find(str(path))


def test_unknown_names_list_what_exists(tmp_path):
    with pytest.raises(ValueError, match="no study 'compnents'; there are components, grounding, alignment"):
        studies.find("compnents")
    with pytest.raises(FileNotFoundError, match="does not exist; a study's file is JSON"):
        studies.find(str(tmp_path / "none.json"))
    (tmp_path / "cut.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"cut\.json is not readable as JSON"):
        studies.find(str(tmp_path / "cut.json"))
    with pytest.raises(ValueError, match="--variants: no variant 'camm' in components; there are baseline"):
        studies.find("components").chosen(variants=("camm",))
    with pytest.raises(ValueError, match="--seeds: no seed 7 in components; there are 0, 1, 2, 3, 4"):
        studies.find("components").chosen(seeds=(0, 7))
    assert studies.find("components").chosen(("cam", "cam"), (0, 0)) == [("cam", 0)]


def test_the_demo_is_the_recipe_cut_to_its_minutes(tmp_path):
    recipe, config = magnet.recipe("magnet_tiny"), demo_config(minutes=3, seed=2, root=tmp_path)
    assert config.optim.num_steps == round(recipe.optim.num_steps / 4) and config.data.easy_first == 15_000
    assert config.model.vision.pretraining_steps == 150 and config.data.root == str(tmp_path) and config.seed == 2
    assert demo_config() == recipe
