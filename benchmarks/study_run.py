"""What one run of a study costs: minutes and memory, training and scoring, of the dearest variants.

magnet data shapes
python benchmarks/study_run.py --variant grounding_cam_alignment --output results/tables/study_run.csv
python benchmarks/study_run.py --variant coupalign_grounding --output results/tables/study_run_coupalign.csv

Up to a quarter of an hour each, with nothing beside it; faster where the hardware multiplies bfloat16: the files with
float32 in their names are of a machine that does not. The vision backbone, which all runs of all studies share, has
learnt its names before. One variant a process, as what a process keeps of the first would count for the second.
"""

import time
from pathlib import Path

from empty_folder import empty_folder
from measured import parser, report

from magnet.workbench.ablate import ablate
from magnet.workbench.demo import PeakMemory
from magnet.workbench.studies import components, prior_methods
from magnet.workbench.study import Study

DEAREST = {"grounding_cam_alignment": components(), "coupalign_grounding": prior_methods()}


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
    options.add_argument("--variant", choices=DEAREST, required=True)
    options = options.parse_args()
    report(cost(DEAREST[options.variant], options.variant, root), options.output)


if __name__ == "__main__":
    main()
