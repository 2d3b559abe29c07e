"""Kernels over the tokens of one frame and head: summary and readout, forward and backward.

Tokens stay in their (b, n, h, d) layout and type; rotation, weights, gates and the division happen in registers, so no
rotated or float32 copy of a token tensor reaches memory. Programs of the heads of one frame are neighbours: they share
the rotation's rows in cache. Widths are padded to powers of two by masks; DOT is the type of product operands.
"""

import triton
import triton.language as tl


@triton.jit
def _turn(x, cos, sin, BS: tl.constexpr, BD: tl.constexpr):
    a, b = tl.split(tl.reshape(x, [BS, BD // 2, 2]))  # [BS, BD/2] each; a pair is in one thread, so nothing moves
    return tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), [BS, BD])


@triton.jit
def _angles(cos_ptr, sin_ptr, row, live, D: tl.constexpr, BD: tl.constexpr):
    pair = tl.arange(0, BD // 2)
    at = row[:, None] * (D // 2) + pair[None, :]
    fits = live[:, None] & (pair < D // 2)[None, :]
    cos = tl.load(cos_ptr + at, mask=fits, other=1.0).to(tl.float32)  # [BS, BD/2]
    return cos, tl.load(sin_ptr + at, mask=fits, other=0.0).to(tl.float32)


@triton.jit
def _rows(ptr, row, live, stride, W: tl.constexpr, BW: tl.constexpr):
    col = tl.arange(0, BW)
    fits = live[:, None] & (col < W)[None, :]
    return tl.load(ptr + row[:, None] * stride + col[None, :], mask=fits, other=0.0).to(tl.float32)  # [BS, BW]


@triton.jit
def _put_rows(ptr, x, row, live, stride, W: tl.constexpr, BW: tl.constexpr):
    col = tl.arange(0, BW)
    tl.store(ptr + row[:, None] * stride + col[None, :], x, mask=live[:, None] & (col < W)[None, :])


@triton.jit
def _vector(ptr, W: tl.constexpr, BW: tl.constexpr):
    col = tl.arange(0, BW)
    return tl.load(ptr + col, mask=col < W, other=0.0).to(tl.float32)  # [BW]


@triton.jit
def _matrix(ptr, W: tl.constexpr, V: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr):
    row, col = tl.arange(0, BW), tl.arange(0, BV)
    fits = (row < W)[:, None] & (col < V)[None, :]
    return tl.load(ptr + row[:, None] * V + col[None, :], mask=fits, other=0.0).to(tl.float32)  # [BW, BV]


@triton.jit
def _put_matrix(ptr, x, W: tl.constexpr, V: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr):
    row, col = tl.arange(0, BW), tl.arange(0, BV)
    tl.store(ptr + row[:, None] * V + col[None, :], x, mask=(row < W)[:, None] & (col < V)[None, :])


@triton.jit
def _place(program, frames, heads):
    """Batch, frame and head of a program, heads innermost; and its number in (b, h, t) order, 64 bits wide."""
    head = program % heads
    frame = (program // heads) % frames
    batch = program // (heads * frames)
    return batch.to(tl.int64), frame.to(tl.int64), head, ((batch * heads + head) * frames + frame).to(tl.int64)


@triton.jit
def summary_kernel(
    k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, p_ptr, a_ptr, p_z_ptr, a_z_ptr,
    frames, heads, tokens, k_b, k_n, k_h, v_b, v_n, v_h,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, ROLES: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P and A of a frame (role 0), and P and A of its unrotated keys and the value 1 (role 1).

    Three d x d sums do not fit the registers of a program, so the denominator's is a program of its own; it is
    launched beside the other and finds the keys in cache.
    """
    program = tl.program_id(0)
    role = program % ROLES
    batch, frame, head, unit = _place(program // ROLES, frames, heads)
    k_ptr += batch * k_b + frame * tokens * k_n + head * k_h
    v_ptr += batch * v_b + frame * tokens * v_n + head * v_h
    beta_ptr += unit * tokens
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    p = tl.zeros([BD, BD], tl.float32)
    sums = tl.zeros([BD], tl.float32)
    if role == 0:
        a = tl.zeros([BD, BE], tl.float32)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            k = _rows(k_ptr, row, live, k_n, D, BD)
            v = _rows(v_ptr, row, live, v_n, E, BE)
            weight = tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)
            if ROPE:
                cos, sin = _angles(cos_ptr, sin_ptr, row, live, D, BD)
                k = _turn(k, cos, sin, BS, BD)
            weighted = k * weight[:, None]
            if DIVIDE and ROLES == 1:
                sums += tl.sum(weighted, 0)
            left = tl.trans(weighted.to(DOT))
            p = tl.dot(left, k.to(DOT), p, input_precision=PRECISION)
            a = tl.dot(left, v.to(DOT), a, input_precision=PRECISION)
        _put_matrix(p_ptr + unit * D * D, p, D, D, BD, BD)
        _put_matrix(a_ptr + unit * D * E, a, D, E, BD, BE)
    else:
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            k = _rows(k_ptr, row, live, k_n, D, BD)
            weight = tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)
            weighted = k * weight[:, None]
            sums += tl.sum(weighted, 0)
            p = tl.dot(tl.trans(weighted.to(DOT)), k.to(DOT), p, input_precision=PRECISION)
        _put_matrix(p_z_ptr + unit * D * D, p, D, D, BD, BD)
    if DIVIDE and role == ROLES - 1:
        col = tl.arange(0, BD)
        tl.store(a_z_ptr + unit * D + col, sums, mask=col < D)


@triton.jit
def readout_kernel(
    q_ptr, cos_ptr, sin_ptr, f_ptr, r_ptr, zf_ptr, zr_ptr, out_ptr, den_ptr,
    frames, heads, tokens, q_b, q_n, q_h, eps,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Q (F + R) over Q (z + r) + eps; the memory is read once for all tokens of the frame."""
    batch, frame, head, unit = _place(tl.program_id(0), frames, heads)
    q_ptr += batch * q_b + frame * tokens * q_n + head * q_h
    out_ptr += ((batch * frames + frame) * tokens * heads + head) * E
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    memory = (_matrix(f_ptr + unit * D * E, D, E, BD, BE) + _matrix(r_ptr + unit * D * E, D, E, BD, BE)).to(DOT)
    if DIVIDE:
        z = _vector(zf_ptr + unit * D, D, BD) + _vector(zr_ptr + unit * D, D, BD)
    for start in range(0, tokens, BS):
        row = start + tl.arange(0, BS)
        live = row < tokens
        q = _rows(q_ptr, row, live, q_n, D, BD)
        turned = q
        if ROPE:
            cos, sin = _angles(cos_ptr, sin_ptr, row, live, D, BD)
            turned = _turn(q, cos, sin, BS, BD)
        out = tl.dot(turned.to(DOT), memory, input_precision=PRECISION)  # [BS, BE]
        if DIVIDE:
            den = tl.sum(q * z[None, :], 1) + eps
            tl.store(den_ptr + unit * tokens + row, den, mask=live)
            out = out / den[:, None]
        _put_rows(out_ptr, out, row, live, heads * E, E, BE)


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
    batch, frame, head, unit = _place(tl.program_id(0) // 2, frames, heads)
    tokens_before = ((batch * frames + frame) * tokens * heads + head).to(tl.int64)
    q_ptr += batch * q_b + frame * tokens * q_n + head * q_h
    grad_ptr += tokens_before * E
    out_ptr += tokens_before * E
    den_ptr += unit * tokens
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    if role == 0:
        memory = (_matrix(f_ptr + unit * D * E, D, E, BD, BE) + _matrix(r_ptr + unit * D * E, D, E, BD, BE)).to(DOT)
        back = tl.trans(memory)
        d_z = tl.zeros([BD], tl.float32)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            d_num = _rows(grad_ptr, row, live, heads * E, E, BE)
            if DIVIDE:
                d_num = d_num / tl.load(den_ptr + row, mask=live, other=1.0)[:, None]
                d_den = -tl.sum(d_num * _rows(out_ptr, row, live, heads * E, E, BE), 1)
            d_q = tl.dot(d_num.to(DOT), back, input_precision=PRECISION)  # [BS, BD]
            if ROPE:
                cos, sin = _angles(cos_ptr, sin_ptr, row, live, D, BD)
                d_q = _turn(d_q, cos, -sin, BS, BD)
            if DIVIDE:
                z = _vector(zf_ptr + unit * D, D, BD) + _vector(zr_ptr + unit * D, D, BD)
                d_q += d_den[:, None] * z[None, :]
                d_z += tl.sum(_rows(q_ptr, row, live, q_n, D, BD) * d_den[:, None], 0)
            _put_rows(d_q_ptr + tokens_before * D, d_q, row, live, heads * D, D, BD)
        if DIVIDE:
            col = tl.arange(0, BD)
            tl.store(d_z_ptr + unit * D + col, d_z, mask=col < D)
    else:
        d_kv = tl.zeros([BD, BE], tl.float32)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            q = _rows(q_ptr, row, live, q_n, D, BD)
            d_num = _rows(grad_ptr, row, live, heads * E, E, BE)
            if ROPE:
                cos, sin = _angles(cos_ptr, sin_ptr, row, live, D, BD)
                q = _turn(q, cos, sin, BS, BD)
            if DIVIDE:
                d_num = d_num / tl.load(den_ptr + row, mask=live, other=1.0)[:, None]
            d_kv = tl.dot(tl.trans(q.to(DOT)), d_num.to(DOT), d_kv, input_precision=PRECISION)
        _put_matrix(d_kv_ptr + unit * D * E, d_kv, D, E, BD, BE)


@triton.jit
def _rank_one(k, weight, g_ptr, z_ptr, D: tl.constexpr, BD: tl.constexpr):
    """What one pair (gradient, memory before) of the denominator adds to the gradients of keys and gate.

    The vectors are loaded for every tile: kept across tiles they would cost registers that spill.
    """
    g, z = _vector(g_ptr, D, BD), _vector(z_ptr, D, BD)
    along = tl.sum(k * g[None, :], 1)
    missing = 1.0 - tl.sum(k * z[None, :], 1)
    d_k = (weight * missing)[:, None] * g[None, :] - (weight * along)[:, None] * z[None, :]
    return d_k, along * missing


@triton.jit
def summary_backward_kernel(
    k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, d_p_ptr, d_a_ptr, g_z_ptr, z_ptr, h_z_ptr, r_z_ptr,
    d_k_ptr, d_v_ptr, d_beta_ptr, frames, heads, tokens, k_b, k_n, k_h, v_b, v_n, v_h, units,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys (role 0) and values (role 1), and each role's part of the gradient of beta."""
    role = tl.program_id(0) % 2
    batch, frame, head, unit = _place(tl.program_id(0) // 2, frames, heads)
    tokens_before = ((batch * frames + frame) * tokens * heads + head).to(tl.int64)
    k_ptr += batch * k_b + frame * tokens * k_n + head * k_h
    v_ptr += batch * v_b + frame * tokens * v_n + head * v_h
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    beta_ptr += unit * tokens
    d_beta_ptr += (role * units + unit) * tokens
    d_a = _matrix(d_a_ptr + unit * D * E, D, E, BD, BE).to(DOT)
    if role == 0:
        d_p = _matrix(d_p_ptr + unit * D * D, D, D, BD, BD).to(DOT)
        back = tl.trans(d_a)
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            k = _rows(k_ptr, row, live, k_n, D, BD)
            v = _rows(v_ptr, row, live, v_n, E, BE)
            weight = tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)
            turned = k
            if ROPE:
                cos, sin = _angles(cos_ptr, sin_ptr, row, live, D, BD)
                turned = _turn(k, cos, sin, BS, BD)
            d_k = tl.dot(turned.to(DOT), d_p, input_precision=PRECISION)
            d_k = tl.dot(v.to(DOT), back, d_k, input_precision=PRECISION)
            gate = tl.sum(d_k * turned, 1) * 0.5
            d_k = d_k * weight[:, None]
            if ROPE:
                d_k = _turn(d_k, cos, -sin, BS, BD)
            if DIVIDE:
                more, more_gate = _rank_one(k, weight, g_z_ptr + unit * D, z_ptr + unit * D, D, BD)
                d_k += more
                gate += more_gate
                more, more_gate = _rank_one(k, weight, h_z_ptr + unit * D, r_z_ptr + unit * D, D, BD)
                d_k += more
                gate += more_gate
            _put_rows(d_k_ptr + tokens_before * D, d_k, row, live, heads * D, D, BD)
            tl.store(d_beta_ptr + row, gate, mask=live)
    else:
        for start in range(0, tokens, BS):
            row = start + tl.arange(0, BS)
            live = row < tokens
            k = _rows(k_ptr, row, live, k_n, D, BD)
            v = _rows(v_ptr, row, live, v_n, E, BE)
            weight = tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)
            if ROPE:
                cos, sin = _angles(cos_ptr, sin_ptr, row, live, D, BD)
                k = _turn(k, cos, sin, BS, BD)
            d_v = tl.dot(k.to(DOT), d_a, input_precision=PRECISION)  # [BS, BE]
            tl.store(d_beta_ptr + row, tl.sum(d_v * v, 1) * 0.5, mask=live)
            _put_rows(d_v_ptr + tokens_before * E, d_v * weight[:, None], row, live, heads * E, E, BE)
