"""What one run of a study costs: minutes and memory, training and scoring, of the dearest variants.

magnet data shapes
python benchmarks/study_run.py --output results/tables/study_run.csv      (24 minutes, with nothing beside it)

Faster where the hardware multiplies bfloat16; study_run_float32.csv is of a machine that does not, and
study_run_float32_coupalign.csv of `--variant coupalign_grounding` there, by itself. The vision backbone, which all
runs of all studies share, has learnt its names before.
"""

import time
from pathlib import Path

from empty_folder import empty_folder
from measured import parser, report

from magnet.workbench.ablate import ablate
from magnet.workbench.demo import PeakMemory
from magnet.workbench.studies import components, prior_methods
from magnet.workbench.study import Study

DEAREST = (components(), "grounding_cam_alignment"), (prior_methods(), "coupalign_grounding")


def cost(study: Study, variant: str, root: Path) -> list[tuple[str, float, str]]:
    with empty_folder(study.config(variant, 0).model.vision), PeakMemory() as memory:
        began = time.monotonic()
        failed = ablate(study, seeds=(0,), variants=(variant,), root=root, progress=False)
        minutes = (time.monotonic() - began) / 60
    if failed:
        raise RuntimeError(failed)
    rows = [("minutes of a run", minutes, "min"), ("memory of a run, all processes", memory.gb, "GB")]
    return [(f"{what}, {variant}", value, unit) for what, value, unit in rows]


def main() -> None:
    options, root = parser(__doc__), Path("data").resolve()
    options.add_argument("--variant", choices=[variant for _, variant in DEAREST], help="this one alone")
    options = options.parse_args()
    chosen = [(study, variant) for study, variant in DEAREST if options.variant in (None, variant)]
    report([row for study, variant in chosen for row in cost(study, variant, root)], options.output)


if __name__ == "__main__":
    main()
