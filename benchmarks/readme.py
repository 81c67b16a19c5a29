"""Fill README.md's tables from results/tables and notebooks/README.md; tests/unit/test_project.py checks it is done.

python benchmarks/readme.py
"""

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "results" / "tables"
ROWS = [  # what a reader sees, the bound, the file, how the row of the file begins (or its column)
    ("`magnet demo`, end to end, on two threads with nothing beside it", "≤ 12 min", "demo", "minutes"),
    ("its peak memory, all processes, shared pages once; an eighth of its steps", "≤ 4 GB", "demo_memory", "demo, an"),
    ("MagNet tiny, mIoU on attributes, median of the seeds", "≥ 70", "demo", "attribute_mIoU"),
    ("MagNet tiny, mIoU on locations, median of the seeds", "≥ 50", "demo", "location_mIoU"),
    ("MagNet tiny, val oIoU, median of the seeds", "≥ 50", "demo", "val_oIoU"),
    ("shipped `refshapes-tiny`, val oIoU", "≥ 80", "shipped", "refshapes-tiny val"),
    ("the same, testA (attributes, places)", "≥ 85", "shipped", "refshapes-tiny testA"),
    ("the same, testB (relations, comparisons)", "≥ 70", "shipped", "refshapes-tiny testB"),
    ("shipped `refshapes-tiny-lavt`, val oIoU", "–", "shipped", "refshapes-tiny-lavt val"),
    ("the same, testB", "–", "shipped", "refshapes-tiny-lavt testB"),
    (
        "shipped `refshapes-tiny`, val oIoU in bfloat16 less that in float32",
        "–",
        "bfloat16",
        "val: oIoU, refshapes-tiny bfloat16 - float32",
    ),
    ("the same of `refshapes-tiny-lavt`", "–", "bfloat16", "val: oIoU, refshapes-tiny-lavt bfloat16 - float32"),
    ("the same of a full-size network (Swin-B, BERT-base)", "–", "bfloat16_base", "oIoU, bfloat16 - float32"),
    (
        "MagNet tiny's answer to a phrase on a picture of 480 px, two threads",
        "≤ 0.1 s",
        "speed",
        "magnet_tiny: one answer",
    ),
    ("sentences that mean nothing, answered so (N-acc), by area", "–", "no_target", "trained, area; N-acc"),
    ("the same, by a head", "–", "no_target", "trained, head; N-acc"),
    ("the others answered by some mask (T-acc), by area", "–", "no_target", "trained, area; T-acc"),
    ("the same, by a head", "–", "no_target", "trained, head; T-acc"),
    (
        "training MagNet tiny, sentences with their pictures per second over before; another network, too",
        "≥ 2.5",
        "before_after",
        "magnet_tiny, after",
    ),
    ("the same, the code alone, with the settings of before", "–", "before_after_code", "magnet_tiny, after"),
    (
        "hidden words found from text + picture + mask (`pooled`, one layer, ratio 0.3), over text + picture",
        "above 0",
        "masked_words",
        "pooled: mask - image",
    ),
    ("the same, less those found with text alone", "above 0", "masked_words", "pooled: mask - text"),
    ("found by counting neighbouring words, for comparison", "–", "masked_words", "counting neighbouring words"),
    (
        "found with the mask over picture: default mask encoder `centre`, two layers",
        "–",
        "masked_words_default",
        "centre: mask - image",
    ),
    (
        "shipped `refshapes-tiny`, one attribute word changed: the object now meant is marked",
        "≥ 80 %",
        "counterfactuals",
        "val swap: all, new_right",
    ),
    ("the same said in other words: mean IoU of two answers", "–", "counterfactuals", "val paraphrases: mean_iou"),
    ("CoupAlign tiny, val oIoU; MagNet tiny with this seed has 56.91", "≥ 51.91", "coupalign", "val_oIoU"),
    ("best of its proposals, IoU with the object, mean", "–", "coupalign", "proposals_best_iou"),
    (
        "a run of the study `components`, the dearest variant, on hardware that multiplies bfloat16",
        "≤ 8 min",
        "study_run",
        "minutes of a run, grounding_cam",
    ),
    ("the same, memory of all its processes", "≤ 4 GB", "study_run", "memory of a run, all processes, grounding_cam"),
    ("the same in float32", "≤ 8 min", "study_run_float32", "minutes of a run, grounding_cam"),
    ("the same, memory", "≤ 4 GB", "study_run_float32", "memory of a run, all processes, grounding_cam"),
    (
        "a run of `prior_methods`, the dearest variant, on hardware that multiplies bfloat16",
        "≤ 8 min",
        "study_run_coupalign",
        "minutes of a run, coupalign_grounding",
    ),
    ("the same, memory", "≤ 4 GB", "study_run_coupalign", "memory of a run, all processes, coupalign_grounding"),
    ("the same in float32", "≤ 8 min", "study_run_float32_coupalign", "minutes of a run, coupalign_grounding"),
    (
        "the same, memory",
        "≤ 4 GB",
        "study_run_float32_coupalign",
        "memory of a run, all processes, coupalign_grounding",
    ),
    (
        "pull of hidden words over that of masks at the language encoder, fifty steps from scratch: MagNet",
        "–",
        "gradient_balance",
        "MagNet, language ratio",
    ),
    ("the same, LAVT", "–", "gradient_balance", "LAVT, language ratio"),
    ("the same, CoupAlign", "–", "gradient_balance", "CoupAlign, language ratio"),
    ("a step with Mask Grounding over one without, two passes", "≤ 1.9", "variants", "cam + grounding, two passes"),
    ("the same, one pass", "≤ 1.25", "variants", "cam + grounding, one pass"),
    ("evaluation, sentences of a picture read together, speed over one by one", "≥ 1.5", "evaluation", "together over"),
    ("the same, MagNet with Swin-B at 480 px on two CPU cores", "–", "evaluation", "Swin-B on the CPU, together over"),
    (
        "the same, MagNet with Swin-B at 480 px on one H100, bfloat16",
        "≥ 5",
        "gpu",
        "magnet_base, evaluation together over",
    ),
    ("evaluation beyond the network, an expression at 480 px", "≤ 2 ms", "evaluation", "beyond the network"),
    ("the same under the protocol `paper`", "–", "evaluation", "the same under"),
    ("MagNet with Swin-B, 480 px, two cores: forward pass in float32", "–", "full_size", "forward pass of 1, now"),
    ("the same, share of the matrix product's rate", "≥ 0.6", "full_size", "forward pass of 1, now: share"),
    ("the same, time at commit 9175db8 over it", "–", "full_size_before", "forward pass of 1: before over after"),
    ("the same in bfloat16", "≤ 1.8 s", "full_size", "forward pass of 1, bfloat16"),
    ("the same, the plain path's time over it", "≥ 4", "full_size", "forward pass of 1: plain over bfloat16"),
    (
        "the same, time at commit 9175db8 over it",
        "–",
        "full_size_before",
        "forward pass of 1, bfloat16: before over after",
    ),
    (
        "the same, IoU of its masks with float32's, 13 sentences on real pictures trained on",
        "≥ 0.995",
        "full_size_masks_trained",
        "13 sentences on real pictures, trained on them: IoU",
    ),
    (
        "the same with random weights",
        "≥ 0.995",
        "full_size_masks",
        "13 sentences on real pictures, random weights: IoU",
    ),
    (
        "the same hardware: training step of 2, Mask Grounding in one pass",
        "–",
        "full_size",
        "training step of 2, one pass, now",
    ),
    ("the same, share of the matrix product's rate", "≥ 0.5", "full_size", "training step of 2, one pass, now: share"),
    ("the same, memory", "≤ 20 GB", "full_size", "training step of 2, one pass, now: memory"),
    ("the same, float32 over bfloat16", "≥ 1.8", "full_size", "training step of 2, one pass: now over bfloat16"),
    (
        "the step in float32, time at commit 9175db8 over it",
        "–",
        "full_size_before",
        "training step of 2, one pass: before",
    ),
    (
        "the step in bfloat16, the same",
        "–",
        "full_size_before",
        "training step of 2, one pass, bfloat16: before over after",
    ),
    ("the step in two passes, float32", "–", "full_size", "training step of 2, two passes, now"),
    ("the same, share of the matrix product's rate", "–", "full_size", "training step of 2, two passes, now: share"),
    ("the same, memory", "≤ 20 GB", "full_size", "training step of 2, two passes, now: memory"),
    ("the same, float32 over bfloat16", "≥ 1.8", "full_size", "training step of 2, two passes: now over bfloat16"),
    (
        "matrix product in float32 beside a step",
        "–",
        "full_size",
        "matrix product beside training step of 2, one pass, now",
    ),
    ("the same in bfloat16", "–", "full_size", "matrix product beside training step of 2, one pass, bfloat16"),
    (
        "where hardware multiplies float32 alone, commit cfa5fb7: forward pass, share of the matrix product's rate",
        "≥ 0.6",
        "full_size_float32",
        "forward pass of 1, now: share",
    ),
    (
        "the same, training step of 2",
        "≥ 0.5",
        "full_size_float32",
        "training step of 2, one pass, now: share",
    ),
    (
        "matrix product in float32 beside it",
        "–",
        "full_size_float32",
        "matrix product beside training step of 2, one pass, now",
    ),
    (
        "one H100, bfloat16, before it was mended: training step of 16, share",
        "≥ 0.15",
        "gpu",
        "magnet_base, training step of 16: share",
    ),
    (
        "the same, training step of 8 with checkpointing, memory",
        "≤ 22 GB",
        "gpu",
        "magnet_base, training step of 8, checkpointing: memory",
    ),
    ("the same, evaluation, share", "≥ 0.2", "gpu", "magnet_base, evaluation together, bfloat16: share"),
    (
        "held for the backward pass, an image of 480 px in bfloat16, counted",
        "–",
        "held",
        "magnet_base: held for the backward pass",
    ),
    ("the same with checkpointing", "–", "held", "magnet_base: held for the backward pass, checkpointing"),
    ("loading a released file of 1.19 GB", "≤ 6 s", "loading", "loading, median"),
    ("the same, its published checksum compared first", "≤ 6 s", "loading", "with its checksum"),
    ("loading it, memory over its size", "≤ 1.2", "loading", "memory over"),
    ("MagNet, largest difference from the reference outputs", "≤ 1e-3", "released", "MagNet, both"),
    ("LAVT, the same", "≤ 1e-3", "released", "LAVT, both"),
    ("LAVT tiny, mIoU on attributes, median of the seeds", "≥ 65", "lavt_demo", "attribute_mIoU"),
    ("LAVT tiny, val oIoU, median of the seeds", "–", "lavt_demo", "val_oIoU"),
    ("the same network blind to the text, val oIoU", "–", "baselines", "val no_text"),
    ("the same network reading a bag of words, val oIoU", "–", "baselines", "val bag_of_words"),
    ("thirteen real RefCOCOg objects by heart, oIoU, `original`", "≥ 90", "real_objects", "oIoU"),
    ("RefShapes, scenes per second on one core, 96 px", "≥ 500", "refshapes", "scene, picture"),
    ("bootstrap, 10,000 draws, 10,834 rows, 1,500 images", "≤ 2 s", "bootstrap", "summarize: oIoU"),
    ("analysis of a study: 8 variants, 5 seeds, 10,000 expressions", "≤ 30 s", "studies", "analysis"),
    ("`import magnet`", "≤ 0.5 s", "training", "import magnet"),
    ("training with the loader, speed over one cached batch", "≥ 0.9", "training", "speed with the loader"),
    (
        "cases of hostile or broken servers, archives and full disks, each a clear error or a recovery",
        "≥ 20",
        "hostile",
        "passed",
    ),
    ("the tests", "≤ 12 min", "tests", "tests"),
    ("every notebook and solution in smoke mode", "≤ 10 min", "tests", "notebooks and solutions"),
    ("the same, memory of a kernel", "≤ 3 GB", "tests", "the same, the largest"),
    ("every notebook at full length, one after another", "≤ 40 min", "notebooks", r"notebooks/\d\d"),
    ("`.ci/run` in a fresh clone, set-up included", "≤ 40 min", "tests", ".ci/run"),
    ("index of 142,210 expressions, first time", "≤ 60 s", "data_index", "index, first time"),
    ("the same from its cache", "≤ 2 s", "data_index", "index, from its cache"),
    ("the same, peak memory", "≤ 2 GB", "data_index", "peak memory, first time"),
    ("failure explorer on 10,834 answers: opens, processor time", "≤ 2 s", "explorer", "opens, error kinds kept"),
    ("the same the first time, error kinds computed", "–", "explorer", "opens, error kinds computed"),
    ("the same, a filter", "≤ 0.1 s", "explorer", "filters, median"),
    ("the same, an answer drawn", "≤ 0.1 s", "explorer", "draws an answer"),
]


