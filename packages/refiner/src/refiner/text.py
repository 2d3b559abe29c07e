"""Captions as the refiner reads them: every layer of Gemma-3, normalised, through LTX-2's video connector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TEXT_LENGTH = 1024


class RefinerText(nn.Module):
    """Gemma-3 and LTX-2's text connectors.

    Args:
        tokenizer: Gemma-3's, any transformers-compatible one.
        model: Gemma-3's text stack, or the whole model.
        connectors: diffusers' LTX2TextConnectors; its audio half is not needed.
        length: Tokens kept; a multiple of the connector's registers (128).

    Reference: LTX-2 (Lightricks); inference 6.6.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, connectors: nn.Module, length: int = TEXT_LENGTH) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self.connectors = connectors.eval().requires_grad_(False)
        self.length = length

    @torch.no_grad()
    def encode(self, prompt: str) -> tuple[Tensor, Tensor]:
        """States (1, length, c) and mask (1, length) of a caption."""
        tokens = self.tokenizer(
            [prompt.strip()],
            padding="max_length",
            padding_side="left",
            max_length=self.length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        # (1, l, c, layers): the connectors normalise per layer and flatten.
        layers = torch.stack(out.hidden_states, dim=-1)
        wanted: Any = next(self.connectors.parameters())
        states, _, seen = self.connectors(layers.to(wanted.device, wanted.dtype), mask.to(wanted.device))
        return states, seen


class SilentConnector(nn.Module):
    """Stands where the audio connector was: the refiner hears nothing, so its weights need not be loaded."""

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arguments."""
        return states, mask
