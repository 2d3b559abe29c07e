"""Properties that hold for any input: pieces, causality, masks, widths, bounds over long clips, bad input."""

import re
from itertools import pairwise

import gdn_cases as cases
import pytest
import torch
from gdn_kernels import FrameState, frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn import by_tile, checks, chunked, ops, phases, reference, scan, workers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor


def _cut(x: dict[str, Tensor], s: int, a: int, b: int) -> dict[str, Tensor]:
    return {n: y[:, a * s : b * s] if n in "qkv" else y[:, :, a:b] for n, y in x.items()}


@pytest.mark.parametrize("d", [16, 24, 64, 112, 128])
def test_every_head_width(d: int, schedule: str) -> None:
    x = cases.inputs(1, 2, 3, 7, d, seed=d, e=16)
    exact = {n: y.double() for n, y in x.items()}
    starts = torch.tensor([True, False, True])
    rope = cases.rope(21, d, torch.float64)
    want = frame_gdn(**exact, rope=rope, chunk_starts=starts, backend="reference")
    assert cases.error(frame_gdn(**x, rope=cases.rope(21, d), chunk_starts=starts), want) < 1e-6
    want = frame_gdn_camera(**exact, backend="reference")
    assert cases.error(frame_gdn_camera(**x), want) < 1e-6


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_pieces_equal_the_whole(data: st.DataObject) -> None:
    t, s, d = data.draw(st.integers(1, 6), "t"), data.draw(st.integers(1, 4), "s"), data.draw(st.integers(1, 5), "d")
    x = cases.inputs(1, 1, t, s, d, torch.float64, seed=data.draw(st.integers(0, 99), "seed"))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, max(1, t - 1)), max_size=t - 1), "cuts")), t]
    starts = torch.zeros(t, dtype=torch.bool)
    starts[cuts[:-1]] = True
    whole, last = frame_gdn(**x, eps=0.1, chunk_starts=starts, output_final_state=True)
    state, parts = None, []
    for a, b in pairwise(cuts):
        if a < b:
            part = _cut(x, s, a, b)
            out, state = frame_gdn(**part, eps=0.1, initial_state=state, output_final_state=True)
            parts.append(out)
    assert state is not None
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.kv, last.kv, rtol=1e-12, atol=1e-12)


