"""Upstream's training folder, read as it is.

    <name>.zip                            members <key>.json with height, width and maybe a prompt
    <name>_camera.npz                     ids, ranges (start, count), pose (n, 4, 4), intrinsics (n, 4) in pixels
    <name>_metric_scale_stats.json        key to a number, a list (its mean) or a dict (its median)
    <name><suffix>.json or .jsonl         captions and scores by key
    vae_cache/<name>.zip                  members <key>.npz with z (c, t, y, x)

A clip is there if both zips have its key. Text of a suffix file is a caption of that type, a number a score of that
name; a dict gives several. Unlike upstream no file is skipped for its size, and no clip is replaced by another.
Reference: training 7.1.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sana_wm_core.training.clips import STRIDE, BadClip, Entry, Sample, make_sample

CACHE = "vae_cache"


class ZipClips:
    """The clips of a folder in upstream's layout.

    Args:
        folder: The data folder.
        cache: Folder of latent zips; default the folder's own vae_cache.

    Raises:
        ValueError: A zip or camera file that cannot be read, named; or no clip at all.
    """

    def __init__(self, folder: str | Path, cache: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.cache = Path(cache) if cache else self.folder / CACHE
        self.entries: list[Entry] = []
        self._places: list[tuple[str, str, dict[str, Any], slice, float]] = []
        self._cameras: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for camera in sorted(self.folder.glob("*_camera.npz")):
            self._add(camera.name.removesuffix("_camera.npz"), camera)
        if not self.entries:
            raise ValueError(f"{folder}: no clip has its key in both {folder}/<name>.zip and {self.cache}/<name>.zip")

    def load(self, number: int) -> Sample:
        """Open and check a clip."""
        name, key, info, rows, scale = self._places[number]
        try:
            with zipfile.ZipFile(self.cache / f"{name}.zip") as archive:
                latents = torch.from_numpy(_array(archive.read(f"{key}.npz"), "z"))
            size = (int(info["height"]), int(info["width"]))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadClip(f"{key}: {' '.join(str(error).split())}") from error
        poses, intrinsics = self._cameras[name]
        frames = STRIDE * (latents.shape[1] - 1) + 1 if latents.ndim == 4 else 0
        c2w = poses[rows].astype(np.float64)[:frames]
        if c2w.ndim == 3:
            c2w[:, :3, 3] *= scale
        return make_sample(key, latents, c2w, intrinsics[rows][:frames], size)

    def _add(self, name: str, camera: Path) -> None:
        try:
            with np.load(camera, allow_pickle=False) as arrays:
                ids, ranges = [str(i) for i in arrays["ids"]], arrays["ranges"]
                self._cameras[name] = (arrays["pose"], arrays["intrinsics"])
            with zipfile.ZipFile(self.folder / f"{name}.zip") as archive:
                about = {
                    Path(member).stem: json.loads(archive.read(member))
                    for member in archive.namelist()
                    if member.endswith(".json")
                }
            with zipfile.ZipFile(self.cache / f"{name}.zip") as archive:
                lengths = {
                    Path(member).stem: _length(archive, member)
                    for member in archive.namelist()
                    if member.endswith(".npz")
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.folder}/{name}: cannot be read ({' '.join(str(error).split())})") from error
        texts, scores, scales = self._tables(name)
        for key, (start, count) in zip(ids, ranges, strict=True):
            if key not in about or key not in lengths:
                continue
            captions = dict(texts.get(key, {}))
            if about[key].get("prompt"):
                captions.setdefault("prompt", about[key]["prompt"])
            self.entries.append(Entry(key, lengths[key], name, "train", 1, captions, scores.get(key, {})))
            rows = slice(int(start), int(start) + int(count))
            self._places.append((name, key, about[key], rows, _scale(scales.get(key, 1.0))))

    def _tables(self, name: str) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, float]], dict[str, Any]]:
        texts: dict[str, dict[str, str]] = {}
        scores: dict[str, dict[str, float]] = {}
        scales: dict[str, Any] = {}
        for file in sorted([*self.folder.glob(f"{name}_*.json"), *self.folder.glob(f"{name}_*.jsonl")]):
            kind = file.stem.removeprefix(f"{name}_")
            table = _table(file)
            if kind == "metric_scale_stats":
                scales = table
                continue
            for key, value in table.items():
                for field, inner in (value if isinstance(value, dict) else {kind: value}).items():
                    label = kind if field in ("caption", "prompt", "score") else field
                    if isinstance(inner, str):
                        texts.setdefault(key, {})[label] = inner
                    elif isinstance(inner, int | float):
                        scores.setdefault(key, {})[label] = float(inner)
        return texts, scores, scales


def _table(file: Path) -> dict[str, Any]:
    if file.suffix == ".json":
        return json.loads(file.read_text())
    out: dict[str, Any] = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        key = row.pop("key", None) or row.pop("id", None)
        out |= {key: row} if key is not None else row
    return out


def _scale(value: Any) -> float:
    if isinstance(value, list):
        return float(np.mean(value))
    if isinstance(value, dict):
        return float(value.get("median", value.get("score", 1.0)))
    return float(value)


def _array(data: bytes, key: str) -> np.ndarray:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays[key]


def _length(archive: zipfile.ZipFile, member: str) -> int:
    """Latent frames of a cached clip, from the array's header alone."""
    with archive.open(member) as file, zipfile.ZipFile(io.BytesIO(file.read())) as inner, inner.open("z.npy") as array:
        version = np.lib.format.read_magic(array)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return int(read(array)[0][1])
