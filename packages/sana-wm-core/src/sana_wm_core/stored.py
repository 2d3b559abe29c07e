"""Weights in fewer bits as `sana-wm quantize` writes them, and back.

| | `NAME` | `NAME_scale` | `NAME_scale_2` |
|---|---|---|---|
| fp8 | float8 (e4m3), the shape it had | float32, one a row | |
| fp4 | uint8 (out, in / 2), two values a byte, the first in the low half | float8 (out, in / 16) | float32, one |

The second is NVFP4 under the names that NVIDIA's ModelOpt gives its tensors: sixteen values share a scale, all scales
share another.
"""

from __future__ import annotations

from collections.abc import Callable, Container

import torch
from torch import Tensor

SCALE, SCALE_2 = "_scale", "_scale_2"
GROUP = 16
# e2m1: a sign, two bits of exponent, one of mantissa.
FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def to_float8(weight: Tensor) -> dict[str, Tensor]:
    """A weight (out, ...) in float8 and the scale of each of its rows (out, 1, ...), by the ends of their names."""
    wide = weight.float()
    largest = wide.abs().amax(dim=tuple(range(1, wide.ndim)), keepdim=True).clamp(min=1e-12)
    scale = largest / torch.finfo(torch.float8_e4m3fn).max
    return {"": (wide / scale).to(torch.float8_e4m3fn), SCALE: scale}


def to_float4(weight: Tensor) -> dict[str, Tensor]:
    """A weight (out, in, ...) in NVFP4, its two kinds of scale beside it; in ... must be a multiple of 16."""
    groups = weight.float().flatten(1).unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(dim=-1)
    outer = (largest.max() / (FLOAT4[-1] * torch.finfo(torch.float8_e4m3fn).max)).clamp(min=1e-30)
    scale = (largest / FLOAT4[-1] / outer).to(torch.float8_e4m3fn)
    step = (scale.float() * outer)[..., None]
    unit = torch.where(step > 0, groups / step.clamp(min=1e-30), 0.0)
    levels = torch.tensor(FLOAT4)
    code = torch.bucketize(unit.abs(), (levels[1:] + levels[:-1]) / 2) + 8 * (unit < 0)
    pairs = code.flatten(1).unflatten(1, (-1, 2)).to(torch.uint8)
    return {"": pairs[..., 0] | pairs[..., 1] << 4, SCALE: scale, SCALE_2: outer}


def is_scale(name: str, held: Container[str]) -> bool:
    """Whether a tensor only says how another one of the file is scaled."""
    return any(name.endswith(end) and name.removesuffix(end) in held for end in (SCALE_2, SCALE))


def stored_shape(name: str, held: Container[str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a weight of a shape lies in a file."""
    if name + SCALE_2 not in held:
        return shape
    return shape[0], torch.Size(shape[1:]).numel() // 2


def restored(name: str, held: Container[str], get: Callable[[str], Tensor], shape: tuple[int, ...]) -> Tensor:
    """A weight as it was before it was stored in fewer bits (float32); others as they are.

    Args:
        name: Its name in the file.
        held: All names in the file.
        get: Reads a tensor of the file.
        shape: The shape it had.
    """
    tensor = get(name)
    if name + SCALE not in held:
        return tensor
    if name + SCALE_2 not in held:
        return tensor.float() * get(name + SCALE)
    values = torch.tensor([*FLOAT4, *(-value for value in FLOAT4)])
    codes = torch.stack([tensor & 15, tensor >> 4], dim=-1).flatten(1).long()
    step = get(name + SCALE).float() * get(name + SCALE_2)
    return (values[codes].unflatten(1, (-1, GROUP)) * step[..., None]).reshape(shape)
