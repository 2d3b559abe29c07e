"""The forward of large clips on a CPU, for when nobody asks for a backward: a few frames of a few heads at a time.

Heads lie side by side in memory, so a tile of tokens is read in one run; it is turned, weighted and multiplied while it
is in cache. The denominator follows the rule itself: a few matrix-vector products a frame are cheaper than a second
d x d map. Memory beside the result does not grow with the number of heads.

Workers wait for each other at every call into PyTorch, views included: so all views are made beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gdn_kernels.frame_gdn import memory
from gdn_kernels.frame_gdn.chunked import in_pairs, pairs
from gdn_kernels.frame_gdn.parts import Rope
from gdn_kernels.frame_gdn.scan import stops_of
from gdn_kernels.frame_gdn.state import FrameState
from gdn_kernels.frame_gdn.workers import Workers, workers

TILE = 3520 * 112  # elements: 1.6 MB, a share of the second-level cache
WORTHWHILE = 3 << 14  # elements of some heads of a frame, from where that frame is worth calls of its own
LARGE = 1 << 17  # elements of one head's tokens, from where they are worth the many small calls


def suits(tokens: Tensor) -> bool:
    """Whether tokens (b, n, h, d) are worth this forward and the backward by heads: large enough, and on a CPU."""
    return tokens.device.type == "cpu" and tokens.shape[1] * tokens.shape[3] > LARGE


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    rope: Rope | None,
    restart: Tensor | None,
    first: FrameState | None,
    eps: float | None,
) -> tuple[Tensor, FrameState]:
    """Same result as the phases of chunked.py put together: out (b, n, h, e) and the final forward memory."""
    (b, n, h, d), e, (t, s) = k.shape, v.shape[-1], beta.shape[2:]
    work = torch.promote_types(k.dtype, torch.float32)
    stops = stops_of(restart, log_gamma)
    out = memory.empty(b, n, h, e, dtype=q.dtype)
    final = FrameState(torch.empty(b, h, d, e, dtype=work), None if eps is None else torch.empty(b, h, d, dtype=work))
    g, f = tile_of(h, t, s * max(d, e))
    if g > 1 and g * s * d >= WORTHWHILE and (rope is None or torch.get_num_threads() == 1):
        # Frames of several heads would be copied for a product. PyTorch shares out a rotation of larger pieces only.
        f = 1
    with workers(out.numel()) as threads:
        # Here, where nothing is shared out by PyTorch: its threads stay awake for some milliseconds, on our cores.
        gates, gamma = beta.to(work), log_gamma.to(work).exp()
        angles = None if rope is None else tuple(x.to(work).view(t, 1, s, -1) for x in rope)
        frames = [(t, g, d, d), (t, g, d, e), (t, g, d, e), (2, t, g, 1, d)]
        tiles = [(f, g, s, d), (f, g, s, d), (f, g, s, e), (f, 1, s, d if rope else 0)] * threads.count
        buffers = memory.workspace(*frames, *tiles, dtype=work)
        memories, *own = _Memories(*buffers[:4]), *(_Buffers.of(*buffers[i : i + 4]) for i in range(4, len(buffers), 4))
        for i in range(b):
            for j in range(0, h, g):
                at = i, slice(j, j + g)
                queries, keys, values, answers = (
                    x[i, :, at[1]].unflatten(0, (t, s)).transpose(1, 2) for x in (q, k, v, out)
                )
                heads = _Heads(
                    queries, keys, values, answers, gates[at].transpose(0, 1), gamma[at].T, angles, stops, eps,
                    None if first is None else _of(first, at), _of(final, at), memories,
                )  # fmt: skip
                _answer_heads(heads, f, threads, own, None if j else out[i])
    return out, final


def tile_of(heads: int, frames: int, elements: int) -> tuple[int, int]:
    """How many heads and frames, of so many elements a frame and head, make a tile; the heads come out even."""
    fit = max(1, TILE // elements)
    together = max(x for x in range(1, min(fit, heads) + 1) if heads % x == 0)
    return together, min(max(1, fit // together), frames)


def _of(state: FrameState, at: tuple[int, slice]) -> FrameState:
    return FrameState(state.kv[at], None if state.z is None else state.z[at])


class _Memories(NamedTuple):
    """Of every frame: gamma (I - P), A, what it reads of both directions, and of the denominator's two, as rows."""

    maps: Tensor
    writes: Tensor
    read: Tensor
    read_z: Tensor


