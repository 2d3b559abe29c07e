"""The memory a clip leaves behind, as a value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameState:
    """Forward memory after a latent frame, before the next decay.

    Attributes:
        kv: (b, h, dk, dv), rows are key channels.
        z: (b, h, dk), memory of the denominator; None for the camera recurrence, which has none.
    """

    kv: Tensor
    z: Tensor | None = None

    def clone(self) -> FrameState:
        """A copy that shares no memory."""
        return FrameState(self.kv.clone(), None if self.z is None else self.z.clone())

    def detach(self) -> FrameState:
        """The same numbers without their history."""
        return FrameState(self.kv.detach(), None if self.z is None else self.z.detach())

    def to(self, *args: Any, **kwargs: Any) -> FrameState:
        """Moved or cast as torch.Tensor.to does."""
        return FrameState(self.kv.to(*args, **kwargs), None if self.z is None else self.z.to(*args, **kwargs))

    def save(self, path: str | Path) -> None:
        """Write tensors only, for torch.load(weights_only=True); the file appears whole or not at all."""
        tensors = {"kv": self.kv.clone()} | ({} if self.z is None else {"z": self.z.clone()})
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        torch.save(tensors, temporary)
        os.replace(temporary, path)

    @staticmethod
    def load(path: str | Path) -> FrameState:
        """Read what save wrote."""
        tensors = torch.load(path, weights_only=True)
        return FrameState(tensors["kv"], tensors.get("z"))


def kv_of(state: FrameState | None) -> Tensor | None:
    """The numerator's memory, None standing for an empty one."""
    return None if state is None else state.kv


def z_of(state: FrameState | None) -> Tensor | None:
    """The denominator's memory, likewise."""
    return None if state is None else state.z


def typed(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: FrameState | None, with_z: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """q, k, v in one type; log_gamma and the parts of the state in the type that sums are kept in."""
    common = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    work = torch.promote_types(common, torch.float32)
    kv = None if state is None else state.kv.to(work)
    z = None if state is None or state.z is None or not with_z else state.z.to(work)
    return q.to(common), k.to(common), v.to(common), log_gamma.to(work), kv, z


def empty_state(like: Tensor, key_width: int, value_width: int, with_z: bool, dtype: torch.dtype) -> FrameState:
    """A memory that holds nothing, for tensors like (b, n, h, d)."""
    b, _, h, _ = like.shape
    kv = torch.zeros(b, h, key_width, value_width, dtype=dtype, device=like.device)
    return FrameState(kv, torch.zeros(b, h, key_width, dtype=dtype, device=like.device) if with_z else None)
