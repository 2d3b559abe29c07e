"""The bundled pocket world, its export, and clips encoded for its training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sana_wm_core.pocket import DEMO, WEIGHTS, load_pocket, save_pocket
from sana_wm_core.training.codec import CodecTrainConfig, CodecTrainer, to_video
from sana_wm_core.training.data import LatentClips
from sana_wm_core.training.encode import encode_clips, mirror
from sana_wm_core.training.frames import frame_store
from sana_wm_core.training.imagine import imagine_clips, load_imagined
from sana_wm_core.training.recipe import load_recipe


@pytest.fixture(scope="module")
def pocket():
    return load_pocket()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of random pixels in the dataset layout."""
    rows = []
    for i, split in enumerate(("train", "val")):
        name = f"clip{i}"
        rgb = np.random.default_rng(i).integers(0, 256, (17, 32, 48, 3)).astype(np.uint8)
        c2w = np.tile(np.eye(4, dtype=np.float32), (17, 1, 1))
        c2w[:, 0, 3] = np.arange(17) * 0.1
        np.savez(tmp_path / f"{name}.npz", rgb=rgb)
        np.save(tmp_path / f"{name}-c2w.npy", c2w)
        np.save(tmp_path / f"{name}-k.npy", np.tile(np.array([30, 30, 20, 16], np.float32), (17, 1)))
        rows.append(
            {
                "id": name,
                "split": split,
                "video_path": f"{name}.npz",
                "pose_path": f"{name}-c2w.npy",
                "intrinsics_path": f"{name}-k.npy",
                "height": 32,
                "width": 48,
                "raw_frames": 17,
                "captions": {"static": "a box"},
            }
        )
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def test_bundle_is_small_and_complete(pocket) -> None:
    size = sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file())
    assert size <= 40e6
    assert all((DEMO / name).is_file() for name in ("picture.png", "prompt.txt", "action.txt"))
    config = pocket.transformer.config
    assert config.in_channels == pocket.codec.latent_channels
    assert config.caption_channels == pocket.text_encoder.config.channels
    kinds = {type(block.attn).__name__ for block in pocket.transformer.blocks}
    assert kinds == {"FrameGDN", "SoftmaxAttention"}


