"""State on disk: sharded by torch.distributed.checkpoint, whole or absent, readable on any number of ranks.

A checkpoint is written into a hidden folder beside its final place and renamed when every rank is done, so a folder
named step-... is always complete, whenever the run is killed. DCP keeps an index in a pickle, as torch makes it: resume
only runs that you or people you trust have written. What leaves the trainer is safetensors.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

_NAME = re.compile(r"step-(\d{8})")
META = "meta.json"


def complete(run: str | Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first."""
    found = [p for p in Path(run).glob("step-*") if _NAME.fullmatch(p.name) and (p / META).is_file()]
    return sorted(found)


def latest(run: str | Path) -> Path:
    """The newest finished checkpoint of a run.

    Raises:
        ValueError: There is none.
    """
    found = complete(run)
    if not found:
        raise ValueError(f"{run}: nothing to resume, no finished checkpoint (step-...) in it")
    return found[-1]


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """What the trainer wrote beside the tensors."""
    return json.loads((checkpoint / META).read_text())


class Writer:
    """Writes checkpoints of one run; one at a time, in the background if asked."""

    def __init__(self, run: Path, keep: int, background: bool) -> None:
        self.run, self.keep, self.background = run, keep, background
        self._pending: tuple[Any, Path, Path] | None = None
        # A thread of its own needs a group of its own, or its messages would meet those of the step.
        self._group = dist.new_group(backend="gloo") if background and dist.is_initialized() else None
        if _rank() == 0:
            run.mkdir(parents=True, exist_ok=True)
            for rest in [*run.glob(".step-*"), *run.glob(".old-*")]:
                shutil.rmtree(rest, ignore_errors=True)
        _barrier()

    def save(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write a checkpoint; returns when it is in place, or at once when writing in the background."""
        self.finish()
        final, part = self.run / f"step-{step:08d}", self.run / f".step-{step:08d}"
        if (final / META).is_file():
            return
        if _rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            (part / META).write_text(json.dumps(meta))
        _barrier()
        alone = not dist.is_initialized()
        with _quiet():
            if self.background and not alone:
                copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
                self._pending = (dcp.async_save(copies, checkpoint_id=part, process_group=self._group), part, final)
                return
            dcp.save({k: v.detach() for k, v in tensors.items()}, checkpoint_id=part, no_dist=alone)
        self._place(part, final)

    def finish(self) -> None:
        """Wait for a save in the background."""
        if self._pending is not None:
            future, part, final = self._pending
            self._pending = None
            future.result()
            self._place(part, final)

    def _place(self, part: Path, final: Path) -> None:
        _barrier()
        if _rank() == 0:
            os.replace(part, final)
            for old in complete(self.run)[: -self.keep]:
                # Renamed first: a half deleted folder must not look finished.
                grave = old.with_name(f".old-{old.name}")
                os.replace(old, grave)
                shutil.rmtree(grave, ignore_errors=True)
        _barrier()


def load_into(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors (sharded in any way) with those of a checkpoint, in place.

    Raises:
        ValueError: The checkpoint lacks one, or has another shape.
    """
    held = _shapes(checkpoint)
    for name, tensor in tensors.items():
        if name not in held or tuple(tensor.shape) != held[name]:
            there = held.get(name, "not there")
            raise ValueError(f"{checkpoint}: {name} is {there}, this run needs {tuple(tensor.shape)}")
    with _quiet():
        dcp.load(tensors, checkpoint_id=checkpoint, no_dist=not dist.is_initialized())


def read_weights(run: str | Path) -> dict[str, Tensor]:
    """Whole tensors of the transformer in the newest checkpoint of a run; averaged ones where there are some."""
    checkpoint = Path(run) if _NAME.fullmatch(Path(run).name) else latest(run)
    held = _types(checkpoint)
    wanted = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in held.items() if _is_weight(name)}
    with _quiet():
        dcp.load(wanted, checkpoint_id=checkpoint, no_dist=True)
    plain = {name.removeprefix("model."): t for name, t in wanted.items() if name.startswith("model.")}
    return plain | {name.removeprefix("average."): t for name, t in wanted.items() if name.startswith("average.")}


def _is_weight(name: str) -> bool:
    return name.startswith(("model.", "average."))


def _types(checkpoint: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    entries = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {k: (tuple(v.size), v.properties.dtype) for k, v in entries.items() if hasattr(v, "properties")}


def _shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (shape, _) in _types(checkpoint).items()}


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


class _quiet(warnings.catch_warnings):
    """torch warns about its own internals while it saves."""

    def __enter__(self) -> None:
        super().__enter__()
        for kind in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
