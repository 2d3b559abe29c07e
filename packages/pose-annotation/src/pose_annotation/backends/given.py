"""Depth that somebody else has worked out: one .npz, or a folder with one .npy a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends import Depth
from pose_annotation.outputs import digest_of, read_arrays
from pose_annotation.types import Array
from pose_annotation.video import file_digest


class GivenDepth:
    """Depth maps (h, w) for the frames of a video at the clips' rate, counted from its first frame.

    A .npz with `depth` (f, h, w), or a folder of .npy files in the order of their names. Zero, negative, infinite and
    nan values are unknown. Raises ValueError, in one line, for anything else.
    """

    name = "given"
    version = "1"
    licence = "as given"

    def __init__(self, path: Path, *, metric: bool = True) -> None:
        self.metric = metric
        self._files: list[Path] = []
        self._all: NDArray[np.float32] | None = None
        if path.is_dir():
            self._files = sorted(path.glob("*.npy"))
            if not self._files:
                raise ValueError(f"{path} holds no .npy file; allowed: one map (h, w) a frame; example: 00000.npy")
            self.weights_id = digest_of([[file.name, file.stat().st_size] for file in self._files])
            return
        arrays = read_arrays(path)
        if "depth" not in arrays or arrays["depth"].ndim != 3:
            raise ValueError(f"{path} has no array 'depth' (f, h, w); allowed: np.savez(path, depth=z)")
        self._all = arrays["depth"].astype(np.float32)
        self.weights_id = file_digest(path)[:20]

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """The maps of frames `first` and on. Raises ValueError when there are too few or they have other shapes."""
        stop = first + len(frames)
        have = len(self._files) if self._all is None else len(self._all)
        if stop > have:
            raise ValueError(f"depth has {have} maps, the video needs {stop}; allowed: one map for every frame")
        if self._all is not None:
            maps = self._all[first:stop]
        else:
            loaded = [_load(file) for file in self._files[first:stop]]
            if len({z.shape for z in loaded}) > 1:
                raise ValueError("depth maps have different sizes; allowed: one size for the whole clip")
            maps = np.stack(loaded)
        return Depth(np.where(np.isfinite(maps) & (maps > 0), maps, np.nan).astype(np.float32), self.metric)


def _load(file: Path) -> NDArray[np.float32]:
    try:
        z = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read depth map {file} ({type(error).__name__}); allowed: .npy of (h, w)") from None
    if z.ndim != 2:
        raise ValueError(f"depth map {file.name} has shape {z.shape}; allowed: (h, w); example: (252, 448)")
    return np.asarray(z, np.float32)
