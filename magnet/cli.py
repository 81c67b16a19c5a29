"""The command line: each command is a function, its --help is the function's docstring."""

import dataclasses
import os
import shlex
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro

from magnet.config import AlignmentConfig, Config, DataConfig, GroundingConfig

PARTS = {"grounding": GroundingConfig, "alignment": AlignmentConfig}  # training-only, off (None) or on
Positional = tyro.conf.Positional
Protocol = Literal["original", "paper", "cris", "gres"]


def demo(minutes: float = 12, seed: int = 0, root: Path | None = None) -> None:
    """Make RefShapes, train from random weights, score every split, draw pictures and a report.

    Takes about 12 minutes on two cores; --minutes 1 is a smoke test whose scores mean nothing. Writes the pictures to
    data/refshapes (or --root) and everything else to results/runs/. Ctrl-C is safe: the same command goes on.
    """
    from magnet.workbench.demo import run_demo

    run_demo(minutes=minutes, seed=seed, root=root)


def shapes(
    size: Literal["mini", "small", "full"] = "small", root: Path | None = None, workers: int | None = None
) -> None:
    """Write the synthetic benchmark RefShapes as REFER files and pictures.

    small: 4,000 training scenes at 96 px, seconds; full: 50,000 at 224 px, minutes. --root: $MAGNET_DATA or data/.
    """
    from magnet.data import data_root
    from magnet.refshapes import write_refshapes

    print(write_refshapes(data_root(root), size, num_workers=workers or os.cpu_count() or 1))


def index(
    name: str = "refshapes",
    split_by: str = "v1",
    root: Path | None = None,
    polygon_overlap: Literal["hole", "union"] = "hole",
) -> None:
    """Read a data set into its cached expression table and print what each split holds.

    At most a minute for RefCOCO, then two seconds from the cache beside the source files.
    """
    from magnet.data import read_refer
    from magnet.data.family import count

    print(count(read_refer(root, name, split_by, polygon_overlap)).to_string())


def download(
    names: Positional[tuple[Literal["refcoco", "refcoco+", "refcocog", "grefcoco", "images"], ...]],
    images: Literal["none", "needed", "all"] = "none", split: tuple[str, ...] = (), root: Path | None = None,
    mirror: tuple[str, ...] = (), repair: bool = False,
) -> None:  # fmt: skip
    """Fetch data sets of the RefCOCO family: 50 MB of annotations each, and the pictures one by one or all of COCO's.

    --images needed: only the pictures that these data sets speak of, at most 28,000; with --split val only those of
    that split. --images all: train2014.zip, 13 GB. The name `images` stands for the pictures that the data sets which
    are there already need. --mirror: addresses that are asked first, laid out as the originals are. Stopped at any
    moment, the same command goes on. Annotations that cannot be read and pictures that were cut short are fetched anew;
    --repair opens every needed picture, a few minutes, and fetches anew whatever is wrong with it. Writes to
    $MAGNET_DATA, data/, or --root.
    """
    from magnet.data import data_root
    from magnet.data import download as loader

    folder, sets = data_root(root), [name for name in names if name != "images"]
    for file in loader.download(sets, folder, mirror):
        print(file)
    if images == "all":
        print(loader.download_all_images(folder, mirror))
    elif images == "needed" or "images" in names or repair:
        sets = sets or loader.present(folder)
        print(f"{loader.download_images(folder, sets, split or None, mirror, repair=repair)} new pictures")
    else:
        print("pictures: the same command with --images needed")


def check(name: str = "refshapes", split_by: str = "v1", root: Path | None = None) -> None:
    """Count a data set, compare with what was published, and open every picture; lists all that is wrong.

    Wrong, with exit code 1: records that do not fit, which are left out of the counts; pictures that are missing,
    unreadable or of another size; splits whose numbers are not the published ones, as when unc's and google's files are
    mixed up; a refs file that is a copy of the other. Of each kind the first 20 are printed. Noted: images that
    training and another split share, or that another data set of the family that is there is scored on; sentences that
    come twice; outlines that leave their picture.
    """
    from magnet.data.check import check_data
    from magnet.data.family import count

    table, problems, notes = check_data(root, name, split_by)
    print(count(table).to_string())
    _print_first("note: ", notes)
    for lines in problems.values():
        _print_first("", lines)
    num_problems = sum(map(len, problems.values()))
    found = ", ".join(f"{kind} {len(lines)}" for kind, lines in problems.items() if lines)
    print(f"{table.image_id.nunique()} pictures, {num_problems} problems{found and f' ({found})'}")
    if num_problems:
        sys.exit(1)