@dataclass(frozen=True, slots=True)
class _Heads:
    """A few heads of a clip: tokens (t, g, s, d) where they lie, gates (t, g, s) and (t, g), states, and buffers."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    answers: Tensor
    gates: Tensor
    gamma: Tensor
    angles: tuple[Tensor, ...] | None
    stops: list[bool]
    eps: float | None
    first: FrameState | None
    final: FrameState
    memories: _Memories

    def tiles(self, f: int) -> list[_Tile]:
        """Views of f frames at a time."""
        flat = f * self.gamma.shape[1]
        maps, writes, read, read_z = self.memories
        tokens = (self.queries, self.keys, self.values, self.answers, self.gates[..., None], read_z[0])
        matrices = (self.gamma[..., None, None], maps, writes, read)
        views = (*(x.split(f) for x in tokens), *(x.flatten(0, 1).split(flat) for x in matrices))
        if self.angles is None:
            return [_Tile(*each) for each in zip(*views, strict=True)]
        paired = (pairs(x) if in_pairs(x) and x.dtype == maps.dtype else x for x in (self.queries, self.keys))
        turning = map(_Turning, *(x.split(f) for x in (*paired, *self.angles)))
        return [_Tile(*each) for each in zip(*views, turning, strict=True)]


class _Tile(NamedTuple):
    """A few frames of a few heads.

    Tokens are (f, g, s, d or e), gates (f, g, s, 1), matrices (f g, d, d or e).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    answers: Tensor
    gates: Tensor
    read_z: Tensor
    gamma: Tensor
    maps: Tensor
    writes: Tensor
    read: Tensor
    turning: _Turning | None = None


class _Turning(NamedTuple):
    """What a rotation takes: queries and keys, complex where they lie in pairs, and angles (f, 1, s, d / 2)."""

    queries: Tensor
    keys: Tensor
    cos: Tensor
    sin: Tensor


class _Buffers(NamedTuple):
    """A worker's own: turned tokens, weighted ones and values (f, g, s, d or e), complex turns, and rows in pairs."""

    rows: Tensor
    weighted: Tensor
    values: Tensor
    turns: Tensor
    paired: Tensor

    @classmethod
    def of(cls, rows: Tensor, weighted: Tensor, values: Tensor, turns: Tensor) -> _Buffers:
        """Turned tokens of one frame lie as in the clip, to be made in one run; of more frames, as products read."""
        f, g, s, d = rows.shape
        rows = rows.view(f, s, g, d).transpose(1, 2) if f == 1 else rows
        return cls(rows, weighted, values, pairs(turns), pairs(rows) if turns.numel() else rows)

    def frames(self, count: int) -> _Buffers:
        """Of so many frames: the last tile may be short."""
        return self if count == len(self.rows) else _Buffers(*(x[:count] for x in self))


