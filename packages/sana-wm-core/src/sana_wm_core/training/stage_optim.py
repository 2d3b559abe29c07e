"""The optimiser of a stage, and its state by the names of the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sana_wm_core.precision import import_torchao
from sana_wm_core.training.parallel.mesh import whole
from sana_wm_core.training.stages import Optim


def make_optimizer(settings: Optim, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or AdamW with its state in bytes.

    Raises:
        ValueError: adamw8bit without torchao.
    """
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.kind == "adamw":
        return torch.optim.AdamW(parameters.values(), **options, foreach=True)
    try:
        library = import_torchao("torchao.optim")
    except ImportError as error:
        raise ValueError(
            "optim.kind=adamw8bit needs torchao: `pip install sana-wm-core[quant]`, or --set optim.kind=adamw"
        ) from error
    return library.AdamW8bit(parameters.values(), **options)


@torch.no_grad()
def materialise(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters that never had a gradient the zero state they would start from.

    Softmax blocks carry gates that nothing uses. Without this a checkpoint lacks their state, and a fresh optimiser
    asks for it when loading.
    """
    new = [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state.get(p)]
    if isinstance(optimizer, torch.optim.AdamW):
        for p in new:
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.zeros((), dtype=torch.float32), **moments}
    elif new:
        # Others make their own state: a step of length zero on zero gradients.
        rate = float(optimizer.param_groups[0]["lr"])
        held = {p: p.grad for group in optimizer.param_groups for p in group["params"]}
        for p in held:
            p.grad = None
        for p in new:
            p.grad = torch.zeros_like(p)
        set_rate(optimizer, 0.0)
        optimizer.step()
        set_rate(optimizer, rate)
        for p, grad in held.items():
            p.grad = grad


@torch.no_grad()
def clip_gradients(parameters: dict[str, nn.Parameter], limit: float) -> tuple[float, str]:
    """Cut the global norm of all gradients to `limit`; returns the norm before, and "".

    Where the norm is not finite nothing is cut, and the name of the first such gradient is returned beside it: cutting
    by it would spread it over all of them.
    """
    given = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    total = nn.utils.get_total_norm(list(given.values()))
    norm = float(whole(total))
    if norm < float("inf"):
        nn.utils.clip_grads_with_norm_(parameters.values(), limit, total)
        return norm, ""
    return norm, next((name for name, g in given.items() if not torch.isfinite(whole(g)).all()), "some tensor")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group; some optimisers keep it in a tensor that must stay the same object."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Live optimiser state as `optim.<parameter>#<entry>`."""
    out = {}
    for name, p in parameters.items():
        for entry, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                out[f"optim.{name}#{entry}"] = value
    return out
