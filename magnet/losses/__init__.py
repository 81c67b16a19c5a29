"""Loss terms by the name a configuration gives them: each takes (outputs, batch) and gives a scalar.

batch["masks"] is (B,S,S), 1 foreground and 0 background. Weights live in the configuration, not here.
"""

from torch import Tensor

from magnet.losses.contrast import pixel_contrast
from magnet.losses.segmentation import cross_entropy, dice, mask_bce, mask_dice, no_target

TERMS = {
    "cross_entropy": cross_entropy, "dice": dice, "mask_bce": mask_bce, "mask_dice": mask_dice, "no_target": no_target,
    "pixel_contrast": pixel_contrast,
}  # fmt: skip


def compute(weights: dict[str, float], outputs: dict, batch: dict) -> dict[str, Tensor]:
    """The raw terms that `weights` names, in its order. Raises ValueError for a name that is no term, or one that
    reads what the network does not give."""
    unknown = [name for name in weights if name not in TERMS]
    if unknown or not weights:
        raise ValueError(f"losses={weights}: there are the terms {', '.join(TERMS)}")
    try:
        return {name: TERMS[name](outputs, batch) for name in weights}
    except KeyError as missing:
        raise ValueError(
            f"losses={weights}: one reads {missing}, which this network does not give. mask_bce and mask_dice suit "
            "every network; cross_entropy and dice need LAVT's or CoupAlign's two classes, no_target MagNet's head"
        ) from missing


def weighted_sum(weights: dict[str, float], terms: dict[str, Tensor]) -> Tensor:
    """Σ weight · term, the scalar that is minimised."""
    return sum(weights[name] * value for name, value in terms.items())