def _answer_heads(x: _Heads, f: int, threads: Workers, own: list[_Buffers], fresh: Tensor | None) -> None:
    """fresh is the memory of all heads' answers, if these are the first to be written there."""
    tiles, heads = x.tiles(f), x.gamma.shape[1]
    share = -(-heads // threads.count)
    unit = torch.eye(x.memories.maps.shape[-1], dtype=x.gates.dtype).expand(f * heads, -1, -1)

    def prepare(piece: _Tile | bool, worker: int) -> None:
        if isinstance(piece, bool):
            _scan_z(x, back=piece)
        else:
            _summarise(piece, unit, own[worker].frames(len(piece.keys)))

    pieces: list[_Tile | bool] = [*([] if x.eps is None else [False, True]), *tiles]
    threads.each(pieces, prepare, first=None if fresh is None else lambda: memory.populate(fresh))
    if x.eps is not None:
        x.memories.read_z[0].add_(x.memories.read_z[1])
    threads.each([slice(i, i + share) for i in range(0, heads, share)], lambda part, _: _scan(x, part))
    threads.each(tiles, lambda tile, worker: _answer(tile, x.eps, own[worker].frames(len(tile.keys))))


def _summarise(x: _Tile, unit: Tensor, own: _Buffers) -> None:
    """gamma (I - P) and A."""
    work = x.gates.dtype
    rows = _typed(x.keys, work) if x.turning is None else _turned(x.turning.keys, x.turning, own)
    weighted = torch.mul(rows, x.gates, out=own.weighted).flatten(0, 1)
    rows, values = _stacked(rows, own.rows), _stacked(_typed(x.values, work), own.values)
    torch.baddbmm(unit[: len(rows)], weighted.mT, rows, alpha=-1, out=x.maps).mul_(x.gamma)
    torch.bmm(weighted.mT, values, out=x.writes)


def _scan(x: _Heads, part: slice) -> None:
    """What every frame reads of both directions, and the forward memory after the last."""
    maps, writes, read = (y[:, part].unbind() for y in x.memories[:3])
    memory = None if x.first is None else x.first.kv[part]
    for t, target in enumerate(read):
        memory = target.copy_(writes[t]) if memory is None else torch.baddbmm(writes[t], maps[t], memory, out=target)
    x.final.kv[part] = read[-1]
    memory = None
    for t in range(len(read) - 1, -1, -1):
        if memory is not None:
            read[t].add_(memory)
        if x.stops[t]:
            memory = None
        elif t:
            # Nobody reads these writes again.
            memory = writes[t] if memory is None else writes[t].baddbmm_(maps[t], memory)


def _scan_z(x: _Heads, back: bool) -> None:
    """The denominator's memory in one direction: z = kept + K' beta (1 - K kept), with kept = gamma z.

    Vectors are rows: a product with one column takes two to five times as long.
    """
    gates, gamma, read = x.gates[:, :, None].unbind(), x.gamma[..., None, None].unbind(), x.memories.read_z[int(back)]
    keys, columns, targets = x.keys.unbind(), x.keys.mT.unbind(), read.unbind()

    def absorb(t: int, z: Tensor | None, to: Tensor | None = None) -> Tensor:
        if z is None:
            return torch.bmm(gates[t], _typed(keys[t], read.dtype), out=to)
        kept = gamma[t] * z
        missing = torch.addcmul(gates[t], gates[t], torch.bmm(kept, _typed(columns[t], read.dtype)), value=-1)
        return torch.baddbmm(kept, missing, _typed(keys[t], read.dtype), out=to)

    z: Tensor | None = None
    if back:
        for t in range(len(gates) - 1, -1, -1):
            targets[t].zero_() if z is None else targets[t].copy_(z)
            z = None if x.stops[t] else absorb(t, z)
        return
    if x.first is not None and x.first.z is not None:
        z = x.first.z[:, None]
    for t, target in enumerate(targets):
        z = absorb(t, z, target)
    assert x.final.z is not None
    x.final.z[:, None] = targets[-1]


def _answer(x: _Tile, eps: float | None, own: _Buffers) -> None:
    queries = _typed(x.queries, x.read.dtype)
    rows = queries if x.turning is None else _turned(x.turning.queries, x.turning, own)
    if eps is not None:
        # Dividing the queries is the same as dividing the answers, and they are in cache.
        den = torch.stack([torch.bmm(z, y) for z, y in zip(x.read_z, queries.mT, strict=True)])
        rows = torch.mul(rows, den.add_(eps).reciprocal_().mT, out=own.rows)
    rows = _stacked(rows, own.rows)
    if len(x.answers) == 1 and x.answers.dtype == rows.dtype:
        torch.bmm(rows, x.read, out=x.answers[0])
    else:
        x.answers.copy_(torch.bmm(rows, x.read, out=own.values.flatten(0, 1)).view(x.answers.shape))


def _turned(tokens: Tensor, by: _Turning, own: _Buffers) -> Tensor:
    """Pairs rotated by the angles of their tokens, in a buffer."""
    turns = torch.complex(by.cos, by.sin, out=own.turns)
    torch.mul(tokens if tokens.is_complex() else pairs(_typed(tokens, own.rows.dtype)), turns, out=own.paired)
    return own.rows


def _stacked(x_fgsd: Tensor, spare: Tensor) -> Tensor:
    """(f g, s, d); copied where frames and heads do not lie at equal distances."""
    if len(x_fgsd) == 1 or x_fgsd.shape[1] == 1 or x_fgsd.is_contiguous():
        return x_fgsd.flatten(0, 1)
    return spare.copy_(x_fgsd).flatten(0, 1)


def _typed(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)
