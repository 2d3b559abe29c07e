"""LoRA on the transformer, through peft: add, train, save, merge, take out again."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sana_wm_core.training.stages import Lora

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_lora(model: nn.Module, settings: Lora, base_dtype: torch.dtype | None = None) -> int:
    """Put adapters on a model's linear layers, in place; everything else is frozen. Returns how many layers.

    An adapter's second matrix starts at zero, so the model computes what it did before.

    Raises:
        ValueError: peft is not installed, or no layer has one of the names.
    """
    peft = _peft()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and settings.adapts(n)]
    if not names:
        raise ValueError(f"lora.targets={settings.targets} match no linear layer; for example ['qkv', 'attn.proj']")
    if base_dtype is not None:
        model.to(base_dtype)
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names, lora_dropout=0.0)
    peft.inject_adapter_in_model(config, model)
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name)
        if "lora_" in name:
            p.data = p.data.float()
    return len(names)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors: <layer>.lora_A.weight (rank, in) and <layer>.lora_B.weight (out, rank)."""
    return {k.replace(".default.", "."): p.detach() for k, p in model.named_parameters() if "lora_" in k}


def save_lora(model: nn.Module, settings: Lora, folder: str | Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file({k: v.contiguous().cpu() for k, v in adapter_state(model).items()}, temporary)
    os.replace(temporary, folder / WEIGHTS)
    temporary = folder / f".{CONFIG}.{os.getpid()}"
    temporary.write_text(json.dumps(settings.model_dump(mode="json"), indent=2) + "\n")
    os.replace(temporary, folder / CONFIG)


def load_lora(model: nn.Module, folder: str | Path) -> None:
    """Put saved adapters on a plain model, in place.

    Raises:
        ValueError: No adapters there, or adapters of another model; a name is given.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: no adapters, there is no {CONFIG} in it")
    add_lora(model, Lora.model_validate_json((folder / CONFIG).read_text()))
    fill_lora(model, load_file(folder / WEIGHTS))


@torch.no_grad()
def fill_lora(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy adapter tensors into a model that has adapters.

    Raises:
        ValueError: Names or shapes that do not fit.
    """
    own = adapter_state(model)
    wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise ValueError(f"the adapters are of another model: {len(wrong)} tensors do not fit, such as {wrong[0]}")
    for name, tensor in state.items():
        own[name].copy_(tensor)


def merge(model: nn.Module) -> None:
    """Add the adapters into the weights they adapt, in place; unmerge takes them out."""
    for layer in _layers(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Undo merge."""
    for layer in _layers(model):
        layer.unmerge()


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """State dict of the plain model with the adapters in its weights."""
    merge(model)
    state = {
        k.replace(".base_layer.", "."): v.detach().clone() for k, v in model.state_dict().items() if "lora_" not in k
    }
    unmerge(model)
    return state


def _layers(model: nn.Module) -> list[Any]:
    kind = importlib.import_module("peft.tuners.lora").LoraLayer
    return [m for m in model.modules() if isinstance(m, kind)]


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ValueError("adapters need peft; install it with `pip install sana-wm-core[train]`") from error
