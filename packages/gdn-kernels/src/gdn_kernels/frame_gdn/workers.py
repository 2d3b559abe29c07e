"""Threads of our own for large clips on a CPU, whose calls are too small to be shared out one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

SHARED = 1 << 22  # elements of a token tensor, from where threads of our own are worth waking

Piece = TypeVar("Piece")


class Workers:
    """The calling thread and its helpers; count of them in all."""

    def __init__(self, count: int) -> None:
        self.count = count

    def each(
        self, pieces: Iterable[Piece], do: Callable[[Piece, int], None], first: Callable[[], None] | None = None
    ) -> None:
        """do(piece, index of the worker) for every piece: whoever is free takes the next one.

        first is what the caller does before it takes any.
        """
        queue, inference = iter(list(pieces)), torch.is_inference_mode_enabled()

        def work(index: int) -> None:
            with torch.inference_mode(inference), torch.no_grad():
                for piece in queue:
                    do(piece, index)

        # One share is the caller's: two threads that begin together tend to run on one core until the next tick.
        helpers = range(1, self.count)
        others = [_helpers(os.getpid(), len(helpers)).submit(work, index) for index in helpers]
        try:
            if first is not None:
                first()
            work(0)
        finally:
            # Buffers may go to the next call only when nobody writes to them: after an error too.
            list(queue)  # nothing is left to take
            wait(others)
        for other in others:
            other.result()


@contextmanager
def workers(elements: int) -> Iterator[Workers]:
    """For a clip of so many elements a token tensor: one worker, whose calls PyTorch shares out, or one a thread."""
    threads = torch.get_num_threads()
    if threads == 1 or elements <= SHARED:
        yield Workers(1)
        return
    try:
        # Holds for the calls of this thread; the helpers have a setting of their own.
        torch.set_num_threads(1)
        yield Workers(threads)
    finally:
        torch.set_num_threads(threads)


@cache
def _helpers(process: int, count: int) -> ThreadPoolExecutor:
    """Kept, as a thread takes a millisecond or two to begin; a process made by fork has none of its parent's."""
    return ThreadPoolExecutor(count, "gdn", initializer=torch.set_num_threads, initargs=(1,))
