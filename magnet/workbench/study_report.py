"""A study's tables and figure: printed, and as files that stand beside the runs.

results/tables/study_<name>.csv            # a row a variant
results/tables/study_<name>_effects.csv    # a row an effect, with intervals and verdict
results/tables/study_<name>_groups.csv     # the same by kind and tag, without verdicts
results/tables/study_<name>_errors.csv     # shares of errors by number of distractors, where a study asks for them
results/tables/study_<name>.md, .tex       # all but the groups, short
results/figures/study_<name>.png
"""

from pathlib import Path

import pandas as pd

from magnet import runs
from magnet.workbench.benchmark import write_table
from magnet.workbench.study import Study
from magnet.workbench.study_plots import effect_forest
from magnet.workbench.study_results import Results, machines, notes
from magnet.workbench.verdicts import effect_table, error_table, group_table, variant_table

TABLES, FIGURES = Path("results/tables"), Path("results/figures")


def report_study(results: Results, command: str, tables: Path = TABLES, figures: Path = FIGURES) -> list[Path]:
    """Print what the runs show and write all files; gives their paths. command: what the reader types for the same."""
    tables_of = {"": variant_table, "_effects": effect_table, "_groups": group_table, "_errors": error_table}
    whole = {end: make(results) for end, make in tables_of.items()}
    whole = {end: table for end, table in whole.items() if len(table)}
    said, short = _said(results), _short(whole, results.study)
    print("\n".join(said))
    for title, table in short.items():
        print(f"\n{title}\n{table.to_string(index=False)}")
    name = f"study_{results.study.name}"
    files = [write_table(table, tables / f"{name}{end}.csv", command) for end, table in whole.items()]
    for end, text in {".md": markdown(said, short, command), ".tex": latex(said, short, command)}.items():
        files.append(runs.atomic_write(tables / f"{name}{end}", lambda file, text=text: file.write_text(text)))
    if "_effects" in whole:
        files.append(_write_forest(whole["_effects"], results.study, figures / f"{name}.png"))
    return files


def _write_forest(effects: pd.DataFrame, study: Study, path: Path) -> Path:
    figure = effect_forest(effects[effects["score"] == "oIoU"], f"{study.name}: what each part adds to oIoU")
    return runs.atomic_write(path, lambda file: figure.savefig(file, format="png", bbox_inches="tight"))


def _short(whole: dict[str, pd.DataFrame], study: Study) -> dict[str, pd.DataFrame]:
    """title -> the table as printed; groups are too many."""
    short = {"Variants": short_variants(whole[""], study)}
    if "_effects" in whole:
        short["Effects"] = short_effects(whole["_effects"], study)
    if "_errors" in whole:
        short[f"Errors on {study.splits[0]}, percent"] = short_errors(whole["_errors"])
    return short


