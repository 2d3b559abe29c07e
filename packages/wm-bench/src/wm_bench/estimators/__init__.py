"""Where the camera of a generated video really was: estimators behind one call, found by name.

Built in: "oracle" (poses written beside the video), "pycolmap" (no weights), "pi3:FOLDER" and "pi3x:FOLDER" (local
checkpoints), "command:..." (any program). Other packages add theirs with register_estimator, or as entry points of the
group "wm_bench.estimators": a function that takes the options after the colon and returns an Estimator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Unavailable(Exception):
    """An estimator or metric that cannot run here; the message says what is missing."""


class PoseRequest(NamedTuple):
    """What an estimator sees: sampled frames (n, H, W, 3), the asked-for lens (n, 4) px, times and the video's path.

    `indices` are the frames' numbers in the video.
    """

    frames: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    times_s: NDArray[np.float64]
    indices: NDArray[np.int64]
    video: Path


class PoseEstimate(NamedTuple):
    """Camera-to-world poses (n, 4, 4) in any frame and scale; rows that are not `registered` (n,) mean nothing."""

    c2w: NDArray[np.float64]
    registered: NDArray[np.bool_]


class Estimator(Protocol):
    """A way to get poses from frames; the same input must give the same output, bit for bit.

    `weights_sha256` is "none" without weights.
    """

    id: str
    version: str
    weights_sha256: str

    def estimate(self, request: PoseRequest) -> PoseEstimate:
        """Estimate poses. Raises ValueError when this clip fails, Unavailable when the estimator cannot run."""
        ...


_REGISTERED: dict[str, Callable[[str], Estimator]] = {}


def register_estimator(name: str, factory: Callable[[str], Estimator]) -> None:
    """Make an estimator known under a name in this process; `factory` takes the options after the colon."""
    _REGISTERED[name] = factory


def get_estimator(spec: str) -> Estimator:
    """Find an estimator by "name" or "name:options".

    Raises Unavailable for a known one that cannot run here and ValueError for an unknown name.
    """
    name, _, options = spec.partition(":")
    built_in = {**_built_in(), **_REGISTERED}
    if name in built_in:
        return built_in[name](options)
    for entry in entry_points(group="wm_bench.estimators", name=name):
        made: Estimator = entry.load()(options)
        return made
    raise ValueError(f"estimator is {name!r}; allowed: {', '.join(built_in)}; example: 'pycolmap'")


def _built_in() -> dict[str, Callable[[str], Estimator]]:
    from wm_bench.estimators.colmap import Pycolmap
    from wm_bench.estimators.command import Command
    from wm_bench.estimators.oracle import Oracle
    from wm_bench.estimators.pi3 import Pi3

    pi3 = {name: functools.partial(Pi3, name) for name in ("pi3", "pi3x")}
    return {"oracle": Oracle, "pycolmap": Pycolmap, "command": Command, **pi3}
