"""Do picture and true mask help to find a hidden word? One predictor per context on a trained run's frozen network.

python benchmarks/masked_words.py --run magnet_tiny --output results/tables/masked_words.csv      (under 10 minutes)

Rows: how many of the val split's content words are found (percent) from text, text+image, text+image+mask, and with the
mask of another picture; and their differences, paired, resampling images. Each with its 95 % interval.
"""

import torch
from measured import parser, report

from magnet import runs
from magnet.config import GroundingConfig
from magnet.workbench.masked_words import ask, summarize_guesses, train_predictors

ENDS = {"": "value", ", low": "low", ", high": "high"}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", required=True, help="a finished run: folder, name, or recipe (its newest)")
    options.add_argument("--mask-encoder", nargs="+", default=["pooled"])
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    torch.set_num_threads(1)
    run, rows = runs.find(options.run), []
    for encoder in options.mask_encoder:
        setting = GroundingConfig(mask_encoder=encoder, ratio=0.3, at_least_one=True, num_layers=1)
        predictors, _ = train_predictors(run, setting, options.steps, lr=2e-3, seed=options.seed)
        for name, row in summarize_guesses(ask(run, predictors)).iterrows():
            rows += [(f"{encoder}: {name}{end}", row[column], "%") for end, column in ENDS.items()]
    report(rows, options.output)


if __name__ == "__main__":
    main()
