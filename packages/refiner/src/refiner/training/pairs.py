"""Pairs the refiner learns from: latents a first stage made, or a degraded video's, beside those they should become.

A folder of pairs has pairs.jsonl, a line each: id, file, text, kind; `file` holds "low" and "high" (c, t, y, x), `text`
holds "states" (l, c) and "mask" (l,) of the prompt. Reference: training 6 and 7.3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

INDEX = "pairs.jsonl"


def _tensor(held: Any, key: str) -> Tensor:
    return held.get_tensor(key)


class Pair(NamedTuple):
    """One pair, latents (1, c, t, y, x) in float32, and its prompt, states (1, l, c) and mask (1, l)."""

    name: str
    low: Tensor
    high: Tensor
    text: Tensor
    mask: Tensor


def degrade(video: Tensor, factor: float) -> Tensor:
    """A video (1, 3, f, H, W) with the detail of one `factor` times smaller: made small, then large again.

    Raises:
        ValueError: A factor not above 1.
    """
    if not factor > 1:
        raise ValueError(f"a degraded video must lose detail: its factor must be above 1, such as 2; got {factor:g}")
    frames = video[0].transpose(0, 1)
    small = [max(1, round(size / factor)) for size in frames.shape[2:]]
    shrunk = functional.interpolate(frames, small, mode="bicubic", antialias=True)
    large = functional.interpolate(shrunk, frames.shape[2:], mode="bicubic")
    return large.clamp(-1, 1).transpose(0, 1)[None]


def write_pair(
    folder: str | Path,
    name: str,
    low: Tensor,
    high: Tensor,
    states: Tensor | None = None,
    mask: Tensor | None = None,
    kind: str = "stage1",
) -> None:
    """Add a pair to a folder; one of the same name is replaced.

    Args:
        folder: Where pairs.jsonl is, or will be.
        name: Unique name.
        low: Latents (1, c, t, y, x) that refining starts from.
        high: Latents of the same shape that it should end in.
        states: Prompt states (1, l, c), see RefinerText.encode; None = write_text has been called.
        mask: (1, l), 1 where a token counts.
        kind: Where low comes from: stage1, or a degradation such as down2.

    Raises:
        ValueError: Latents that do not go together.
    """
    if low.shape != high.shape or low.ndim != 5 or len(low) != 1 or low.shape[2] < 2:
        raise ValueError(
            f"pair {name}: latents of shape {tuple(low.shape)} and {tuple(high.shape)}; both must be (1, c, t, y, x) "
            "with t at least 2"
        )
    folder = Path(folder)
    if states is not None and mask is not None:
        write_text(folder, name, states, mask)
    if not text_file(folder, name).is_file():
        raise ValueError(f"pair {name}: no prompt; give states and mask, or call write_text first")
    _save(folder / f"{name}.safetensors", {"low": low[0].half(), "high": high[0].half()})
    rows = _rows(folder) if (folder / INDEX).is_file() else []
    entry = {"id": name, "file": f"{name}.safetensors", "text": f"{name}_text.safetensors", "kind": kind}
    rows = [row for row in rows if row["id"] != name] + [entry]
    temporary = folder / f".{INDEX}.{os.getpid()}"
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, folder / INDEX)


def write_text(folder: str | Path, name: str, states: Tensor, mask: Tensor) -> None:
    """Write the prompt of a pair to come, states (1, l, c) and mask (1, l), so that its encoder need not be kept."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    _save(text_file(folder, name), {"states": states[0].half(), "mask": mask[0].to(torch.uint8)})


def text_file(folder: str | Path, name: str) -> Path:
    """Where the prompt of a pair is."""
    return Path(folder) / f"{name}_text.safetensors"


class Pairs:
    """The pairs of a folder.

    Raises:
        ValueError: No pairs.jsonl, or a line that is not a pair's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"{folder}: no {INDEX} in it; refiner.training.write_pair makes it")
        self.rows = _rows(self.folder)
        if not self.rows:
            raise ValueError(f"{self.folder / INDEX}: no pairs in it")

    def __len__(self) -> int:
        return len(self.rows)

    def shape(self, number: int) -> tuple[int, ...]:
        """Latent shape (c, t, y, x) of a pair, from its file's head alone.

        Raises:
            ValueError: A missing or damaged file.
        """
        row = self.rows[number]
        return tuple(
            self._read(row["id"], row["file"], "low", opened=lambda held, key: held.get_slice(key).get_shape())[0]
        )

    def load(self, number: int) -> Pair:
        """Open a pair.

        Raises:
            ValueError: A missing or damaged file, other shapes, or a number that is not finite; the pair is named.
        """
        row = self.rows[number]
        low, high = self._read(row["id"], row["file"], "low", "high")
        states, mask = self._read(row["id"], row["text"], "states", "mask")
        if low.shape != high.shape or low.ndim != 4:
            raise ValueError(f"pair {row['id']}: latents of shape {tuple(low.shape)} and {tuple(high.shape)}")
        for what, tensor in (("low", low), ("high", high), ("states", states)):
            if not torch.isfinite(tensor).all():
                raise ValueError(f"pair {row['id']}: {what} holds numbers that are not finite")
        return Pair(row["id"], low.float()[None], high.float()[None], states.float()[None], mask.float()[None])

    def _read(self, name: str, file: str, *keys: str, opened: Callable[[Any, str], Any] = _tensor) -> list[Any]:
        path = self.folder / file
        if not path.is_file():
            raise ValueError(f"pair {name}: no file {path}")
        try:
            with safe_open(path, "pt") as held:
                return [opened(held, key) for key in keys]
        except SafetensorError as error:
            raise ValueError(f"pair {name}: {path} cannot be read ({' '.join(str(error).split())})") from error


def _rows(folder: Path) -> list[dict[str, str]]:
    rows = []
    for number, line in enumerate((folder / INDEX).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({key: str(row[key]) for key in ("id", "file", "text", "kind")})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / INDEX}: line {number} is no pair; id, file, text and kind are needed"
            ) from error
    return rows


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, temporary)
    os.replace(temporary, path)