def _print_first(start: str, lines: list[str], num: int = 20) -> None:
    for line in lines[:num]:
        print(f"{start}{line}")
    if len(lines) > num:
        print(f"{start}and {len(lines) - num:,} more like these")


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a recipe, or go on where it was stopped; any setting can be changed by its name below.

    Writes results/runs/<recipe>-<hash>/. The same command finds the same run again. On several GPUs or processes:
    accelerate launch -m magnet train RECIPE ...

    --init starts from a run's weights or released ones, and takes the network as they have it: with --grounding,
    Mask Grounding is added to a model that is there.
    --grounding and --alignment switch these training-only parts on, as any of their settings does; --no-grounding and
    --no-alignment switch them off.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    init: str | None = None  # a run or a weight file to start from
    dry_run: bool = False  # two steps on random data: parameters, GFLOP, seconds, memory; nothing is written


def train(arguments: list[str]) -> None:
    from magnet.recipes import RECIPES, recipe

    if not arguments or arguments[0].startswith("-"):
        print(f"usage: magnet train RECIPE [--option value ...]\n\nrecipes: {', '.join(RECIPES)}\n\n{Train.__doc__}")
        return
    config, rest = switch_parts(as_started(recipe(arguments[0]), arguments), arguments[1:])
    chosen = tyro.cli(
        Train, prog=f"magnet train {arguments[0]}", default=Train(config=config), args=rest,
        config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip
    if chosen.dry_run:
        return _print_dry_run(chosen.config)
    import magnet

    run = magnet.fit(chosen.config, init=chosen.init)
    print(f"{run.folder}: score it with: magnet evaluate {run.name} --split {chosen.config.data.val_split}")


def _print_dry_run(config: Config) -> None:
    from magnet.workbench.benchmark import dry_run

    print(f"{config.recipe}: two steps on random data, a minute or two for a full-size network on a CPU")
    for name, value in dry_run(config).items():
        print(f"{name:20} {value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{name:20} {value:.3g}")


def as_started(config: Config, arguments: list[str]) -> Config:
    """The configuration with the network that the weights after --init were made for: no other could be filled."""
    given = [value for name, value in pairwise(arguments) if name == "--init"]
    given += [argument.removeprefix("--init=") for argument in arguments if argument.startswith("--init=")]
    if not given:
        return config
    from magnet.train import initial_model

    return dataclasses.replace(config, model=initial_model(given[-1]) or config.model)


def switch_parts(config: Config, arguments: list[str]) -> tuple[Config, list[str]]:
    """The configuration with training-only parts as `arguments` switch them, and the arguments that remain."""
    for part, kind in PARTS.items():
        asked = [a for a in arguments if a == f"--{part}" or a.startswith(f"--{part}.") or a in ("-h", "--help")]
        if f"--no-{part}" in arguments:
            config = dataclasses.replace(config, **{part: None})
        elif asked and getattr(config, part) is None:
            config = dataclasses.replace(config, **{part: kind()})
    switches = {f"--{no}{part}" for part in PARTS for no in ("", "no-")}
    return config, [argument for argument in arguments if argument not in switches]


def evaluate(
    source: Positional[str], split: str = "val", protocol: Protocol = "original",
    root: Path | None = None, name: str | None = None, split_by: str | None = None, batch_size: int | None = None,
    by: str | None = None,
) -> None:  # fmt: skip
    """Score a run (folder, name, or recipe), or a released .pth file, on every expression of a split.

    Prints the table with intervals. The run's own data set unless --name is given. --by kind (or any tag) prints a row
    per group. Writes eval/<data set>-<split>-<protocol>.parquet in the run folder.
    """
    import magnet
    from magnet import runs
    from magnet.models.checkpoints import data_of, is_checkpoint

    own = data_of(source) if is_checkpoint(source) else runs.find(source).config.data
    data = dataclasses.replace(own, root=str(root) if root else own.root, name=name or own.name,
                               split_by=split_by or own.split_by)  # fmt: skip
    print(f"{Path(source).name} on {data.name} {split}, protocol {protocol}")
    table = magnet.evaluate(source, data=data, split=split, protocol=protocol, batch_size=batch_size)
    _print_summary(table, by)


def score(
    predictions: Positional[Path], split: str = "val", protocol: Protocol = "original",
    root: Path | None = None, name: str = "refshapes", split_by: str = "v1", by: str | None = None,
) -> None:  # fmt: skip
    """Score predictions made elsewhere: a JSON, JSON-lines or parquet file with a sent_id and an RLE a row."""
    import magnet

    data = DataConfig(root=str(root) if root else None, name=name, split_by=split_by)
    _print_summary(magnet.score(predictions, data, split, protocol), by)


def _print_summary(table, by: str | None) -> None:
    import pandas as pd

    import magnet

    summary = magnet.summarize(table, groups=by)
    frame = summary if by else pd.DataFrame([summary])
    print(frame.round(2).to_string(index=bool(by)))


def convert(source: Positional[str], folder: Positional[Path], vocabulary: str | None = None) -> None:
    """Write a released checkpoint (a .pth file, or its name on the hub) as a folder that magnet reads.

    config.json, model.safetensors and which file they are made of: seconds, and as much disk as the file.
    --vocabulary: a file or folder, where bert-base-uncased cannot be had from the hub; it is copied into the folder,
    which can then be moved and used from anywhere.
    """
    from magnet.models.released import convert as write

    write(source, folder, vocabulary)
    words = "a copy of the vocabulary lies in it" if vocabulary else "words are fetched from the hub when needed"
    print(f"{folder}: {words}; use it as a run: magnet evaluate {folder}")


def report(run: Positional[str], num_failures: int = 500) -> None:
    """Write a run's report.html and failures.html: scores, curves and pictures; every wrong answer, to filter.

    Both open without a server or a network. Of more wrong answers than --num-failures a part is drawn by chance.
    A run shows the splits that it was evaluated on; shipped weights are scored on every split first, which takes a
    minute or two, and the files go to results/explore/NAME.
    """
    from magnet import runs
    from magnet.workbench.gallery import write_gallery
    from magnet.workbench.report import own_results, write_report

    found = runs.find(run)
    results = own_results(found)
    try:
        print(write_gallery(found, num_failures, results))
    except (FileNotFoundError, ValueError) as error:
        print(f"no failures.html: {error}")
    print(write_report(found, results))


def explore(run: Positional[str], port: int | None = None, browser: bool = True) -> None:
    """Open JupyterLab on a copy of notebook 11, "Where and why does it fail?", with a run's answers in it.

    RUN: a run (folder, name, or recipe) or shipped weights. Run the cells there: a minute or two, longer where the run
    has not been evaluated on its validation split. Notes and what is computed once are kept in explore/ in the run
    folder (results/explore/ for shipped weights); the copy, notebooks/explore-RUN.ipynb, keeps what you change in it.
    Without a kernel, magnet report shows the failures. --no-browser only prints the address. Ctrl-C, twice, stops it.
    """
    from magnet.explore.lab import open_lab

    open_lab(run, port, browser)


def benchmark_variants(
    recipe: Literal["magnet_tiny", "magnet_base"] = "magnet_tiny", steps: int = 5, batch_size: int | None = None,
    output: Path | None = None,
) -> None:  # fmt: skip
    """Print parameters, GFLOP per image and seconds per training step of every variant of MagNet and its parts.

    A minute or two for magnet_tiny. --steps 0 leaves the time out: then one network at a time is in memory, and
    magnet_base takes a few minutes and 8 GB. --batch-size: the recipe's. --output writes a CSV.
    """
    import magnet
    from magnet.workbench.benchmark import measure_variants, write_table

    table = measure_variants(magnet.recipe(recipe), steps, batch_size)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    if output:
        print(write_table(table, output, shlex.join(["magnet", *sys.argv[1:]])))


def benchmark_speed(
    recipes: tuple[str, ...] = ("lavt_tiny", "magnet_tiny"), rounds: int = 7,
    modules: tuple[str, ...] = ("magnet_tiny",), batch_size: int | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto", output: Path | None = None,
) -> None:  # fmt: skip
    """Time the tiny recipes beside the machine's own peaks: loader, forward, step, evaluation, one answer.

    A few minutes, with nothing else running. --modules: also where the time of these recipes goes, by module and by
    kind of operation, with steps of --batch-size pictures (the recipe's) in --precision. --recipes or --modules alone:
    none. --output writes a CSV, and where the time goes to a second one beside it, NAME_modules.csv.
    """
    import pandas as pd

    import magnet
    from magnet.workbench.benchmark import write_table
    from magnet.workbench.speed import measure_speed
    from magnet.workbench.time_spent import time_spent

    configs = [magnet.recipe(name) for name in modules]  # an unknown one is refused before anything takes long
    tables = {"": measure_speed(recipes, rounds)} if recipes else {}
    spent = []
    for config in configs:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, precision=precision))
        spent.append(time_spent(config, batch_size or config.optim.batch_size, rounds))
        tables["_modules"] = pd.concat(spent, ignore_index=True)
    for name, table in tables.items():
        print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))
        if output:
            path = output.with_stem(output.stem + name)
            print(write_table(table, path, shlex.join(["magnet", *sys.argv[1:]])))


