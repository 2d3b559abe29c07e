"""Backward kernels over the tokens of one frame and head: of readout, and of summary.

Two programs share a frame: each makes one gradient from operands that together would spill its registers.
"""

import triton
import triton.language as tl

from gdn_kernels.frame_gdn.fused.tokens import angles, matrix, operand, place, put_matrix, put_rows, rows, turn, vector


@triton.jit
def readout_backward_kernel(
    grad_ptr, out_ptr, den_ptr, q_ptr, cos_ptr, sin_ptr, f_ptr, r_ptr, zf_ptr, zr_ptr, d_q_ptr, d_kv_ptr, d_z_ptr,
    frames, heads, tokens, q_b, q_n, q_h,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of q and z (role 0), and of the memory the frame read (role 1).

    They come from out and its denominator: the numerator is not kept.
    """
    role = tl.program_id(0) % 2
    batch, frame, head, unit = place(tl.program_id(0) // 2, frames, heads)
    tokens_before = ((batch * frames + frame) * tokens * heads + head).to(tl.int64)
    q_ptr += batch * q_b + frame * tokens * q_n + head * q_h
    grad_ptr += tokens_before * E
    out_ptr += tokens_before * E
    den_ptr += unit * tokens
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    if role == 0:
        memory = operand(
            matrix(f_ptr + unit * D * E, D, E, BD, BE) + matrix(r_ptr + unit * D * E, D, E, BD, BE), DOT, PRECISION
        )
        back = tl.trans(memory)
        d_z = tl.zeros([BD], tl.float32)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            d_num = rows(grad_ptr, row, live, heads * E, E, BE)
            if DIVIDE:
                d_num = d_num / tl.load(den_ptr + row, mask=live, other=1.0)[:, None]
                d_den = -tl.sum(d_num * rows(out_ptr, row, live, heads * E, E, BE), 1)
            d_q = tl.dot(operand(d_num, DOT, PRECISION), back, input_precision=PRECISION)  # [BS, BD]
            if ROPE:
                cos, sin = angles(cos_ptr, sin_ptr, row, live, D, BD)
                d_q = turn(d_q, cos, -sin, BS, BD)
            if DIVIDE:
                z = vector(zf_ptr + unit * D, D, BD) + vector(zr_ptr + unit * D, D, BD)
                d_q += d_den[:, None] * z[None, :]
                d_z += tl.sum(rows(q_ptr, row, live, q_n, D, BD) * d_den[:, None], 0)
            put_rows(d_q_ptr + tokens_before * D, d_q, row, live, heads * D, D, BD)
        if DIVIDE:
            col = tl.arange(0, BD)
            tl.store(d_z_ptr + unit * D + col, d_z, mask=col < D)
    else:
        d_kv = tl.zeros([BD, BE], tl.float32)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            q = rows(q_ptr, row, live, q_n, D, BD)
            d_num = rows(grad_ptr, row, live, heads * E, E, BE)
            if ROPE:
                cos, sin = angles(cos_ptr, sin_ptr, row, live, D, BD)
                q = turn(q, cos, sin, BS, BD)
            if DIVIDE:
                d_num = d_num / tl.load(den_ptr + row, mask=live, other=1.0)[:, None]
            d_kv = tl.dot(
                tl.trans(operand(q, DOT, PRECISION)), operand(d_num, DOT, PRECISION), d_kv, input_precision=PRECISION
            )
        put_matrix(d_kv_ptr + unit * D * E, d_kv, D, E, BD, BE)


@triton.jit
def _rank_one(k, weight, g_ptr, z_ptr, D: tl.constexpr, BD: tl.constexpr):
    """What one pair (gradient, memory before) of the denominator adds to the gradients of keys and gate.

    The vectors are loaded for every tile: kept across tiles they would cost registers that spill.
    """
    g, z = vector(g_ptr, D, BD), vector(z_ptr, D, BD)
    along = tl.sum(k * g[None, :], 1)
    missing = 1.0 - tl.sum(k * z[None, :], 1)
    d_k = (weight * missing)[:, None] * g[None, :] - (weight * along)[:, None] * z[None, :]
    return d_k, along * missing


@triton.jit
def _times_blocks(
    acc, x_ptr, cos_ptr, sin_ptr, m_ptr, row, live, stride, m_row, m_col,
    W: tl.constexpr, V: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr,
    ROPE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc + X M with BK rows of M at a time: whole, a float32 M would not leave room in shared memory."""
    out = tl.arange(0, BV)
    for first in tl.static_range(0, BW, BK):
        col = first + tl.arange(0, BK)
        fits = live[:, None] & (col < W)[None, :]
        x = tl.load(x_ptr + row[:, None] * stride + col[None, :], mask=fits, other=0.0).to(tl.float32)  # [BS, BK]
        if ROPE:
            pair = first // 2 + tl.arange(0, BK // 2)
            at = row[:, None] * (W // 2) + pair[None, :]
            fits = live[:, None] & (pair < W // 2)[None, :]
            cos = tl.load(cos_ptr + at, mask=fits, other=1.0).to(tl.float32)
            sin = tl.load(sin_ptr + at, mask=fits, other=0.0).to(tl.float32)
            x = turn(x, cos, sin, BS, BK)
        fits = (col < W)[:, None] & (out < V)[None, :]
        m = tl.load(m_ptr + col[:, None] * m_row + out[None, :] * m_col, mask=fits, other=0.0)  # [BK, BV]
        acc = tl.dot(operand(x, DOT, PRECISION), operand(m, DOT, PRECISION), acc, input_precision=PRECISION)
    return acc


@triton.jit
def summary_backward_kernel(
    k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, d_p_ptr, d_a_ptr, g_z_ptr, z_ptr, h_z_ptr, r_z_ptr,
    d_k_ptr, d_v_ptr, d_beta_ptr, frames, heads, tokens, k_b, k_n, k_h, v_b, v_n, v_h, units,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, SPLIT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys (role 0) and values (role 1), and each role's part of the gradient of beta."""
    role = tl.program_id(0) % 2
    batch, frame, head, unit = place(tl.program_id(0) // 2, frames, heads)
    tokens_before = ((batch * frames + frame) * tokens * heads + head).to(tl.int64)
    k_ptr += batch * k_b + frame * tokens * k_n + head * k_h
    v_ptr += batch * v_b + frame * tokens * v_n + head * v_h
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    beta_ptr += unit * tokens
    d_beta_ptr += (role * units + unit) * tokens
    d_p_ptr += unit * D * D
    d_a_ptr += unit * D * E
    if role == 0:
        if not SPLIT:
            d_p = operand(matrix(d_p_ptr, D, D, BD, BD), DOT, PRECISION)
            back = tl.trans(operand(matrix(d_a_ptr, D, E, BD, BE), DOT, PRECISION))
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            if SPLIT:
                d_k = tl.zeros([BS, BD], tl.float32)
                d_k = _times_blocks(
                    d_k, k_ptr, cos_ptr, sin_ptr, d_p_ptr, row, live, k_n, D, 1,
                    D, D, BD, BD, BS, 16, ROPE, DOT, PRECISION,
                )  # fmt: skip
                d_k = _times_blocks(
                    d_k, v_ptr, cos_ptr, sin_ptr, d_a_ptr, row, live, v_n, 1, E,
                    E, D, BE, BD, BS, 16, False, DOT, PRECISION,
                )  # fmt: skip
            k = rows(k_ptr, row, live, k_n, D, BD)
            weight = tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)
            turned = k
            if ROPE:
                cos, sin = angles(cos_ptr, sin_ptr, row, live, D, BD)
                turned = turn(k, cos, sin, BS, BD)
            if not SPLIT:
                d_k = tl.dot(operand(turned, DOT, PRECISION), d_p, input_precision=PRECISION)
                d_k = tl.dot(
                    operand(rows(v_ptr, row, live, v_n, E, BE), DOT, PRECISION), back, d_k, input_precision=PRECISION
                )
            gate = tl.sum(d_k * turned, 1) * 0.5
            d_k = d_k * weight[:, None]
            if ROPE:
                d_k = turn(d_k, cos, -sin, BS, BD)
            if DIVIDE:
                more, more_gate = _rank_one(k, weight, g_z_ptr + unit * D, z_ptr + unit * D, D, BD)
                d_k += more
                gate += more_gate
                more, more_gate = _rank_one(k, weight, h_z_ptr + unit * D, r_z_ptr + unit * D, D, BD)
                d_k += more
                gate += more_gate
            put_rows(d_k_ptr + tokens_before * D, d_k, row, live, heads * D, D, BD)
            tl.store(d_beta_ptr + row, gate, mask=live)
    else:
        if not SPLIT:
            d_a = operand(matrix(d_a_ptr, D, E, BD, BE), DOT, PRECISION)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            v = rows(v_ptr, row, live, v_n, E, BE)
            weight = tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)
            if SPLIT:
                d_v = tl.zeros([BS, BE], tl.float32)
                d_v = _times_blocks(
                    d_v, k_ptr, cos_ptr, sin_ptr, d_a_ptr, row, live, k_n, E, 1,
                    D, E, BD, BE, BS, 16, ROPE, DOT, PRECISION,
                )  # fmt: skip
            else:
                k = rows(k_ptr, row, live, k_n, D, BD)
                if ROPE:
                    cos, sin = angles(cos_ptr, sin_ptr, row, live, D, BD)
                    k = turn(k, cos, sin, BS, BD)
                d_v = tl.dot(operand(k, DOT, PRECISION), d_a, input_precision=PRECISION)  # [BS, BE]
            tl.store(d_beta_ptr + row, tl.sum(d_v * v, 1) * 0.5, mask=live)
            put_rows(d_v_ptr + tokens_before * E, d_v * weight[:, None], row, live, heads * E, E, BE)
