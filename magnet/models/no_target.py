"""How a network says that a sentence means nothing in the picture (gRefCOCO): two published ways.

"area": fewer than 50 foreground pixels of 480 x 480 mean nothing. "head": one logit from the final query, trained by
binary cross-entropy (loss `no_target`), says whether there is a target.
"""

from torch import Tensor

AREA = 50 / 480**2  # share of the picture
EMPTY = -10.0  # mask logit of a withheld answer, below every protocol's threshold


def withhold(outputs: dict, rule: str) -> dict:
    """A network's outputs with mask_logits (B,h,w) of sentences that it says mean nothing set to -10."""
    if rule == "none":
        return outputs
    return {
        **outputs,
        "mask_logits": outputs["mask_logits"].masked_fill(is_nothing(outputs, rule)[:, None, None], EMPTY),
    }


def is_nothing(outputs: dict, rule: str) -> Tensor:
    """Which sentences mean nothing, (B,) bool, by "area" or by "head"."""
    if rule == "head":
        return outputs["target_logit"] < 0
    return (outputs["mask_logits"] > 0).float().mean((1, 2)) < AREA