def benchmark_weights(
    source: Positional[str], root: Path | None = None, columns: str = "own",
    precision: Literal["float32", "bfloat16"] = "float32", shard: str = "0/1", batch_size: int | None = None,
    output: Path | None = None, allow_miscounted: bool = False,
) -> None:  # fmt: skip
    """Score weights on whole splits under `paper`, beside what was published under this protocol, and `original`.

    SOURCE: a released .pth file, its name on the hub, the folder it was converted to, or a run. --columns own: the
    splits of the data set they were made for; all: the nine of the papers' tables; or names between commas, such as
    "refcocog_umd, refcoco val, G-Ref val (G)". Goes on where it was stopped; --shard 0/2 and --shard 1/2 share the work
    of two processes or machines. --precision bfloat16 prints the change against float32 where that is measured.
    A split with other counts than the published one is refused; --allow-miscounted scores it, published cells empty.
    Writes the table of every expression to results/benchmark/; --output writes the printed table as CSV. Takes as long
    as the network does: a full-size one needs a GPU.
    """
    from magnet.workbench.benchmark import write_table
    from magnet.workbench.weights import benchmark_weights as benchmark

    table = benchmark(source, root, columns, precision, _shard(shard), batch_size, allow_miscounted=allow_miscounted)
    shown = [name for name in table if name in ("column", "protocol", "n", "seconds_per_expression") or "oIoU" in name]
    published = [name for name in table if name.startswith("published") and table[name].notna().any()]
    if table.empty:
        return print("no column is whole yet: run the other shards, then any of them once more prints the table")
    print(table[[*shown, *published]].to_string(index=False, float_format="{:.2f}".format, na_rep="–"))
    if output:
        print(write_table(table, output, shlex.join(["magnet", *sys.argv[1:]])))


