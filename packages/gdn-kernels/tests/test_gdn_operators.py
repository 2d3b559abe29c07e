"""The operators: closed-form gradients in every mode, torch's own operator checks, compilation."""

from functools import partial

import gdn_cases as cases
import pytest
import torch
from gdn_kernels import FrameState, frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn import by_tile, ops
from torch import Tensor

NAMES = ("q", "k", "v", "beta", "log_gamma")
MODES = {
    "bidirectional": None,
    "chunks": torch.tensor([True, False, True]),
    "forward only": torch.tensor([True, True, True]),
}


def _leaves(b: int, h: int, t: int, s: int, d: int) -> list[Tensor]:
    x = cases.inputs(b, h, t, s, d, torch.float64)
    return [x[name].requires_grad_() for name in NAMES]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("large", [0, 1 << 60], ids=["heads", "whole"])
def test_closed_form_passes_gradcheck(mode: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_tile, "LARGE", large)
    leaves = _leaves(1, 1, 3, 2, 4)
    kv, z = (torch.rand(1, 1, 4, *more, dtype=torch.float64, requires_grad=True) for more in ([4], []))
    rope = cases.rope(6, 4, torch.float64)
    # A large eps keeps the quotient away from its pole, where finite differences mean nothing.
    main = partial(frame_gdn, rope=rope, eps=0.1, chunk_starts=MODES[mode], output_final_state=True)
    camera = partial(frame_gdn_camera, chunk_starts=MODES[mode], output_final_state=True)

    def both(*x: Tensor) -> tuple[Tensor, ...]:
        out, last = main(*x[:5], initial_state=FrameState(x[5], x[6]))
        ray, ray_last = camera(*x[:5], initial_state=FrameState(x[5]))
        return out, last.kv, last.z, ray, ray_last.kv

    assert torch.autograd.gradcheck(both, [*leaves, kv, z], fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rotated", [True, False], ids=["rope", "no rope"])
def test_gradcheck_with_a_masked_frame_and_no_state(mode: str, rotated: bool) -> None:
    q, k, v, beta, log_gamma = _leaves(1, 1, 3, 2, 4)
    rope = cases.rope(6, 4, torch.float64) if rotated else None
    there = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    def both(*x: Tensor) -> tuple[Tensor, ...]:
        gates = (x[3] * there[:, None], x[4] * there)  # as the model masks: nothing written, nothing forgotten
        shared = {"chunk_starts": MODES[mode], "output_final_state": True}
        out, last = frame_gdn(*x[:3], *gates, rope=rope, eps=0.1, **shared)
        ray, ray_last = frame_gdn_camera(*x[:3], *gates, **shared)
        return out, last.kv, last.z, ray, ray_last.kv

    assert torch.autograd.gradcheck(both, [q, k, v, beta, log_gamma], fast_mode=True)


def test_gradcheck_of_a_streamed_clip() -> None:
    leaves = _leaves(1, 1, 3, 2, 4)
    rope = cases.rope(6, 4, torch.float64)

    def streamed(*x: Tensor) -> tuple[Tensor, ...]:
        main, ray, parts = None, None, []
        for a, b in ((0, 2), (2, 3)):
            here = slice(2 * a, 2 * b)
            piece = (*(y[:, here] for y in x[:3]), *(y[:, :, a:b] for y in x[3:]))
            turn = (rope[0][here], rope[1][here])
            out, main = frame_gdn(*piece, rope=turn, eps=0.1, initial_state=main, output_final_state=True)
            parts.append(out)
            out, ray = frame_gdn_camera(*piece, initial_state=ray, output_final_state=True)
            parts.append(out)
        return (*parts, main.kv, main.z, ray.kv)

    assert torch.autograd.gradcheck(streamed, leaves, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_autograd_of_the_definition(mode: str, schedule: str) -> None:
    b, h, t, s, d = 2, 2, 3, 5, 6
    for call in (partial(frame_gdn, rope=cases.rope(t * s, d, torch.float64)), frame_gdn, frame_gdn_camera):
        grads = {}
        for backend in ("reference", "torch"):
            leaves = _leaves(b, h, t, s, d)
            g = torch.Generator().manual_seed(3)
            kv, z = (
                torch.rand(b, h, d, *more, generator=g, dtype=torch.float64).requires_grad_() for more in ([d], [])
            )
            state = FrameState(kv, z)
            out, last = call(
                *leaves, chunk_starts=MODES[mode], initial_state=state, output_final_state=True, backend=backend
            )
            loss = (out * torch.rand(out.shape, generator=g, dtype=out.dtype)).sum() + last.kv.square().sum()
            used = [*leaves, kv]
            if last.z is not None:
                loss = loss + last.z.square().sum()
                used.append(z)
            grads[backend] = torch.autograd.grad(loss, used)
        for want, got in zip(*grads.values(), strict=True):
            assert cases.error(got, want) < 1e-12


@pytest.mark.parametrize("used", ["out", "kv", "z", "kv and z"])
def test_results_nobody_uses_get_no_gradient(used: str, schedule: str) -> None:
    rope, grads = cases.rope(6, 4, torch.float64), {}
    for backend in ("reference", "torch"):
        leaves = _leaves(1, 2, 3, 2, 4)
        out, last = frame_gdn(*leaves, rope=rope, output_final_state=True, backend=backend)
        parts = {"out": out, "kv": last.kv, "z": last.z}
        loss = sum(parts[name].square().sum() for name in used.split(" and "))
        grads[backend] = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    for want, got in zip(*grads.values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def _arguments(b: int, divide: bool, save: bool) -> tuple:
    x = cases.inputs(b, 2, 3, 2, 4)
    leaves = [x[name].requires_grad_(save) for name in NAMES]
    cos, sin = cases.rope(6, 4) if divide else (None, None)
    state = (torch.rand(b, 2, 4, 4), torch.rand(b, 2, 4) if divide else None)
    return (*leaves, cos, sin, MODES["chunks"], *state, 0.1 if divide else None, save, "torch")


# torch's checker itself reads .grad of what the forward returned.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("divide", [True, False], ids=["main", "camera"])
@pytest.mark.parametrize("large", [0, 1 << 60], ids=["heads", "whole"])
def test_operators_pass_opcheck(b: int, divide: bool, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_tile, "LARGE", large)
    arguments = _arguments(b, divide, True)
    torch.library.opcheck(ops.forward, arguments)
    torch.library.opcheck(ops.forward, _arguments(b, divide, False))
    with torch.no_grad():
        out, kv, z, *kept = ops.forward(*arguments)
        inputs = (*(x.detach() for x in arguments[:5]), *arguments[5:10])
        back = (torch.rand_like(out), torch.rand_like(kv), torch.rand_like(z), *inputs, out, kept, divide, "torch")
        torch.library.opcheck(ops.backward, back)


def test_compiles_in_one_graph() -> None:
    rope = cases.rope(6, 4)

    def both(*x: Tensor) -> Tensor:
        out, state = frame_gdn(*x, rope=rope, chunk_starts=MODES["chunks"], output_final_state=True)
        return out.sum() + state.kv.square().sum() + frame_gdn_camera(*x).square().sum()

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    leaves = [x.detach().float().requires_grad_() for x in _leaves(1, 2, 3, 2, 4)]
    want, got = both(*leaves), compiled(*leaves)
    torch.testing.assert_close(got, want)
    pairs = zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True)
    for left, right in pairs:
        torch.testing.assert_close(left, right)


def test_a_gradient_without_saved_tensors_is_refused() -> None:
    arguments = list(_arguments(1, True, True))
    arguments[11] = False
    with pytest.raises(RuntimeError, match="save=False"):
        ops.forward(*arguments)


def test_mixed_types_and_views_of_a_fused_projection() -> None:
    x = cases.inputs(1, 2, 3, 5, 8)
    fused = torch.stack([x["q"], x["k"], x["v"]], 2)
    q, k, v = fused.unbind(2)
    assert not q.is_contiguous()
    want = frame_gdn(**x)
    torch.testing.assert_close(frame_gdn(q, k, v, x["beta"], x["log_gamma"]), want)
    mixed = frame_gdn(q.bfloat16(), k, v, x["beta"], x["log_gamma"].double())
    assert mixed.dtype == torch.bfloat16 and cases.error(mixed, want) < 1e-2
