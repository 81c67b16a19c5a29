"""RefShapes: scenes of coloured shapes with referring expressions whose answers are computed, never guessed.

    from magnet import refshapes
    drawn = refshapes.sample(seed=0, index=7, image_size=96)    # drawn.image, drawn.masks, drawn.expressions
    refshapes.write_refshapes("data", "small")                  # the same in REFER files, as RefCOCO has them

Reading order: scene, draw, programs, words, proposals, language, sampling, write; `fresh` is what training reads,
`baselines` scores what no model should lose to.
"""

from magnet.refshapes.language import Expression
from magnet.refshapes.sampling import Sample, sample
from magnet.refshapes.scene import SPLITS, VERSION
from magnet.refshapes.write import write_refshapes

__all__ = ["SPLITS", "VERSION", "Expression", "Sample", "sample", "write_refshapes"]
