"""Attention in training is worked out wide on a processor, whatever type the numbers come in."""

import pytest
import torch
import torch.nn.functional as F
from sana_wm_core.model.attention import attention


def tensors(*shapes):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=g) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mask", ["none", "seen keys", "bias"])
def test_attention_in_training_is_exact_for_the_numbers_given(dtype, mask):
    q, k, v = (x.to(dtype) for x in tensors((2, 3, 7, 16), (2, 3, 5, 16), (2, 3, 5, 16)))
    masks = {"none": None, "seen keys": torch.tensor([[1, 1, 0, 1, 1]]).bool(), "bias": tensors((2, 1, 1, 5))[0]}
    chosen = masks[mask]
    with torch.autocast("cpu", enabled=dtype == torch.bfloat16):
        got = attention(q, k, v, mask=chosen, scale=0.3)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = None if chosen is None or chosen.dtype == torch.bool else chosen.double()
    exact = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=chosen if wide is None else wide, scale=0.3
    )
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


def test_attention_without_gradients_keeps_its_type():
    q, k, v = (x.bfloat16() for x in tensors((1, 2, 7, 16), (1, 2, 5, 16), (1, 2, 5, 16)))
    with torch.no_grad():
        got = attention(q, k, v, mask=tensors((1, 1, 1, 5))[0])
    assert got.dtype == torch.bfloat16
