"""The short temporal filter: by hand, fast = definition, chunks, bad input."""

import pytest
import torch
from gdn_kernels import short_conv


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_symmetric_window_by_hand(backend: str) -> None:
    x = torch.zeros(1, 9, 1)
    x[0, 4] = 1.0
    out = short_conv(x, torch.tensor([[[1.0, 2.0, 3.0, 10.0]]]), 9, backend=backend)
    assert out.flatten().tolist() == [0, 1, 2, 3, 10, 3, 2, 1, 0]


# Single and half precision are one convolution where no chunk begins, double precision is summed.
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("resets", [False, True])
def test_fast_form_equals_definition(frames: int, resets: bool, dtype: torch.dtype, limit: float) -> None:
    g = torch.Generator().manual_seed(frames)
    x = torch.randn(2, frames * 5, 6, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    w = torch.randn(6, 1, 4, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, w)]
    starts = torch.arange(frames) % 3 == 0 if resets else None
    want = short_conv(*exact, frames, chunk_starts=starts, backend="reference")
    got = short_conv(x, w, frames, chunk_starts=starts)
    assert got.dtype == dtype
    along = torch.randn(want.shape, generator=g, dtype=torch.float64)
    results = zip(
        (got, *torch.autograd.grad(got, (x, w), along.to(dtype))),
        (want, *torch.autograd.grad(want, exact, along)),
        strict=True,
    )
    for ours, theirs in results:
        assert (ours.double() - theirs).norm() <= limit * theirs.norm()


def test_later_chunks_are_not_seen_earlier_ones_are() -> None:
    x = torch.randn(1, 6, 2)
    starts = torch.tensor([True, False, False, True, False, False])
    w = torch.ones(2, 4)
    before = short_conv(x, w, 6, chunk_starts=starts)
    x[:, 3:] += 1
    after = short_conv(x, w, 6, chunk_starts=starts)
    assert torch.equal(before[:, :3], after[:, :3])
    x[:, 0] += 1
    assert not torch.equal(short_conv(x, w, 6, chunk_starts=starts)[:, 3], after[:, 3])


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="multiple of frames = 4"):
        short_conv(torch.zeros(1, 6, 2), torch.zeros(2, 4), 4)
    with pytest.raises(ValueError, match="weight has shape"):
        short_conv(torch.zeros(1, 6, 2), torch.zeros(3, 1, 4), 3)
    with pytest.raises(ValueError, match="chunk_starts has shape"):
        short_conv(torch.zeros(1, 6, 2), torch.zeros(2, 4), 3, chunk_starts=torch.zeros(2, dtype=torch.bool))
