"""How fast a model makes videos and how much memory that takes, by one written definition.

The paper prints videos per hour on eight GPUs without saying what is inside; this is what is inside here. A run goes
from inputs in memory to frames in memory: loading and writing are outside, text, picture, sampling and decoding inside.
Reference: benchmark specification 3.5.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFINITION = (
    "A run starts with inputs in memory and ends with uint8 frames in memory; loading and file writing are outside. "
    "first_frame_s: until the first frames arrive (the whole run for a model that makes a clip at once). "
    "steady_fps: frames after the first batch over the time after it (all frames over the run for one batch). "
    "videos_per_hour_8: (8 / GPUs per video) * 3600 / median run, as if eight such devices stood in one node. "
    "Memory is the peak over the timed runs: by torch (allocated, reserved) and by the driver (the whole device), or "
    "the peak resident size of this process on a CPU. Warm-up runs are not counted."
)
_POLL_S = 0.05


@dataclass(frozen=True)
class Speed:
    """Medians over timed runs; seconds, frames per second and gigabytes (1e9 bytes). None: not measurable here."""

    runs: int
    warmups: int
    frames: int
    warmup_s: float
    first_frame_s: float
    run_s: float
    run_s_spread: float  # largest minus smallest
    steady_fps: float
    realtime: float  # seconds of video made per second
    videos_per_hour_8: float
    gpus_per_video: int
    peak_torch_allocated_gb: float | None
    peak_torch_reserved_gb: float | None
    peak_driver_gb: float | None
    peak_process_gb: float
    device: str

    def record(self) -> dict[str, Any]:
        """Plain values, with the definition."""
        return {**asdict(self), "definition": DEFINITION}


def measure_speed(
    make: Callable[[], Iterable[NDArray[np.uint8]]],
    fps: float,
    *,
    runs: int = 3,
    warmups: int = 1,
    gpus_per_video: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time a function that yields batches of frames (n, H, W, 3) as they become ready.

    Raises ValueError for counts below one and for a function that yields nothing.
    """
    if runs < 1 or warmups < 0 or gpus_per_video < 1:
        raise ValueError(
            f"runs {runs}, warm-ups {warmups}, GPUs {gpus_per_video}; allowed: from 1, 0 and 1; example: 3"
        )
    before = clock()
    for _ in range(warmups):
        _one_run(make, clock, device)
    warmup_s = clock() - before
    memory = _Memory(device)
    with memory:
        timed = [_one_run(make, clock, device) for _ in range(runs)]
    run_s = np.array([sum(run.gaps_s) for run in timed])
    frames = sum(timed[0].batches)
    steady = [_steady_fps(run) for run in timed]
    middle = float(np.median(run_s))
    return Speed(
        runs, warmups, frames, warmup_s, float(np.median([run.gaps_s[0] for run in timed])), middle,
        float(np.ptp(run_s)), float(np.median(steady)), frames / fps / middle, 8 / gpus_per_video * 3600 / middle,
        gpus_per_video, memory.allocated_gb, memory.reserved_gb, memory.driver_gb, memory.process_gb,
        memory.name,
    )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    gaps_s: list[float]  # time until each batch since the one before
    batches: list[int]  # frames in each


def _one_run(make: Callable[[], Iterable[NDArray[np.uint8]]], clock: Callable[[], float], device: str) -> _Run:
    gaps, batches = [], []
    last = clock()
    for batch in make():
        now = clock()
        gaps.append(now - last)
        batches.append(len(batch))
        last = now
    if not batches or not sum(batches):
        raise ValueError("the model made no frame; allowed: at least one; example: a clip of 65")
    return _Run(gaps, batches)


def _steady_fps(run: _Run) -> float:
    if len(run.batches) == 1:
        return run.batches[0] / run.gaps_s[0]
    return sum(run.batches[1:]) / sum(run.gaps_s[1:])


class _Memory:
    """Peaks while the block runs."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._index = device.partition(":")[2] or "0"
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._poll, daemon=True)
        self.allocated_gb: float | None = None
        self.reserved_gb: float | None = None
        self.driver_gb: float | None = None
        self.process_gb = 0.0
        self.name = platform.processor() or platform.machine()

    def __enter__(self) -> _Memory:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(int(self._index))
            self.name = torch.cuda.get_device_name(int(self._index))
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            import torch

            self._done.set()
            self._watch.join()
            self.allocated_gb = torch.cuda.max_memory_allocated(int(self._index)) / 1e9
            self.reserved_gb = torch.cuda.max_memory_reserved(int(self._index)) / 1e9
        unit = 1 if sys.platform == "darwin" else 1024
        self.process_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

    def _poll(self) -> None:
        ask = ["nvidia-smi", "-i", self._index, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._done.wait(_POLL_S):
            try:
                text = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout
                used = float(text.splitlines()[0]) * 2**20 / 1e9
            except (OSError, ValueError, IndexError, subprocess.SubprocessError):
                return
            self.driver_gb = max(self.driver_gb or 0.0, used)
