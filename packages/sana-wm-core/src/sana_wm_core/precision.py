"""Linear layers in fewer bits, through torchao: fp8 and NVFP4. Cameras, recurrent states and filters keep theirs.

A GPU with the number format in hardware multiplies in it. Everywhere else the weights alone are stored in it and turned
back before they are used: the same memory, no speed, which is also how the formats are tested on a CPU.
Reference: inference 8.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

PRECISIONS = ("bf16", "fp8", "fp4")
# Both number formats come in groups of 16.
_GROUP = 16
STAGE_1_LAYERS = re.compile(
    r"blocks\.\d+\.(attn\.(qkv|proj|output_gate)|cross_attn\.(q_linear|kv_linear|proj)|mlp\.(inverted_conv|point_conv))$"
)
# Of the refiner everything but its ends, what makes sound, and what depends on time and text alone.
REFINER_LAYERS = re.compile(r"transformer_blocks\.\d+\.(?!.*(audio|a2v)).+")


def quantize(model: nn.Module, precision: str, component: str = "stage 1") -> int:
    """Store the linear layers of a transformer in fewer bits, in place.

    Args:
        model: A world model's velocity model or transformer, or the refiner's.
        precision: "fp8", "fp4" (NVFP4), or "bf16", which leaves the model as it is.
        component: "stage 1" or "refiner"; decides which layers.

    Returns:
        How many layers were changed.

    Raises:
        ValueError: An unknown precision, torchao not installed, or a model without such layers.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision} is not one of {', '.join(PRECISIONS)}")
    if precision == "bf16":
        return 0
    quantize_ = _torchao("torchao.quantization", "quantize_")
    wanted = STAGE_1_LAYERS if component == "stage 1" else REFINER_LAYERS
    changed = 0

    def chosen(layer: nn.Module, name: str) -> bool:
        nonlocal changed
        fits = isinstance(layer, nn.Linear) and not (layer.in_features % _GROUP or layer.out_features % _GROUP)
        changed += bool(fits and wanted.search(name))
        return bool(fits and wanted.search(name))

    if component == "stage 1":
        _open_pointwise_filters(model)
    device = next(model.parameters()).device
    quantize_(model, _config(precision, device), filter_fn=chosen)
    if not changed:
        raise ValueError(f"{component}: no linear layer is a multiple of {_GROUP} wide, so {precision} changes nothing")
    return changed


def runs_in_hardware(precision: str, device: torch.device) -> bool:
    """Whether a device multiplies in a number format, rather than only storing weights in it."""
    if device.type != "cuda":
        return False
    capability = torch.cuda.get_device_capability(device)
    return capability >= ((10, 0) if precision == "fp4" else (8, 9))


def _config(precision: str, device: torch.device) -> Any:
    if precision == "fp8":
        if runs_in_hardware(precision, device):
            per_row = _torchao("torchao.quantization", "PerRow")
            return _torchao("torchao.quantization", "Float8DynamicActivationFloat8WeightConfig")(granularity=per_row())
        return _torchao("torchao.quantization", "Float8WeightOnlyConfig")()
    home = "torchao.prototype.mx_formats"
    if runs_in_hardware(precision, device):
        return _torchao(home, "NVFP4DynamicActivationNVFP4WeightConfig")()
    return _torchao(home, "NVFP4WeightOnlyConfig")()


def import_torchao(module: str) -> Any:
    """A module of torchao, without the advice to its authors that PyTorch logs while it is imported.

    Raises:
        ImportError: It is not installed, or does not fit this PyTorch.
    """
    import importlib
    import logging

    advice = logging.getLogger("torch.utils._pytree")
    level = advice.level
    advice.setLevel(logging.ERROR)
    try:
        return importlib.import_module(module)
    finally:
        advice.setLevel(level)


def _torchao(module: str, name: str) -> Callable[..., Any]:
    try:
        return getattr(import_torchao(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"fp8 and fp4 need torchao, which cannot be used here ({error}); install sana-wm-core[quant], or use bf16"
        ) from error


def _open_pointwise_filters(model: nn.Module) -> None:
    """Put linear layers where a transformer's feed-forward holds filters of one cell."""
    from sana_wm_core.model.layers import GatedConvFFN

    for module in model.modules():
        if not isinstance(module, GatedConvFFN):
            continue
        for name in ("inverted_conv", "point_conv"):
            held = getattr(module, name)
            if isinstance(held, nn.Linear):
                continue
            conv = held.conv
            with torch.device("meta"):
                linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
            linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=False)
            if conv.bias is not None:
                linear.bias = conv.bias
            setattr(module, name, linear)
