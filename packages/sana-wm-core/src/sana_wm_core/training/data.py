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
    `<id>.intrinsics` (f, 4) in pixels and the picture size in its metadata. Where the codec allows to cut a clip
    between latent frames, `<id>.stills` (c, t, y, x) has the raw frames 0, 8, 16 ... each encoded as a first frame.

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
        shards = sorted({row["shard"] for row in self.rows})
        self.rows = [row for shard in shards for row in self.rows if row["shard"] == shard]
        latents, stills, self.c2w, self.intrinsics = [], [], [], []
        for shard in shards:
            with safe_open(self.folder / shard, "pt") as file:
                self.size = (int(file.metadata()["height"]), int(file.metadata()["width"]))
                held = set(file.keys())
                for row in (row for row in self.rows if row["shard"] == shard):
                    latents.append(file.get_tensor(f"{row['id']}.latents").half())
                    if f"{row['id']}.stills" in held:
                        stills.append(file.get_tensor(f"{row['id']}.stills").half())
                    self.c2w.append(file.get_tensor(f"{row['id']}.c2w").numpy())
                    self.intrinsics.append(file.get_tensor(f"{row['id']}.intrinsics").numpy())
        self.latents = torch.stack(latents)
        self.stills = torch.stack(stills) if len(stills) == len(latents) else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latent_frames(self) -> int:
        """Latent frames of a whole clip."""
        return self.latents.shape[2]

    def batch(self, indices: list[int], starts: list[int] | None = None, window: int = 0) -> LatentBatch:
        """The clips of these numbers, in float32; whole, or `window` latent frames from the latent frames `starts`.

        Raises:
            ValueError: A window beyond the clip, or one that starts late in clips without stills.
        """
        window = window or self.latent_frames
        starts = starts or [0] * len(indices)
        if window + max(starts) > self.latent_frames or (max(starts) and self.stills is None):
            able = "whole clips and their beginnings" if self.stills is None else f"{self.latent_frames} latent frames"
            raise ValueError(f"a window of {window} from latent frame {max(starts)}: {self.folder} offers {able}")
        latents, camera, plucker = [], [], []
        for i, start in zip(indices, starts, strict=True):
            z = self.latents[i, :, start : start + window].float()
            if start and self.stills is not None:
                z[:, 0] = self.stills[i, :, start].float()
            stride = (len(self.c2w[i]) - 1) // max(self.latent_frames - 1, 1)
            raw = slice(start * stride, (start + window - 1) * stride + 1)
            pose = (self.c2w[i][raw], self.intrinsics[i][raw], self.size, (z.shape[-2], z.shape[-1]))
            latents.append(z)
            camera.append(torch.from_numpy(rays.camera_conditions(*pose)).float())
            plucker.append(torch.from_numpy(rays.chunk_plucker(*pose)).float())
        captions = [self.rows[i]["caption"] for i in indices]
        return LatentBatch(torch.stack(latents), torch.stack(camera), torch.stack(plucker), captions)

    def draw(self, seed: int, iteration: int, count: int) -> list[int]:
        """Clip numbers of one iteration: passes over the whole set, each in its own shuffled order.

        A function of (seed, iteration) alone, so a resumed run sees what an uninterrupted one would.
        """
        positions = np.arange(iteration * count, (iteration + 1) * count)
        epochs = positions // len(self)
        orders = {int(e): np.random.default_rng((seed, int(e))).permutation(len(self)) for e in np.unique(epochs)}
        return [int(orders[int(e)][p % len(self)]) for e, p in zip(epochs, positions, strict=True)]
