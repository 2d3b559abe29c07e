"""Sampling a chunk while the one before is refined and decoded: two threads, and on a GPU two streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sana_wm_core.streaming.camera import CameraTrack
from sana_wm_core.streaming.state import WorldState

Made = TypeVar("Made")
Move = Callable[[CameraTrack], tuple[CameraTrack, NDArray[np.float32]]]


class Sampled(NamedTuple):
    """A moment whose last latents are not refined or decoded yet.

    Attributes:
        state: The moment, with the refiner's and decoder's memory of an earlier one.
        poses: (f, 4, 4) of the chunk's raw frames.
    """

    state: WorldState
    poses: NDArray[np.float32]


def overlapped(
    state: WorldState,
    moves: Sequence[Move],
    sample: Callable[[WorldState, CameraTrack, NDArray[np.float32]], Sampled],
    finish: Callable[[Sampled], Made],
    device: torch.device,
) -> Iterator[Made]:
    """What `finish(sample(...))` gives for every move, in order and as soon as it is there.

    Sampling runs ahead by one chunk in a thread of its own, finishing in the caller's.

    Args:
        state: The moment to go on from.
        moves: How the camera moves, a chunk each.
        sample: Makes the latents of a chunk; changes nothing else.
        finish: Makes a result of them.
        device: Where both work.
    """
    streams = _Streams(device)

    def begin(at: WorldState, move: Move) -> tuple[Sampled, Any]:
        with streams.sampling():
            sampled = sample(at, *move(at.track))
            return sampled, streams.mark()

    if not moves:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="sampling") as ahead:
        coming = ahead.submit(begin, state, moves[0])
        for following in (*moves[1:], None):
            sampled, ready = coming.result()
            if following is not None:
                coming = ahead.submit(begin, sampled.state, following)
            with streams.finishing(ready):
                made = finish(sampled)
            yield made


class _Streams:
    """Two CUDA streams that wait for each other where one reads what the other wrote; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            self.caller = torch.cuda.current_stream(device)
            self.sampler, self.finisher = torch.cuda.Stream(device), torch.cuda.Stream(device)
            self.finisher.wait_stream(self.caller)

    def sampling(self) -> AbstractContextManager[Any]:
        if not self.cuda:
            return nullcontext()
        self.sampler.wait_stream(self.caller)  # where a new caption may have been read since the last chunk
        return torch.cuda.stream(self.sampler)

    def mark(self) -> Any:
        """The moment at which what was sampled may be read."""
        return self.sampler.record_event() if self.cuda else None

    def finishing(self, ready: Any) -> AbstractContextManager[Any]:
        return _Finishing(self.finisher, ready) if self.cuda else nullcontext()


class _Finishing:
    """Works in a stream once an event has come, and leaves only when all is done: the caller may use any stream."""

    def __init__(self, stream: Any, ready: Any) -> None:
        self.stream, self.ready, self.inside = stream, ready, torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self.stream.wait_event(self.ready)
        self.inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inside.__exit__(*error)
        self.stream.synchronize()
