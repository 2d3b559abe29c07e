"""Adapters on LTX-2's attention and feed-forward layers, through peft; merge_lora folds the result into any base."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# Queries, keys, values and output of both attentions, and both layers of the feed-forward.
_TARGET = re.compile(r"(^|\.)(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)$|(^|\.)ff\.net\.(0\.proj|2)$")


@dataclass(frozen=True)
class RefinerLora:
    """Size of the adapters.

    Attributes:
        rank: Rank of every adapter; the released refiner's is 384.
        alpha: Updates are multiplied by alpha / rank; not published, so equal to the rank.
    """

    rank: int = 384
    alpha: float = 384.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(
                f"adapters need a rank of at least 1 and an alpha above 0, such as 384 and 384; got {self.rank}, "
                f"{self.alpha:g}"
            )


def add_lora(model: nn.Module, settings: RefinerLora) -> list[str]:
    """Put adapters on the refiner's transformer, in place, and freeze everything else; their matrices are float32.

    The second matrix of an adapter starts at zero: the model computes what it did before.

    Returns:
        Names of the layers.

    Raises:
        ValueError: No peft, or a model without such layers.
    """
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        raise ValueError(
            "training the refiner needs peft; install it with `pip install sana-wm-refiner[train]`"
        ) from error
    names = list(adapted(model))
    if not names:
        raise ValueError(f"{type(model).__name__} has no layer such as attn1.to_q; is it the LTX-2 refiner?")
    # Not on the meta of the model: peft only replaces the layers it is told to.
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names, lora_dropout=0.0)
    peft.inject_adapter_in_model(config, model)
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name)
        if p.requires_grad:
            p.data = p.data.float()
    return names


def adapted(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that get an adapter, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and _TARGET.search(n)}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters by the names they are saved under, LAYER.lora_A.weight and LAYER.lora_B.weight."""
    return {k.replace(".default.", "."): p for k, p in model.named_parameters() if p.requires_grad}


def save_adapter(model: nn.Module, settings: RefinerLora, path: str | Path) -> Path:
    """Write the adapters as one safetensors file that merge_lora reads, alpha of every layer in it."""
    state: dict[str, Tensor] = {k: p.detach().contiguous().cpu() for k, p in trained(model).items()}
    layers = sorted({k.rsplit(".lora_", 1)[0] for k in state})
    state |= {f"{layer}.alpha": torch.tensor(float(settings.alpha)) for layer in layers}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(state, temporary)
    os.replace(temporary, path)
    return path
