"""Error budgets of the torch form, against the definition in float64: results, states and every gradient, in one table.

The kernels' budgets are in interpreted_kernels.py. Norm of the error over the norm of the result; gradients may have
twice as much. bfloat16 stands for bfloat16 tokens: the torch form computes in float32 and rounds what it returns.
"""

import gdn_cases as cases
import pytest
import torch
from gdn_kernels import FrameState, frame_gdn, frame_gdn_camera
from torch import Tensor

BUDGETS = {torch.float32: 1e-6, torch.bfloat16: 5e-3}
NAMES = ("q", "k", "v", "beta", "log_gamma", "kv", "z")
# Widths around and between the tiles of the kernels; 7 and 13 tokens are no multiple of anything.
WIDTHS = (16, 24, 64, 112, 128)


def _inputs(t: int, s: int, d: int, dtype: torch.dtype, masked: int | None) -> dict[str, Tensor]:
    x = cases.inputs(2, 2, t, s, d, seed=100 * t + d)
    g = torch.Generator().manual_seed(d)
    x |= {"kv": torch.rand(2, 2, d, d, generator=g), "z": torch.rand(2, 2, d, generator=g)}
    if masked is not None:
        x["beta"][:, :, masked] = 0
        x["log_gamma"][:, :, masked] = 0
    return {name: y.to(dtype) if name in "qkv" else y for name, y in x.items()}


def _views(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers as slices of one projection, and gates with their axes the other way round in memory."""
    fused = torch.stack([x["q"], x["k"], x["v"]], 2)
    placed = dict(zip("qkv", fused.unbind(2), strict=True))
    placed["beta"] = x["beta"].transpose(2, 3).contiguous().transpose(2, 3)
    assert not placed["q"].is_contiguous() and (x["beta"].shape[2] == 1 or not placed["beta"].is_contiguous())
    return x | placed


def _results(x: dict[str, Tensor], rope: tuple[Tensor, Tensor], starts: Tensor | None, backend: str) -> list[Tensor]:
    """Both calls' outputs and states, then the gradients of each."""
    leaves = {name: y.detach().requires_grad_() for name, y in x.items()}
    given = [leaves[name] for name in NAMES[:5]]
    shared = {"chunk_starts": starts, "output_final_state": True, "backend": backend}
    main, state = frame_gdn(*given, rope=rope, initial_state=FrameState(leaves["kv"], leaves["z"]), **shared)
    camera, ray = frame_gdn_camera(*given, initial_state=FrameState(leaves["kv"]), **shared)
    weights = torch.linspace(-1, 1, main.numel(), dtype=torch.float64).view(main.shape)
    loss = (main.double() * weights).sum() + state.kv.double().square().sum() + state.z.double().square().sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    loss = (camera.double() * weights).sum() + ray.kv.double().square().sum()
    return [main, state.kv, state.z, camera, ray.kv, *gradients, *torch.autograd.grad(loss, [*given, leaves["kv"]])]


@pytest.mark.parametrize("dtype", BUDGETS, ids=str)
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize(("t", "s", "masked"), [(1, 13, None), (4, 7, 2)], ids=["one frame", "a masked frame"])
def test_results_and_gradients_within_budget(
    t: int, s: int, masked: int | None, d: int, dtype: torch.dtype, schedule: str
) -> None:
    x = _inputs(t, s, d, dtype, masked)
    starts = None if t == 1 else torch.tensor([True, False, False, True])
    exact = {name: y.double() for name, y in x.items()}
    want = _results(exact, cases.rope(t * s, d, torch.float64), starts, "reference")
    got = _results(_views(x), cases.rope(t * s, d), starts, "torch")
    budget = BUDGETS[dtype]
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        limit = budget if i < 5 else 2 * budget
        assert a.shape == b.shape and cases.error(a, b) < limit, f"number {i}: {cases.error(a, b):.1e}"
    with torch.no_grad():  # the schedule without a backward
        out = frame_gdn(*(_views(x)[name] for name in NAMES[:5]), rope=cases.rope(t * s, d), chunk_starts=starts)
        bare = frame_gdn(*(exact[n] for n in NAMES[:5]), rope=cases.rope(t * s, d, torch.float64), chunk_starts=starts)
    assert cases.error(out, bare) < budget


def test_the_poison_shows(schedule: str) -> None:
    assert torch.empty(2).isnan().all() and torch.empty_like(torch.ones(2)).isnan().all()
    assert torch.ones(1).new_empty(2).isnan().all()
