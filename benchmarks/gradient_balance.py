"""What Mask Grounding tells the encoders beside a method's own losses: the size of both gradients, and their angle.

magnet data shapes
python benchmarks/gradient_balance.py --output results/tables/gradient_balance.csv      (ten minutes)

The studies' MagNet, LAVT and CoupAlign with Mask Grounding are trained for fifty steps, one seed. At every tenth
the gradients of the weighted losses of the mask and of the hidden words are taken apart; rows are the middle of these.
A ratio of 2 at the language encoder: the hidden words pull at its weights twice as hard as the masks do.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from empty_folder import empty_folder
from measured import parser, report
from torch import Tensor, nn

from magnet import runs
from magnet.config import Config
from magnet.losses import weighted_sum
from magnet.train import Trainer
from magnet.workbench.studies import components, prior_methods

EVERY = 10
METHODS = {
    "MagNet": (components(), "grounding_cam"),
    "LAVT": (prior_methods(), "lavt_grounding"),
    "CoupAlign": (prior_methods(), "coupalign_grounding"),
}


class Watched(Trainer):
    """Keeps in `seen` a row a tenth step: what the gradients of both losses are at each encoder."""

    def _forward_backward(self, batch: dict) -> dict[str, Tensor]:
        if self.step % EVERY == EVERY - 1:
            state = torch.get_rng_state()  # the step itself hides the same words
            self.seen = [*getattr(self, "seen", []), self._apart(batch)]
            torch.set_rng_state(state)
        return super()._forward_backward(batch)

    def _apart(self, batch: dict) -> dict[str, float]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            terms, _ = self.objective(batch)
        groups = {"mask": self.config.losses, "words": ["grounding"]}
        totals = {
            name: weighted_sum({one: self.weights[one] for one in own}, {one: terms[one] for one in own})
            for name, own in groups.items()
        }
        encoders = {"language": self.model.language, "vision": self.model.vision}
        row = {f"{name} loss": total.item() for name, total in totals.items()}
        for where, encoder in encoders.items():
            mask, words = (gradient(total, encoder) for total in totals.values())
            row |= {f"{where} ratio": (words.norm() / mask.norm()).item()}
            row |= {f"{where} cosine": torch.cosine_similarity(words, mask, dim=0).item()}
        return row


def gradient(loss: Tensor, part: nn.Module) -> Tensor:
    """(P,) of all its weights that learn; 0 where the loss does not depend on one."""
    weights = [weight for weight in part.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found)])


def watch(config: Config) -> pd.DataFrame:
    with empty_folder(config.model.vision):
        trainer = Watched(runs.open_run(config), Accelerator(cpu=True), None, progress=True)
        trainer.train([])
    return pd.DataFrame(trainer.seen)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=50)
    options = options.parse_args()
    rows, root = [], Path("data").resolve()
    for name, (study, variant) in METHODS.items():
        config = study.config(variant, 0, root)
        optim = replace(config.optim, num_steps=options.steps, num_processes=1, val_every=options.steps)
        middle = watch(replace(config, optim=optim)).median()
        units = {"ratio": "times", "cosine": "", "loss": ""}
        rows += [(f"{name}, {what}", value, units[what.split()[-1]]) for what, value in middle.items()]
    report(rows, options.output)


if __name__ == "__main__":
    main()
