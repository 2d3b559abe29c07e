"""Linear layers and attention give what PyTorch's own give, whichever library multiplies."""

import pytest
import torch
import torch.nn.functional as F
from sana_wm_core.model import linear as module
from sana_wm_core.model.attention import attention
from sana_wm_core.model.linear import Linear, linear
from torch.utils._python_dispatch import TorchDispatchMode


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found.append(str(function))
        return function(*args, **(kwargs or {}))

    @property
    def onednn(self):
        return any("_linear_pointwise" in name for name in self.found)


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(module, "_WORTH_IT", 1)


def tensors(*shapes):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=g) for shape in shapes]


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("layout", ["plain", "part of a wider tensor", "transposed"])
def test_onednn_gives_what_torch_gives(with_bias, layout):
    x, weight, bias = tensors((2, 33, 48), (40, 48), (40,))
    if layout == "part of a wider tensor":
        x = torch.cat([x, x], dim=-1)[..., 48:]
    elif layout == "transposed":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
        weight = weight.t().contiguous().t()
    bias = bias if with_bias else None
    with torch.no_grad(), Names() as names:
        got = linear(x, weight, bias)
    assert names.onednn
    torch.testing.assert_close(got, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("why", ["gradients", "half", "double", "autocast", "spread weight"])
def test_what_onednn_would_not_do_well_goes_to_torch(why):
    x, weight = tensors((5, 48), (40, 48))
    if why in ("half", "double"):
        x, weight = (each.to(torch.bfloat16 if why == "half" else torch.float64) for each in (x, weight))
    if why == "spread weight":
        weight = torch.stack([weight, weight], dim=-1)[..., 0]
    with (
        torch.set_grad_enabled(why == "gradients"),
        torch.autocast("cpu", enabled=why == "autocast"),
        Names() as names,
    ):
        got = linear(x, weight)
    assert not names.onednn
    assert got.dtype == (torch.bfloat16 if why == "autocast" else x.dtype)


def test_small_products_go_to_torch_and_large_ones_to_onednn():
    layer = Linear(512, 1024)
    with torch.no_grad():
        for rows, wanted in ((511, False), (512, True)):
            with Names() as names:
                layer(torch.zeros(rows, 512))
            assert names.onednn == wanted


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
