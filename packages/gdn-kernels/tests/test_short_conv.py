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


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("resets", [False, True])
def test_fast_form_equals_definition(frames: int, resets: bool) -> None:
    g = torch.Generator().manual_seed(frames)
    x = torch.randn(2, frames * 5, 6, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 1, 4, generator=g, dtype=torch.float64)
    starts = torch.arange(frames) % 3 == 0 if resets else None
    want = short_conv(x, w, frames, chunk_starts=starts, backend="reference")
    got = short_conv(x, w, frames, chunk_starts=starts)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    ones = torch.ones_like(want)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, ones, retain_graph=True)[0] for y in (got, want)))


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
