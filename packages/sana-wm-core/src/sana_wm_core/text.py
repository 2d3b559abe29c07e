"""Captions to the states the world model attends to.

Stage 1 of the released model reads Gemma-2-2b-it's last hidden states. Every caption is put behind the instruction
prefix the model was trained with; of the result, the first position and the last 299 are kept.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

# Training data of the released weights, so it must match to the character; the last line ends in one space.
RELEASED_PREFIX = "\n".join(
    (
        'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions suitable for '
        "image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
        "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
        "skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:",
        "User Prompt: ",
    )
)
TEXT_LENGTH = 300


class TextEncoder(Protocol):
    """What the pipeline needs of a text encoder."""

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """States (b, 1, l, c) and mask (b, l), 1 = a token, 0 = padding, of captions."""


class Gemma2TextEncoder(nn.Module):
    """Gemma-2 as the released model uses it, on any transformers-compatible tokenizer and model.

    Attributes:
        prefix: Instruction put directly before every caption; empty = none.
        length: Positions kept.

    Reference: SANA (arXiv 2410.10629), complex human instruction; SANA-WM (arXiv 2605.15178), text conditioning.
    """

    def __init__(
        self, tokenizer: Any, model: nn.Module, *, prefix: str = RELEASED_PREFIX, length: int = TEXT_LENGTH
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self.prefix = prefix
        self.length = length

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """States (b, 1, length, c) and mask (b, length) of captions, behind the prefix."""
        if not self.prefix:
            return self.encode_plain(prompts)
        # Two fewer than prefix + length: BOS is counted in both, and one prefix token survives the selection.
        total = len(self.tokenizer.encode(self.prefix)) + self.length - 2
        states, mask = self._states([self.prefix + prompt for prompt in prompts], total)
        kept = [0, *range(states.shape[1] - self.length + 1, states.shape[1])]
        return states[:, None, kept], mask[:, kept]

    def encode_plain(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """States and mask without the prefix, as negative prompts are read."""
        states, mask = self._states(prompts, self.length)
        return states[:, None], mask

    @torch.no_grad()
    def _states(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        # Gemma's tokenizer pads on the left unless told; the released model was trained with padding on the right.
        tokens = self.tokenizer(
            texts, max_length=length, padding="max_length", padding_side="right", truncation=True, return_tensors="pt"
        )
        device = next(self.model.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        # The stack without its vocabulary head: last_hidden_state is the last state after the final norm.
        stack = getattr(self.model, "model", self.model)
        return stack(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, mask


def encode_negative(encoder: TextEncoder, prompt: str) -> tuple[Tensor, Tensor]:
    """States and mask of a negative prompt: plain where the encoder tells captions and negatives apart."""
    plain = getattr(encoder, "encode_plain", None)
    return plain([prompt]) if plain is not None else encoder.encode([prompt])
