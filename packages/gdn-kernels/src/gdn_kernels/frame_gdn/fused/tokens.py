"""Kernels over the tokens of one frame and head: summary and readout, and the pieces their gradients share.

Tokens stay in their (b, n, h, d) layout and type; rotation, weights, gates and the division happen in registers, so no
rotated or float32 copy of a token tensor reaches memory. Programs of the heads of one frame are neighbours: they share
the rotation's rows in cache. Widths are padded to powers of two by masks; DOT is the type of product operands.
"""

import triton
import triton.language as tl


@triton.jit
def turn(x, cos, sin, BS: tl.constexpr, BD: tl.constexpr):
    a, b = tl.split(tl.reshape(x, [BS, BD // 2, 2]))  # [BS, BD/2] each; a pair is in one thread, so nothing moves
    return tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), [BS, BD])


@triton.jit
def operand(x, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """x as a product takes it. Tensor cores cut a float32 to tf32; adding half of the last bit first rounds it."""
    if tl.float32 == DOT and PRECISION == "tf32":
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        return ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return x.to(DOT)


@triton.jit
def angles(cos_ptr, sin_ptr, row, live, D: tl.constexpr, BD: tl.constexpr):
    pair = tl.arange(0, BD // 2)
    at = row[:, None] * (D // 2) + pair[None, :]
    fits = live[:, None] & (pair < D // 2)[None, :]
    cos = tl.load(cos_ptr + at, mask=fits, other=1.0).to(tl.float32)  # [BS, BD/2]
    return cos, tl.load(sin_ptr + at, mask=fits, other=0.0).to(tl.float32)


@triton.jit
def rows(ptr, row, live, stride, W: tl.constexpr, BW: tl.constexpr):
    col = tl.arange(0, BW)
    fits = live[:, None] & (col < W)[None, :]
    return tl.load(ptr + row[:, None] * stride + col[None, :], mask=fits, other=0.0).to(tl.float32)  # [BS, BW]


@triton.jit
def put_rows(ptr, x, row, live, stride, W: tl.constexpr, BW: tl.constexpr):
    col = tl.arange(0, BW)
    tl.store(ptr + row[:, None] * stride + col[None, :], x, mask=live[:, None] & (col < W)[None, :])


@triton.jit
def vector(ptr, W: tl.constexpr, BW: tl.constexpr):
    col = tl.arange(0, BW)
    return tl.load(ptr + col, mask=col < W, other=0.0).to(tl.float32)  # [BW]


@triton.jit
def matrix(ptr, W: tl.constexpr, V: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr):
    row, col = tl.arange(0, BW), tl.arange(0, BV)
    fits = (row < W)[:, None] & (col < V)[None, :]
    return tl.load(ptr + row[:, None] * V + col[None, :], mask=fits, other=0.0).to(tl.float32)  # [BW, BV]


@triton.jit
def put_matrix(ptr, x, W: tl.constexpr, V: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr):
    row, col = tl.arange(0, BW), tl.arange(0, BV)
    tl.store(ptr + row[:, None] * V + col[None, :], x, mask=(row < W)[:, None] & (col < V)[None, :])


@triton.jit
def place(program, frames, heads):
    """Batch, frame and head of a program, heads innermost; and its number in (b, h, t) order, 64 bits wide."""
    head = program % heads
    frame = (program // heads) % frames
    batch = program // (heads * frames)
    return batch.to(tl.int64), frame.to(tl.int64), head, ((batch * heads + head) * frames + frame).to(tl.int64)


@triton.jit
def _summarise(
    k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, p_ptr, a_ptr, sums_ptr, tokens, k_n, v_n,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr, ROPE: tl.constexpr,
    P: tl.constexpr, A: tl.constexpr, SUMS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Those of K' B K, K' B V and K' beta that are asked for."""
    p = tl.zeros([BD, BD], tl.float32)
    a = tl.zeros([BD, BE], tl.float32)
    sums = tl.zeros([BD], tl.float32)
    for start in range(0, tokens, BS):
        row = start + tl.arange(0, BS)
        live = row < tokens
        k = rows(k_ptr, row, live, k_n, D, BD)
        if ROPE:
            cos, sin = angles(cos_ptr, sin_ptr, row, live, D, BD)
            k = turn(k, cos, sin, BS, BD)
        weighted = k * tl.load(beta_ptr + row, mask=live, other=0.0).to(tl.float32)[:, None]
        left = tl.trans(operand(weighted, DOT, PRECISION))
        if P:
            p = tl.dot(left, operand(k, DOT, PRECISION), p, input_precision=PRECISION)
        if A:
            a = tl.dot(left, operand(rows(v_ptr, row, live, v_n, E, BE), DOT, PRECISION), a, input_precision=PRECISION)
        if SUMS:
            sums += tl.sum(weighted, 0)
    if P:
        put_matrix(p_ptr, p, D, D, BD, BD)
    if A:
        put_matrix(a_ptr, a, D, E, BD, BE)
    if SUMS:
        col = tl.arange(0, BD)
        tl.store(sums_ptr + col, sums, mask=col < D)


@triton.jit
def summary_kernel(
    k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, p_ptr, a_ptr, p_z_ptr, a_z_ptr,
    frames, heads, tokens, k_b, k_n, k_h, v_b, v_n, v_h,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, SPLIT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P and A of every frame, and those of its unrotated keys and the value 1 for the denominator.

    Three d x d sums do not fit the registers of a program, so the denominator's is a program of its own; with SPLIT,
    for wide operands, A is too. They are launched side by side and find the keys in cache.
    """
    TWO: tl.constexpr = ROPE and DIVIDE  # without rotation the denominator shares P
    ROLES: tl.constexpr = 1 + SPLIT + TWO
    role = tl.program_id(0) % ROLES
    batch, frame, head, unit = place(tl.program_id(0) // ROLES, frames, heads)
    k_ptr += batch * k_b + frame * tokens * k_n + head * k_h
    v_ptr += batch * v_b + frame * tokens * v_n + head * v_h
    beta_ptr += unit * tokens
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    p_ptr += unit * D * D
    a_ptr += unit * D * E
    p_z_ptr += unit * D * D
    a_z_ptr += unit * D
    if role == 0:
        _summarise(
            k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, p_ptr, a_ptr, a_z_ptr, tokens, k_n, v_n,
            D, E, BD, BE, BS, ROPE, True, not SPLIT, DIVIDE and not TWO, DOT, PRECISION,
        )  # fmt: skip
    elif role == SPLIT:
        _summarise(
            k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, p_ptr, a_ptr, a_z_ptr, tokens, k_n, v_n,
            D, E, BD, BE, BS, ROPE, False, SPLIT, False, DOT, PRECISION,
        )  # fmt: skip
    else:
        _summarise(
            k_ptr, v_ptr, beta_ptr, cos_ptr, sin_ptr, p_z_ptr, a_ptr, a_z_ptr, tokens, k_n, v_n,
            D, E, BD, BE, BS, False, TWO, False, TWO, DOT, PRECISION,
        )  # fmt: skip


@triton.jit
def readout_kernel(
    q_ptr, cos_ptr, sin_ptr, f_ptr, r_ptr, zf_ptr, zr_ptr, out_ptr, den_ptr,
    frames, heads, tokens, q_b, q_n, q_h, eps,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    ROPE: tl.constexpr, DIVIDE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Q (F + R) over Q (z + r) + eps; the memory is read once for all tokens of the frame."""
    batch, frame, head, unit = place(tl.program_id(0), frames, heads)
    q_ptr += batch * q_b + frame * tokens * q_n + head * q_h
    out_ptr += ((batch * frames + frame) * tokens * heads + head) * E
    cos_ptr += frame * tokens * (D // 2)
    sin_ptr += frame * tokens * (D // 2)
    memory = operand(
        matrix(f_ptr + unit * D * E, D, E, BD, BE) + matrix(r_ptr + unit * D * E, D, E, BD, BE), DOT, PRECISION
    )
    if DIVIDE:
        z = vector(zf_ptr + unit * D, D, BD) + vector(zr_ptr + unit * D, D, BD)
    for start in range(0, tokens, BS):
        row = start + tl.arange(0, BS)
        live = row < tokens
        q = rows(q_ptr, row, live, q_n, D, BD)
        turned = q
        if ROPE:
            cos, sin = angles(cos_ptr, sin_ptr, row, live, D, BD)
            turned = turn(q, cos, sin, BS, BD)
        out = tl.dot(operand(turned, DOT, PRECISION), memory, input_precision=PRECISION)  # [BS, BE]
        if DIVIDE:
            den = tl.sum(q * z[None, :], 1) + eps
            tl.store(den_ptr + unit * tokens + row, den, mask=live)
            out = out / den[:, None]
        put_rows(out_ptr, out, row, live, heads * E, E, BE)
