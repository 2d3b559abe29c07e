"""What a run was made of and how long it took."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sana_wm_core.pipeline import WorldPipeline

    from sana_wm_cli.inputs import Inputs, Request

_PACKAGES = ("sana-wm", "sana-wm-core", "gdn-kernels", "camera-control", "torch", "diffusers", "transformers", "av")


class Made(NamedTuple):
    """What came out of a run: frames and their size, and the lens of the first, fx, fy, cx, cy in its pixels."""

    frames: int
    height: int
    width: int
    lens: tuple[float, ...]


def describe_run(
    pipeline: WorldPipeline, request: Request, inputs: Inputs, made: Made, fps: float, clock: Clock
) -> dict[str, Any]:
    """The record written beside the video: enough to make it again and to know what it was made with."""
    own = pipeline.defaults
    flags = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(request).items()}
    used = {
        "frames": made.frames,
        "height": made.height,
        "width": made.width,
        "fps": fps,
        "steps": own.steps if request.step is None else request.step,
        "cfg_scale": own.guidance if request.cfg_scale is None else request.cfg_scale,
        "flow_shift": own.shift if request.flow_shift is None else request.flow_shift,
        "seed": request.seed,
        "sampling_algo": own.sampler if request.sampling_algo == "auto" else request.sampling_algo,
        "prompt": inputs.prompt,
        "action": inputs.action,
        "translation_speed": _or(request.translation_speed, own.translation_speed),
        "rotation_speed_deg": _or(request.rotation_speed_deg, own.rotation_speed_deg),
        "intrinsics_px_first_frame": [round(float(x), 4) for x in made.lens],
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    files = {"image": inputs.image_path, "camera": request.camera, "intrinsics": request.intrinsics}
    return {
        "model": request.source,
        "flags": flags,
        "used": used,
        "preset": asdict(own),
        "sha256": {
            "inputs": {name: digest(path) for name, path in files.items() if path is not None},
            "model": {name: digest(path) for name, path in pipeline.sources.items()},
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "seconds": {name: round(s, 3) for name, s in clock.seconds.items()},
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        if len(files) > 1:
            total.update(f"{file.relative_to(path)}\0".encode())
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def _or(given: float | None, own: float) -> float:
    return own if given is None else given


class Clock:
    """Seconds spent in named stages, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since_s = time.monotonic()

    def enter(self, stage: str | None) -> None:
        """End the current stage and begin another, or none."""
        now = time.monotonic()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since_s
        self._stage, self._since_s = stage, now

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time a block as one stage."""
        self.enter(stage)
        yield
        self.enter(None)

    @property
    def total_s(self) -> float:
        """Seconds of all stages so far."""
        return sum(self.seconds.values())