def test_tokens_may_lie_anywhere_in_memory(schedule: str) -> None:
    x, rope = cases.inputs(1, 2, 4, 5, 16), cases.rope(20, 16)
    want = frame_gdn(**x, rope=rope, backend="reference")
    columns = {n: y.transpose(1, 3).contiguous().transpose(1, 3) if n in "qkv" else y for n, y in x.items()}
    uneven = {n: torch.cat([y.new_zeros(1), y.flatten()])[1:].view_as(y) if n in "qkv" else y for n, y in x.items()}
    for placed in (columns, uneven):
        assert cases.error(frame_gdn(**placed, rope=rope), want) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_schedule_keeps_the_type(dtype: torch.dtype, schedule: str) -> None:
    x = {n: y.to(dtype) if n in "qkv" else y for n, y in cases.inputs(1, 2, 4, 5, 16).items()}
    out = frame_gdn(**x, rope=cases.rope(20, 16))
    want = frame_gdn(
        **{n: y.double() for n, y in x.items()}, rope=cases.rope(20, 16, torch.float64), backend="reference"
    )
    assert out.dtype == dtype and cases.error(out, want) < (5e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("call", [frame_gdn, frame_gdn_camera], ids=["main", "camera"])
@pytest.mark.parametrize(("heads", "frame_from", "threads"), [(2, 0, 1), (2, 0, 2), (2, 1 << 60, 1), (1, 0, 1)])
def test_large_frames_are_read_where_they_lie(
    call, heads: int, frame_from: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large frames of several heads are tiles of their own, except where threads share a rotation; others share one."""
    tiles, answer = [], by_tile._answer
    monkeypatch.setattr(by_tile, "_answer", lambda tile, *rest: tiles.append(tile) or answer(tile, *rest))
    monkeypatch.setattr(by_tile, "LARGE", 0)
    monkeypatch.setattr(by_tile, "WORTHWHILE", frame_from)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, rope = cases.inputs(1, heads, 5, 6, 16), {"rope": cases.rope(30, 16)} if call is frame_gdn else {}
    assert cases.error(call(**x, **rope), call(**x, **rope, backend="reference")) < 1e-6
    assert len(tiles) == (5 if heads == 2 and frame_from == 0 and not (rope and threads == 2) else 1)


def test_tokens_at_odd_places_are_copied_a_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs need even places; a whole clip is never copied for that."""
    copied, pairs = [], by_tile.pairs
    monkeypatch.setattr(by_tile, "pairs", lambda y: copied.append(0 if chunked.in_pairs(y) else y.numel()) or pairs(y))
    monkeypatch.setattr(by_tile, "LARGE", 0)
    monkeypatch.setattr(by_tile, "TILE", 2 * 2 * 6 * 16)  # two frames of both heads
    x = cases.inputs(1, 2, 5, 6, 16)
    odd = {n: torch.cat([y.new_zeros(1), y.flatten()])[1:].view_as(y) if n in "qk" else y for n, y in x.items()}
    rope = cases.rope(30, 16)
    assert torch.equal(frame_gdn(**odd, rope=rope), frame_gdn(**x, rope=rope))
    assert max(copied) == by_tile.TILE and sum(copied) == 2 * x["q"].numel()


@pytest.mark.parametrize("inference", [False, True])
def test_tiles_shared_by_threads_give_the_same_bits(inference: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHARED", 0)
    monkeypatch.setattr(by_tile, "LARGE", 0)
    monkeypatch.setattr(by_tile, "TILE", 200)  # two heads of one frame
    x, before, results = cases.inputs(2, 3, 4, 5, 16), torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with torch.inference_mode(inference):
                results[threads] = frame_gdn(**x, output_final_state=True)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for out, state in results.values():
        assert torch.equal(out, results[1][0])
        assert torch.equal(state.kv, results[1][1].kv) and torch.equal(state.z, results[1][1].z)


@pytest.mark.parametrize("call", [frame_gdn, frame_gdn_camera], ids=["main", "camera"])
def test_heads_shared_by_threads_give_the_same_gradients(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHARED", 0)
    monkeypatch.setattr(by_tile, "LARGE", 0)
    shares, before, results = [], torch.get_num_threads(), {}
    helpers = workers._helpers
    monkeypatch.setattr(workers, "_helpers", lambda process, n: shares.append(n) or helpers(process, n))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaves = [x.requires_grad_() for x in cases.inputs(2, 3, 4, 5, 16).values()]
            results[threads] = torch.autograd.grad(call(*leaves).square().sum(), leaves)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert set(shares) == {1, 4}  # the caller takes a share itself
    for gradients in results.values():
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[1], strict=True))


@pytest.mark.parametrize("call", [frame_gdn, frame_gdn_camera], ids=["main", "camera"])
@pytest.mark.parametrize("name", ["q", "k", "v", "beta", "log_gamma"])
def test_later_chunks_change_nothing_earlier(call, name: str, schedule: str) -> None:
    t, s, edge = 7, 3, 4
    x = cases.inputs(1, 2, t, s, 8)
    starts = torch.zeros(t, dtype=torch.bool)
    starts[[0, edge, 6]] = True
    before = call(**x, chunk_starts=starts)
    x[name] = x[name].clone()
    late = x[name][:, edge * s :] if name in "qkv" else x[name][:, :, edge:]
    late.mul_(0.5)
    after = call(**x, chunk_starts=starts)
    assert torch.equal(before[:, : edge * s], after[:, : edge * s])
    assert not torch.equal(before[:, edge * s :], after[:, edge * s :])


def test_masked_frames_are_not_there(schedule: str) -> None:
    t, s, hidden = 5, 3, 2
    x = cases.inputs(1, 2, t, s, 8, torch.float64)
    x["beta"][:, :, hidden] = 0
    x["log_gamma"][:, :, hidden] = 0
    out, state = frame_gdn(**x, output_final_state=True)
    kept = [f for f in range(t) if f != hidden]
    parts = [_cut(x, s, f, f + 1) for f in kept]
    short = {n: torch.cat([part[n] for part in parts], 1 if n in "qkv" else 2) for n in x}
    want, want_state = frame_gdn(**short, output_final_state=True)
    tokens = (torch.tensor(kept)[:, None] * s + torch.arange(s)).flatten()
    torch.testing.assert_close(out[:, tokens], want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.kv, want_state.kv, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("gates", ["nothing forgotten", "all forgotten", "alternating", "random"])
def test_a_thousand_frames_stay_inside_the_bound(gates: str, backend: str) -> None:
    t, s, d = 1000, 4, 8
    x = cases.inputs(1, 1, t, s, d, seed=3)
    gamma = {
        "nothing forgotten": torch.ones(t),
        "all forgotten": torch.full((t,), 1e-30),
        "alternating": torch.tensor([1.0, 1e-20]).repeat(t // 2),
        "random": torch.rand(t, generator=torch.Generator().manual_seed(1)) ** 8 + 1e-30,
    }[gates]
    x["log_gamma"], x["beta"] = gamma.log()[None, None], torch.ones(1, 1, t, s)
    out, state = frame_gdn_camera(**x, output_final_state=True, backend=backend, checked=True)
    # With eigenvalues of P in [0, 2] every frame adds at most |A| = |K' B V| to the norm.
    writes = [float((x["k"][0, f * s : f * s + s, 0].mT @ x["v"][0, f * s : f * s + s, 0]).norm()) for f in range(t)]
    bound = 0.0
    for share, write in zip(gamma.tolist(), writes, strict=True):
        bound = share * bound + write
    assert torch.isfinite(out).all() and float(state.kv.norm()) <= bound * (1 + 1e-5)


def test_unstable_keys_grow_and_are_named_when_asked() -> None:
    x = cases.inputs(1, 1, 60, 3, 4)
    x["k"] = x["k"] * 12
    x["log_gamma"].zero_()
    x["beta"].fill_(1)
    _, state = frame_gdn_camera(**x, output_final_state=True)
    assert not float(state.kv.norm()) < 1e6
    assert float(checks.transition_trace(x["k"], x["beta"]).max()) > 2
    with pytest.raises(ValueError, match=r"k is too long: .* eigenvalue .* above 2"):
        frame_gdn_camera(**x, checked=True)


@pytest.mark.parametrize("stops", [None, [0], [2], [0, 3], [0, 1, 2, 3, 4]], ids=str)
def test_runs_compose_to_the_whole_scan(stops: list[int] | None) -> None:
    t, s, d, cuts = 5, 3, 6, (0, 2, 3, 5)
    x = cases.inputs(2, 2, t, s, d, torch.float64)
    rope = cases.rope(t * s, d, torch.float64)
    starts = None if stops is None else torch.tensor([f in stops for f in range(t)])
    summary = chunked.summary(x["k"], x["v"], x["beta"], rope, True)
    whole, _ = scan.scan(summary, x["log_gamma"], starts)
    pieces = []
    for a, b in pairwise(cuts):
        part = summary._replace(**{n: y[:, :, a:b] for n, y in summary._asdict().items()})
        pieces.append((part, x["log_gamma"][:, :, a:b], None if starts is None else starts[a:b]))
    runs = [scan.composite(*piece) for piece in pieces]
    for i, (a, b) in enumerate(pairwise(cuts)):
        memories, _ = scan.scan(*pieces[i], *scan.compose_prefix(runs, i))
        for got, want in zip(memories, whole, strict=True):
            torch.testing.assert_close(got, want[:, :, a:b], rtol=1e-12, atol=1e-13)


def test_steps_put_together_are_frame_gdn() -> None:
    t, s, d = 4, 3, 6
    x = cases.inputs(1, 2, t, s, d, torch.float64)
    rope, starts = cases.rope(t * s, d, torch.float64), torch.tensor([True, False, True, False])
    maps = phases.summary(x["k"], x["v"], x["beta"], rope=rope)
    memories, state = phases.scan(maps, x["log_gamma"], chunk_starts=starts)
    out, den = phases.readout(x["q"], memories, rope=rope)
    want, want_state = frame_gdn(**x, rope=rope, chunk_starts=starts, output_final_state=True)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(state.kv, want_state.kv)
    assert den is not None and den.shape == (1, 2, t, s)
    run = phases.composite(maps, x["log_gamma"], chunk_starts=starts)
    torch.testing.assert_close(run.psi.kv, state.kv)
    assert phases.compose_prefix([run], 0) == (None, None) and not run.open


def test_steps_name_what_does_not_fit() -> None:
    x = cases.inputs(1, 2, 4, 3, 6)
    maps = phases.summary(x["k"], x["v"], x["beta"], divide=False)
    memories, _ = phases.scan(maps, x["log_gamma"])
    with pytest.raises(ValueError, match="beta has shape"):
        phases.summary(x["k"], x["v"], x["beta"][0])
    with pytest.raises(ValueError, match="log_gamma has shape"):
        phases.scan(maps, x["log_gamma"][..., 1:])
    with pytest.raises(ValueError, match="chunk_starts has shape"):
        phases.composite(maps, x["log_gamma"], chunk_starts=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="q has shape"):
        phases.readout(x["q"][:, 1:], memories, eps=None)
    with pytest.raises(ValueError, match="memories have no denominator"):
        phases.readout(x["q"], memories)
    with pytest.raises(ValueError, match="backend 'reference' has no steps"):
        phases.scan(maps, x["log_gamma"], backend="reference")


BAD = {
    "q has shape": ("q", lambda x: x.flatten(2)),
    "q has shape (1, 0, 2, 8)": ("q", lambda x: x[:, :0]),
    "q has type": ("q", lambda x: x.long()),
    "k has type": ("k", lambda x: x.long()),
    "k is on meta": ("k", lambda x: x.to("meta")),
    "k has shape (1, 15, 16)": ("k", lambda x: x.flatten(2)),
    "k has shape (1, 15, 3, 8)": ("k", lambda x: torch.cat([x, x[:, :, :1]], 2)),
    "v has shape (15,)": ("v", lambda x: x[0, :, 0, 0]),
    "v has shape ()": ("v", lambda x: x[0, 0, 0, 0]),
    "v has shape (1, 15, 1, 8)": ("v", lambda x: x[:, :, :1]),
    "beta has shape (1, 2, 3)": ("beta", lambda x: x[..., 0]),
    "beta has shape (1, 1, 3, 5)": ("beta", lambda x: x[:, :1]),
    "log_gamma has shape (2, 3)": ("log_gamma", lambda x: x[0]),
    "log_gamma has shape (1, 4, 3)": ("log_gamma", lambda x: torch.cat([x, x], 1)),
    "log_gamma has shape (1, 2, 0)": ("log_gamma", lambda x: x[..., :0]),
}


@pytest.fixture
def nothing_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input is refused before any implementation is called, let alone a kernel."""

    def ran(*_: object, **__: object) -> None:
        pytest.fail("an implementation was called")

    for module, name in ((ops, "forward"), (ops, "run_forward")):
        monkeypatch.setattr(module, name, ran)
    for name in ("frame_gdn", "frame_gdn_camera"):
        monkeypatch.setattr(reference, name, ran)


@pytest.mark.usefixtures("nothing_may_run")
@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("call", [frame_gdn, frame_gdn_camera], ids=["main", "camera"])
def test_arguments_that_do_not_fit_are_named(call, message: str) -> None:
    x = cases.inputs(1, 2, 3, 5, 8)
    name, change = BAD[message]
    x[name] = change(x[name])
    for backend in ("auto", "torch", "reference"):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            call(**x, backend=backend)
        assert "\n" not in str(caught.value) and "expected" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_shape_gets_past_the_checks(data: st.DataObject) -> None:
    b, h, t, s, d, e = (data.draw(st.integers(0, 3) | st.just(2), axis) for axis in "bhtsde")
    shapes = {"q": (b, t * s, h, d), "k": (b, t * s, h, d), "v": (b, t * s, h, e)}
    shapes |= {"beta": (b, h, t, s), "log_gamma": (b, h, t)}
    x = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for name in data.draw(st.sets(st.sampled_from(sorted(x)), max_size=2), "changed"):
        shape = data.draw(st.just(shapes[name]) | st.lists(st.integers(0, 4), max_size=5), f"shape of {name}")
        kind = data.draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64]))
        x[name] = torch.zeros(shape, dtype=kind)
    try:
        out = frame_gdn(**x)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith(tuple(x))
    else:
        assert out.shape == (*x["q"].shape[:3], x["v"].shape[-1])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beta", 1.5, "beta reaches from .* to 1.5; expected"),
        ("beta", -0.1, "beta reaches from -0.1"),
        ("beta", float("nan"), "beta has 1 values that are not finite"),
        ("log_gamma", 0.3, "log_gamma reaches 0.3; expected at most 0"),
        ("log_gamma", float("-inf"), "log_gamma has 1 values that are not finite"),
        ("k", float("inf"), "k has 1 values that are not finite"),
    ],
)
@pytest.mark.usefixtures("nothing_may_run")
def test_checked_mode_looks_at_values(name: str, value: float, message: str) -> None:
    x = cases.inputs(1, 2, 3, 5, 8)
    x[name].view(-1)[3] = value
    for call in (frame_gdn, frame_gdn_camera):
        with pytest.raises(ValueError, match=message):
            call(**x, checked=True)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (FrameState(torch.zeros(1, 2, 8, 7), torch.zeros(1, 2, 8)), r"initial_state.kv has shape \(1, 2, 8, 7\)"),
        (FrameState(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 7)), "initial_state.z has shape"),
        (FrameState(torch.zeros(1, 2, 8, 8), None), "initial_state has no z"),
        (FrameState(torch.zeros(1, 2, 8, 8, device="meta"), torch.zeros(1, 2, 8)), "initial_state.kv is on meta"),
    ],
)
@pytest.mark.usefixtures("nothing_may_run")
def test_a_state_that_does_not_fit_is_named(state: FrameState, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame_gdn(**cases.inputs(1, 2, 3, 5, 8), initial_state=state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "triton"}, "backend 'triton' cannot run: tensors are on cpu"),
        ({"backend": "triton", "width": 130}, "head width 130 is above 128"),
        ({"backend": "cuda"}, "backend 'cuda' is not one of"),
        ({"precision": "fp16"}, "precision 'fp16' is not one of"),
        ({"chunk_starts": torch.ones(3)}, "chunk_starts has type torch.float32"),
    ],
)
@pytest.mark.usefixtures("nothing_may_run")
def test_options_that_cannot_be_are_named(options: dict, message: str) -> None:
    x = cases.inputs(1, 2, 3, 5, options.get("width", 8))
    with pytest.raises(ValueError, match=message):
        frame_gdn(**x, **{name: value for name, value in options.items() if name != "width"})


def test_odd_width_cannot_turn() -> None:
    with pytest.raises(ValueError, match="the head width 7 is odd"):
        frame_gdn(**cases.inputs(1, 2, 3, 5, 7), rope=cases.rope(15, 8))