def ablate(
    study: Positional[str | None] = None, variants: tuple[str, ...] = (), seeds: tuple[int, ...] = (),
    shard: str = "0/1", table: bool = False, smoke: bool = False, root: Path | None = None,
) -> None:  # fmt: skip
    """Train and score the variants of a study with several seeds, and say what they show and how sure that is.

    STUDY: a name, or a JSON file with a study of your own; without one the studies and their claims are listed. A run
    takes minutes on two cores (results/tables/study_run.csv); 8 variants with 5 seeds take some hours. Ctrl-C is safe:
    the same command goes on. Runs that are done are not done again, wherever and for whichever study they were made;
    one that fails does not stop the others. --shard 0/2 and --shard 1/2 share the work of two machines: each takes
    every second seed whole, as a difference within a seed should be of one machine; no more shards than seeds keep it
    so. --variants and --seeds run a part. --table trains nothing and only reads what is there. --smoke runs all of it
    at no useful size, a minute or two, and keeps nothing.

    Writes two small files a run to results/studies/STUDY/, tables to results/tables/study_STUDY* (CSV, Markdown,
    LaTeX), a figure to results/figures/; trained weights lie in results/runs/. Needs RefShapes: magnet data shapes.
    """
    if study is None:
        return _list_studies()
    from magnet.workbench import studies
    from magnet.workbench.ablate import ablate as run
    from magnet.workbench.ablate import smoke_place
    from magnet.workbench.study_report import report_study
    from magnet.workbench.study_results import read_finished

    part, found, failed = _shard(shard), studies.find(study), {}
    with smoke_place(found, root) if smoke else nullcontext((found, root)) as (found, root):
        found.chosen(variants, seeds)  # names the variants there are
        if not table:
            failed = run(found, seeds, variants, part, root)
        if failed:
            errors = "; ".join(f"{name}: {error}" for name, error in failed.items())
            print(f"magnet: {len(failed)} runs failed; the same command tries them again: {errors}", file=sys.stderr)
        files = report_study(read_finished(found, root), shlex.join(["magnet", *sys.argv[1:]]))
        print(*(() if smoke else files), sep="\n")  # a smoke test's are gone in a moment
    if failed:
        sys.exit(1)


