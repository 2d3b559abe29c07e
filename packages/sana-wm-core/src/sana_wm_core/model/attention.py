"""Softmax attention in the number type that suits the device."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q_bhnd: Tensor, k_bhmd: Tensor, v_bhmd: Tensor, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Softmax attention of queries to keys: (b, h, n, d).

    In training on a processor numbers of 16 bits attend in float32, under autocast too: gradients of attention take
    longer there in bfloat16, most of all for the few keys of a text. The result then is float32.

    Args:
        q_bhnd: Queries.
        k_bhmd, v_bhmd: Keys and values.
        mask: Added to the scores, or True for keys that are seen; broadcasts to (b, h, n, m).
        scale: Factor of the scores; None = 1 / sqrt(d).
    """
    wide = torch.is_grad_enabled() and q_bhnd.device.type == "cpu"
    with torch.autocast("cpu", enabled=False) if wide else nullcontext():
        q, k, v = (x.float() if wide and x.dtype != torch.float64 else x for x in (q_bhnd, k_bhmd, v_bhmd))
        mask = mask if mask is None or mask.dtype == torch.bool else mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
