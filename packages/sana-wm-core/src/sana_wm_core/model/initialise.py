"""Starting weights for training from nothing."""

from __future__ import annotations

import torch
from torch import nn

from sana_wm_core.model.layers import CaptionEmbed, GatedConvFFN, PatchEmbed, RMSNorm, TimestepEmbed
from sana_wm_core.model.mixers import FrameGDN, Mixer, ShortConv

_SILU_OF_THIS_IS_ONE = 1.278464542761074


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """Set every weight as the published training run started. Reference: architecture 9.

    The camera branch starts as a copy of the main branch with a silent output, the Pluecker path starts silent, the
    memory starts with slow forgetting (0.993 a latent frame) and nearly full writing.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, ShortConv):
            nn.init.zeros_(module.weight)
            module.weight[:, 0, -1] = 1.0
        elif isinstance(module, PatchEmbed):
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
            nn.init.zeros_(module.proj.bias)
        elif isinstance(module, GatedConvFFN):
            nn.init.zeros_(module.t_conv.weight)
    for module in model.modules():
        if isinstance(module, TimestepEmbed | CaptionEmbed):
            for linear in (m for m in module.modules() if isinstance(m, nn.Linear)):
                nn.init.normal_(linear.weight, std=0.02)
        elif isinstance(module, Mixer):
            _init_mixer(module)
    nn.init.normal_(model.t_block[1].weight, std=0.02)
    for silent in (model.raymap_embedder, getattr(model, "plucker_embedder", None)):
        if silent is not None:
            nn.init.zeros_(silent.proj.weight)
            nn.init.zeros_(silent.proj.bias)
    if isinstance(getattr(model, "attention_y_norm", None), RMSNorm):
        nn.init.constant_(model.attention_y_norm.weight, 0.01)


def _init_mixer(mixer: Mixer) -> None:
    for linear, bias in ((mixer.beta_proj, 5.0), (mixer.gate_proj, 0.0), (mixer.output_gate, _SILU_OF_THIS_IS_ONE)):
        nn.init.zeros_(linear.weight)
        nn.init.constant_(linear.bias, bias)
    nn.init.constant_(mixer.dt_bias, -5.0)
    nn.init.zeros_(mixer.A_log)
    nn.init.zeros_(mixer.out_proj_cam.weight)
    for third, name in zip(mixer.qkv.weight.chunk(3), "qkv", strict=True):
        getattr(mixer, f"{name}_proj_cam").weight.copy_(third)
    if isinstance(mixer, FrameGDN):
        for name in ("conv_q", "conv_k", "conv_v"):
            if getattr(mixer, name) is not None:
                getattr(mixer, f"{name}_cam").weight.copy_(getattr(mixer, name).weight)