def measured() -> str:
    lines = ["| what | aim | measured | file |", "|---|---|---|---|"]
    for what, bound, file, row in ROWS:
        lines.append(f"| {what} | {bound} | {value(file, row)} | `results/tables/{file}.csv` |")
    return "\n".join(lines)


def value(file: str, row: str) -> str:
    path = TABLES / f"{file}.csv"
    if not path.exists():
        return "not measured"
    table = pd.read_csv(path)
    if file == "baselines":
        split, name = row.split()
        found = table[(table["split"] == split) & (table["baseline"] == name)].iloc[0]
        return f"{found['oIoU']:.4g} [{found['oIoU_low']:.4g}, {found['oIoU_high']:.4g}] (1 seed)"
    if file == "shipped":
        name, split = row.split()
        found = table[(table["model"] == name) & (table["split"] == split) & (table["kind"] == "all")].iloc[0]
        return f"{found['oIoU']:.4g} [{found['oIoU_low']:.4g}, {found['oIoU_high']:.4g}] (1 seed)"
    if file == "no_target":
        name, metric = row.split("; ")
        found = table[(table["model"] == name) & (table["split"] == "together")].iloc[0]
        return f"{found[metric]:.3g} [{found[metric + '_low']:.3g}, {found[metric + '_high']:.3g}] (1 seed)"
    if file == "speed":
        return f"{table.set_index('what')['median_seconds'][row]:.2g} s"
    if file == "notebooks":
        return f"{table[~table['smoke'] & table['notebook'].str.match(row)]['minutes'].sum():.3g} min"
    if file == "variants":
        return f"{table.set_index('variant')['ratio'][row]:.3g}"
    if file == "coupalign":
        table = table[table["soft_proposals"]]  # as the recipe has them
    if f"{row}_low" in table and len(table) == 1:
        value, low, high = table[[row, f"{row}_low", f"{row}_high"]].iloc[0]
        return f"{value:.4g} [{low:.4g}, {high:.4g}] (1 seed)"
    if row == "minutes":
        alone = table["hardware"].str.contains(", 2 threads(?:, (?:no )?bfloat16)?$")
        table = table[alone]  # others ran beside other work
    if row in table and not table[row].notna().any():
        return "not measured"
    if row in table:
        seeds = int(table[row].count())
        return f"{table[row].median():.4g} ({seeds} seed{'s' * (seeds > 1)})"
    values = table.set_index("what")["value"]
    if f"{row}, low" in values:
        value, low, high = (values[row + end] for end in ("", ", low", ", high"))
        return f"{value:.3g} [{low:.3g}, {high:.3g}] {'points' if ' - ' in row else '%'} (1 seed)"
    found = table[table["what"].str.startswith(row)]
    found = found[~found["what"].str[len(row) :].str.startswith(":")]  # what follows a colon is another quantity
    if found.empty:
        return "not measured"
    found = found.iloc[0]
    unit = "" if found["unit"] in ("ratio", "count") else f" {found['unit']}"
    return f"{found['value']:.4g}{unit}"


def notebooks() -> str:
    table = (ROOT / "notebooks" / "README.md").read_text().partition("| |")
    return re.sub(r"\]\((\d\d_)", r"](notebooks/\1", "".join(table[1:])).strip()


def filled(text: str) -> str:
    """README.md with what stands between its markers made anew."""
    for name, content in (("measured", measured()), ("notebooks", notebooks())):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.S)  # noqa: B023
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
    print(measured())
