"""The studies that come with the package: `magnet ablate components`; each says beforehand what would refute its claim.

Claims are the papers', or ours where the papers left a choice open. All run at a laptop's size: RefShapes at 96 px,
500 steps of the recipe, minutes a run, where scores are far from the top and a difference has room. What is found holds
there.
"""

from pathlib import Path

from magnet.config import GroundingConfig
from magnet.workbench.study import Study, read_study

GROUNDING = {"grounding": {}}
BOTH_SIDES = "both intervals exclude 0, over seeds (Holm) and over images"


def find(name: str) -> Study:
    """The study of that name, or in that JSON file. Raises ValueError that lists the studies."""
    if name in STUDIES:
        return STUDIES[name]()
    if name.endswith(".json"):
        study = read_study(Path(name))
        if study.name in STUDIES:  # their results would lie in one folder
            raise ValueError(f"{name}: name = {study.name!r} is a study that comes with the package; take another name")
        return study
    raise ValueError(f"no study {name!r}; there are {', '.join(STUDIES)}, and your own in a .json file")


def components() -> Study:
    """2^3: each part of MagNet on and off, and a network with the alignment module's size that cannot do its work."""
    parts = {"grounding": "Mask Grounding", "cam": "CAM", "alignment": "CAL"}
    settings = {"grounding": GROUNDING, "alignment": {"alignment": {}}}
    variants, factorial = {}, {}
    for on in _subsets(tuple(parts)):
        name = "_".join(on) or "baseline"
        changes = {"model": {"fusion": "cam" if "cam" in on else "pwam"}}
        variants[name] = changes | {k: v for part in on if part in settings for k, v in settings[part].items()}
        factorial[name] = tuple(parts[part] for part in on)
    return Study(
        name="components",
        claim="Mask Grounding, CAM and CAL each raise oIoU, and they are synergistic: together they bring more than "
        "the sum. CAM does so by its exchange and not by its size",
        refuted_by="a part's main effect at or below 0, or an interaction below 0, where " + BOTH_SIDES + "; a main "
        "effect or interaction not told apart from 0 leaves the claim unsupported; CAM not above its control of equal "
        "size means that size may explain it",
        variants=variants | {"matched": {"model": {"fusion": "pwam_matched"}}},
        factorial=factorial,
        comparisons=(("CAM − control of equal size", "cam", "matched"),),
    )


def grounding() -> Study:
    """What in Mask Grounding matters, one choice at a time from the default."""
    choices = {
        "ratio_30": {"ratio": 0.3}, "ratio_50": {"ratio": 0.5}, "box": {"mask_encoder": "box"},
        "pooled": {"mask_encoder": "pooled"}, "one_pass": {"passes": 1},
        "text_only": {"context": "text"}, "no_mask": {"context": "image"}, "shuffled": {"shuffled_masks": True},
    }  # fmt: skip
    default = GroundingConfig()
    names = {
        "ratio_30": f"ratio 0.3 − {default.ratio}", "ratio_50": f"ratio 0.5 − {default.ratio}",
        "box": f"mask encoder box − {default.mask_encoder}", "pooled": f"mask encoder pooled − {default.mask_encoder}",
        "one_pass": "one pass − two", "text_only": "words alone − all", "no_mask": "without the mask − all",
        "shuffled": "masks of other pictures − own",
    }  # fmt: skip
    return Study(
        name="grounding",
        claim="Mask Grounding raises oIoU because hidden words are found from the picture and the true mask; two "
        "passes are worth their cost",
        refuted_by="Mask Grounding − none at or below 0, or hiding words without picture or mask, or with other "
        "pictures' masks, above hiding them with all, or one pass above two, where " + BOTH_SIDES + "; such a "
        "variant not told apart from all leaves open that hiding words is a language task",
        variants={"none": {}, "default": GROUNDING} | {name: {"grounding": value} for name, value in choices.items()},
        comparisons=(
            ("Mask Grounding − none", "default", "none"),
            *((said, name, "default") for name, said in names.items()),
        ),
    )


