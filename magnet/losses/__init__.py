"""Loss terms by the name a configuration gives them: each takes (outputs, batch) and gives a scalar.

batch["masks"] is (B,S,S), 1 foreground and 0 background. Weights live in the configuration, not here.
"""

from inspect import signature

from torch import Tensor

from magnet.losses.contrast import pixel_contrast
from magnet.losses.segmentation import cross_entropy, dice, mask_bce, mask_dice, no_target

TERMS = {
    "cross_entropy": cross_entropy, "dice": dice, "mask_bce": mask_bce, "mask_dice": mask_dice, "no_target": no_target,
    "pixel_contrast": pixel_contrast,
}  # fmt: skip


def check_arguments(weights: dict[str, float], arguments: dict[str, dict]) -> None:
    """ValueError for a term that is not weighed or an argument that its function does not take."""
    for term, own in arguments.items():
        if term not in weights or term not in TERMS:
            raise ValueError(f"loss_arguments: {term} is no term of losses={weights}")
        known = list(signature(TERMS[term]).parameters)[2:]  # behind outputs and batch
        if unknown := [name for name in own if name not in known]:
            raise ValueError(f"loss_arguments: no {term}.{unknown[0]}; {term} takes {', '.join(known) or 'none'}")


def compute(
    weights: dict[str, float], outputs: dict, batch: dict, arguments: dict[str, dict] | None = None
) -> dict[str, Tensor]:
    """The raw terms that `weights` names, in its order, with the `arguments` of each. Raises ValueError for a name that
    is no term, or one that reads what the network does not give."""
    unknown = [name for name in weights if name not in TERMS]
    if unknown or not weights:
        raise ValueError(f"losses={weights}: there are the terms {', '.join(TERMS)}")
    try:
        return {name: TERMS[name](outputs, batch, **(arguments or {}).get(name, {})) for name in weights}
    except KeyError as missing:
        raise ValueError(
            f"losses={weights}: one reads {missing}, which this network does not give. mask_bce and mask_dice suit "
            "every network; cross_entropy and dice need LAVT's or CoupAlign's two classes, no_target MagNet's head"
        ) from missing


def weighted_sum(weights: dict[str, float], terms: dict[str, Tensor]) -> Tensor:
    """Σ weight · term, the scalar that is minimised."""
    return sum(weights[name] * value for name, value in terms.items())
