"""Two library optimisers over one set of parameters: Muon for the matrices of the blocks, AdamW for the rest.

A 1 x 1 convolution is a matrix with two idle axes, and torch's Muon takes matrices only; such weights are handed to it
as two-dimensional views of the same memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sana_wm_core.training.config import TrainConfig


class Optimizers:
    """Muon and AdamW stepped together, with a flat tensor form for checkpoints."""

    def __init__(self, parameters: dict[str, nn.Parameter], config: TrainConfig) -> None:
        self.views: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        plain: dict[str, nn.Parameter] = {}
        for name, parameter in parameters.items():
            if config.muon and _is_block_matrix(name, parameter):
                self.views[name] = (parameter, nn.Parameter(parameter.data.view(parameter.shape[0], -1)))
            else:
                plain[name] = parameter
        betas = (0.9, 0.98)
        decay = config.weight_decay
        self.names = {"adamw": list(plain), "muon": list(self.views)}
        adamw = torch.optim.AdamW(list(plain.values()), config.learning_rate, betas, 1e-10, decay, foreach=True)
        self.parts: dict[str, torch.optim.Optimizer] = {"adamw": adamw}
        if self.views:
            matrices = [view for _, view in self.views.values()]
            # match_rms_adamw scales Muon's step to AdamW's, so one learning rate serves both.
            self.parts["muon"] = torch.optim.Muon(
                matrices, config.learning_rate, decay, adjust_lr_fn="match_rms_adamw"
            )
        for group in self.groups:
            group["base_lr"] = group["lr"]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of both."""
        return [group for part in self.parts.values() for group in part.param_groups]

    def step(self) -> None:
        """One update of every parameter that has a gradient; gradients are cleared."""
        for parameter, view in self.views.values():
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
            parameter.grad = None
        for part in self.parts.values():
            part.step()
            part.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Optimiser state as `optim.<part>.<parameter>.<entry>` tensors."""
        out = {}
        for kind, part in self.parts.items():
            for index, entries in part.state_dict()["state"].items():
                for entry, value in entries.items():
                    out[f"optim.{kind}.{self.names[kind][index]}#{entry}"] = torch.as_tensor(value)
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of state_tensors."""
        for kind, part in self.parts.items():
            number = {name: i for i, name in enumerate(self.names[kind])}
            state: dict[int, dict[str, Tensor]] = {}
            prefix = f"optim.{kind}."
            for key, value in tensors.items():
                if key.startswith(prefix):
                    name, entry = key[len(prefix) :].split("#")
                    state.setdefault(number[name], {})[entry] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    inside = ".blocks." in name or name.startswith("blocks.")
    matrix = parameter.ndim >= 2 and parameter.shape[0] > 32 and parameter[0].numel() > 32
    return inside and matrix and parameter.is_contiguous() and "scale_shift_table" not in name
