"""How far the runs of a study had learnt when they ended: their loss terms along the training, a mean over the seeds.

python benchmarks/study_curves.py components --output results/tables/study_components_curves.csv

A term that still falls steeply at the end belongs to a training that was too short to judge it.

Needs the logs in results/runs: of runs that were trained here, or whose folders were copied there. They are too large
to be committed, and `magnet ablate` does not train again what results/studies holds: move that study's folder away.
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from measured import parser

from magnet import runs
from magnet.workbench.benchmark import write_table
from magnet.workbench.plots import LINES, SERIES, styled
from magnet.workbench.studies import find
from magnet.workbench.study import Study
from magnet.workbench.study_files import FOLDER

EVERY = 25  # steps in a row of the table


def curves(study: Study) -> pd.DataFrame:
    """variant, step (the last of EVERY), term, its raw mean and deviation over the runs, how many runs there are.

    FileNotFoundError where results/runs has no finished run of the study.
    """
    steps = [_terms(study, pair) for pair in study.chosen() if not study.start(pair[0])]
    if all(table.empty for table in steps):
        raise FileNotFoundError(
            f"no finished run of {study.name} in {runs.ROOT}: copy the folders of its runs there, or move "
            f"{FOLDER / study.name} away and train them again: magnet ablate {study.name}"
        )
    rows = pd.concat(steps, ignore_index=True).melt(["variant", "seed", "step"], var_name="term").dropna()
    rows["step"] = -(-rows["step"] // EVERY) * EVERY
    by_run = rows.groupby(["variant", "step", "term", "seed"], sort=False)["value"].mean()
    return by_run.groupby(["variant", "step", "term"], sort=False).agg(["mean", "std", "count"]).reset_index()


def _terms(study: Study, pair: tuple[str, int]) -> pd.DataFrame:
    """A row a step, a column a term; nothing where the run's folder is not here or the run did not end."""
    config = study.config(*pair)
    log = runs.Run(runs.ROOT / f"{config.recipe}-{runs.config_hash(config)}", config).log()
    lines = [{"step": line["step"], **line["raw"]} for line in log if "raw" in line]
    lines = lines if lines and lines[-1]["step"] == config.optim.num_steps else []
    return pd.DataFrame(lines, columns=None if lines else ["step"]).assign(variant=pair[0], seed=pair[1])


@styled
def figure(table: pd.DataFrame) -> Figure:
    terms = list(dict.fromkeys(table["term"]))
    each = [{"color": color, "linestyle": line} for line in LINES for color in SERIES]
    looks = dict(zip(dict.fromkeys(table["variant"]), each))
    made = Figure(figsize=(3.4 * len(terms), 3.2), layout="constrained")
    for axis, term in zip(made.subplots(1, len(terms), squeeze=False)[0], terms):
        for variant, rows in table[table["term"] == term].groupby("variant", sort=False):
            axis.plot(rows["step"], rows["mean"], **looks[variant], label=variant.replace("_", " "))
        axis.set(title=term.replace("_", " "), xlabel="optimiser step", ylabel="loss, unweighted", ylim=(0, None))
    handles, labels = made.axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside right center")
    return made


def main() -> None:
    options = parser(__doc__)
    options.add_argument("study")
    options = options.parse_args()
    study = find(options.study)
    try:
        table = curves(study)
    except FileNotFoundError as error:
        sys.exit(str(error))
    ends = table[table["step"] == table["step"].max()]
    print(ends.pivot(index="variant", columns="term", values="mean").round(3).to_string())
    if options.output:
        write_table(table, options.output, f"python benchmarks/study_curves.py {options.study}")
        figure(table).savefig(Path("results/figures") / f"{options.output.stem}.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
