"""How a clip is cut into chunks of latent frames."""

from __future__ import annotations

from typing import Literal

Rule = Literal["uniform", "first_frame", "first_plus_one"]
RULES: tuple[Rule, ...] = ("uniform", "first_frame", "first_plus_one")
_ALIASES: dict[str, Rule] = {
    "first_frame_alone": "first_frame",
    "first_frame_only": "first_frame",
    "first_chunk_plus_one": "first_plus_one",
}


def training_chunks(frames: int, size: int, rule: str = "first_plus_one") -> list[int]:
    """First latent frames of the chunks that chunk-causal weights were trained with.

    A last chunk that would be shorter than the others joins the one before it.

    Args:
        frames: Latent frames of the clip.
        size: Latent frames of a chunk.
        rule: "uniform" 0, c, 2c ...; "first_frame" 0, 1, 1 + c ...; "first_plus_one" 0, c + 1, 2c + 1 ...

    Raises:
        ValueError: An unknown rule, or sizes below 1.

    Reference: streaming 2.1.
    """
    rule = _ALIASES.get(rule, rule)
    if rule not in RULES:
        raise ValueError(
            f"chunk rule {rule!r} is not one of {', '.join(RULES)}; the released model uses first_plus_one"
        )
    _check(frames, size)
    if rule == "uniform":
        starts = list(range(0, frames, size))
    elif rule == "first_frame":
        starts = [0, *range(1, frames, size)]
    else:
        starts = [0, *range(size + 1, frames, size)]
    fewest = 2 if rule == "first_frame" else 1
    if len(starts) > fewest and frames - starts[-1] < size:
        starts.pop()
    return starts


def streaming_chunks(frames: int, size: int = 3) -> list[int]:
    """First latent frames of the chunks that the streaming sampler makes: the first takes what the others leave over.

    Raises:
        ValueError: Fewer frames than one chunk.

    Reference: streaming 4.1.
    """
    _check(frames, size)
    if frames < size:
        raise ValueError(f"streaming in chunks of {size} needs at least {size} latent frames; got {frames}")
    return [0, *range(size + frames % size, frames, size)]


def bounds(starts: list[int], frames: int) -> list[tuple[int, int]]:
    """First frame of every chunk, and the frame after its last."""
    return list(zip(starts, [*starts[1:], frames], strict=True))


def _check(frames: int, size: int) -> None:
    if frames < 1 or size < 1:
        raise ValueError(f"a clip of {frames} latent frames cannot be cut into chunks of {size}; both must be above 0")
