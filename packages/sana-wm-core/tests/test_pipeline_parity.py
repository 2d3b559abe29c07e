"""The whole pipeline against diffusers' SanaWMPipeline on a tiny random model in the published folder layout."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    SanaWMPipeline,
    SanaWMTransformer3DModel,
)
from PIL import Image
from sana_wm_core.loading import load_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

INTRINSICS = [80.0, 82.0, 55.0, 41.0]
ACTION = "w-8,jw-6,dl-4,ik-4,a-3"
PROMPT = "A small harbour at dawn, boats on still water."


def _tokenizer():
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab = {piece: i for i, piece in enumerate(special + [chr(c) for c in range(32, 127)] + ["\n"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="left",
    )


def _randomise(module, scale, generator):
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                noise * scale / max(1.0, parameter[0].numel() ** 0.5) if parameter.ndim > 1 else noise * 0.1
            )
    return module.eval()


def build_published(folder):
    """Save a tiny random pipeline, every parameter drawn so that no branch is silent; returns diffusers' own."""
    generator = torch.Generator().manual_seed(7)
    gemma = Gemma2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=4096,
        sliding_window=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vae = AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 16, 32, 64),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_causal=False,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    _randomise(vae, 1.0, generator)
    vae.latents_mean.copy_(torch.randn(8, generator=generator) * 0.2)
    vae.latents_std.copy_(torch.rand(8, generator=generator) + 0.5)
    transformer = SanaWMTransformer3DModel(
        in_channels=8,
        num_layers=4,
        hidden_size=48,
        num_attention_heads=2,
        linear_head_dim=24,
        chunk_plucker_post_attn_blocks=4,
        caption_channels=32,
    )
    pipeline = SanaWMPipeline(
        _tokenizer(),
        _randomise(Gemma2Model(gemma), 1.0, generator),
        vae,
        _randomise(transformer, 0.7, generator),
        FlowMatchEulerDiscreteScheduler(shift=9.8),
    )
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return folder, build_published(folder)


@pytest.fixture(scope="session")
def picture():
    values = np.random.default_rng(3).integers(0, 256, (21, 28, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((110, 83), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("form", ["action", "poses"])
def test_same_latents_and_frames_as_diffusers(published, picture, guidance, form):
    folder, theirs = published
    ours = load_pipeline(folder)
    assert ours.defaults.shift == 9.8
    camera = {"action": ACTION}
    lens = INTRINSICS
    if form == "poses":
        from camera_control.actions import action_string_to_c2w

        turn = np.eye(4, dtype=np.float32)
        turn[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
        turn[:3, 3] = [3, -1, 2]
        camera = {"c2w": turn @ action_string_to_c2w("w-10,iw-12,jl-9")}
        lens = np.linspace(1, 1.1, 32)[:, None] * np.array(INTRINSICS)
    expected = theirs(
        picture,
        PROMPT,
        **camera,
        intrinsics=lens,
        height=64,
        width=96,
        num_frames=25,
        num_inference_steps=3,
        guidance_scale=guidance,
        negative_prompt="blurry",
        generator=torch.Generator().manual_seed(11),
    )
    clip = ours(
        picture,
        PROMPT,
        **camera,
        intrinsics=lens,
        height=64,
        width=96,
        frames=25,
        steps=3,
        guidance=guidance,
        negative_prompt="blurry",
        seed=11,
    )
    assert clip.latents.shape == expected.latent.shape == (1, 8, 4, 2, 3)
    print("latents", (clip.latents - expected.latent).abs().max(), expected.latent.std())
    assert (clip.latents - expected.latent).abs().max() < 1e-4 * max(1.0, expected.latent.abs().max())
    assert np.abs(clip.video.astype(float) - expected.frames * 255).max() <= 2
    assert expected.frames.std() > 0.02, "the tiny VAE decodes to a flat picture; the comparison would be empty"
    np.testing.assert_allclose(clip.c2w, expected.c2w, atol=1e-6)
