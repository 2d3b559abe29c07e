"""The Triton kernels in Triton's interpreter against the definition in float64; run by test_gdn_triton.py.

A process of its own, because Triton decides at import whether it interprets. Unwritten results show: every fresh tensor
is filled with NaN. Sizes are small and odd, so that every mask is at work. For tf32 and bfloat16 the interpreter is
taught to round as tensor cores do (rounding.py).
"""

import gdn_cases as cases
import pytest
import torch
from gdn_kernels import FrameState, frame_gdn, frame_gdn_camera
from gdn_kernels.backend import choose, phases
from gdn_kernels.frame_gdn import ops, scan
from rounding import like_hardware
from torch import Tensor

NAMES = ("q", "k", "v", "beta", "log_gamma")
# b, h, t, s, d, e: one frame, widths that are no powers of two, token counts no tile divides.
SIZES = [
    (1, 2, 3, 15, 16, 16),
    (2, 1, 4, 18, 24, 24),
    (1, 1, 1, 21, 16, 24),
    (1, 1, 2, 35, 112, 112),
    (1, 1, 2, 5, 64, 64),
    (1, 1, 1, 9, 128, 128),
]
BUDGETS = {"fp32": 1e-6, "tf32": 5e-4, "bf16": 5e-3}  # norm of the error over the norm; gradients may have twice that
MODES = {"bidirectional": None, "chunks": 2, "forward only": 1}


@pytest.fixture(autouse=True)
def unwritten_memory_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: _poison(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: _poison(new_empty(*a, **k)))


def _poison(x: Tensor) -> Tensor:
    return x.fill_(float("nan")) if x.is_floating_point() else x


def _leaves(x: dict[str, Tensor], h: int, d: int, e: int) -> list[Tensor]:
    b, g = x["q"].shape[0], torch.Generator().manual_seed(4)
    states = [torch.rand(b, h, d, *more, generator=g, dtype=torch.float64) for more in ([e], [])]
    return [y.detach().clone().requires_grad_() for y in (*(x[n] for n in NAMES), *(s.to(x["beta"]) for s in states))]


