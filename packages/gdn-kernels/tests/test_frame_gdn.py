"""The recurrence: a case by hand, gradients, fast form = definition, state, causality, bounds, bad input."""

import math

import pytest
import torch
from gdn_kernels import FrameState, frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn import reference
from torch import Tensor

SIZES = [(1, 1, 1, 3, 2), (2, 2, 3, 5, 16), (1, 3, 9, 7, 24), (1, 2, 4, 13, 112), (2, 1, 5, 6, 32)]


def _inputs(
    b: int, h: int, t: int, s: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, t * s, h, d, generator=g, dtype=torch.float64) for _ in range(3))
    out = {
        "q": q.relu() + 0.05,
        "k": k.relu() / math.sqrt(d * s),
        "v": v,
        "beta": torch.rand(b, h, t, s, generator=g, dtype=torch.float64),
        "log_gamma": -torch.rand(b, h, t, generator=g, dtype=torch.float64),
    }
    return {name: x.to(dtype) for name, x in out.items()}


def _rope(n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    angle = torch.arange(n, dtype=torch.float64)[:, None] * torch.logspace(0, -2, d // 2, dtype=torch.float64)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_two_frames_of_one_token_by_hand(backend: str) -> None:
    # d = 2 keeps pairs whole; only the first channel is used. k = .5, beta = .8, gamma = .5, v = 1 then 3.
    k = torch.tensor([[0.5, 0.0], [0.5, 0.0]]).view(1, 2, 1, 2)
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 2, 1, 2)
    v = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    beta, log_gamma = torch.full((1, 1, 2, 1), 0.8), torch.full((1, 1, 2), math.log(0.5))
    f0 = 0.8 * 0.5 * 1.0  # M_0 = K' B V = 0.4
    f1 = 0.5 * f0 * (1 - 0.8 * 0.25) + 0.8 * 0.5 * 3.0  # decay, correct, write = 1.36
    r0 = 0.8 * 0.5 * 3.0  # memory from the end, before frame 0
    z1 = 0.5 * 0.4 * (1 - 0.8 * 0.25) + 0.4
    out, state = frame_gdn(q, k, v, beta, log_gamma, eps=0.0, output_final_state=True, backend=backend)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([(f0 + r0) / (0.4 + 0.4), f1 / z1]))
    assert state.kv[0, 0, 0, 0] == pytest.approx(f1)
    assert state.z is not None and state.z[0, 0, 0] == pytest.approx(z1)
    camera = frame_gdn_camera(q, k, v, beta, log_gamma, backend=backend)
    torch.testing.assert_close(camera[0, :, 0, 0], torch.tensor([f0 + r0, f1]))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_in_float64(backend: str) -> None:
    x = _inputs(1, 2, 3, 3, 4, torch.float64)
    leaves = [x[name].requires_grad_() for name in ("q", "k", "v", "beta", "log_gamma")]
    rope = _rope(9, 4, torch.float64)
    # A large eps keeps the quotient away from its pole, where finite differences mean nothing.
    assert torch.autograd.gradcheck(lambda *a: frame_gdn(*a, rope=rope, eps=0.1, backend=backend), leaves)
    assert torch.autograd.gradcheck(lambda *a: frame_gdn_camera(*a, backend=backend), leaves)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resets", [False, True], ids=["bidirectional", "chunks"])
def test_every_schedule_equals_reference(size: tuple[int, ...], resets: bool, schedule: str) -> None:
    b, h, t, s, d = size
    x = _inputs(b, h, t, s, d, seed=t)
    exact = {name: value.double() for name, value in x.items()}
    starts = torch.arange(t) % 3 == 0 if resets else None
    g = torch.Generator().manual_seed(9)
    state = FrameState(torch.randn(b, h, d, d, generator=g), torch.rand(b, h, d, generator=g))
    rope, rope_exact = _rope(t * s, d), _rope(t * s, d, torch.float64)
    shared = {"chunk_starts": starts, "output_final_state": True}
    want, want_state = frame_gdn(
        **exact, rope=rope_exact, initial_state=state.to(torch.float64), backend="reference", **shared
    )
    got, got_state = frame_gdn(**x, rope=rope, initial_state=state, **shared)
    assert _error(got, want) < 2e-6
    assert _error(got_state.kv, want_state.kv) < 1e-6 and _error(got_state.z, want_state.z) < 1e-6
    want = frame_gdn_camera(**exact, chunk_starts=starts, backend="reference")
    assert _error(frame_gdn_camera(**x, chunk_starts=starts), want) < 2e-6


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_whole_equals_pieces_through_the_state(backend: str) -> None:
    b, h, t, s, d = 2, 2, 7, 3, 8
    x = _inputs(b, h, t, s, d, torch.float64)
    starts = torch.zeros(t, dtype=torch.bool)
    starts[[0, 4]] = True
    whole = frame_gdn(**x, chunk_starts=starts, backend=backend)
    state, parts = None, []
    for a, z in ((0, 4), (4, 7)):
        piece = {n: x[n][:, a * s : z * s] for n in ("q", "k", "v")}
        piece |= {n: x[n][:, :, a:z] for n in ("beta", "log_gamma")}
        out, state = frame_gdn(**piece, initial_state=state, output_final_state=True, backend=backend)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)


