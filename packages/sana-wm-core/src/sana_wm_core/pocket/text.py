"""The pocket text encoder: a learned vector per hashed word.

Words are lower-cased runs of letters and digits. Each one picks a row of a small table by its CRC-32, so there is no
vocabulary file, every language with spaces works, and an unknown word simply shares a row. Positions are not encoded:
a caption is a bag of words to the world model's cross-attention, which is enough to name a scene.
"""

from __future__ import annotations

import re
import zlib

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_WORD = re.compile(r"[^\W_]+", re.UNICODE)


class PocketTextConfig(BaseModel):
    """Sizes of the pocket text encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(2048, ge=2, description="Rows of the hashed word table.")
    channels: int = Field(64, ge=1, description="Width of a word vector.")
    length: int = Field(40, ge=2, description="Words kept from a caption; the rest is cut off.")


class PocketTextEncoder(nn.Module):
    """Captions to word vectors, with the TextEncoder interface."""

    def __init__(self, config: PocketTextConfig | None = None) -> None:
        super().__init__()
        self.config = config or PocketTextConfig()
        # Row 0 starts every caption, so an empty one still leaves the attention something to look at.
        self.table = nn.Embedding(self.config.rows, self.config.channels)
        nn.init.normal_(self.table.weight, std=1.0)

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Row numbers and mask (b, length), int64; mask 1 = a word, 0 = padding."""
        rows = torch.zeros(len(prompts), self.config.length, dtype=torch.int64)
        mask = torch.zeros_like(rows)
        for i, prompt in enumerate(prompts):
            words = _WORD.findall(prompt.lower())[: self.config.length - 1]
            numbers = [0, *(1 + zlib.crc32(word.encode()) % (self.config.rows - 1) for word in words)]
            rows[i, : len(numbers)] = torch.tensor(numbers)
            mask[i, : len(numbers)] = 1
        return rows, mask

    def forward(self, rows: Tensor) -> Tensor:
        """Word vectors (b, 1, length, channels) of row numbers (b, length)."""
        return self.table(rows).unsqueeze(1)

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Word vectors (b, 1, length, channels) and mask (b, length) of captions."""
        rows, mask = self.tokens(prompts)
        rows, mask = rows.to(self.table.weight.device), mask.to(self.table.weight.device)
        return self(rows), mask
