"""Datasets: upstream's zips, manifests, encoded folders; what is wrong is named (invariants 41 and 42)."""

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sana_wm_core.training.batches import Batches, TextSource
from sana_wm_core.training.clips import BadClip, choose_caption, make_sample, no_camera, open_clips, passes, problems
from sana_wm_core.training.draws import stream

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import make_stage, write_clips

FILTERS = {"dover": (0.25, 1.0), "unimatch_flow": (3.0, 80.0)}


def _poses(frames: int, step: float = 0.1) -> np.ndarray:
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 2, 3] = np.arange(frames) * step
    return poses


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    keys, raw = ["a", "b", "c", "d"], 17
    (tmp_path / "vae_cache").mkdir()
    with zipfile.ZipFile(tmp_path / "game.zip", "w") as archive:
        for key in keys:
            archive.writestr(f"{key}.json", json.dumps({"height": 64, "width": 96, "prompt": f"clip {key}"}))
    with zipfile.ZipFile(tmp_path / "vae_cache/game.zip", "w") as archive:
        for key in keys[:3]:  # d was never encoded
            archive.writestr(f"{key}.npz", _npz(z=np.full((3, 3, 2, 3), ord(key), np.float16)))
    np.savez(
        tmp_path / "game_camera.npz",
        ids=np.array(keys),
        ranges=np.array([[i * raw, raw] for i in range(4)]),
        pose=np.concatenate([_poses(raw, 0.1 * (i + 1)) for i in range(4)]),
        intrinsics=np.tile([96.0, 64.0, 48.0, 32.0], (4 * raw, 1)),
    )
    scales = {"a": 2.0, "b": [1.0, 3.0], "c": {"score": 9.0, "mean": 8.0, "median": 3.0}}
    (tmp_path / "game_metric_scale_stats.json").write_text(json.dumps(scales))
    (tmp_path / "game_Static.json").write_text(json.dumps({"a": "a long view", "b": {"caption": "a street"}}))
    scores = [{"key": "a", "dover": 0.25, "unimatch_flow": 80}, {"key": "b", "dover": 0.2, "unimatch_flow": 9}]
    lines = [*scores, {"key": "c", "dover": 0.9}]
    (tmp_path / "game_scores.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_invariant_41_upstreams_zips_are_read_as_they_are(zips: Path) -> None:
    clips = open_clips(zips)
    entries = {entry.id: entry for entry in clips.entries}
    assert list(entries) == ["a", "b", "c"]
    assert entries["a"].captions == {"Static": "a long view", "prompt": "clip a"}
    assert entries["b"].captions["Static"] == "a street"
    # Bounds are inclusive; b scores too low; c lacks a score.
    assert [key for key, entry in entries.items() if passes(entry, FILTERS)] == ["a"]
    assert all(entry.frames == 3 and entry.source == "game" for entry in entries.values())
    for number, scale in enumerate((2.0, 2.0, 3.0)):
        sample = clips.load(number)
        assert sample.latents.unique().tolist() == [float(ord("abc"[number]))]
        z = sample.camera[:, 11]
        torch.testing.assert_close(z, torch.tensor([0.0, 8.0, 16.0]) * 0.1 * (number + 1) * scale)
    assert problems(clips) == []
    assert problems(clips, {"nosuch": (0, 1)}) == ["filters reject every clip: no clip has the score nosuch"]
    only = {choose_caption(entries["a"], {"Static": 1.0}, stream(0, n, "a", "c")) for n in range(20)}
    assert only == {"a long view"}
    both = {choose_caption(entries["a"], {}, stream(0, n, "a", "c")) for n in range(40)}
    assert both == {"a long view", "clip a"}


def test_invariant_42_camera_rows_are_relative_scaled_and_windows_look_back() -> None:
    raw = 17
    poses = np.tile(np.eye(4), (raw, 1, 1))
    poses[:, 0, 3] = 5 + np.arange(raw)
    sample = make_sample("x", torch.zeros(3, 3, 2, 3), poses, np.tile([96.0, 64.0, 48.0, 32.0], (raw, 1)), (64, 96))
    assert sample.camera.shape == (3, 20) and sample.plucker.shape == (48, 3, 2, 3)
    torch.testing.assert_close(sample.camera[0, :16].view(4, 4), torch.eye(4))
    torch.testing.assert_close(sample.camera[:, 3], torch.tensor([0.0, 8.0, 16.0]))
    torch.testing.assert_close(sample.camera[1, 16:], torch.tensor([3.0, 2.0, 1.5, 1.0]))
    # The moment's second number is z-direction times x-position: it tells which raw frame a channel group holds.
    depth = sample.plucker[2::6, :, 0, 0]
    seen = -sample.plucker[4::6, :, 0, 0] / depth
    # Latent 0 looks ahead at frames 0 to 7; latent k at 8 k - 7 to 8 k.
    torch.testing.assert_close(seen[:, 0], torch.arange(8.0))
    torch.testing.assert_close(seen[:, 1], torch.arange(1.0, 9.0))
    torch.testing.assert_close(seen[:, 2], torch.arange(9.0, 17.0))
    still = no_camera(sample)
    torch.testing.assert_close(still.camera[:, :16].view(3, 4, 4), torch.eye(4).repeat(3, 1, 1))
    torch.testing.assert_close(still.camera[2, 16:], torch.tensor([3.0, 2.0, 1.5, 1.0]))


def _manifest(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"z": torch.randn(3, 3, 2, 2)}, folder / "z.safetensors")
    np.save(folder / "pose.npy", _poses(17))
    np.save(folder / "k.npy", np.tile([64.0, 64.0, 32.0, 32.0], (17, 1)))
    row = {
        "id": "one",
        "latent_path": "z.safetensors",
        "latent_shape": [3, 3, 2, 2],
        "pose_path": "pose.npy",
        "intrinsics_path": "k.npy",
        "height": 64,
        "width": 64,
        "caption": "a hall",
        "sha256": hashlib.sha256((folder / "z.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "mine.jsonl").write_text(json.dumps({k: v for k, v in {**row, **changes}.items() if v is not None}))
    return folder / "mine.jsonl"


def test_a_manifest_of_ones_own_is_read(tmp_path: Path) -> None:
    clips = open_clips(_manifest(tmp_path, source="home", repeat=3, scores={"dover": 0.5}, metric_scale=2.0))
    (entry,) = clips.entries
    assert (entry.source, entry.repeat, entry.frames, entry.captions) == ("home", 3, 3, {"caption": "a hall"})
    assert clips.load(0).camera[1, 11] == pytest.approx(1.6)
    assert problems(clips) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_path": "gone.safetensors"}, "one: no file .*gone.safetensors"),
        ({"latent_shape": [3, 3, 2, 9]}, r"one: latents have shape \[3, 3, 2, 2\], the manifest says \[3, 3, 2, 9\]"),
        ({"sha256": "0" * 64}, "one: z.safetensors has changed"),
        ({"latent_key": "nosuch"}, "one: .*nosuch"),
        ({"pose_path": "gone.npy"}, "one: no file"),
    ],
)
def test_a_bad_row_is_named_with_the_reason(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    clips = open_clips(_manifest(tmp_path, **changes))
    with pytest.raises(BadClip, match=words) as caught:
        clips.load(0)
    assert "\n" not in str(caught.value)
    assert problems(clips) == [str(caught.value)]


def test_bad_numbers_and_lengths_are_named(tmp_path: Path) -> None:
    clips = open_clips(_manifest(tmp_path, sha256=None))
    np.save(tmp_path / "pose.npy", _poses(16))
    with pytest.raises(BadClip, match=r"poses have shape \(16, 4, 4\); 3 latent frames need \(17, 4, 4\)"):
        clips.load(0)
    bent = _poses(17)
    bent[5, 0, 0] = 2
    np.save(tmp_path / "pose.npy", bent)
    with pytest.raises(BadClip, match="pose 5 is not a rotation"):
        clips.load(0)
    np.save(tmp_path / "pose.npy", _poses(17))
    z = torch.zeros(3, 3, 2, 2)
    z[0, 0, 0, 0] = float("inf")
    save_file({"z": z}, tmp_path / "z.safetensors")
    with pytest.raises(BadClip, match="1 latent values are NaN or infinite"):
        clips.load(0)
    (tmp_path / "z.safetensors").write_bytes(b"rubbish")
    with pytest.raises(BadClip, match=r"^one: "):
        clips.load(0)


def test_bad_files_are_named(tmp_path: Path, zips: Path) -> None:
    with pytest.raises(ValueError, match="no clips to train on"):
        open_clips(tmp_path / "nowhere")
    (tmp_path / "x.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1 \(a\) lacks latent_path"):
        open_clips(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        open_clips(tmp_path / "x.jsonl")
    (zips / "vae_cache/game.zip").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="game: cannot be read"):
        open_clips(zips)


def test_stored_text_features_are_used_and_the_empty_caption_has_its_own(tmp_path: Path) -> None:
    path = _manifest(tmp_path, text_embed_path="text.safetensors")
    save_file({"text": torch.ones(4, 8)}, tmp_path / "text.safetensors")
    save_file({"text": torch.zeros(2, 8)}, tmp_path / "text_null.safetensors")
    stage = make_stage(text={"kind": "cached"}, objective={"text_drop": 0.5, "chunk_frames": 0})
    batches = Batches(stage, open_clips(path), TextSource(None), None, torch.device("cpu"), None)
    lengths = set()
    for step in range(30):
        conditions = batches([0], step).conditions
        features, mask = conditions["encoder_hidden_states"], conditions["encoder_attention_mask"]
        assert features.shape[2] == mask.shape[1] == int(mask.sum())
        lengths.add((features.shape[2], float(features.mean())))
    assert lengths == {(4, 1.0), (2, 0.0)}


def test_a_share_of_clips_sees_a_camera_that_stands_still(tmp_path: Path) -> None:
    clips = open_clips(write_clips(tmp_path / "clips"))
    stage = make_stage(objective={"camera_drop": 0.5})
    batches = Batches(stage, clips, TextSource(None), None, torch.device("cpu"), None)
    batches.text = lambda *_: (torch.zeros(1, 1, 2, 8), torch.ones(1, 2))  # type: ignore[assignment]
    moves = [float(batches([5], step).conditions["camera_conditions"][0, -1, 3]) for step in range(30)]
    assert 0.0 in moves and any(x > 1 for x in moves)
    off = Batches(make_stage(objective={"camera_drop": 1.0}), clips, batches.text, None, torch.device("cpu"), None)
    assert off([5], 0).conditions["camera_conditions"] is None
