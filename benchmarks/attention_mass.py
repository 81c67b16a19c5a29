"""How much of the reading of a word do the pixels of the true object do, over their share of the area?

python benchmarks/attention_mass.py --model refshapes-tiny --output results/tables/attention_mass.csv    (half a minute)

`lift` (workbench/attention_mass.py says what it means and what not) of every stage and kind of word on RefShapes' val
split, with its 95 % interval over images. 1: as if attention did not look at the picture.
"""

import torch
from measured import parser, report

import magnet
from magnet.data import read_refer, select_split
from magnet.workbench.attention_mass import attention_inside, summarize_attention


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="refshapes-tiny", help="shipped weights, or a run")
    options = options.parse_args()
    torch.set_num_threads(1)
    table = attention_inside(magnet.load(options.model), select_split(read_refer(), "val"))
    rows = []
    for (stage, kind), row in summarize_attention(table).xs("lift", level="what").iterrows():
        ends = (("", "value"), (", low", "low"), (", high", "high"))
        rows += [(f"{stage}, {kind}: lift{end}", row[column], "ratio") for end, column in ends]
        rows.append((f"{stage}, {kind}: words", row["n"], "count"))
    report(rows, options.output)


if __name__ == "__main__":
    main()
