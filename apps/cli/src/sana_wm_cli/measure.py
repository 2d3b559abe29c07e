"""What a stream says about itself: seconds of each run, memory, and frames picked out to be compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass
class FrameSamples:
    """Every n-th frame of a stream.

    Attributes:
        path: The .npz to write: frames (n, H, W, 3) uint8, numbers (n,) and fps.
        stride: Frames from one to the next.
        fps: Frames per second.
    """

    path: Path
    stride: int
    fps: float
    _seen: int = 0
    _frames: list[np.ndarray] = field(default_factory=list)

    def append(self, video: np.ndarray) -> None:
        """Pick from the next frames (f, H, W, 3)."""
        first = -self._seen % self.stride
        self._frames.extend(video[first :: self.stride].copy())
        self._seen += len(video)

    def save(self) -> None:
        """Write the file; it appears whole or not at all."""
        from sana_wm_core.video import written_whole

        numbers = np.arange(len(self._frames)) * self.stride
        with written_whole(self.path) as temporary:
            np.savez_compressed(temporary, frames=np.stack(self._frames), numbers=numbers, fps=self.fps)


def describe_lap(frames: int, first_frames: int, first_s: float, wall_s: float, fps: float) -> dict[str, float]:
    """Seconds and rates of one run; the steady rate leaves the first chunk out and is 0 where there is only one."""
    later_s = wall_s - first_s
    steady = (frames - first_frames) / later_s if frames > first_frames and later_s > 0 else 0.0
    return {
        "frames": frames,
        "first_chunk_s": round(first_s, 3),
        "wall_s": round(wall_s, 3),
        "frames_per_s": round(frames / wall_s, 3),
        "times_realtime": round(frames / wall_s / fps, 3),
        "steady_frames_per_s": round(steady, 3),
    }


def write_benchmark(path: Path, facts: dict[str, Any], laps: list[dict[str, float]], device: torch.device) -> None:
    """Write the runs, their medians and the peak of memory."""
    import resource

    import torch
    from sana_wm_core.video import write_text

    median = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    peak: dict[str, float] = {"main_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)}
    if device.type == "cuda":
        peak["gpu_gb"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    found = facts | {"device": str(device), "threads": torch.get_num_threads(), "peak": peak}
    write_text(path, json.dumps(found | {"runs": laps, "median": median}, indent=2) + "\n")


@contextmanager
def marked_for_nsight(wanted: bool, device: torch.device) -> Iterator[None]:
    """Mark a stretch of work for `nsys profile --capture-range=cudaProfilerApi`.

    Raises:
        ValueError: The work is not on an NVIDIA GPU.
    """
    if not wanted:
        yield
        return
    if device.type != "cuda":
        raise ValueError(f"--profile_cuda marks work on an NVIDIA GPU; this runs on {device.type}; leave it out")
    import torch

    torch.cuda.profiler.start()
    try:
        yield
    finally:
        torch.cuda.profiler.stop()
