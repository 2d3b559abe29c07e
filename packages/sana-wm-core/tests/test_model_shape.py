"""Names, counts, limits and training behaviour of the transformer."""

import pytest
import torch
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.clip import Clip
from sana_wm_core.model.layers import _divide_by_rms

TINY = {
    "in_channels": 4,
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "linear_head_dim": 16,
    "caption_channels": 6,
    "softmax_every_n": 2,
}


def given():
    torch.manual_seed(0)
    c2w = torch.eye(4).repeat(2, 3, 1, 1)
    c2w[..., 2, 3] = torch.arange(3) * 0.1
    lens = torch.tensor([3.0, 3.0, 1.5, 1.0]).expand(2, 3, 4)
    return {
        "hidden_states": torch.randn(2, 4, 3, 2, 3),
        "timestep": torch.tensor([0.0, 500, 500]).expand(2, 1, 3),
        "encoder_hidden_states": torch.randn(2, 1, 5, 6),
        "encoder_attention_mask": torch.ones(2, 5),
        "camera_conditions": torch.cat([c2w.flatten(2), lens], -1),
        "chunk_plucker": torch.randn(2, 48, 3, 2, 3),
    }


def test_released_sizes_on_the_meta_device():
    with torch.device("meta"):
        model = SanaWMTransformer()
    state = model.state_dict()
    assert len(state) == 870 and len(list(model.buffers())) == 20
    assert sum(p.numel() for p in model.parameters()) == 2_661_800_448
    shapes = {
        "blocks.0.attn.conv_k_cam.weight": (2240, 1, 4),
        "blocks.19.attn.qkv.weight": (6720, 2240),
        "blocks.7.mlp.inverted_conv.conv.weight": (13440, 2240, 1, 1),
        "blocks.7.mlp.t_conv.weight": (2240, 2240, 3, 1),
        "blocks.3.attn.recall_gate": (1,),
        "t_embedder.linear_1.weight": (2240, 256),
        "raymap_embedder.proj.weight": (2240, 3, 1, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "blocks.3.attn.conv_k.weight" not in state


def test_training_start():
    model = SanaWMTransformer(TransformerConfig(**TINY))
    model.init_weights()
    gdn = model.blocks[0].attn
    assert torch.equal(gdn.conv_k.weight[:, 0], torch.tensor([0.0, 0, 0, 1]).expand(32, 4))
    assert torch.equal(gdn.q_proj_cam.weight, gdn.qkv.weight[:32])
    for silent in (gdn.out_proj_cam, model.plucker_embedder.proj, model.blocks[0].mlp.t_conv):
        assert not silent.weight.any()
    torch.testing.assert_close(torch.nn.functional.silu(gdn.output_gate.bias), torch.ones(32))
    without = {k: v for k, v in given().items() if k not in ("camera_conditions", "chunk_plucker")}
    with torch.no_grad():
        torch.testing.assert_close(model(**given()).sample, model(**without).sample)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_used_weight_under_autocast(checkpointing):
    torch.manual_seed(0)
    model = SanaWMTransformer(TransformerConfig(**TINY))
    model.init_weights()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model.gradient_checkpointing = checkpointing
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**given()).sample
    out.float().square().mean().backward()
    unused = (
        "raymap_embedder",
        "blocks.1.attn.A_log",
        "blocks.1.attn.dt_bias",
        "blocks.1.attn.beta",
        "blocks.1.attn.gate",
    )
    for name, p in model.named_parameters():
        if not name.startswith(unused):
            assert p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()), name


def test_bfloat16_stays_close_to_float32():
    torch.manual_seed(0)
    model = SanaWMTransformer(TransformerConfig(**TINY)).eval()
    model.init_weights()
    with torch.no_grad():
        exact = model(**given()).sample
        rough = model.to(torch.bfloat16)(**given()).sample
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


def test_feed_forward_in_pieces_is_the_same(monkeypatch):
    model = SanaWMTransformer(TransformerConfig(**TINY)).eval()
    with torch.no_grad():
        whole = model(**given()).sample
        monkeypatch.setattr("sana_wm_core.model.layers._FFN_BUDGET", 1)
        torch.testing.assert_close(model(**given()).sample, whole)


def test_mistakes_are_named():
    model = SanaWMTransformer(TransformerConfig(**TINY))
    for change, words in (
        ({"encoder_attention_mask": None}, "required"),
        ({"hidden_states": torch.zeros(4, 3, 2, 3)}, "hidden_states"),
        ({"timestep": torch.zeros(2)}, "timestep"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            model(**(given() | change))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speed": 3}, "unknown field speed=3"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"patch_size": [2, 1, 1]}, "patch_size"),
        ({"linear_head_dim": 20}, "linear_head_dim=20"),
        ({"pos_embed_type": "sine"}, "pos_embed_type='sine'"),
        ({"pred_sigma": True}, "pred_sigma=True"),
    ],
)
def test_config_mistakes_are_one_line(values, words):
    with pytest.raises(ValueError) as caught:
        TransformerConfig.from_dict(values)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_config_ignores_private_keys_and_hides_our_defaults():
    config = TransformerConfig.from_dict({"_class_name": "SanaWMTransformer3DModel", "_diffusers_version": "0.42.1"})
    assert config == TransformerConfig() and not {"softmax_dtype", "cam_softmax_scale"} & config.to_dict().keys()


def test_the_gradient_of_the_norm_that_is_written_out_is_that_of_its_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, gain: _divide_by_rms(x, gain, 1e-3), (x, gain))
    wanted = x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * gain
    torch.testing.assert_close(_divide_by_rms(x, gain, 1e-3), wanted)


def test_training_rounds_what_attends_and_nothing_after_it():
    torch.manual_seed(0)
    attention = SanaWMTransformer(TransformerConfig(**TINY)).blocks[1].attn
    q, k, v = (torch.randn(1, 6, 2, 16) for _ in range(3))
    rounded = [part.bfloat16().float().transpose(1, 2) for part in (q, k, v)]
    exact = ((rounded[0] @ rounded[1].transpose(-1, -2) * 0.25).softmax(-1) @ rounded[2]).transpose(1, 2)
    clip = Clip(frames=3, height=1, width=2)
    torch.testing.assert_close(attention.attend(q, k, v, clip, "", 0.25), exact)
    with torch.no_grad():
        sampled = attention.attend(q, k, v, clip, "", 0.25)
    assert torch.equal(sampled, sampled.bfloat16().float())
    torch.testing.assert_close(sampled, exact, atol=2e-2, rtol=2e-2)