def alignment() -> Study:
    """CAL's two terms, alone and together, and the choices that the paper leaves open."""
    terms = {"pixel_pixel": {"pixel_text": 0.0}, "pixel_text": {"pixel_pixel": 0.0}, "both": {}}
    open_choices = {
        "first": {"sentence": "first"},
        "cold": {"pixel_temperature": 0.05, "text_temperature": 0.05},
        "warm": {"pixel_temperature": 0.2, "text_temperature": 0.2},
    }
    return Study(
        name="alignment",
        claim="Each alignment term raises oIoU, and both together raise it more than one",
        refuted_by="a term's main effect at or below 0, or both together at or below one alone, or another choice of "
        "sentence or temperature above the default, where " + BOTH_SIDES + "; a main effect not told apart from 0, or "
        "both together not told apart from one alone, leaves the claim unsupported",
        variants={"none": {}} | {name: {"alignment": value} for name, value in (terms | open_choices).items()},
        factorial={
            "none": (), "pixel_pixel": ("pixel-pixel",), "pixel_text": ("pixel-text",),
            "both": ("pixel-pixel", "pixel-text"),
        },
        comparisons=(
            ("both − pixel-pixel alone", "both", "pixel_pixel"),
            ("both − pixel-text alone", "both", "pixel_text"),
            ("sentence first − mean", "first", "both"),
            ("temperatures 0.05 − 0.1", "cold", "both"),
            ("temperatures 0.2 − 0.1", "warm", "both"),
        ),
    )  # fmt: skip


def prior_methods() -> Study:
    """Mask Grounding on LAVT and CoupAlign, from scratch and on from the same trained model with equal extra steps.

    LAVT is that of refshapes_tiny_lavt; data and steps are the study's own in all variants.
    """
    variants, comparisons = {}, []
    for method, recipe in (("LAVT", "refshapes_tiny_lavt"), ("CoupAlign", "coupalign_tiny")):
        own, on = method.lower(), {"recipe": recipe, "init": method.lower()}
        variants |= {own: {"recipe": recipe}, f"{own}_grounding": {"recipe": recipe, **GROUNDING}}
        variants |= {f"{own}_longer": on, f"{own}_longer_grounding": {**on, **GROUNDING}}
        comparisons += [
            (f"{method}: Mask Grounding from scratch", f"{own}_grounding", own),
            (f"{method}: Mask Grounding added later", f"{own}_longer_grounding", f"{own}_longer"),
        ]
    return Study(
        name="prior_methods",
        claim="Mask Grounding raises prior methods' oIoU, also without starting from scratch; CoupAlign leaves fewer "
        "masks incomplete and takes fewer wrong instances among objects of one class than LAVT",
        refuted_by="Mask Grounding at or below 0 on a method, from scratch or added later against as many extra steps "
        "without it; CoupAlign with as many part-only masks or wrong instances as LAVT, above all among distractors",
        variants=variants,
        comparisons=(*comparisons, ("CoupAlign − LAVT", "coupalign", "lavt")),
        errors=("part", "wrong_instance"),
    )


def grounding_weight() -> Study:
    """How much Mask Grounding may weigh beside LAVT's own losses, whose sum ends at about 0.5 where MagNet's is 9.

    `none` and `weight_100` are trained as `lavt` and `lavt_grounding` of prior_methods are.
    """
    lavt, weights = {"recipe": "refshapes_tiny_lavt"}, (0.03, 0.1, 0.3, 1.0)
    names = {weight: f"weight_{100 * weight:.0f}" for weight in weights}
    return Study(
        name="grounding_weight",
        claim="At weight 1 Mask Grounding costs LAVT oIoU because the loss of the hidden words outweighs LAVT's own; "
        "at a smaller weight it does not, and raises it",
        refuted_by="weight 1 at or above none, every smaller weight at or below 1, or weight 0.1 at or below none, "
        "where " + BOTH_SIDES + "; weight 1 not told apart from none, or no smaller weight from 1, leaves the claim "
        "unsupported, and weight 0.1 not told apart from none its second half: then the balance may explain the cost, "
        "but Mask Grounding is not shown to help LAVT",
        variants={"none": lavt} | {name: lavt | {"grounding": {"weight": weight}} for weight, name in names.items()},
        comparisons=(
            *((f"weight {weight} − 1", names[weight], "weight_100") for weight in weights[:-1]),
            ("weight 1 − none", "weight_100", "none"),
            ("weight 0.1 − none", "weight_10", "none"),
        ),
    )


