"""Looking into a forward pass: how much the recurrences could amplify. Above 1 a long clip can diverge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.clip import Clip
from sana_wm_core.model.layers import rotate


@dataclass(frozen=True)
class WatchedClip(Clip):
    """A clip that notes the largest norm of every recurrence's transitions."""

    norms: list[float] = field(default_factory=list)

    def recur(self, name: str, recurrence: Callable[..., Any], *args: Tensor, **options: Any) -> Tensor:
        """Note ||gamma (I - K' B K)||_2, then run the recurrence."""
        _, k, _, beta, log_gamma = args
        self.norms.append(float(transition_norms(rotate(k, options.get("rope")), beta, log_gamma).max()))
        return super().recur(name, recurrence, *args, **options)


@torch.no_grad()
def transition_norms(k_bnhd: Tensor, beta_bhts: Tensor, log_gamma_bht: Tensor) -> Tensor:
    """Spectral norm of every frame's transition gamma (I - K' B K), (b, h, t); keys as they are written."""
    t = log_gamma_bht.shape[-1]
    k = k_bnhd.float().unflatten(1, (t, -1)).permute(0, 3, 1, 2, 4)
    written = (k * beta_bhts.float()[..., None]).transpose(-1, -2) @ k
    one = torch.eye(k.shape[-1], device=k.device)
    # Symmetric, so eigenvalues are enough.
    return log_gamma_bht.float().exp() * torch.linalg.eigvalsh(one - written).abs().amax(-1)


@contextmanager
def watching(model: SanaWMTransformer) -> Iterator[list[float]]:
    """The largest transition norm of every recurrence that runs inside the block, in order of the calls."""
    norms: list[float] = []
    plain = type(model)

    def watched(self: Any, *args: Any) -> Clip:
        clip = plain._clip(self, *args)
        return WatchedClip(**{f.name: getattr(clip, f.name) for f in fields(Clip)}, norms=norms)

    model.__class__ = type("Watched", (plain,), {"_clip": watched})
    try:
        yield norms
    finally:
        model.__class__ = plain
