"""Which items make up each step: resumable and shared between processes without any stored state."""

from collections.abc import Iterator

import numpy as np

from magnet.config import OptimConfig


class StepSampler:
    """Item numbers of this process's micro-batches, from step `start` on: a pure function of (seed, step).

    Number p of the stream is item `order[p % n]` of epoch p // n, given out as epoch · n + item so that the data set
    can choose that epoch's sentence without a state of its own. Processes take every `num_processes`-th item.
    """

    def __init__(self, num_items: int, shuffle: bool, seed: int, start: int, stop: int, optim: OptimConfig,
                 process: int = 0, num_processes: int = 1):  # fmt: skip
        local = optim.batch_size // num_processes
        micro = min(optim.micro_batch or local, local)
        if optim.batch_size % num_processes or local % micro:
            raise ValueError(
                f"batch_size {optim.batch_size} does not divide into {num_processes} processes with"
                f" micro_batch {micro}; change --optim.micro-batch or the number of processes"
            )
        self.num_items, self.shuffle, self.seed = num_items, shuffle, seed
        self.steps, self.batch_size = range(start, stop), optim.batch_size
        self.process, self.num_processes, self.micro = process, num_processes, micro
        self.num_micro = local // micro
        self._order = (-1, None)

    def __len__(self) -> int:
        return len(self.steps) * self.num_micro

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            positions = range(step * self.batch_size, (step + 1) * self.batch_size)[self.process :: self.num_processes]
            items = [self._item(p) for p in positions]
            yield from (items[i : i + self.micro] for i in range(0, len(items), self.micro))

    def _item(self, position: int) -> int:
        if not self.shuffle:
            return position
        epoch, place = divmod(position, self.num_items)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_items))
        return epoch * self.num_items + int(self._order[1][place])
