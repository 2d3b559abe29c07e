"""Long clips decoded in stretches: aligned, without a seam where the codec forgets, bounded in memory."""

import pytest
import torch
from diffusers import AutoencoderKLLTX2Video
from sana_wm_core.codecs.ltx2 import LTX2Codec


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
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
    with torch.no_grad():
        for parameter in vae.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(noise / max(1.0, parameter[0].numel() ** 0.5) if parameter.ndim > 1 else noise * 0.1)
    return LTX2Codec(vae)


@pytest.mark.parametrize("frames", [21, 22, 30])
def test_stretches_show_the_clip_in_time(codec, frames, monkeypatch):
    latents = torch.randn(1, 8, frames, 2, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(codec, "tile_frames", None)
    whole = codec.decode(latents)
    monkeypatch.setattr(codec, "tile_frames", 13)
    longest = []
    decode = codec.vae.decode
    monkeypatch.setattr(codec.vae, "decode", lambda z, **more: longest.append(z.shape[2]) or decode(z, **more))
    pieces = codec.decode(latents)
    assert pieces.shape == whole.shape == (1, 3, 8 * (frames - 1) + 1, 64, 64) and max(longest) == 13
    error = (pieces - whole).abs().mean(dim=(0, 1, 3, 4))
    scale = whole.std()
    assert error.max() < 0.3 * scale
    # Away from the fades only alignment counts: first stretch, and behind the first fade (raw frames 64 to 96).
    for calm in (slice(0, 32), slice(105, min(128, len(error) - 1))):
        late = (pieces[:, :, calm] - whole[:, :, calm.start + 1 : calm.stop + 1]).abs().mean()
        assert error[calm].mean() < 0.01 * scale < 0.1 * late


def test_short_clips_are_decoded_whole(codec, monkeypatch):
    latents = torch.randn(1, 8, 13, 2, 2, generator=torch.Generator().manual_seed(1))
    expected = codec.decode(latents)
    monkeypatch.setattr(codec, "tile_frames", 13)
    assert torch.equal(codec.decode(latents), expected)
