"""Do picture and true mask help to find a hidden word? One predictor per context on a trained run's frozen pixels.

python benchmarks/masked_words.py --run magnet_tiny --output results/tables/masked_words.csv      (about 15 minutes)

Rows, for each mask encoder: how many of the val split's content words are found (percent) from text, text+image,
text+image+mask, and with the mask of another picture; and their differences, paired, resampling images. Each with its
95 % interval. The last row says how many are found by counting neighbouring words in as many sentences as a predictor
reads: what text alone must reach to be a fair comparison.
"""

from collections import Counter, defaultdict

import pandas as pd
import torch
from measured import parser, report

from magnet import runs
from magnet.config import GroundingConfig
from magnet.data import encode, load_tokenizer
from magnet.workbench.masked_words import ask, summarize_guesses, train_predictors
from magnet.workbench.words import draw_sentences

ENDS = {"": "value", ", low": "low", ", high": "high"}


def count_neighbours(run: runs.Run, asked: pd.DataFrame, num_scenes: int) -> float:
    """Percent of the asked words that are the most frequent between the same two and two, or one and one, neighbours
    in the training sentences of so many scenes."""
    tokenizer = load_tokenizer(run.config.model.language.vocabulary)
    counts = defaultdict(Counter)
    for ids in draw_sentences(num_scenes, tokenizer, run.config.seed + 1000).token_ids.tolist():
        for place in range(1, len(ids) - 1):
            for context in neighbours(ids, place):
                counts[context][ids[place]] += 1
    texts = encode(tokenizer, asked["text"].tolist(), run.config.data.num_tokens)[0].tolist()
    answers = tokenizer.convert_tokens_to_ids(asked["word"].tolist())
    right = 0
    for ids, place, answer in zip(texts, asked["token"], answers):
        seen = [counts[c] for c in neighbours(ids, place) if counts[c].total() >= 3]
        right += bool(seen) and seen[0].most_common(1)[0][0] == answer
    return 100 * right / len(asked)


def neighbours(ids: list[int], place: int) -> list[tuple]:
    """Contexts from the most to the least telling: two and two, two and one, one and one, the one before."""
    around = ids[place - 2] if place > 1 else 0, ids[place - 1], ids[place + 1], ids[min(place + 2, len(ids) - 1)]
    return [around, (*around[:3], "l"), around[1:3], around[1:2]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", required=True, help="a finished run: folder, name, or recipe (its newest)")
    options.add_argument("--mask-encoder", nargs="+", default=["pooled", "centre"])
    options.add_argument("--num-layers", type=int, default=1, help="of each predictor")
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--text-steps", type=int, default=600)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    torch.set_num_threads(1)
    run, rows = runs.find(options.run), []
    for encoder in options.mask_encoder:
        setting = GroundingConfig(mask_encoder=encoder, ratio=0.3, at_least_one=True, num_layers=options.num_layers)
        predictors, _ = train_predictors(run, setting, options.steps, seed=options.seed, text_steps=options.text_steps)
        asked = ask(run, predictors)
        for name, row in summarize_guesses(asked).iterrows():
            rows += [(f"{encoder}: {name}{end}", row[column], "%") for end, column in ENDS.items()]
    rows.append(("counting neighbouring words", count_neighbours(run, asked, num_scenes=4000), "%"))
    report(rows, options.output)


if __name__ == "__main__":
    main()
