"""The two camera branches of a block: attention between tokens that know their viewing rays.

Queries, keys and values are carried into each token's ray frame (`camera_control.ucpe`), attend there, and the result
is carried back, so that only relative cameras matter. Reference: architecture 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from camera_control import ucpe
from gdn_kernels import frame_gdn_camera
from torch import Tensor

from sana_wm_core.model.clip import Clip, Rays

if TYPE_CHECKING:
    from sana_wm_core.model.mixers import FrameGDN, Gates, Mixer, SoftmaxAttention

_MIN_RMS = 1e-6


def gdn_camera(mixer: FrameGDN, u_bnc: Tensor, gates: Gates, clip: Clip, rays: Rays) -> Tensor:
    """Camera branch of a GDN block: the recurrence without a denominator, on ray-frame vectors; (b, n, c)."""
    q, k, v = _project(mixer, u_bnc, clip)
    carried = mixer.cam_conv_carried
    if mixer.conv_k_cam is not None:
        k = clip.filter("camera_key_tail", k, mixer.conv_k_cam.weight, carried)
    if mixer.conv_q_cam is not None and mixer.conv_v_cam is not None:
        q = clip.filter("camera_query_tail", q, mixer.conv_q_cam.weight, carried)
        v = clip.filter("camera_value_tail", v, mixer.conv_v_cam.weight, carried)
    q = mixer.split_heads(F.relu(mixer.q_norm_cam(q)))
    k = mixer.split_heads(F.relu(mixer.k_norm_cam(k))) * clip.key_scale(mixer.head_width)
    v = mixer.split_heads(v)
    q, k, v = (clip.mask_tokens(part) for part in (q, k, v))
    q_ray, k_ray, v_ray = _encode(q, k, v, rays, mixer.cam_rms_downscale)
    q_ray, k_ray, v_ray = (clip.mask_tokens(part) for part in (q_ray, k_ray, v_ray))

    # A transform that lengthens keys would make the recurrence unstable; writing less keeps it a contraction.
    grown = _length(k_ray) / _length(k)
    mean_bth = grown.square().unflatten(1, (clip.frames, -1)).mean(2)
    beta = gates.beta_bhts / mean_bth.transpose(1, 2).clamp_min(1.0)[..., None]
    out = clip.recur("camera_state", frame_gdn_camera, q_ray, k_ray, v_ray, beta, gates.log_gamma_bht)
    return clip.mask_tokens(_decode(out.to(u_bnc.dtype), rays)).flatten(2)


def softmax_camera(mixer: SoftmaxAttention, u_bnc: Tensor, clip: Clip, rays: Rays) -> Tensor:
    """Camera branch of a softmax block: attention over ray-frame vectors; (b, n, c)."""
    q, k, v = _project(mixer, u_bnc, clip)
    q, k, v = (mixer.split_heads(part) for part in (mixer.q_norm_cam(q), mixer.k_norm_cam(k), v))
    q, k, v = _encode(q, k, v, rays, mixer.cam_rms_downscale)
    bias = None
    if clip.token_mask_bn is not None:
        q, v = clip.mask_tokens(q), clip.mask_tokens(v)
        bias = (1 - clip.token_mask_bn.float())[:, None, None] * -1e9
    out = mixer.attend(q, k, v, clip, "camera_", scale=mixer.cam_scale, bias=bias)
    return clip.mask_tokens(_decode(out, rays)).flatten(2)


def _project(mixer: Mixer, u_bnc: Tensor, clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
    u_bnc = clip.mask_tokens(u_bnc)
    q, k, v = (layer(u_bnc) for layer in (mixer.q_proj_cam, mixer.k_proj_cam, mixer.v_proj_cam))
    return clip.mask_tokens(q), clip.mask_tokens(k), clip.mask_tokens(v)


def _encode(q: Tensor, k: Tensor, v: Tensor, rays: Rays, downscale: bool) -> tuple[Tensor, Tensor, Tensor]:
    heads = q.shape[2]
    matrix_t = rays.matrix_bn44.transpose(-1, -2)
    q_ray = ucpe.encode(q, matrix_t, rays.cos_nf, rays.sin_nf)
    kv = torch.cat([k, v], dim=2)
    kv_ray = ucpe.encode(kv, rays.inverse_bn44, rays.cos_nf, rays.sin_nf)
    if downscale:
        q_ray, kv_ray = _keep_rms(q_ray, q), _keep_rms(kv_ray, kv)
    return q_ray, kv_ray[:, :, :heads], kv_ray[:, :, heads:]


def _decode(x_bnhd: Tensor, rays: Rays) -> Tensor:
    return ucpe.decode(x_bnhd, rays.matrix_bn44, rays.cos_nf, rays.sin_nf)


def _keep_rms(after: Tensor, before: Tensor) -> Tensor:
    """Shrink each head vector that the transform made longer back to the length it had."""
    rms_before, rms_after = (_rms(x) for x in (before, after))
    return after * (rms_before / rms_after.clamp_min(_MIN_RMS)).clamp_max(1.0)


def _rms(x: Tensor) -> Tensor:
    # The norm reads x once; squares and their mean would write it out first.
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + 1e-6).sqrt()


def _length(x_bnhd: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x_bnhd, dim=-1).clamp_min(1e-6)