def test_the_future_does_not_reach_the_past_in_forward_mode() -> None:
    t, s = 6, 4
    x = _inputs(1, 2, t, s, 8)
    starts = torch.ones(t, dtype=torch.bool)
    before = frame_gdn(**x, chunk_starts=starts)
    x["v"][:, 4 * s :] += 1
    x["k"][:, 4 * s :] *= 0.5
    after = frame_gdn(**x, chunk_starts=starts)
    assert torch.equal(before[:, : 4 * s], after[:, : 4 * s])
    assert not torch.equal(before[:, 4 * s :], after[:, 4 * s :])
    assert not torch.equal(frame_gdn(**x)[:, : 4 * s], before[:, : 4 * s])


def test_zero_beta_only_decays() -> None:
    x = _inputs(1, 1, 3, 2, 4, torch.float64)
    x["beta"].zero_()
    state = FrameState(torch.ones(1, 1, 4, 4, dtype=torch.float64), torch.ones(1, 1, 4, dtype=torch.float64))
    _, after = frame_gdn(**x, initial_state=state, output_final_state=True)
    torch.testing.assert_close(after.kv, state.kv * x["log_gamma"].sum().exp())


def test_memory_stays_bounded_over_a_thousand_frames() -> None:
    x = _inputs(1, 1, 1000, 4, 8)
    x["log_gamma"].zero_()  # nothing forgotten
    x["beta"].fill_(1)
    _, state = frame_gdn(**x, output_final_state=True, chunk_starts=torch.ones(1000, dtype=torch.bool))
    # The delta rule drives K M towards V: with |v| of order 1 and keys of order 1/sqrt(d s) the memory cannot outgrow
    # a few |v| / |k|.
    assert state.kv.abs().max() < 100 and torch.isfinite(state.kv).all()


def test_half_precision_features_keep_a_float32_memory() -> None:
    x = _inputs(1, 2, 3, 5, 16)
    half = {n: x[n].bfloat16() if n in "qkv" else x[n] for n in x}
    out, state = frame_gdn(**half, output_final_state=True)
    assert out.dtype == torch.bfloat16 and state.kv.dtype == torch.float32
    assert _error(out, frame_gdn(**{n: v.double() for n, v in half.items()})) < 5e-3


def test_state_round_trip(tmp_path) -> None:
    state = FrameState(torch.randn(1, 2, 3, 3), None)
    state.save(tmp_path / "s.pt")
    assert torch.equal(FrameState.load(tmp_path / "s.pt").kv, state.kv)
    copy = state.clone()
    copy.kv.zero_()
    assert state.kv.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("q", lambda x: x[0], "q has shape"),
        ("k", lambda x: x[..., :-1], "k has shape"),
        ("v", lambda x: x[:, :-1], "v has shape"),
        ("beta", lambda x: x[:, :, :, :-1], "beta has shape"),
        ("log_gamma", lambda x: x[:, :1], "log_gamma has shape"),
        ("log_gamma", lambda x: torch.cat([x, x[..., :1]], -1), "do not divide"),
    ],
)
def test_wrong_shapes_are_named(name: str, change, word: str) -> None:
    x = _inputs(1, 2, 3, 5, 8)
    x[name] = change(x[name])
    for call in (frame_gdn, frame_gdn_camera):
        with pytest.raises(ValueError, match=word):
            call(**x)


def test_other_bad_arguments_are_named() -> None:
    x = _inputs(1, 2, 3, 5, 8)
    with pytest.raises(ValueError, match="backend 'cuda'"):
        frame_gdn(**x, backend="cuda")
    with pytest.raises(ValueError, match="rope has shapes"):
        frame_gdn(**x, rope=_rope(14, 8))
    with pytest.raises(ValueError, match="initial_state"):
        frame_gdn(**x, initial_state=FrameState(torch.zeros(1, 2, 8, 8)))
    with pytest.raises(ValueError, match="chunk_starts has shape"):
        frame_gdn_camera(**x, chunk_starts=torch.ones(2, dtype=torch.bool))


def test_forward_parity_with_diffusers() -> None:
    peer = pytest.importorskip("diffusers.models.transformers.transformer_sana_wm")
    b, h, t, s, d = 2, 2, 5, 6, 16
    x = _inputs(b, h, t, s, d)
    rope = _rope(t * s, d)
    columns = {n: x[n].permute(0, 2, 3, 1).contiguous() for n in "qkv"}
    turned = {n: reference.rotate(x[n], rope).permute(0, 2, 3, 1).contiguous() for n in "qk"}
    gamma, forward = x["log_gamma"].exp(), torch.ones(t, dtype=torch.bool)
    want = peer.torch_chunk_sana_gdn(*columns.values(), turned["q"], turned["k"], x["beta"], gamma, eps=1e-8)
    got = frame_gdn(**x, rope=rope, chunk_starts=forward)
    assert _error(got, want.permute(0, 3, 1, 2)) < 2e-6
    want = peer.torch_chunk_cam_single_path_delta_rule(*columns.values(), x["beta"], gamma)
    assert _error(frame_gdn_camera(**x, chunk_starts=forward), want.permute(0, 3, 1, 2)) < 2e-6
