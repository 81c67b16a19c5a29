"""A working folder for a benchmark that trains: nothing in it but the vision backbone that all runs share."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from magnet.config import OptimConfig, VisionConfig
from magnet.evaluate import best_device
from magnet.optimizer import choose_precision
from magnet.refshapes.pretrain import pretrained_file


@contextmanager
def empty_folder(vision: VisionConfig) -> Iterator[None]:
    """The backbone has learnt its names before, so that no time is counted for it."""
    backbone = pretrained_file(vision, choose_precision(OptimConfig(), best_device())).resolve()
    with TemporaryDirectory() as folder, chdir(folder):
        Path("results").mkdir()
        Path("results/pretrained").symlink_to(backbone.parent)
        yield
