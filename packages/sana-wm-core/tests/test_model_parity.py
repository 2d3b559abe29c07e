"""The transformer against diffusers' own class at random weights, and against stored vectors."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import SanaWMTransformer3DModel
from safetensors.torch import load_file
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer

GOLDEN = Path(__file__).parent / "golden" / "hd32"
BASE = {"in_channels": 8, "num_layers": 4, "caption_channels": 20, "mlp_ratio": 2.0}
SHAPES = {
    "gdn_d24": {"hidden_size": 48, "linear_head_dim": 24, "num_attention_heads": 3, "softmax_every_n": 0},
    "hybrid_d16": {"hidden_size": 64, "linear_head_dim": 16, "num_attention_heads": 4},
    "hybrid_d112": {
        "hidden_size": 224,
        "linear_head_dim": 112,
        "num_attention_heads": 2,
        "chunk_plucker_post_attn_blocks": 2,
    },
    "hybrid_absmap": {
        "hidden_size": 64,
        "linear_head_dim": 32,
        "num_attention_heads": 4,
        "softmax_every_n": 2,
        "patch_size": (1, 2, 2),
        "k_conv_only": False,
        "conv_kernel_size": 3,
        "use_chunk_plucker_post_attn": False,
    },
    "plain_mlp": {"hidden_size": 32, "linear_head_dim": 16, "num_attention_heads": 2, "ffn_type": "mlp"},
}
FULL_PRECISION_ATTENTION = {"softmax_dtype": "model"}


@torch.no_grad()
def pair(name, **own):
    """diffusers' model with every parameter random, and ours with the same weights."""
    values = BASE | SHAPES[name]
    random = torch.Generator().manual_seed(7)
    peer = SanaWMTransformer3DModel(**values).eval()
    for key, p in peer.named_parameters():
        noise = torch.randn(p.shape, generator=random)
        if "norm" in key:
            p.copy_(1 + 0.2 * noise)
        else:
            p.copy_(noise * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    ours = SanaWMTransformer(TransformerConfig(**values, **own)).eval()
    ours.load_state_dict(peer.state_dict())
    return peer, ours


def inputs(t, camera="both", y=4, x=6, batch=2, padding=0):
    random = torch.Generator().manual_seed(t)

    def noise(*shape):
        return torch.randn(shape, generator=random)

    given = {
        "hidden_states": noise(batch, 8, t, y, x),
        "timestep": torch.rand(batch, 1, t, generator=random) * 1000,
        "encoder_hidden_states": noise(batch, 1, 7, 20),
        "encoder_attention_mask": (torch.arange(7) < torch.tensor([[7], [4]])[:batch]).long(),
    }
    given["timestep"][:, :, 0] = 0
    if camera in ("both", "rays"):
        rotation = torch.linalg.qr(torch.eye(3) + 0.2 * noise(batch, t, 3, 3))[0]
        c2w = torch.eye(4).repeat(batch, t, 1, 1)
        c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None].sign()
        c2w[..., :3, 3] = noise(batch, t, 3)
        lens = torch.tensor([5.0, 4.0, x / 2, y / 2]).expand(batch, t, 4)
        given["camera_conditions"] = torch.cat([c2w.flatten(2), lens], -1)
    if camera in ("both", "plucker"):
        given["chunk_plucker"] = noise(batch, 48, t, y, x)
    if padding:
        given["frame_valid_mask"] = torch.ones(batch, 1, t)
        given["frame_valid_mask"][1, :, t - padding :] = 0
    return given


@torch.no_grad()
def distance(one, other, given):
    a, b = (model(**given, return_dict=False)[0] for model in (one, other))
    assert a.shape == b.shape == given["hidden_states"].shape and bool(b.isfinite().all())
    return float((a - b).square().mean().sqrt() / a.square().mean().sqrt())


CASES = [{"t": 1}, {"t": 5}, {"t": 6, "camera": "none"}, {"t": 23}, {"t": 5, "camera": "rays"},
         {"t": 5, "camera": "plucker"}, {"t": 6, "padding": 2}]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_softmax_blocks(case):
    peer, ours = pair("gdn_d24")
    assert distance(peer, ours, inputs(**case)) < 5e-6


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "gdn_d24"])
@pytest.mark.parametrize("case", [{"t": 1}, {"t": 6}, {"t": 5, "camera": "none"}, {"t": 6, "padding": 2}], ids=str)
def test_hybrid_in_diffusers_rounding(name, case):
    peer, ours = pair(name)
    assert distance(peer, ours, inputs(**case)) < 1e-3


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "gdn_d24"])
@pytest.mark.parametrize("case", [{"t": 5}, {"t": 6, "padding": 2}], ids=str)
def test_hybrid_with_softmax_in_float32(name, case, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    peer, ours = pair(name, **FULL_PRECISION_ATTENTION)
    assert distance(peer, ours, inputs(**case)) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"cam_rms_downscale_gdn": False},
        {"cam_rms_downscale_softmax": False},
        {"cam_softmax_scale": "head_dim"},
    ],
    ids=str,
)
def test_each_open_switch_changes_the_result(change):
    peer, ours = pair("hybrid_d16", **change)
    assert distance(peer, ours, inputs(5)) > 1e-3


def test_precomputed_geometry_gives_the_same():
    _, ours = pair("hybrid_d16", **FULL_PRECISION_ATTENTION)
    given = inputs(5)
    from camera_control import ucpe

    matrix, inverse = ucpe.ray_matrices(given["camera_conditions"], 4, 6)
    with torch.no_grad():
        wanted = ours(**given).sample
        for extra in ({"cam_pos_embeds": {"P": matrix, "P_inv": inverse}}, {"raymats": matrix}):
            torch.testing.assert_close(ours(**given, **extra).sample, wanted)


@pytest.mark.parametrize("name", ["dense", "dense_no_camera"])
def test_stored_vectors(name):
    values = json.loads((GOLDEN / "config.json").read_text())
    values = {k: v for k, v in values.items() if k in TransformerConfig.model_fields}
    model = SanaWMTransformer(TransformerConfig(**values, **FULL_PRECISION_ATTENTION)).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    dense, given = load_file(GOLDEN / "dense.safetensors"), load_file(GOLDEN / "conditioning.safetensors")
    camera = {k: given[k] for k in ("camera_conditions", "chunk_plucker")} if name == "dense" else {}
    with torch.no_grad():
        out = model(
            dense["hidden_states"],
            dense["timestep"],
            given["encoder_hidden_states"][:, None],
            given["encoder_attention_mask"],
            **camera,
        ).sample
    torch.testing.assert_close(out, dense[name], rtol=0, atol=2e-5)
