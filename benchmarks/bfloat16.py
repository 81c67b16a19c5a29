"""What evaluating in bfloat16 changes: oIoU of the shipped networks in both precisions, paired on every sentence.

python benchmarks/bfloat16.py --output results/tables/bfloat16.csv        (a minute)

Rows: each network's oIoU in float32 and in bfloat16, and the second less the first in points, with a 95 % interval over
pictures. A full-size network (Swin-B, BERT-base) is not measured.
"""

from measured import parser, report
from shipped_compare import MODELS

import magnet

SPLITS, PRECISIONS = ("val", "testA", "testB"), ("bfloat16", "float32")


def change(model: str, split: str) -> list[tuple[str, float, str]]:
    tables = [magnet.evaluate(model, split=split, precision=precision, progress=False) for precision in PRECISIONS]
    row = magnet.compare(*tables).set_index("metric").loc["oIoU"]
    what = f"{split}: oIoU, {model}"
    ends = {"": "difference", ", low": "low", ", high": "high"}
    changes = [(f"{what} bfloat16 - float32{end}", round(row[column], 3), "points") for end, column in ends.items()]
    return [(f"{what} float32", row["b"], "%"), (f"{what} bfloat16", row["a"], "%"), *changes]


def main() -> None:
    options = parser(__doc__).parse_args()
    report([row for split in SPLITS for model in MODELS for row in change(model, split)], options.output)


if __name__ == "__main__":
    main()