def _both(
    backend: str, size: tuple[int, ...], every: int | None, dtype: torch.dtype, camera: bool, turn: bool,
    precision: str = "auto", given: torch.dtype | None = None,
):  # fmt: skip
    b, h, t, s, d, e = size
    # Tokens, and the gradient that arrives, are the same numbers on both sides: rounded to the type of the narrower.
    given, work, x = given or dtype, torch.promote_types(dtype, torch.float32), cases.inputs(b, h, t, s, d, seed=t, e=e)
    x = {n: y.to(given).to(dtype) if n in "qkv" else y.to(work) for n, y in x.items()}
    leaves = _leaves(x, h, d, e)
    starts = None if every is None else torch.arange(t) % every == 0
    shared = {"chunk_starts": starts, "output_final_state": True, "backend": backend, "precision": precision}
    weights = torch.rand(b, t * s, h, e, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    weights = weights.to(given).to(work)
    if camera:
        out, last = frame_gdn_camera(*leaves[:5], initial_state=FrameState(leaves[5]), **shared)
        loss, used = (out * weights).sum() + last.kv.square().sum(), leaves[:6]
    else:
        rope = cases.rope(t * s, d, work) if turn else None
        state = FrameState(leaves[5], leaves[6])
        out, last = frame_gdn(*leaves[:5], rope=rope, initial_state=state, **shared)
        loss, used = (out * weights).sum() + last.kv.square().sum() + last.z.square().sum(), leaves
    return [out, last.kv, *([] if last.z is None else [last.z])], torch.autograd.grad(loss, used)


CASES = [
    *((size, mode, False, True) for size in SIZES for mode in ("chunks",)),
    *((SIZES[0], mode, False, True) for mode in ("bidirectional", "forward only")),
    (SIZES[1], "bidirectional", False, False),
    (SIZES[1], "chunks", True, False),
    (SIZES[0], "bidirectional", True, False),
]


@pytest.mark.parametrize(("size", "mode", "camera", "turn"), CASES, ids=str)
def test_outputs_states_and_gradients(size: tuple[int, ...], mode: str, camera: bool, turn: bool) -> None:
    want, want_gradients = _both("reference", size, MODES[mode], torch.float64, camera, turn)
    got, got_gradients = _both("triton", size, MODES[mode], torch.float32, camera, turn)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert cases.error(a, b) < 1e-6, f"result {i}"
    for i, (a, b) in enumerate(zip(got_gradients, want_gradients, strict=True)):
        if b.norm():
            assert cases.error(a, b) < 2e-6, f"gradient {i}"
        else:
            assert not a.norm(), f"gradient {i} should vanish"


@pytest.mark.parametrize("camera", [False, True], ids=["main", "camera"])
@pytest.mark.parametrize("size", [(1, 2, 4, 35, 24, 24), (1, 1, 3, 35, 112, 112)], ids=str)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_rounded_products_stay_within_budget(
    precision: str, size: tuple[int, ...], camera: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    want, want_gradients = _both("reference", size, 2, torch.float64, camera, not camera, given=dtype)
    like_hardware(monkeypatch, precision)
    got, got_gradients = _both("triton", size, 2, dtype, camera, not camera, precision)
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    errors = [cases.error(a, b) for a, b in zip([*got, *got_gradients], [*want, *want_gradients], strict=True)]
    budget = BUDGETS[precision]
    assert max(errors[: len(got)]) < budget and max(errors[len(got) :]) < 2 * budget, errors
    assert errors[0] > 1e-5  # the rounding was there


def test_views_of_a_fused_projection_and_masked_frames() -> None:
    x = cases.inputs(1, 2, 3, 15, 16)
    x["beta"][:, :, 1] = 0
    x["log_gamma"][:, :, 1] = 0
    q, k, v = torch.stack([x["q"], x["k"], x["v"]], 2).unbind(2)
    assert not q.is_contiguous()
    gates = (x["beta"].transpose(2, 3).contiguous().transpose(2, 3), x["log_gamma"])
    out, state = frame_gdn(q, k, v, *gates, output_final_state=True, backend="triton")
    want = frame_gdn(**{n: y.double() for n, y in x.items()}, backend="reference")
    assert cases.error(out, want) < 1e-6
    kept = torch.tensor([0, 2])
    tokens = (kept[:, None] * 15 + torch.arange(15)).flatten()
    short = {n: y[:, tokens] if n in "qkv" else y[:, :, kept] for n, y in x.items()}
    _, want_state = frame_gdn(**short, output_final_state=True)
    assert cases.error(state.kv, want_state.kv) < 1e-6  # a masked frame is not there


@pytest.mark.parametrize("used", ["out", "kv", "z"])
def test_results_nobody_uses_get_no_gradient(used: str) -> None:
    grads = {}
    for backend, dtype in (("reference", torch.float64), ("triton", torch.float32)):
        leaves = [y.to(dtype).requires_grad_() for y in cases.inputs(1, 1, 3, 15, 16).values()]
        out, last = frame_gdn(*leaves, output_final_state=True, backend=backend)
        loss = {"out": out, "kv": last.kv, "z": last.z}[used].square().sum()
        grads[backend] = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    for want, got in zip(*grads.values(), strict=True):
        assert cases.error(got, want) < 2e-6 if want.norm() else not got.norm()


@pytest.mark.parametrize("stop", [None, 1])
def test_composites_carry_a_clip_cut_in_two(stop: int | None) -> None:
    x = cases.inputs(1, 2, 4, 15, 16)
    run = phases("triton:fp32")
    rope = cases.rope(60, 16)
    starts = None if stop is None else torch.arange(4) == stop
    summary = run.summary(x["k"], x["v"], x["beta"], rope, True)
    whole, final = run.scan(summary, x["log_gamma"], starts)
    parts, gates, flags = [], [], []
    for frames in (slice(0, 3), slice(3, 4)):
        parts.append(summary._replace(**{n: y[:, :, frames].contiguous() for n, y in summary._asdict().items()}))
        gates.append(x["log_gamma"][:, :, frames])
        flags.append(None if starts is None else starts[frames])
    runs = [run.composite(*each) for each in zip(parts, gates, flags, strict=True)]
    torch.testing.assert_close(runs[0].phi, scan.composite(parts[0], gates[0], flags[0]).phi, rtol=1e-5, atol=1e-6)
    for i, frames in enumerate((slice(0, 3), slice(3, 4))):
        ahead, behind = scan.compose_prefix(runs, i)
        memories, last = run.scan(parts[i], gates[i], flags[i], ahead, behind)
        for got, want in zip(memories, whole, strict=True):
            torch.testing.assert_close(got, want[:, :, frames], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last.kv, final.kv, rtol=1e-5, atol=1e-6)


def test_operators_pass_opcheck() -> None:
    x = cases.inputs(1, 1, 2, 3, 16)
    name = choose("triton", x["q"], 16)
    assert name == "triton:fp32"
    arguments = (*(x[n] for n in NAMES), *cases.rope(6, 16), None, None, None, 1e-3, True, name)
    fake_checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.forward, arguments, test_utils=fake_checks)
    out, kv, z, *kept = ops.forward(*arguments)
    back = (torch.ones_like(out), torch.ones_like(kv), torch.ones_like(z), *arguments[:10], out, kept, True, name)
    torch.library.opcheck(ops.backward, back, test_utils=fake_checks)


def test_what_triton_cannot_run_is_refused_before_a_launch() -> None:
    wide = cases.inputs(1, 1, 2, 3, 130)
    with pytest.raises(ValueError, match="head width 130 is above 128"):
        frame_gdn(**wide, backend="triton")
    exact = cases.inputs(1, 1, 2, 3, 16, torch.float64)
    with pytest.raises(ValueError, match="neither float32 nor bfloat16"):
        frame_gdn(**exact, backend="triton")
