"""Transformer blocks that wait in main memory and visit the GPU one at a time, for cards of 24 and 32 GB."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def offload_blocks(model: nn.Module, name: str, device: torch.device) -> None:
    """Move a model to a device except for its blocks, which go there only while they work; in place.

    The weights stay in main memory and are copied over for each pass, so nothing is copied back.

    Args:
        model: A transformer.
        name: Attribute that holds its blocks.
        device: Where it works.
    """
    blocks = getattr(model, name)
    for child_name, child in model.named_children():
        if child_name != name:
            child.to(device)
    for own in (*model._parameters, *model._buffers):
        held = getattr(model, own)
        if held is not None:
            held.data = held.data.to(device)
    for block in blocks:
        _Visitor(block, device)


class _Visitor:
    """Brings one block to the device and lets it go again."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        block.to("cpu")
        self.device, self.inside = device, 0
        self.home: list[tuple[Tensor, Tensor]] = []
        for tensor in (*block.parameters(), *block.buffers()):
            self.home.append((tensor, _pinned(tensor.data, device)))
        block.register_forward_pre_hook(lambda *_: self.enter())
        block.register_forward_hook(lambda *_: self.leave(), always_call=True)
        # The text is read once for many passes, outside of them.
        cross = getattr(block, "cross_attn", None)
        if cross is not None:
            cross.__dict__["read"] = self.wrap(cross.read)

    def enter(self) -> None:
        self.inside += 1
        if self.inside == 1:
            for tensor, home in self.home:
                tensor.data = home.to(self.device, non_blocking=True)

    def leave(self) -> None:
        self.inside -= 1
        if self.inside == 0:
            for tensor, home in self.home:
                tensor.data = home

    def wrap(self, method: Any) -> Any:
        def visit(*arguments: Any) -> Any:
            self.enter()
            try:
                return method(*arguments)
            finally:
                self.leave()

        return visit


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    # Pinned memory halves the time of the copy; tensors of number formats torch cannot pin stay as they are.
    if device.type != "cuda" or type(tensor) is not Tensor:
        return tensor
    return tensor.pin_memory()
