"""The two sides of the benchmarks: our calls, and diffusers' functions run both ways in time, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from gdn_kernels import frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn.reference import rotate
from sizes import Size
from torch import Tensor

BRANCHES = ("main", "camera")


class Inputs(NamedTuple):
    """Arguments of frame_gdn; rope is used by the main branch only."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_gamma: Tensor
    rope: tuple[Tensor, Tensor]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What gets a gradient."""
        return self[:5]


def inputs(size: Size, batch: int = 1, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Inputs:
    """Random arguments in the ranges of the model; tokens in dtype, gates and angles in float32."""
    h, t, s, d = size
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, t * s, h, d, generator=g) for _ in range(3))
    q, k = q.relu(), k.relu() / (d * s) ** 0.5
    beta, log_gamma = torch.rand(batch, h, t, s, generator=g), -0.1 * torch.rand(batch, h, t, generator=g)
    angle = torch.arange(t * s)[:, None] * torch.logspace(0, -3, d // 2)
    tokens = [x.to(device, dtype) for x in (q, k, v)]
    return Inputs(
        *tokens, *(x.to(device) for x in (beta, log_gamma)), tuple(x.to(device) for x in (angle.cos(), angle.sin()))
    )


def ours(x: Inputs, branch: str, backend: str = "auto") -> Tensor:
    """(b, n, h, d)."""
    if branch == "main":
        return frame_gdn(*x.leaves, rope=x.rope, backend=backend)
    return frame_gdn_camera(*x.leaves, backend=backend)


def diffusers_call(x: Inputs, branch: str) -> Callable[[], Tensor]:
    """A call that gives (b, n, h, d); layouts and rotated copies are made here, before it, as its callers do.

    Its functions run forward in time only, so they are called twice, the second time on flipped and shifted inputs. The
    flipping is part of the call, as it is of its processor.
    """
    from diffusers.models.transformers import transformer_sana_wm as peer

    t = x.log_gamma.shape[-1]
    columns = [y.permute(0, 2, 3, 1).contiguous() for y in (x.q, x.k, x.v)]
    gamma = x.log_gamma.exp()

    def flip(y: Tensor, shift: bool) -> Tensor:
        frames = y.unflatten(-1, (t, -1)).flip(-2)
        if shift:
            frames = torch.cat([torch.zeros_like(frames[..., :1, :]), frames[..., :-1, :]], -2)
        return frames.flatten(-2)

    def gates_back() -> tuple[Tensor, Tensor]:
        late = torch.cat([torch.zeros_like(x.beta[:, :, :1]), x.beta.flip(2)[:, :, :-1]], 2)
        return late, torch.cat([torch.ones_like(gamma[..., :1]), gamma.flip(-1)[..., :-1]], -1)

    def camera() -> Tensor:
        q, k, v = columns
        ahead = peer.torch_chunk_cam_single_path_delta_rule(q, k, v, x.beta, gamma)
        late = (flip(q, False), flip(k, True), flip(v, True))
        behind = peer.torch_chunk_cam_single_path_delta_rule(*late, *gates_back())
        return (ahead + flip(behind, False)).permute(0, 3, 1, 2)

    if branch == "camera":
        return camera
    turned = [rotate(y, x.rope).permute(0, 2, 3, 1).contiguous() for y in (x.q, x.k)]

    def main() -> Tensor:
        ahead = peer.torch_chunk_sana_gdn(*columns, *turned, x.beta, gamma, eps=1e-8, return_components=True)
        q, k, v = columns
        late = (flip(q, False), flip(k, True), flip(v, True), flip(turned[0], False), flip(turned[1], True))
        behind = peer.torch_chunk_sana_gdn(*late, *gates_back(), eps=1e-8, return_components=True)
        num, den = (a + flip(b, False) for a, b in zip(ahead[:2], behind[:2], strict=True))
        return (num / (den + 1e-8)).permute(0, 3, 1, 2)

    return main
