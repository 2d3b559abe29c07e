"""The pocket codec: frame rule, causality, and a fit that lowers its error."""

import numpy as np
import pytest
import torch
from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig
from sana_wm_core.pocket.text import PocketTextEncoder
from sana_wm_core.training.codec import CodecTrainConfig, CodecTrainer, psnr, to_video

SMALL = PocketCodecConfig(
    latent_channels=8, width=16, encoder_width=8, decoder_width=8, fine_width=8, trunk_blocks=1, frame_blocks=1
)


def _random(config: PocketCodecConfig = SMALL) -> PocketCodec:
    torch.manual_seed(0)
    codec = PocketCodec(config).eval()
    for parameter in codec.parameters():  # zero-initialised parts must not hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return codec


@pytest.mark.parametrize("k", [0, 1, 3])
def test_frames_and_sizes_follow_the_1_plus_8k_rule(k: int) -> None:
    codec = _random()
    video = torch.rand(2, 3, 1 + 8 * k, 32, 48) * 2 - 1
    latents = codec.encode(video)
    assert latents.shape == (2, 8, 1 + k, 2, 3)
    assert codec.decode(latents).shape == video.shape


@torch.no_grad()
def test_both_directions_are_causal() -> None:
    codec = _random()
    video = torch.rand(1, 3, 25, 32, 32) * 2 - 1
    changed = video.clone()
    changed[:, :, 17:] = -changed[:, :, 17:]
    a, b = codec.encode(video), codec.encode(changed)
    torch.testing.assert_close(a[:, :, :3], b[:, :, :3])
    assert not torch.allclose(a[:, :, 3], b[:, :, 3])
    torch.testing.assert_close(codec.decode(a)[:, :, :17], codec.decode(a[:, :, :3]))
    torch.testing.assert_close(codec.encode_image(video[:, :, 0]), a[:, :, :1])


@pytest.mark.parametrize(("shape", "word"), [((1, 3, 8, 32, 32), "1 \\+ 8k"), ((1, 3, 9, 30, 32), "multiples of 16")])
def test_wrong_sizes_are_refused(shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _random().encode(torch.zeros(shape))


def test_fit_lowers_the_error_normalises_latents_and_resumes(tmp_path) -> None:
    y, x = np.mgrid[0:32, 0:32]
    frames = [
        [np.stack([(x * 8 + 3 * f) % 256, (y * 8 + c * 40) % 256, x * 0 + 90], -1) for f in range(17)] for c in range(3)
    ]
    clips = np.array(frames).astype(np.uint8)
    config = CodecTrainConfig(iterations=40, batch=2, frames=9, learning_rate=3e-3, save_every=20)
    lines: list[dict[str, float]] = []
    trainer = CodecTrainer(config, SMALL, clips, tmp_path)
    trainer.run(lines.append)
    assert lines[-1]["psnr"] > lines[0]["psnr"] > 0
    latents = trainer.codec.encode(to_video(clips))
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(8), rtol=0.05, atol=0.05)
    again = CodecTrainer(config, SMALL, clips, tmp_path)
    again.resume()
    assert again.iteration == 40
    assert all(torch.equal(v, again.codec.state_dict()[k]) for k, v in trainer.codec.state_dict().items())


def test_psnr_known_value() -> None:
    a = torch.zeros(1, 3, 2, 2)
    assert psnr(a, a + 0.2).item() == pytest.approx(20.0, abs=1e-4)  # error 0.2 of a range of 2


def test_words_share_rows_by_spelling_and_empty_captions_still_have_a_token() -> None:
    encoder = PocketTextEncoder()
    rows, mask = encoder.tokens(["A red BOX, a red box", ""])
    assert rows[0, 1:4].tolist() == rows[0, 4:7].tolist()
    assert mask.sum(1).tolist() == [7, 1]
    embeds, _ = encoder.encode(["x"] * 3)
    assert embeds.shape == (3, 1, 40, 64)
