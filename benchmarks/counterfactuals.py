"""Does the mask follow the words? Attribute words swapped, and the same said in other words, on RefShapes scenes.

python benchmarks/counterfactuals.py --model refshapes-tiny --output results/tables/counterfactuals.csv   (five minutes)

"swap" rows: one attribute word is changed so that another object is meant; percent of changed sentences (and of those
before the change) that pick the right object, of both together, and of masks that stayed. All of val's kinds, by
attribute and by kind of sentence, and testB's relations. "paraphrases" rows: agreement of several forms of one sentence
(workbench/paraphrases.py). Each with its 95 % interval over scenes and n; one model, so no spread of seeds.
"""

import pandas as pd
import torch
from measured import parser, report

import magnet
from magnet.workbench.counterfactuals import ask_swaps, summarize_swaps, swaps
from magnet.workbench.paraphrases import paraphrases, summarize_paraphrases
from magnet.workbench.scene_questions import ask_about_scenes


def rows_of(name: str, summary: pd.DataFrame) -> list[tuple[str, float, str]]:
    """Four rows of the CSV for each row of a summary."""
    rows = []
    for key, row in summary.iterrows():
        what = f"{name}: {', '.join(key) if isinstance(key, tuple) else key}"
        rows += [
            (what + end, row[column], "%") for end, column in (("", "value"), (", low", "low"), (", high", "high"))
        ]
        rows.append((f"{what}, n", row["n"], "count"))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="refshapes-tiny", help="shipped weights, or a run")
    options.add_argument("--scenes", type=int, default=800, help="of each split, for swaps")
    options.add_argument("--said", type=int, default=252, help="scenes of val, for paraphrases")
    options = options.parse_args()
    torch.set_num_threads(1)
    predictor, rows = magnet.load(options.model), []
    answers = {split: ask_swaps(predictor, swaps(split, options.scenes)) for split in ("val", "testB")}
    rows += rows_of("val swap", summarize_swaps(answers["val"]))
    rows += rows_of("val swap by kind", summarize_swaps(answers["val"], "kind").drop("all"))
    rows += rows_of("testB swap", summarize_swaps(answers["testB"]))
    said = paraphrases("val", options.said)
    rows += rows_of("val paraphrases", summarize_paraphrases(said.join(ask_about_scenes(predictor, said))))
    report(rows, options.output)


if __name__ == "__main__":
    main()
