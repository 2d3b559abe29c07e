"""Two library optimisers over one set of parameters: Muon for the big matrices, AdamW for the rest.

A convolution is a matrix with its taps as extra columns, and torch's Muon takes matrices only; such weights are handed
to it as two-dimensional views of the same memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Optimizers:
    """Muon and AdamW stepped together, with a flat tensor form for checkpoints; rates are AdamW's and Muon's."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        rates: tuple[float, float],
        decay: float,
        for_muon: Callable[[str, Tensor], bool],
    ) -> None:
        self.views: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        plain: dict[str, nn.Parameter] = {}
        for name, parameter in parameters.items():
            if for_muon(name, parameter) and parameter.is_contiguous():
                self.views[name] = (parameter, nn.Parameter(parameter.data.view(parameter.shape[0], -1)))
            else:
                plain[name] = parameter
        betas = (0.9, 0.98)
        self.names = {"adamw": list(plain), "muon": list(self.views)}
        adamw = torch.optim.AdamW(list(plain.values()), rates[0], betas, 1e-10, decay, foreach=True)
        self.parts: dict[str, torch.optim.Optimizer] = {"adamw": adamw}
        if self.views:
            matrices = [view for _, view in self.views.values()]
            # match_rms_adamw scales Muon's step to AdamW's, so learning rates mean the same to both.
            self.parts["muon"] = torch.optim.Muon(matrices, rates[1], decay, adjust_lr_fn="match_rms_adamw")
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


def block_matrices(name: str, parameter: Tensor) -> bool:
    """The choice for the world model: wide matrices inside the blocks."""
    return ".blocks." in name and "scale_shift_table" not in name and wide_matrices(name, parameter)


def wide_matrices(name: str, parameter: Tensor) -> bool:
    """The choice for a codec: anything with more than 32 rows and columns."""
    return parameter.ndim >= 2 and parameter.shape[0] > 32 and parameter[0].numel() > 32


def nothing(name: str, parameter: Tensor) -> bool:
    """AdamW everywhere."""
    return False
