"""Loss terms by the name a configuration gives them: each takes (outputs, batch) and gives a scalar.

batch["masks"] is (B,S,S), 1 foreground and 0 background. Weights live in the configuration, not here.
"""

from magnet.losses.segmentation import cross_entropy, dice

TERMS = {"cross_entropy": cross_entropy, "dice": dice}
