"""Latent clips with poses and captions, held in memory and drawn by a counter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from camera_control import rays
from safetensors import safe_open
from torch import Tensor


@dataclass(frozen=True)
class LatentBatch:
    """A batch as the world model takes it; frame 0 of the latents is the given picture."""

    latents: Tensor  # (b, c, t, y, x) normalised
    camera: Tensor  # (b, t, 20)
    plucker: Tensor  # (b, 48, t, y, x)
    captions: list[str]


class LatentClips:
    """A folder written by encode_clips: `latents.jsonl` and the safetensors shards it names.

    Each line has id, shard, split and caption; the shard holds `<id>.latents` (c, t, y, x), `<id>.c2w` (f, 4, 4),
    `<id>.intrinsics` (f, 4) in pixels and the picture size in its metadata.

    Raises:
        ValueError: The folder has no latents.jsonl, or no clip of the wanted split.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder = Path(folder)
        index = self.folder / "latents.jsonl"
        if not index.is_file():
            raise ValueError(f"{folder}: no latents.jsonl; write one with `sana-wm data encode {folder}`")
        rows = [json.loads(line) for line in index.read_text().splitlines() if line]
        self.rows = [row for row in rows if row["split"] == split]
        if not self.rows:
            raise ValueError(f"{folder}: no clip of split {split!r}; there are {sorted({r['split'] for r in rows})}")
        latents, camera, plucker = [], [], []
        for shard in sorted({row["shard"] for row in self.rows}):
            wanted = [row for row in self.rows if row["shard"] == shard]
            with safe_open(self.folder / shard, "pt") as file:
                size = (int(file.metadata()["height"]), int(file.metadata()["width"]))
                for row in wanted:
                    z = file.get_tensor(f"{row['id']}.latents")
                    grid = (z.shape[-2], z.shape[-1])
                    c2w = file.get_tensor(f"{row['id']}.c2w").numpy()
                    k = file.get_tensor(f"{row['id']}.intrinsics").numpy()
                    latents.append(z.half())
                    camera.append(torch.from_numpy(rays.camera_conditions(c2w, k, size, grid)))
                    plucker.append(torch.from_numpy(rays.chunk_plucker(c2w, k, size, grid)).half())
        order = [row for shard in sorted({r["shard"] for r in self.rows}) for row in self.rows if row["shard"] == shard]
        self.rows = order
        self.latents, self.camera, self.plucker = torch.stack(latents), torch.stack(camera), torch.stack(plucker)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: list[int]) -> LatentBatch:
        """The clips of these numbers, in float32."""
        i = torch.tensor(indices)
        captions = [self.rows[j]["caption"] for j in indices]
        return LatentBatch(self.latents[i].float(), self.camera[i].float(), self.plucker[i].float(), captions)

    def draw(self, seed: int, iteration: int, count: int) -> list[int]:
        """Clip numbers of one iteration: passes over the whole set, each in its own shuffled order.

        A function of (seed, iteration) alone, so a resumed run sees what an uninterrupted one would.
        """
        positions = np.arange(iteration * count, (iteration + 1) * count)
        epochs = positions // len(self)
        orders = {int(e): np.random.default_rng((seed, int(e))).permutation(len(self)) for e in np.unique(epochs)}
        return [int(orders[int(e)][p % len(self)]) for e, p in zip(epochs, positions, strict=True)]