def test_saved_pocket_is_the_same_pocket(pocket, tmp_path: Path) -> None:
    save_pocket(load_pocket(), tmp_path, torch.float32)
    again = load_pocket(tmp_path)
    for part in ("transformer", "codec", "text_encoder"):
        before, after = getattr(pocket, part).state_dict(), getattr(again, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("name", ["codec.safetensors", "text.safetensors", "preset.json"])
def test_damaged_bundle_is_named(tmp_path: Path, name: str) -> None:
    save_pocket(load_pocket(), tmp_path)
    path = tmp_path / name
    if name.endswith("json"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=name.split(".")[0]):
        load_pocket(tmp_path)


def test_encoded_clips_have_four_views_each_and_are_read_back(pocket, clips: Path) -> None:
    encode_clips(clips, pocket.codec)
    train, val = LatentClips(clips), LatentClips(clips, "val")
    assert len(train) == 4 and len(val) == 1
    assert train.latents.shape == (4, pocket.codec.latent_channels, 3, 2, 3)
    by_name = {row["id"]: i for i, row in enumerate(train.rows)}
    plain, mirrored, backwards = train.batch([by_name[f"clip0{s}"] for s in ("", ".m", ".r")]).camera
    torch.testing.assert_close(plain[:, 3], torch.tensor([0.0, 0.8, 1.6]))
    torch.testing.assert_close(mirrored[:, 3], -plain[:, 3])
    torch.testing.assert_close(backwards[:, 3], torch.tensor([0.0, -0.8, -1.6]))
    assert (clips / "latents.jsonl").read_text().count("\n") == 5


def test_a_window_is_the_clip_that_starts_there(pocket, clips: Path) -> None:
    encode_clips(clips, pocket.codec, augment=False)
    train = LatentClips(clips)
    cut = train.batch([0], starts=[1], window=2)
    with np.load(clips / "clip0.npz") as arrays:
        frames = arrays["rgb"]
    with torch.no_grad():
        alone = pocket.codec.encode(to_video(frames[None, 8:17]))
    torch.testing.assert_close(cut.latents, alone, rtol=2e-3, atol=2e-3)  # stored in float16
    torch.testing.assert_close(cut.camera[0, 0, :16].view(4, 4), torch.eye(4))
    assert cut.plucker.shape == (1, 48, 2, 2, 3)
    with pytest.raises(ValueError, match="window of 3 from latent frame 1"):
        train.batch([0], starts=[1], window=3)


def test_imagined_latents_meet_the_pictures_they_stand_for(pocket, clips: Path, tmp_path: Path) -> None:
    encode_clips(clips, pocket.codec)
    train = LatentClips(clips)
    # Latents as a perfect world model would sample them: every turning must find its own pictures.
    (clips / "imagined").mkdir()
    perfect = {row["id"]: train.latents[i].contiguous() for i, row in enumerate(train.rows)}
    save_file(perfect, clips / "imagined" / "000000.safetensors")
    dreams = load_imagined(clips, ["clip0"])
    assert {(d.mirrored, d.backwards) for d in dreams} == {(False, False), (True, False), (False, True), (True, True)}
    for dream in dreams:
        config = CodecTrainConfig(iterations=1)
        trainer = CodecTrainer(config, pocket.codec.config, frame_store(clips, "train"), tmp_path / "run", [dream])
        video, latents = trainer._imagined_clip(np.random.default_rng(0))
        with torch.no_grad():
            torch.testing.assert_close(pocket.codec.encode(video), latents, rtol=5e-3, atol=5e-3)
    with pytest.raises(ValueError, match="no clip of this split"):
        load_imagined(clips, ["another"])


def test_imagining_starts_from_the_picture_and_can_be_stopped(pocket, clips: Path) -> None:
    encode_clips(clips, pocket.codec, augment=False)
    with pytest.raises(ValueError, match="data imagine"):
        load_imagined(clips, ["clip0"])
    imagine_clips(pocket, clips, steps=2, shift=3.0)
    (dream,) = load_imagined(clips, ["clip0"])
    true = LatentClips(clips).latents[0]
    assert torch.equal(dream.latents[:, 0], true[:, 0]) and not torch.equal(dream.latents[:, 1], true[:, 1])
    shard = clips / "imagined" / "000000.safetensors"
    written = shard.stat().st_mtime_ns
    imagine_clips(pocket, clips, steps=2, shift=3.0)
    assert shard.stat().st_mtime_ns == written
    shard.unlink()
    imagine_clips(pocket, clips, steps=2, shift=3.0)
    assert torch.equal(load_imagined(clips, ["clip0"])[0].latents, dream.latents)


def test_mirror_is_its_own_inverse() -> None:
    frames = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    c2w = np.random.default_rng(0).normal(size=(2, 4, 4))
    k = np.array([[5.0, 5.0, 2.0, 2.0]] * 2)
    once = mirror(frames, c2w, k)
    assert once[2][0, 2] == 4.0
    for a, b in zip(mirror(*once), (frames, c2w, k), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frame_store_is_written_once(clips: Path) -> None:
    first = frame_store(clips, "train")
    assert first.shape == (1, 17, 32, 48, 3)
    (clips / "clip0.npz").unlink()
    assert np.array_equal(frame_store(clips, "train"), first)
    with pytest.raises(ValueError, match="split 'test'"):
        frame_store(clips, "test")


def test_recipe_changes_and_their_mistakes() -> None:
    plan = load_recipe("pocket", ["train.iterations=12", "train.precision=fp32"])
    assert plan.train.iterations == 12 and plan.train.precision == "fp32"
    for change, word in (("train.iterations=0", "iterations"), ("train.speed=1", "speed"), ("iterations=1", "section")):
        with pytest.raises(ValueError, match=word):
            load_recipe("pocket", [change])
    with pytest.raises(ValueError, match="no preset 'poket'"):
        load_recipe("poket")
