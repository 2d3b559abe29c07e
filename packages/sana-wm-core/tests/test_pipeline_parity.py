"""The whole pipeline against diffusers' SanaWMPipeline on a tiny random model in the published folder layout."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMPipeline
from diffusers.pipelines.sana_wm.pipeline_sana_wm import DEFAULT_CHI_PROMPT
from PIL import Image
from safetensors.torch import load_file, save_file
from sana_wm_core.layouts import open_world
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.text import RELEASED_PREFIX, encode_negative

TINY = runpy.run_path(str(Path(__file__).resolve().parents[3] / "scripts" / "tiny_models.py"))
INTRINSICS = [80.0, 82.0, 55.0, 41.0]
ACTION = "w-8,jw-6,dl-4,ik-4,a-3"
PROMPT = "A small harbour at dawn, boats on still water."


def build_published(folder):
    """Save a tiny random pipeline, every parameter drawn so that no branch is silent; returns diffusers' own."""
    pipeline = SanaWMPipeline(
        # Gemma's tokenizer pads on the left, and SANA-WM reads it padded on the right.
        TINY["tokenizer"](padding_side="left"),
        TINY["gemma2"](),
        TINY["vae"](causal=False),
        TINY["transformer"](),
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
def ours(published):
    return open_world(published[0]).pipeline


@pytest.fixture(scope="session")
def picture():
    values = np.random.default_rng(3).integers(0, 256, (21, 28, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((110, 83), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("form, guidance", [("action", 5.0), ("poses", 1.0)])
def test_same_latents_and_frames_as_diffusers(published, ours, picture, form, guidance):
    _, theirs = published
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
        num_frames=17,
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
        frames=17,
        steps=3,
        guidance=guidance,
        negative_prompt="blurry",
        seed=11,
    )
    assert clip.latents.shape == expected.latent.shape == (1, 8, 3, 2, 3)
    assert (clip.latents - expected.latent).abs().max() < 1e-4
    assert np.abs(clip.video.astype(float) - expected.frames * 255).max() <= 2
    assert expected.frames.std() > 0.02, "the tiny VAE decodes to a flat picture; the comparison would be empty"
    np.testing.assert_allclose(clip.c2w, expected.c2w, atol=1e-6)


def test_the_prefix_is_the_released_one_to_the_character():
    assert "\n".join(DEFAULT_CHI_PROMPT) == RELEASED_PREFIX


@pytest.mark.parametrize("prompt", ["", PROMPT, "word " * 200])
def test_captions_are_encoded_as_diffusers_does(published, ours, prompt):
    _, theirs = published
    cond, mask, negative, negative_mask = theirs.encode_prompt(
        prompt, "no rain", device=torch.device("cpu"), chi_prompt=DEFAULT_CHI_PROMPT
    )
    states, kept = ours.text_encoder.encode([prompt])
    assert torch.equal(kept, mask) and states.shape == (1, 1, 300, 32)
    torch.testing.assert_close(states, cond, atol=1e-6, rtol=1e-5)
    plain, plain_mask = encode_negative(ours.text_encoder, "no rain")
    assert torch.equal(plain_mask, negative_mask)
    torch.testing.assert_close(plain, negative, atol=1e-6, rtol=1e-5)
    if prompt == "":
        assert kept[0, 0] == 1 and kept.sum() < 5


def test_the_codec_normalises_and_keeps_the_frame_rule(published, ours):
    _, theirs = published
    codec = ours.codec
    assert (codec.temporal_stride, codec.spatial_stride, codec.latent_channels) == (8, 32, 8)
    video = torch.rand(2, 3, 9, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode(video)
    assert latents.shape == (2, 8, 2, 2, 3) and codec.decode(latents).shape == video.shape
    raw = theirs.vae.encode(video).latent_dist.mode()
    spread = (1, -1, 1, 1, 1)
    torch.testing.assert_close(
        latents * theirs.vae.latents_std.view(spread) + theirs.vae.latents_mean.view(spread), raw
    )
    # The encoder is causal: a picture alone gives the first latent frame of any clip that starts with it.
    torch.testing.assert_close(codec.encode_image(video[:, :, 0]), latents[:, :, :1], atol=1e-5, rtol=1e-4)
    for bad, word in ((video[:, :, :8], "8k"), (video[..., :60, :], "32")):
        with pytest.raises(ValueError, match=word):
            codec.encode(bad)


def test_the_nvlabs_layout_gives_the_same_pipeline(published, tmp_path):
    folder, theirs = published
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit" / "tiny").symlink_to(folder / "transformer")
    (tmp_path / "vae").symlink_to(folder / "vae")
    gemma = tmp_path / "text_encoder"
    gemma.mkdir()
    for part in ("text_encoder", "tokenizer"):
        for file in (folder / part).iterdir():
            (gemma / file.name).symlink_to(file)
    (tmp_path / "config.yaml").write_text(
        "scheduler: {flow_shift: 9.95, inference_flow_shift: 8.5}\n"
        "text_encoder: {model_max_length: 40, chi_prompt: ['Say:', 'it ']}\n"
    )
    ours = open_world(tmp_path, weights=tmp_path / "dit" / "tiny").pipeline
    assert ours.defaults.shift == 8.5
    expected = theirs.encode_prompt(
        "a dune", device=torch.device("cpu"), max_sequence_length=40, chi_prompt=["Say:", "it "]
    )
    torch.testing.assert_close(ours.text_encoder.encode(["a dune"])[0], expected[0], atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match=r"sana_wm_1600m_720p\.safetensors \(10 GB\)"):
        open_world(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("scheduler: {flow_shift: 3.5}\n")
    assert open_world(tmp_path, weights=tmp_path / "dit" / "tiny", config=other).pipeline.defaults.shift == 3.5
    other.write_text("scheduler: [unclosed\n")
    with pytest.raises(ValueError, match="YAML"):
        open_world(tmp_path, weights=tmp_path / "dit" / "tiny", config=other)


def _broken_copy(folder, target):
    shutil.copytree(folder, target)
    return target


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_truncated_weights_are_named(published, tmp_path, part):
    folder = _broken_copy(published[0], tmp_path / "copy")
    weights = next((folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match=part) as caught:
        open_world(folder)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_in_the_config_is_named(published, tmp_path):
    folder = _broken_copy(published[0], tmp_path / "copy")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layerz": 4}))
    with pytest.raises(ValueError, match="num_layerz"):
        open_world(folder)


def test_weights_that_do_not_fit_are_named(published, tmp_path):
    folder = _broken_copy(published[0], tmp_path / "copy")
    weights = next((folder / "transformer").glob("*.safetensors"))
    state = load_file(weights)
    names = sorted(state)
    state["stranger.weight"] = state.pop(names[0])
    state[names[1]] = torch.zeros(1, 2, 3)
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(names[0])):
        open_world(folder)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_missing_weight_is_never_filled_with_noise(published, tmp_path, part):
    folder = _broken_copy(published[0], tmp_path / "copy")
    weights = next((folder / part).glob("*.safetensors"))
    state = load_file(weights)
    name = sorted(state)[0]
    del state[name]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(name.removeprefix("model."))):
        open_world(folder)


@pytest.mark.parametrize("missing", ["transformer/config.json", "vae/config.json", "text_encoder/config.json"])
def test_missing_parts_are_named(published, tmp_path, missing):
    folder = _broken_copy(published[0], tmp_path / "copy")
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        open_world(folder)


def test_our_transformer_drops_into_diffusers_own_pipeline(published, ours, picture):
    _, theirs = published
    call = dict(intrinsics=np.array(INTRINSICS), height=64, width=96, num_frames=17, num_inference_steps=2)

    def run(transformer):
        parts = (theirs.tokenizer, theirs.text_encoder, theirs.vae, transformer, theirs.scheduler)
        pipeline = SanaWMPipeline(*parts)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(5)
        return pipeline(picture, PROMPT, action="w-8,jw-8", generator=generator, **call)

    with_theirs, with_ours = run(theirs.transformer), run(ours.transformer)
    assert isinstance(ours.transformer, SanaWMTransformer)
    assert (with_ours.latent - with_theirs.latent).abs().max() < 1e-4
    assert np.abs(with_ours.frames - with_theirs.frames).max() < 2 / 255
