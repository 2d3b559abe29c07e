"""What a transformer remembers of the chunks it has seen, as a value that nobody writes into.

Linear blocks keep the memory of their recurrences and the last frames of their temporal filters, whatever the length
of the past. Softmax blocks keep keys and values, of the chunks that the next chunk may still look at.
Reference: streaming 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sana_wm_core.model.clip import BlockMemory

# Names of tensors that grow with the window: (b, tokens, h, d). All others are replaced by every chunk.
WINDOWED = ("key", "value", "camera_key", "camera_value")


class ReadText(NamedTuple):
    """A prompt as the blocks read it: keys and values per block, and which tokens count (b, l)."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    keep_bl: Tensor


@dataclass(frozen=True)
class Window:
    """Which earlier chunks softmax blocks look at.

    Attributes:
        chunks: How many, the first chunk included when it is a sink; 0 or less means all.
        sink: Always look at the first chunk.

    Reference: streaming 3.3.
    """

    chunks: int = 2
    sink: bool = True

    def seen_by(self, chunk: int) -> list[int]:
        """Numbers of the earlier chunks that chunk number `chunk` (from 0) looks at."""
        if self.chunks <= 0:
            return list(range(chunk))
        first = chunk - self.chunks + 1
        if self.sink and first > 0:
            return [0, *range(first, chunk)]
        return list(range(max(chunk - self.chunks, 0), chunk))


@dataclass(frozen=True)
class Memory:
    """Everything the blocks need to go on after some chunks. Its tensors are never written to.

    Attributes:
        blocks: Tensors of each block by name.
        window: (number, latent frames) of the chunks whose softmax keys are held, oldest first.
        frames: Latent frames seen so far.
        chunks: Chunks seen so far.
    """

    blocks: tuple[BlockMemory, ...]
    window: tuple[tuple[int, int], ...] = ()
    frames: int = 0
    chunks: int = 0

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for block in self.blocks for tensor in block.values())

    def to(self, device: torch.device | str) -> Memory:
        """The same memory on another device."""
        blocks = tuple({name: tensor.to(device) for name, tensor in block.items()} for block in self.blocks)
        return Memory(blocks, self.window, self.frames, self.chunks)


def after_chunk(before: Memory | None, kept: Sequence[BlockMemory], frames: int, window: Window) -> Memory:
    """The memory after one more chunk.

    Args:
        before: Memory the chunk was computed with; None for the first.
        kept: What each block handed over for the chunk.
        frames: Latent frames of the chunk.
        window: What the next chunk will look at; the rest is dropped.
    """
    number = before.chunks if before else 0
    held = (*(before.window if before else ()), (number, frames))
    wanted = set(window.seen_by(number + 1))
    blocks = []
    for i, new in enumerate(kept):
        old = before.blocks[i] if before else {}
        block = {name: tensor for name, tensor in new.items() if name not in WINDOWED}
        for name in WINDOWED:
            if name in new:
                block[name] = _slide(old.get(name), new[name], held, wanted)
        blocks.append(block)
    window_after = tuple(entry for entry in held if entry[0] in wanted)
    return Memory(tuple(blocks), window_after, (before.frames if before else 0) + frames, number + 1)


def _slide(old: Tensor | None, new: Tensor, held: tuple[tuple[int, int], ...], wanted: set[int]) -> Tensor:
    per_frame = new.shape[1] // held[-1][1]
    parts = [] if old is None else list(old.split([frames * per_frame for _, frames in held[:-1]], dim=1))
    parts.append(new)
    chosen = [part for part, (number, _) in zip(parts, held, strict=True) if number in wanted]
    # cat copies, so a dropped chunk's memory is really freed
    return torch.cat(chosen, dim=1) if chosen else new[:, :0]
