"""The forward of large clips on a CPU, for when nobody asks for a backward: a thread takes one head after the other.

Memory of a head (its maps, its writes, what its frames read) is reused by the next one, tokens are read in place, and
the denominator follows the rule itself: a few matrix-vector products a frame are cheaper than a second d x d map.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from gdn_kernels.frame_gdn import huge_pages
from gdn_kernels.frame_gdn.chunked import pairs
from gdn_kernels.frame_gdn.parts import Rope
from gdn_kernels.frame_gdn.scan import stops_of
from gdn_kernels.frame_gdn.state import FrameState

# About 3.5k tokens of 112 floats are 1.6 MB: a tile and its rotated copy stay in the second-level cache.
TILE_TOKENS = 3520
LARGE = 1 << 17  # elements of one head's tokens, from where they are worth the many small calls
SHARED = 1 << 22  # elements of a token tensor, from where threads of our own are worth starting

Scratch = TypeVar("Scratch")


def suits(tokens: Tensor) -> bool:
    """Whether tokens (b, n, h, d) are worth this schedule; on small ones its many calls cost more than they save."""
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
    turns, runs = turns_of(rope, t, s, work), runs_of(t, s, TILE_TOKENS)
    gamma, stops = log_gamma.to(work).exp(), stops_of(restart, log_gamma)
    out = huge_pages.empty(b, n, h, e, dtype=q.dtype)
    kv = torch.empty(b, h, d, e, dtype=work)
    z = None if eps is None else torch.empty(b, h, d, dtype=work)

    def scratch() -> _Scratch:
        shapes = (t, d, d), (t, d, e), (t, d, e), (t, d), (2, runs[0].stop, s, d)
        return _Scratch(*huge_pages.together(*shapes, dtype=work))

    def answer(heads: list[tuple[int, int]], own: _Scratch) -> None:
        for at in heads:
            i, j = at
            queries, keys, values, answers = (x[i, :, j].unflatten(0, (t, s)) for x in (q, k, v, out))
            gates = beta[at].to(work)
            _summarise(keys, values, gates, gamma[at], turns, runs, own)
            kv[at] = _both_ways(own, stops, None if first is None else first.kv[at])
            if z is not None:
                start = None if first is None or first.z is None else first.z[at]
                z[at] = _both_ways_z(keys, gates, gamma[at], stops, start, own.read_z)
            _answer(queries, turns, runs, own, eps, answers)

    side_by_side(list(product(range(b), range(h))), scratch, answer, out.numel())
    return out, FrameState(kv, z)


def side_by_side(
    heads: list[tuple[int, int]],
    scratch: Callable[[], Scratch],
    answer: Callable[[list[tuple[int, int]], Scratch], None],
    elements: int,
) -> None:
    """Share the heads of a clip of so many elements among threads: many calls are too small to be shared themselves.

    Buffers are made by the calling thread, whose allocator keeps them for its next call.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(heads)) if elements > SHARED else 1
    buffers = [scratch() for _ in range(workers)]
    if workers == 1:
        return answer(heads, buffers[0])
    inference = torch.is_inference_mode_enabled()

    def share(index: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            answer(heads[index::workers], buffers[index])

    try:
        # What a thread sets holds for its own calls, and for threads that begin later: hence the last line.
        each = threads // workers
        torch.set_num_threads(each)
        # One share is the caller's: two threads that begin together tend to run on one core until the next tick.
        with ThreadPoolExecutor(workers - 1, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            others = [pool.submit(share, index) for index in range(1, workers)]
            share(0)
            for other in others:
                other.result()
    finally:
        torch.set_num_threads(threads)


class _Scratch(NamedTuple):
    """Buffers of one head: gamma (I - P), A, what every frame reads of both, and two tiles of tokens."""

    maps: Tensor
    writes: Tensor
    read: Tensor
    read_z: Tensor
    tiles: Tensor


def _summarise(
    keys: Tensor, values: Tensor, gates: Tensor, gamma: Tensor, turns: Tensor | None, runs: list[slice], to: _Scratch
) -> None:
    for at in runs:
        rotated = turned(keys[at].to(gates.dtype), turns, at, to.tiles[0])
        weighted = torch.mul(rotated, gates[at][..., None], out=to.tiles[1][: len(rotated)])
        _gram(weighted, rotated, to.maps[at])
        torch.bmm(weighted.mT, values[at].to(gates.dtype), out=to.writes[at])
        to.maps[at].mul_(-gamma[at, None, None]).diagonal(dim1=1, dim2=2).add_(gamma[at, None])


def _gram(weighted: Tensor, rows: Tensor, to: Tensor) -> None:
    """weighted' rows, which is symmetric: three of its four blocks."""
    half = rows.shape[-1] // 2
    torch.bmm(weighted[..., :half].mT, rows, out=to[:, :half])
    torch.bmm(weighted[..., half:].mT, rows[..., half:], out=to[:, half:, half:])
    to[:, half:, :half] = to[:, :half, half:].mT


def _both_ways(head: _Scratch, stops: list[bool], first: Tensor | None) -> Tensor:
    """Fill head.read with both directions; returns the forward memory after the last frame."""
    maps, writes, read = head.maps.unbind(), head.writes.unbind(), head.read.unbind()
    x = first
    for t, target in enumerate(read):
        x = target.copy_(writes[t]) if x is None else torch.addmm(writes[t], maps[t], x, out=target)
    final = read[-1].clone()
    y: Tensor | None = None
    for t in range(len(read) - 1, -1, -1):
        if y is not None:
            read[t].add_(y)
        if stops[t]:
            y = None
        elif t:
            y = writes[t] if y is None else torch.addmm(writes[t], maps[t], y)
    return final


def _both_ways_z(
    keys: Tensor, gates: Tensor, gamma: Tensor, stops: list[bool], first: Tensor | None, read: Tensor
) -> Tensor:
    """The same for the denominator: z = kept + K' beta (1 - K kept), with kept = gamma z."""

    def absorb(t: int, z: Tensor | None) -> Tensor:
        rows = keys[t].to(gates.dtype)
        if z is None:
            return torch.mv(rows.T, gates[t])
        kept = decay[t] * z
        missing = torch.addcmul(gates[t], gates[t], torch.mv(rows, kept), value=-1)
        return torch.addmv(kept, rows.T, missing)

    decay, z = gamma.unbind(), first
    for t in range(len(gates)):
        z = absorb(t, z)
        read[t] = z
    assert z is not None
    y: Tensor | None = None
    for t in range(len(gates) - 1, -1, -1):
        if y is not None:
            read[t] += y
        if stops[t]:
            y = None
        elif t:
            y = absorb(t, y)
    return z


def _answer(
    queries: Tensor, turns: Tensor | None, runs: list[slice], head: _Scratch, eps: float | None, answers: Tensor
) -> None:
    for at in runs:
        rows = queries[at].to(head.read.dtype)
        rotated = turned(rows, turns, at, head.tiles[0])
        if eps is not None:
            # Dividing the queries is the same as dividing the answers, and they are in cache.
            den = torch.stack([torch.mv(x, z) for x, z in zip(rows, head.read_z[at], strict=True)])
            rotated = torch.mul(rotated, den.add_(eps).reciprocal_()[..., None], out=head.tiles[1][: len(rows)])
        if answers.dtype == rotated.dtype:
            torch.bmm(rotated, head.read[at], out=answers[at])
        else:
            answers[at] = torch.bmm(rotated, head.read[at])


def runs_of(t: int, s: int, tokens: int) -> list[slice]:
    """Frames that are worked on together; the first run is the longest."""
    step = max(1, tokens // s)
    return [slice(i, min(i + step, t)) for i in range(0, t, step)]


def turns_of(rope: Rope | None, t: int, s: int, work: torch.dtype, back: bool = False) -> Tensor | None:
    """Unit complex numbers (t, s, d / 2)."""
    if rope is None:
        return None
    cos, sin = (x.to(work) for x in rope)
    return torch.complex(cos, -sin if back else sin).unflatten(0, (t, s))


def turned(tile_fsd: Tensor, turns: Tensor | None, at: slice, to: Tensor) -> Tensor:
    """Pairs rotated by unit complex numbers, into a buffer."""
    if turns is None:
        return tile_fsd
    to = to[: len(tile_fsd)]
    torch.mul(pairs(tile_fsd), turns[at], out=pairs(to))
    return to