def _list_studies() -> None:
    from magnet.workbench.studies import STUDIES

    for name, make in STUDIES.items():
        study = make()
        print(f"{name}: {len(study.variants)} variants, {len(study.seeds)} seeds\n  {study.claim}.")


def _shard(text: str) -> tuple[int, int]:
    index, _, num = text.partition("/")
    if not (index.isdigit() and num.isdigit()):
        raise ValueError(f"--shard {text}: two numbers are needed, as in 0/2")
    return int(index), int(num)


def notebooks_run(names: Positional[tuple[str, ...]] = (), smoke: bool = False, in_place: bool = False) -> None:
    """Run the notebooks in order and write their minutes and memory to results/tables/notebooks.csv.

    --smoke shrinks every loop (minutes for the whole series); --in-place keeps the outputs in the files.
    """
    from magnet.workbench.notebook import run_notebooks

    run_notebooks(names or None, smoke=smoke, in_place=in_place)


COMMANDS = {
    "demo": demo,
    "data shapes": shapes,
    "data index": index,
    "data download": download,
    "data check": check,
    "evaluate": evaluate,
    "score": score,
    "convert": convert,
    "report": report,
    "explore": explore,
    "ablate": ablate,
    "benchmark speed": benchmark_speed,
    "benchmark variants": benchmark_variants,
    "benchmark weights": benchmark_weights,
    "notebooks run": notebooks_run,
}


def main() -> None:
    """Run the command; errors a user can mend are one line, unless MAGNET_DEBUG is set."""
    arguments = sys.argv[1:]
    try:
        _dispatch(arguments)
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'stopped'}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("MAGNET_DEBUG"):
            raise
        print(f"magnet: {_in_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _in_one_line(error: Exception) -> str:
    """What went wrong in a loader's worker arrives with its traceback in the text; the last line says it."""
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def _dispatch(arguments: list[str]) -> None:
    if arguments[:1] == ["train"]:
        return train(arguments[1:])
    if " ".join(arguments[:2]) in COMMANDS:  # "data shapes" is one command of two words
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    elif beside := [name for name in COMMANDS if arguments[:1] == name.split()[:-1]]:
        raise ValueError(f"magnet {arguments[0]}: say which of {', '.join(beside)}")
    description = (
        "Referring image segmentation one can take apart. The main command is `magnet train RECIPE`, see magnet train"
        " --help; the others are below."
    )
    tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="magnet", description=description, args=arguments)
