"""Which clips a step sees: a function of seed and step, the same whoever asks.

Clips are grouped by length, so that all ranks of a step do equal work. An epoch shuffles every group, cuts it into
global batches and shuffles the batches; what does not fill a batch waits for another epoch's shuffle. A group smaller
than a batch is repeated until it fills one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np


class Order:
    """Clip numbers of every step.

    Args:
        frames: Latent frames of each clip.
        repeats: How often each clip is in an epoch; 0 leaves it out.
        global_batch: Clips in a step.
        seed: Another seed gives another order.
    """

    def __init__(self, frames: Sequence[int], repeats: Sequence[int], global_batch: int, seed: int) -> None:
        self.batch, self.seed = global_batch, seed
        groups: dict[int, list[int]] = defaultdict(list)
        for number, (length, repeat) in enumerate(zip(frames, repeats, strict=True)):
            groups[length] += [number] * repeat
        if not any(groups.values()):
            raise ValueError("no clip is left to train on; loosen data.filters or give another --data")
        self.groups = {length: clips for length, clips in sorted(groups.items()) if clips}
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def steps_an_epoch(self) -> int:
        """Steps until every group has been seen."""
        return sum(max(len(clips) // self.batch, 1) for clips in self.groups.values())

    def step(self, step: int) -> list[int]:
        """The clips of one step, over all ranks."""
        epoch, place = divmod(step, self.steps_an_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][place]

    def rank(self, step: int, data_rank: int, data_ranks: int) -> list[int]:
        """One data rank's share of a step."""
        share = self.batch // data_ranks
        return self.step(step)[data_rank * share : (data_rank + 1) * share]

    def _batches(self, epoch: int) -> list[list[int]]:
        out = []
        for length, clips in self.groups.items():
            random = np.random.default_rng((self.seed, epoch, length))
            order = [clips[i] for i in random.permutation(len(clips))]
            while len(order) < self.batch:
                order += order
            out += [
                order[i : i + self.batch] for i in range(0, max(len(clips) // self.batch, 1) * self.batch, self.batch)
            ]
        random = np.random.default_rng((self.seed, epoch))
        return [out[i] for i in random.permutation(len(out))]
