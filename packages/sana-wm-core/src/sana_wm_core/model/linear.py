"""Linear layers that let oneDNN multiply on a processor, where it is faster than the BLAS that PyTorch calls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Multiplications from which it pays: the released model's layers on a few hundred tokens, nothing of the pocket world.
_WORTH_IT = 1 << 28


class Linear(nn.Linear):
    """An nn.Linear with the same parameters and, but for rounding, the same results."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias, as torch.nn.functional.linear.

    Large products in float32 on a processor, without gradients, are computed by oneDNN: 5 to 10 % faster than MKL on
    an AMD processor, and without the copy of the bias into the result (bench/model.py). All others, wrapped weights
    (quantised, sharded) included, go to torch.nn.functional.linear.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs).
        bias: (outputs).
    """
    if _onednn_serves(x, weight):
        # The operation that torch.compile puts in the place of F.linear; there is no public name for it.
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


def _onednn_serves(x: Tensor, weight: Tensor) -> bool:
    return (
        # First: torch.compile makes its own choice, and cannot trace the other questions.
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.numel() * weight.shape[0] >= _WORTH_IT
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        # Quantised weights and shards of a distributed one are subclasses, and multiply in their own way.
        and type(weight) in (Tensor, nn.Parameter)
        # Spread out in memory, a weight is multiplied by a plain loop, hundreds of times slower.
        and 1 in weight.stride()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