def short_variants(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """As printed: mean ± standard deviation over seeds, percent; millions of parameters; GFLOP; hours a run, of each
    hardware for itself."""
    short = table[["variant"]].assign(seeds=[f"{n} of {of}" for n, of in table[["n", "of"]].values])
    for split in study.splits:
        for name in (f"{split} oIoU", f"{split} mIoU"):
            short[name] = _spreads(table, name)
    short["M parameters"] = (table["parameters"] / 1e6).map(_number)
    costs = {name: table[name].map(_number) for name in ("GFLOP inference", "GFLOP training")}
    return short.assign(**costs, hours=_hours(table), code=table["code"])


def short_effects(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """As printed: the effects on oIoU, mIoU and errors on the split that decides, in points."""
    rows = table[table["split"] == study.splits[0]]
    between = {
        f"{name} interval": [f"[{low:+.1f}, {high:+.1f}]" for low, high in rows[[f"{name}_low", f"{name}_high"]].values]
        for name in ("seed", "image")
    }
    shown = rows[["score", "contrast", "seeds"]].assign(difference=rows["difference"].map("{:+.1f}".format), **between)
    return shown.assign(verdict=rows["verdict"]).replace({"[+nan, +nan]": "–", "+nan": "–"})


def short_errors(table: pd.DataFrame) -> pd.DataFrame:
    """As printed: mean ± standard deviation over seeds."""
    names = [name for name in table if name.endswith(" errors")]
    return table.iloc[:, :3].assign(**{name: _spreads(table, name) for name in names})


def short_groups(table: pd.DataFrame, tag: str, score: str = "mIoU", split: str = "val") -> pd.DataFrame:
    """Rows of `group_table` as printed: a row a value of the tag, a column a contrast; an asterisk where both intervals
    lie on one side of 0, which is no verdict: so many rows are not corrected for."""
    rows = table[(table["tag"] == tag) & (table["score"] == score) & (table["split"] == split)]
    above, below = rows[["seed_low", "image_low"]] > 0, rows[["seed_high", "image_high"]] < 0
    apart = above.all(axis=1) | below.all(axis=1)
    shown = [f"{value:+.1f}{' *' if one else '  '}" for value, one in zip(rows["difference"], apart)]
    wide = rows.assign(shown=shown).pivot(index=["value", "expressions"], columns="contrast", values="shown")
    return wide[list(rows["contrast"].unique())].reset_index().rename_axis(columns=None)


def markdown(said: list[str], tables: dict[str, pd.DataFrame], command: str) -> str:
    """Headings, tables and the command that makes them again."""
    parts = [f"`{command}`", *said]
    for title, table in tables.items():
        lines = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
        parts += [
            f"## {title}",
            "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines),
        ]
    return "\n\n".join(parts) + "\n"


def latex(said: list[str], tables: dict[str, pd.DataFrame], command: str) -> str:
    """One tabular a table, for a document that takes UTF-8; what is said stands in comments."""
    comments = "\n".join(f"% {line}" for text in (command, *said) for line in text.split("\n"))
    return "\n".join([comments, *(f"% {title}\n{_tabular(table)}" for title, table in tables.items())])


def _tabular(table: pd.DataFrame) -> str:
    text = table.to_latex(index=False, escape=True)
    for plain, written in {"±": r"$\pm$", "×": r"$\times$", "−": "$-$"}.items():  # not every LaTeX knows them
        text = text.replace(plain, written)
    return text


def _said(results: Results) -> list[str]:
    study, rows = results.study, results.expressions
    hardware = machines(results)
    numbered = "; ".join(f"#{i} {one}" for i, one in enumerate(hardware, 1)) if len(hardware) > 1 else hardware[0]
    sizes = ", ".join(f"{split} {len(part):,} expressions" for split, part in rows.groupby("split", sort=False))
    return [
        f"{study.name}: {study.claim}.",
        f"Refuted by: {study.refuted_by}.",
        f"Percent and points on {sizes}; mean ± standard deviation over seeds. Seed intervals: Student's t; one "
        f"leaves 0 out exactly where Holm's test at 5 % over all the study's contrasts of that score on that split "
        f"rejects, and together they may cover all true differences less often than 95 %. Image intervals: 95 % "
        f"each, bootstrap. Detectable alone: "
        f"half the seeds' interval if one question were asked without the others; a true difference of that size is "
        f"missed about every other time, and more questions need a larger one. The claim is decided by "
        f"{_deciding(study)} on {study.splits[0]}.",
        f"GFLOP of a picture with one sentence, forward; training: with all that the variant's losses compute, before "
        f"the backward pass. Hours of a run's training steps on {numbered}: some runs had others beside them, so they "
        f"compare nothing.",
        *(f"Note: {note}." for note in notes(results)),
    ]


def _deciding(study: Study) -> str:
    shares = f"; of errors by their shares of {' and '.join(study.errors)}, each for itself," if study.errors else ""
    return f"oIoU{shares}".replace("_", " ")


def _hours(table: pd.DataFrame) -> list[str]:
    """A number, or "0.038 on #1, 0.15 on #2", as `_said` counts hardware."""
    columns = [table[name].map(_number) for name in table if name.startswith("hours on ")]
    if len(columns) == 1:
        return list(columns[0])
    rows = [[f"{hours} on #{i}" for i, hours in enumerate(row, 1) if hours != "–"] for row in zip(*columns)]
    return [", ".join(row) or "–" for row in rows]


def _spreads(table: pd.DataFrame, name: str) -> list[str]:
    return [_spread(*pair) for pair in table[[name, f"{name} sd"]].itertuples(index=False)]


def _spread(mean: float, deviation: float) -> str:
    if mean != mean:
        return "–"
    return f"{mean:.1f}" if deviation != deviation else f"{mean:.1f} ± {deviation:.1f}"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3g}"
