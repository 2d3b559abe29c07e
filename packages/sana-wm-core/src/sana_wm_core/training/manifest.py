"""Clips listed in a JSONL file, one a line.

Two kinds of line. `latents.jsonl`, written by `sana-wm data encode`: id, shard, split, caption; everything else is in
the shard. A manifest of your own:

    id                 unique
    latent_path        .safetensors (tensor latent_key) or .npz (array latent_key), relative to the manifest
    latent_key         default "z"
    latent_shape       [c, t, y, x]
    pose_path          .npy (f, 4, 4) camera-to-world, f = 8 (t - 1) + 1
    intrinsics_path    .npy (f, 4) fx, fy, cx, cy in pixels
    height, width      of the picture the intrinsics are for
    metric_scale       factor on translations, default 1
    captions           {type: text}, or caption: text
    scores             {name: number}, for filters
    text_embed_path    .safetensors with "text" (l, c), optional; text_null.safetensors beside the manifest then holds
                       the features of the empty caption
    source, split, repeat, licence, sha256 and other fields: optional; sha256 is that of the latent file

Reference: training 7.3.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sana_wm_core.training.clips import BadClip, Entry, Sample, make_sample

_NEEDED = ("id", "latent_path", "latent_shape", "pose_path", "intrinsics_path", "height", "width")


class ManifestClips:
    """The clips of a JSONL file.

    Args:
        path: The file; paths in it are relative to its folder.

    Raises:
        ValueError: A line that is not JSON or lacks a field; file and line are named.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path.parent
        self.rows: list[dict[str, Any]] = []
        self.entries: list[Entry] = []
        shapes: dict[str, dict[str, list[int]]] = {}
        for number, line in enumerate(self.path.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.path}: line {number} is not JSON ({error.msg})") from error
            lacking = [key for key in (("id", "split") if "shard" in row else _NEEDED) if key not in row]
            if lacking:
                raise ValueError(f"{self.path}: line {number} ({row.get('id', 'no id')}) lacks {', '.join(lacking)}")
            if "shard" in row:
                held = shapes.setdefault(row["shard"], _shard_shapes(self.folder / row["shard"]))
                shape = held.get(f"{row['id']}.latents", [0, 0, 0, 0])
            else:
                shape = row["latent_shape"]
            captions = row.get("captions") or ({"caption": row["caption"]} if row.get("caption") else {})
            self.rows.append(row)
            self.entries.append(
                Entry(
                    str(row["id"]),
                    int(shape[1]),
                    row.get("source", ""),
                    row.get("split", "train"),
                    int(row.get("repeat", 1)),
                    captions,
                    row.get("scores") or {},
                )
            )
        if not self.entries:
            raise ValueError(f"{self.path}: no clips in it")

    def load(self, number: int) -> Sample:
        """Open and check a clip."""
        row, name = self.rows[number], self.entries[number].id
        try:
            if "shard" in row:
                return self._from_shard(row["shard"], name)
            return self._from_files(row, name)
        except BadClip:
            raise
        except FileNotFoundError as error:
            raise BadClip(f"{name}: no file {error.filename}") from error
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise BadClip(f"{name}: {' '.join(str(error).split())}") from error

    def _from_shard(self, shard: str, name: str) -> Sample:
        with safe_open(self.folder / shard, "pt") as file:
            size = (int(file.metadata()["height"]), int(file.metadata()["width"]))
            latents, c2w, k = (file.get_tensor(f"{name}.{part}") for part in ("latents", "c2w", "intrinsics"))
        return make_sample(name, latents, c2w.numpy(), k.numpy(), size)

    def _from_files(self, row: dict[str, Any], name: str) -> Sample:
        path = self.folder / row["latent_path"]
        if not path.is_file():
            raise FileNotFoundError(2, "no such file", str(path))
        if row.get("sha256") and hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            raise BadClip(f"{name}: {path.name} has changed, its SHA-256 is not the manifest's")
        latents = _read(path, row.get("latent_key", "z"))
        if list(latents.shape) != list(row["latent_shape"]):
            raise BadClip(f"{name}: latents have shape {list(latents.shape)}, the manifest says {row['latent_shape']}")
        c2w = np.load(self.folder / row["pose_path"], allow_pickle=False).astype(np.float64)
        if c2w.ndim == 3:
            c2w[:, :3, 3] *= row.get("metric_scale", 1.0)
        k = np.load(self.folder / row["intrinsics_path"], allow_pickle=False)
        text = null = None
        if row.get("text_embed_path"):
            text = _read(self.folder / row["text_embed_path"], "text")
            null = _read(self.folder / "text_null.safetensors", "text")
        return make_sample(name, latents, c2w, k, (int(row["height"]), int(row["width"])), text, null)


def _read(path: Path, key: str) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays[key])
    with safe_open(path, "pt") as file:
        return file.get_tensor(key)


def _shard_shapes(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            names = [key for key in file.keys() if key.endswith(".latents")]  # noqa: SIM118
            return {key: file.get_slice(key).get_shape() for key in names}
    except SafetensorError:
        return {}
