"""What a benchmark is made of: scenes with a first frame, a prompt and a camera path, grouped into a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from camera_control.geometry import crop_intrinsics
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray

from wm_bench.splits.revisits import RevisitPair

CATEGORIES = ("game_style", "indoor", "outdoor_city", "outdoor_nature")


@dataclass(frozen=True, eq=False)
class Truth:
    """What a scene really looks like: uint8 (n, H, W, 3), and metric z-depth (n, H, W), infinite in the sky."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BenchScene:
    """One task: make this picture move along this path.

    c2w (n, 4, 4) metres, OpenCV axes; intrinsics (n, 4) fx, fy, cx, cy in pixels of the source picture, whose size is
    (height, width). `extra` keeps everything else a file said about the scene.
    """

    id: str
    category: str
    template: str
    prompt: str
    c2w: NDArray[np.float64]
    source_intrinsics: NDArray[np.float64]
    source_size: tuple[int, int]
    fps: float
    pairs: tuple[RevisitPair, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last pose."""
        return (len(self.c2w) - 1) / self.fps

    def intrinsics(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Intrinsics (n, 4) in a picture of (height, width) made by filling and centre-cropping the source."""
        return np.asarray(crop_intrinsics(self.source_intrinsics, self.source_size, size), dtype=np.float64)

    def trajectory(self, size: tuple[int, int] | None = None) -> Trajectory:
        """The path with the lens of a picture size; the source's without one."""
        size = size or self.source_size
        return Trajectory(self.c2w, self.intrinsics(size), fps=self.fps, image_size=size)

    def cut(self, seconds: float) -> BenchScene:
        """The first seconds of the task: its poses up to then, and the revisit pairs that lie inside."""
        frames = min(len(self.c2w), round(seconds * self.fps) + 1)
        if frames < 2:
            raise ValueError(f"seconds is {seconds}; allowed: at least {1 / self.fps:g}; example: 4")
        pairs = tuple(p for p in self.pairs if max(p.frame_a, p.frame_b) < frames)
        return BenchScene(
            self.id,
            self.category,
            self.template,
            self.prompt,
            self.c2w[:frames],
            self.source_intrinsics[:frames],
            self.source_size,
            self.fps,
            pairs,
            self.extra,
        )

    def fingerprint(self) -> str:
        """SHA-256 of everything a score depends on: poses to a micrometre, lens, prompt, pairs."""
        total = hashlib.sha256()
        text = [self.id, self.template, self.prompt, self.fps, self.source_size, [p[:2] for p in self.pairs]]
        total.update(json.dumps(text).encode())
        for array in (self.c2w, self.source_intrinsics):
            # + 0.0 turns -0 into 0.
            total.update((np.round(array, 6) + 0.0).astype("<f8").tobytes())
        return total.hexdigest()


class TruthOf(Protocol):
    """Exact pictures and depth of a scene at instants (n,) in seconds, in a picture of (height, width)."""

    def __call__(
        self,
        scene: BenchScene,
        times_s: NDArray[np.float64],
        size: tuple[int, int],
        lens: NDArray[np.float64] | None = None,
    ) -> Truth:
        """Render; `lens` (4,) px replaces the one that follows from the size."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """A named set of scenes with a way to get first frames, and exact truth where the world is known.

    `revision` identifies the data: every score carries it. `truth` is None for pictures of unknown worlds.
    """

    name: str
    source: Literal["procedural", "sana", "user"]
    revision: str
    scenes: Sequence[BenchScene]
    first_frame: Callable[[BenchScene, tuple[int, int]], NDArray[np.uint8]]
    truth: TruthOf | None
    complete: int  # scenes that a headline number needs

    def scene(self, scene_id: str) -> BenchScene:
        """Look a scene up by id. Raises ValueError for an unknown one."""
        for scene in self.scenes:
            if scene.id == scene_id:
                return scene
        known = ", ".join(s.id for s in self.scenes[:3])
        raise ValueError(f"unknown scene {scene_id!r}; allowed: the ids of {self.name}, such as {known}")


def folder_name(split_name: str) -> str:
    """A split's name as a folder that every shell takes as it is: proc_simple_60s[0-4s] is proc_simple_60s_0-4s."""
    return split_name.replace("[", "_").replace("]", "")


def revision_of(prefix: str, scenes: Sequence[BenchScene]) -> str:
    """The revision of a set of scenes: a prefix and a hash of their fingerprints."""
    total = hashlib.sha256("\n".join(scene.fingerprint() for scene in scenes).encode())
    return f"{prefix}:{total.hexdigest()[:16]}"
