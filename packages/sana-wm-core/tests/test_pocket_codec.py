"""The pocket codec: frame rule, causality, and a fit that lowers its error."""

import numpy as np
import pytest
import torch
from sana_wm_core.pocket.codec import PocketCodec, PocketCodecConfig, from_blocks, to_blocks
from sana_wm_core.pocket.text import PocketTextEncoder
from sana_wm_core.training.codec import CodecTrainConfig, CodecTrainer, to_video
from sana_wm_core.training.codec_losses import local_detail, psnr

SMALL = PocketCodecConfig(latent_channels=8, width=16, coarse_width=8, fine_width=8, trunk_blocks=1, frame_blocks=1)


def _random(config: PocketCodecConfig = SMALL) -> PocketCodec:
    torch.manual_seed(0)
    codec = PocketCodec(config).eval()
    for tensor in (*codec.parameters(), codec.first_basis, codec.later_basis):
        torch.nn.init.normal_(tensor, std=0.1)  # zero-initialised parts must not hide mistakes
    return codec


def test_blocks_round_trip() -> None:
    video = torch.randn(2, 3, 16, 32, 48)
    cells = to_blocks(video)
    assert cells.shape == (2, 2, 2, 3, 8 * 16 * 16 * 3)
    assert torch.equal(from_blocks(cells, 8), video)
    assert torch.equal(from_blocks(to_blocks(video[:, :, :1]), 1), video[:, :, :1])


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


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(4,), (1, 3), (1, 1, 1, 1), (2, 2), (3, 1)])
def test_chunks_decode_to_the_whole(sizes: tuple[int, ...]) -> None:
    codec = _random(SMALL.model_copy(update={"trunk_blocks": 2}))
    latents = torch.randn(1, 8, 4, 2, 3)
    state, parts = {}, []
    for piece in latents.split(sizes, dim=2):
        video, state = codec.decode_chunk(piece, state)
        parts.append(video)
    torch.testing.assert_close(torch.cat(parts, dim=2), codec.decode(latents), rtol=0, atol=1e-6)


@torch.no_grad()
def test_encoded_and_sampled_latents_decode_differently_from_where_they_part() -> None:
    codec = _random()
    latents = torch.randn(2, 8, 4, 2, 3)
    two, four = codec.decode(latents, encoded=2), codec.decode(latents, encoded=4)
    assert torch.equal(two[:, :, :9], four[:, :, :9])
    assert (two[:, :, 9:] - four[:, :, 9:]).abs().amax((0, 1, 3, 4)).min() > 1e-4


@pytest.mark.parametrize(("shape", "word"), [((1, 3, 8, 32, 32), "1 \\+ 8k"), ((1, 3, 9, 30, 32), "multiples of 16")])
def test_wrong_sizes_are_refused(shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _random().encode(torch.zeros(shape))


def _moving_clips() -> np.ndarray:
    y, x = np.mgrid[0:32, 0:32]
    f, c = np.arange(17)[:, None, None], np.arange(3)[:, None, None, None]
    red, green = (x * 8 + 3 * f) % 256, (y * 8 + c * 40) % 256
    return np.stack(np.broadcast_arrays(red[None], green, 90), -1).astype(np.uint8)


def test_components_reconstruct_what_they_span(tmp_path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (1, 17, 32, 32, 3)).astype(np.uint8)
    # 8 distinct later blocks and 12 distinct still ones: 16 components hold all of them.
    config = SMALL.model_copy(update={"latent_channels": 16})
    trainer = CodecTrainer(CodecTrainConfig(frames=9, blocks=400), config, clips, tmp_path)
    trainer.fit_components()
    codec, video = trainer.codec, to_video(clips)
    views = (video, video.flip(2), video.flip(-1), video.flip(2, -1))
    errors = [float((codec.linear_decode(codec.encode(view)) - view).square().mean()) for view in views]
    assert min(errors) < 1e-6, errors  # the fit looks at each clip in one of the four
    gram = codec.later_basis.mT @ codec.later_basis
    kept = gram.diagonal() > 0.5
    torch.testing.assert_close(gram[kept][:, kept], torch.eye(int(kept.sum())), rtol=0, atol=1e-4)


def test_fit_lowers_the_error_and_resumes(tmp_path) -> None:
    clips = _moving_clips()
    config = CodecTrainConfig(iterations=60, batch=2, frames=9, learning_rate=3e-3, save_every=20, blocks=400)
    lines: list[dict[str, float]] = []
    trainer = CodecTrainer(config, SMALL.model_copy(update={"latent_channels": 2}), clips, tmp_path)
    trainer.run(lines.append)
    assert lines[-1]["psnr"] > lines[-1]["linear"] + 0.2
    assert trainer.codec.encode(to_video(clips)).var() < 4
    again = CodecTrainer(config, trainer.codec.config, clips, tmp_path)
    again.resume()
    assert again.iteration == 60
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


def test_detail_is_strength_not_place() -> None:
    stripes = torch.zeros(1, 3, 1, 34, 34)
    stripes[..., ::2] = 1.0
    shifted = 1.0 - stripes
    torch.testing.assert_close(local_detail(stripes), local_detail(shifted))
    assert local_detail(stripes).min() > 10 * local_detail(torch.full_like(stripes, 0.5)).max()
