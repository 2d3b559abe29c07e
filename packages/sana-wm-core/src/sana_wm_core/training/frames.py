"""All frames of a folder of clips as one memory-mapped array, made once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sana_wm_core.training.encode import read_frames, read_manifest


def frame_store(folder: str | Path, split: str) -> np.ndarray:
    """Frames (clips, f, H, W, 3) uint8 of a split, from a cache file beside the manifest.

    The cache is written on first use and is as large as the raw pixels (3 MB for 65 frames of 96 x 160).

    Raises:
        ValueError: No clip of the split, or clips of different shapes.
    """
    folder = Path(folder)
    rows = [row for row in read_manifest(folder) if row["split"] == split]
    if not rows:
        raise ValueError(f"{folder}: no clip of split {split!r}")
    shape = (len(rows), rows[0]["raw_frames"], rows[0]["height"], rows[0]["width"], 3)
    cache = folder / f"frames-{split}-{'x'.join(map(str, shape))}.npy"
    if not cache.is_file():
        temporary = folder / f".frames.{os.getpid()}.npy"
        store = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        for i, row in enumerate(rows):
            frames = read_frames(folder / row["video_path"])
            if frames.shape != shape[1:]:
                raise ValueError(f"{row['id']}: {frames.shape} frames, the others have {shape[1:]}")
            store[i] = frames
        store.flush()
        os.replace(temporary, cache)
    return np.load(cache, mmap_mode="r", allow_pickle=False)