def coupalign() -> Study:
    """CoupAlign's parts, switched off or exchanged one at a time."""
    words = {"pixels": "words read no pixels", "last": "and pixels read words last alone", "none": "no exchange"}
    variants = {"coupalign": {}} | {f"words_{one}": _coupalign(word_pixel=one) for one in words}
    weightings = {
        "none": "proposals not weighed by the sentence", "softmax": "proposals weighed by softmax",
        "sum": "weighed proposals summed to one map",
    }  # fmt: skip
    variants |= {f"weights_{one}": _coupalign(weighting=one) for one in weightings}
    variants["linear"] = _coupalign(soft_proposals=False)
    variants["no_contrast"] = {"losses": {"cross_entropy": 1.0, "dice": 2.0}}
    named = {f"words_{one}": said for one, said in words.items() if one != "last"}
    named |= {f"weights_{one}": said for one, said in weightings.items()}
    named |= {"linear": "proposals weighed as logits", "no_contrast": "no pixel contrast"}
    return Study(
        name="coupalign",
        claim="Word-pixel alignment at every stage and in both encoders, sentence-mask alignment over proposals and "
        "the contrast of pixels each raise CoupAlign's oIoU",
        refuted_by="a variant without one of them above the whole, where " + BOTH_SIDES + "; one not told apart from "
        "it leaves that part's claim unsupported",
        variants=variants,
        comparisons=(
            ("last stage alone − every stage, where words read no pixels", "words_last", "words_pixels"),
            *((said, name, "coupalign") for name, said in named.items()),
        ),
        errors=("part", "wrong_instance"),
        recipe="coupalign_tiny",
    )


def _coupalign(**fields: str | bool) -> dict:
    return {"model": {"coupalign": fields}}


def backbones() -> Study:
    """Other vision backbones of timm, and what naming objects beforehand is worth."""
    plain = {"optim": {"frozen": []}}  # all of a backbone that knows nothing must learn, at the whole rate
    plain["optim"]["rates"] = {"embeddings": 1.0, "^language": 0.1}
    convnext = {"depths": [1, 1, 2, 1], "dims": [32, 64, 128, 128], "out_indices": [1, 2, 3]}
    swin = {
        "embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 4], "window_size": 4, "out_indices": [1, 2, 3],
    }  # fmt: skip
    others = {
        "convnext": {"name": "convnext_atto", "options": convnext},
        "swin": {"name": "swin_tiny_patch4_window7_224", "options": swin},
    }
    variants = {"resnet": {}, "resnet_random": {**plain, "model": {"vision": {"pretrained": None}}}}
    for name, vision in others.items():
        variants[name] = {"optim": {"frozen": []}, "model": {"vision": vision}}
        variants[f"{name}_random"] = {**plain, "model": {"vision": {**vision, "pretrained": None}}}
    return Study(
        name="backbones",
        claim="Each of three backbones gives MagNet a higher oIoU if it could name objects beforehand, and in place of "
        "a random ResNet a named one brings more than another random backbone",
        refuted_by="a named backbone at or below its random twin, or the named ResNet at or below another random one, "
        "where " + BOTH_SIDES + "; a difference not told apart from 0 leaves its part of the claim unsupported",
        variants=variants,
        comparisons=(
            *((f"{name}: named before − random", name, f"{name}_random") for name in ("resnet", *others)),
            *((f"resnet named before − {name} random", "resnet", f"{name}_random") for name in others),
        ),
    )


def _subsets(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All 2^k, none first."""
    found = [()]
    for part in parts:
        found += [(*some, part) for some in found]
    return found


STUDIES = {make.__name__: make for make in (
    components, grounding, alignment, prior_methods, grounding_weight, coupalign, backbones,
)}  # fmt: skip
