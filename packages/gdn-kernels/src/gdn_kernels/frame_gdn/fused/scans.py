"""Kernels over the frames of one head: the scan in both directions, and its adjoint.

A program carries some columns of the memory through all frames in float32; columns do not meet, so the value columns
of a head are spread over programs, and the denominator's vector is one more program with one live column. Directions
are programs too. The identity path M - P M stays outside the product: rounding P costs little, rounding I - P much.
"""

import triton
import triton.language as tl

from gdn_kernels.frame_gdn.fused.tokens import operand


@triton.jit
def _step(
    p_ptr, log_gamma_ptr, at, memory, D: tl.constexpr, BD: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr
):
    """gamma (I - P) memory of frame number at."""
    row, col = tl.arange(0, BD), tl.arange(0, BD)
    fits = (row < D)[:, None] & (col < D)[None, :]
    p = tl.load(p_ptr + at * D * D + row[:, None] * D + col[None, :], mask=fits, other=0.0)  # [BD, BD]
    kept = memory * tl.exp(tl.load(log_gamma_ptr + at))
    return kept - tl.dot(operand(p, DOT, PRECISION), operand(kept, DOT, PRECISION), input_precision=PRECISION)


@triton.jit
def _walk(
    p_ptr, a_ptr, log_gamma_ptr, stops_ptr, first_ptr, last_ptr, f_ptr, r_ptr, final_ptr, back_ptr,
    unit, column, direction, frames,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, STOPS: tl.constexpr, FIRST: tl.constexpr,
    LAST: tl.constexpr, STORE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, col = tl.arange(0, BD), column * BJ + tl.arange(0, BJ)
    tile = row[:, None] * E + col[None, :]
    inside = (row < D)[:, None] & (col < E)[None, :]
    base = unit * frames
    memory = tl.zeros([BD, BJ], tl.float32)
    if direction == 0:
        if FIRST:
            memory = tl.load(first_ptr + unit * D * E + tile, mask=inside, other=0.0).to(tl.float32)
        for t in range(frames):
            write = tl.load(a_ptr + (base + t) * D * E + tile, mask=inside, other=0.0).to(tl.float32)
            memory = _step(p_ptr, log_gamma_ptr, base + t, memory, D, BD, DOT, PRECISION) + write
            if STORE:
                tl.store(f_ptr + (base + t) * D * E + tile, memory, mask=inside)
        tl.store(final_ptr + unit * D * E + tile, memory, mask=inside)
    else:
        if LAST:
            memory = tl.load(last_ptr + unit * D * E + tile, mask=inside, other=0.0).to(tl.float32)
        for i in range(frames):
            t = frames - 1 - i
            if STORE:
                tl.store(r_ptr + (base + t) * D * E + tile, memory, mask=inside)
            write = tl.load(a_ptr + (base + t) * D * E + tile, mask=inside, other=0.0).to(tl.float32)
            memory = _step(p_ptr, log_gamma_ptr, base + t, memory, D, BD, DOT, PRECISION) + write
            if STOPS:
                memory = tl.where(tl.load(stops_ptr + t) != 0, 0.0, memory)
        tl.store(back_ptr + unit * D * E + tile, memory, mask=inside)


@triton.jit
def scan_kernel(
    p_ptr, a_ptr, p_z_ptr, a_z_ptr, log_gamma_ptr, stops_ptr, first_ptr, first_z_ptr, last_ptr, last_z_ptr,
    f_ptr, r_ptr, zf_ptr, zr_ptr, final_ptr, final_z_ptr, back_ptr, back_z_ptr, frames, columns,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, STOPS: tl.constexpr, FIRST: tl.constexpr,
    LAST: tl.constexpr, STORE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Memories of all frames; grid (b h, columns of the value plus one for the denominator, 2 directions)."""
    unit, column, direction = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    if column < columns:
        _walk(
            p_ptr, a_ptr, log_gamma_ptr, stops_ptr, first_ptr, last_ptr, f_ptr, r_ptr, final_ptr, back_ptr,
            unit, column, direction, frames, D, E, BD, BJ, STOPS, FIRST, LAST, STORE, DOT, PRECISION,
        )  # fmt: skip
    else:
        _walk(
            p_z_ptr, a_z_ptr, log_gamma_ptr, stops_ptr, first_z_ptr, last_z_ptr, zf_ptr, zr_ptr, final_z_ptr,
            back_z_ptr, unit, 0, direction, frames, D, 1, BD, 16, STOPS, FIRST, LAST, STORE, DOT, PRECISION,
        )  # fmt: skip


@triton.jit
def _walk_back(
    p_ptr, c_ptr, log_gamma_ptr, stops_ptr, f_ptr, r_ptr, first_ptr, d_final_ptr, d_back_ptr, g_ptr, h_ptr,
    left_ptr, right_ptr, d_log_gamma_ptr, unit, column, number, numbers, direction, frames,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, STOPS: tl.constexpr, FIRST: tl.constexpr,
    FINAL: tl.constexpr, BACK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, col = tl.arange(0, BD), column * BJ + tl.arange(0, BJ)
    tile = row[:, None] * E + col[None, :]
    inside = (row < D)[:, None] & (col < E)[None, :]
    base = unit * frames
    x = tl.zeros([BD, BJ], tl.float32)
    if direction == 0:
        if FINAL:
            x = tl.load(d_final_ptr + unit * D * E + tile, mask=inside, other=0.0).to(tl.float32)
        for i in range(frames):
            t = frames - 1 - i
            x += tl.load(c_ptr + (base + t) * D * E + tile, mask=inside, other=0.0).to(tl.float32)
            tl.store(g_ptr + (base + t) * D * E + tile, x, mask=inside)
            x = _step(p_ptr, log_gamma_ptr, base + t, x, D, BD, DOT, PRECISION)
            before = tl.zeros([BD, BJ], tl.float32)
            if t > 0:
                before = tl.load(f_ptr + (base + t - 1) * D * E + tile, mask=inside, other=0.0).to(tl.float32)
            elif FIRST:
                before = tl.load(first_ptr + unit * D * E + tile, mask=inside, other=0.0).to(tl.float32)
            tl.store(d_log_gamma_ptr + ((base + t) * numbers + number) * 2, tl.sum(tl.sum(x * before, 1), 0))
        tl.store(left_ptr + unit * D * E + tile, x, mask=inside)
    else:
        if BACK:
            x = tl.load(d_back_ptr + unit * D * E + tile, mask=inside, other=0.0).to(tl.float32)
        for t in range(frames):
            if STOPS:
                x = tl.where(tl.load(stops_ptr + t) != 0, 0.0, x)
            tl.store(h_ptr + (base + t) * D * E + tile, x, mask=inside)
            x = _step(p_ptr, log_gamma_ptr, base + t, x, D, BD, DOT, PRECISION)
            behind = tl.load(r_ptr + (base + t) * D * E + tile, mask=inside, other=0.0).to(tl.float32)
            tl.store(d_log_gamma_ptr + ((base + t) * numbers + number) * 2 + 1, tl.sum(tl.sum(x * behind, 1), 0))
            x += tl.load(c_ptr + (base + t) * D * E + tile, mask=inside, other=0.0).to(tl.float32)
        tl.store(right_ptr + unit * D * E + tile, x, mask=inside)


@triton.jit
def scan_backward_kernel(
    p_ptr, c_ptr, p_z_ptr, c_z_ptr, log_gamma_ptr, stops_ptr, f_ptr, r_ptr, zf_ptr, zr_ptr, first_ptr, first_z_ptr,
    d_final_ptr, d_final_z_ptr, d_back_ptr, d_back_z_ptr, g_ptr, h_ptr, g_z_ptr, h_z_ptr,
    left_ptr, left_z_ptr, right_ptr, right_z_ptr, d_log_gamma_ptr, frames, columns, numbers,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, STOPS: tl.constexpr, FIRST: tl.constexpr,
    FINAL: tl.constexpr, BACK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adjoint of scan_kernel with the same maps; the gradient of log_gamma in one part per program, no atomics."""
    unit, column, direction = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    if column < columns:
        _walk_back(
            p_ptr, c_ptr, log_gamma_ptr, stops_ptr, f_ptr, r_ptr, first_ptr, d_final_ptr, d_back_ptr, g_ptr, h_ptr,
            left_ptr, right_ptr, d_log_gamma_ptr, unit, column, column, numbers, direction, frames,
            D, E, BD, BJ, STOPS, FIRST, FINAL, BACK, DOT, PRECISION,
        )  # fmt: skip
    else:
        _walk_back(
            p_z_ptr, c_z_ptr, log_gamma_ptr, stops_ptr, zf_ptr, zr_ptr, first_z_ptr, d_final_z_ptr, d_back_z_ptr,
            g_z_ptr, h_z_ptr, left_z_ptr, right_z_ptr, d_log_gamma_ptr, unit, 0, column, numbers, direction, frames,
            D, 1, BD, 16, STOPS, FIRST, FINAL, BACK, DOT, PRECISION,
        )  # fmt: skip
