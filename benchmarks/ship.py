"""Make shipped weights of a finished run, score what is shipped on every split, and write its model card.

magnet train refshapes_tiny
python benchmarks/ship.py --run refshapes_tiny --name refshapes-tiny --output results/tables/shipped.csv

Writes magnet/assets/weights/NAME/: config.json, model.safetensors in float16, and README.md with the scores of that
file. Rows of other names in the CSV stay. Beside it NAME_curve.csv has the validations of the training.
"""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from measured import parser
from safetensors.torch import save_file

import magnet
from magnet import runs
from magnet.runs import config_to_dict, environment

SPLITS = {"val": "all kinds", "testA": "attributes and places", "testB": "relations and comparisons",
          "testC": "new combinations", "testR": "rare words"}  # fmt: skip
LARGEST = 8e6  # bytes


def store(run: runs.Run, folder: Path) -> None:
    tensors = {name: _half(tensor) for name, tensor in run.load_model().state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = replace(run.config, data=replace(run.config.data, root=None))
    runs.write_json(folder / "config.json", {"version": runs.VERSION, **config_to_dict(config)})
    size = (folder / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise ValueError(f"{folder}/model.safetensors has {size:,} bytes, more than {LARGEST:,.0f}")


def _half(tensor: torch.Tensor) -> torch.Tensor:
    """float16 where all values fit, which keeps three digits."""
    half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
    return (half if half.isfinite().all() else tensor).contiguous()


def scores(name: str) -> pd.DataFrame:
    """A row a split, and one for each kind of sentence in it."""
    rows = []
    for split in SPLITS:
        table = magnet.evaluate(name, split=split)
        for kind, part in {"all": table, **dict(list(table.groupby("kind")))}.items():
            rows.append({"model": name, "split": split, "kind": kind, **magnet.summarize(part)})
    return pd.DataFrame(rows)


def card(name: str, run: runs.Run, table: pd.DataFrame) -> str:
    known, optim, data = runs.read_json(run.folder / "environment.json"), run.config.optim, run.config.data
    sentences = optim.num_steps * optim.batch_size * data.sentences_per_image
    minutes = sentences / _speed(run) / 60
    size = (runs.SHIPPED / name / "model.safetensors").stat().st_size / 1e6
    machine = ", ".join([known["processor"], *known["gpus"]])
    whole = table[table["kind"] == "all"].set_index("split")
    lines = [
        f"# {name}",
        "",
        f"{run.config.model.method} trained on RefShapes' endless training scenes at {data.image_size} px; for teaching"
        " and for looking at failures, not for photographs. Apache-2.0.",
        "",
        f"* Made by `magnet train {run.config.recipe}` (seed {run.config.seed}) and `python benchmarks/ship.py`.",
        f"* {optim.num_steps:,} steps, {sentences:,} sentences, {minutes:.0f} minutes at the median step's speed on"
        f" {machine}; commit {known['commit']}, torch {known['packages']['torch']}.",
        f"* {size:.1f} MB, float16; scores below are of this file, {date.today()}, 95 % intervals over pictures.",
        "",
        "| split | holds | sentences | oIoU | mIoU | P@0.5 |",
        "|---|---|---|---|---|---|",
    ]
    for split, row in whole.iterrows():
        cells = [f"{row[m]:.1f} [{row[m + '_low']:.1f}, {row[m + '_high']:.1f}]" for m in ("oIoU", "mIoU", "P@0.5")]
        lines.append(f"| {split} | {SPLITS[split]} | {row['n']:.0f} | {' | '.join(cells)} |")
    kinds = table[(table["split"] == "val") & (table["kind"] != "all")].sort_values("mIoU", ascending=False)
    lines += ["", "By kind of sentence, `val`:", "", "| kind | sentences | mIoU |", "|---|---|---|"]
    for _, row in kinds.iterrows():
        interval = f"{row['mIoU']:.1f} [{row['mIoU_low']:.1f}, {row['mIoU_high']:.1f}]"
        lines.append(f"| {row['kind']} | {row['n']:.0f} | {interval} |")
    return "\n".join(lines) + "\n"


def _speed(run: runs.Run) -> float:
    """Sentences a second, the median of all steps: a training may be stopped for days, or run beside other work."""
    steps = pd.DataFrame([line for line in run.log() if "loss" in line])
    named = steps.get("sentences_per_second", steps["images_per_second"])  # older runs called them images
    return named.median()


def curve(run: runs.Run) -> pd.DataFrame:
    """The validations of the training: step, sentences, oIoU, mIoU in percent."""
    per_step = run.config.optim.batch_size * run.config.data.sentences_per_image
    rows = [{"step": line["step"], "sentences": line["step"] * per_step, **line["validation"]}
            for line in run.log() if "validation" in line]  # fmt: skip
    made = f"magnet train {run.config.recipe} (seed {run.config.seed}; {run.config.optim.val_expressions} of val)"
    return pd.DataFrame(rows).assign(command=made)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", required=True)
    options.add_argument("--name", required=True)
    options = options.parse_args()
    run, folder = runs.find(options.run), runs.SHIPPED / options.name
    store(run, folder)
    table = scores(options.name)
    (folder / "README.md").write_text(card(options.name, run, table))
    about = environment()
    table = table.assign(
        command=f"python benchmarks/ship.py --run {options.run} --name {options.name}",
        date=date.today(), hardware=about["processor"], commit=about["commit"],
    )  # fmt: skip
    if options.output:
        if options.output.exists():
            kept = pd.read_csv(options.output)
            table = pd.concat([kept[kept["model"] != options.name], table])
        table.to_csv(options.output, index=False, float_format="%.4g")
        name = options.name.replace("-", "_")
        curve(run).to_csv(options.output.with_name(f"{name}_curve.csv"), index=False, float_format="%.4g")
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    main()
