"""Low-rank adapters of the refiner: folding them into the weights they adapt."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_PART = re.compile(r"^(?P<layer>.+?)\.(?:lora_(?P<kind>A|B|down|up))(?:\.default)?\.weight$")
_PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "model.")
_KIND = {"A": "A", "down": "A", "B": "B", "up": "B"}


@torch.no_grad()
def merge_lora(model: nn.Module, adapter: str | Path | dict[str, Tensor], scale: float = 1.0) -> int:
    """Fold an adapter into a model, in place: W += scale (alpha / rank) B A for every layer it names.

    Alpha is read from the file where it has `LAYER.alpha`; otherwise it equals the rank.

    Args:
        model: The refiner's transformer.
        adapter: A safetensors file, or its tensors; names as peft (lora_A, lora_B) or kohya (lora_down, lora_up) give
            them, with or without a prefix.
        scale: Strength; 0 leaves the model as it is, -1 takes an adapter out again.

    Returns:
        How many layers were changed.

    Raises:
        ValueError: A damaged file, a layer the model does not have, or matrices that do not fit it. The model is then
            as it was.
    """
    source = "the adapter" if isinstance(adapter, dict) else str(adapter)
    pairs, alphas = _pairs(_read(adapter), source)
    layers = dict(model.named_modules())
    changes = []
    for name, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise ValueError(f"{source}: {name} has only half of its two matrices; fetch the file again")
        layer = layers.get(name)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ValueError(
                f"{source}: the model has no linear layer {name}; is this an adapter of the LTX-2 refiner?"
            )
        down, up = pair["A"].float(), pair["B"].float()
        if down.shape[1:] != weight.shape[1:] or up.shape[:1] != weight.shape[:1] or up.shape[1] != down.shape[0]:
            raise ValueError(
                f"{source}: {name} has matrices {tuple(up.shape)} x {tuple(down.shape)}, the layer is "
                f"{tuple(weight.shape)}"
            )
        strength = scale * alphas.get(name, float(down.shape[0])) / down.shape[0]
        changes.append((weight, down, up, strength))
    for weight, down, up, strength in changes:
        change = strength * (up.to(weight.device) @ down.to(weight.device))
        weight.copy_((weight.float() + change).to(weight.dtype))
    return len(changes)


def _read(adapter: str | Path | dict[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(adapter, dict):
        return adapter
    try:
        return load_file(adapter)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{adapter}: not a readable adapter ({reason}); a safetensors file is expected") from error


def _pairs(state: dict[str, Tensor], source: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    pairs: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for stored, tensor in state.items():
        name = stored
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensor)
            continue
        found = _PART.match(name)
        if found is None:
            raise ValueError(f"{source}: {stored} is not a part of a low-rank adapter, such as LAYER.lora_A.weight")
        pairs.setdefault(found["layer"], {})[_KIND[found["kind"]]] = tensor
    if not pairs:
        raise ValueError(f"{source}: no adapter in there; expected tensors such as LAYER.lora_A.weight")
    return pairs, alphas
