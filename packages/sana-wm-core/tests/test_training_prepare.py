"""Annotated videos become clips a stage trains on, once, and what does not fit is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sana_wm_core.training.clips import open_clips, problems
from sana_wm_core.training.prepare import prepare_clips
from torch import Tensor


class Codec:
    """Means over 8 frames and 4 x 4 pixels; the first frame alone."""

    temporal_stride, spatial_stride = 8, 4
    calls = 0

    def encode(self, video: Tensor) -> Tensor:
        self.calls += 1
        cells = torch.nn.functional.avg_pool3d(video, (1, 4, 4))
        return torch.cat([cells[:, :, :1], cells[:, :, 1:].unflatten(2, (-1, 8)).mean(3)], 2)


class Text:
    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        mask = torch.tensor([[1] * (1 + len(c.split())) + [0] * (6 - len(c.split())) for c in captions])
        return torch.ones(len(captions), 1, 7, 5) * mask[:, None, :, None], mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for name, frames in (("a", 20), ("b", 17)):
        rgb = np.zeros((frames, 16, 40, 3), np.uint8)
        rgb[:, :, 20:] = 255
        np.savez(tmp_path / f"{name}.npz", rgb=rgb)
        np.save(tmp_path / f"{name}_pose.npy", np.tile(np.eye(4), (frames, 1, 1)))
        np.save(tmp_path / f"{name}_k.npy", np.tile([40.0, 40.0, 20.0, 8.0], (frames, 1)))
        rows.append(
            {"id": name, "split": "train", "source": "home", "video_path": f"{name}.npz", "height": 16, "width": 40,
             "pose_path": f"{name}_pose.npy", "intrinsics_path": f"{name}_k.npy", "captions": {"static": "two halves"},
             "scores": {"dover": 0.5}}
        )  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_videos_become_latents_features_and_a_manifest(folder: Path, tmp_path: Path) -> None:
    out, codec = tmp_path / "out", Codec()
    path = prepare_clips(folder, out, codec, Text(), (8, 16), validate=1)
    clips = open_clips(out)
    assert problems(clips) == [] and path == out / "train.jsonl"
    assert [(e.id, e.split, e.frames, e.source, e.scores) for e in clips.entries] == [
        ("a", "train", 3, "home", {"dover": 0.5}),
        ("b", "val", 3, "home", {"dover": 0.5}),
    ]
    sample = clips.load(0)
    assert sample.latents.shape == (3, 3, 2, 4) and sample.text is not None and sample.null_text is not None
    assert sample.text.shape == (3, 5) and sample.null_text.shape == (1, 5)
    # 40 wide becomes 20, of which the middle 16 are kept: the border stays in the middle.
    assert (sample.latents[..., 0] < -0.9).all() and (sample.latents[..., 3] > 0.9).all()
    torch.testing.assert_close(sample.camera[0, 16:], torch.tensor([5.0, 5.0, 2.0, 1.0]))
    assert codec.calls == 2
    before = path.read_bytes()
    prepare_clips(folder, out, codec, Text(), (8, 16), validate=1)
    assert codec.calls == 2 and path.read_bytes() == before


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size 9x16 must be multiples of 4"):
        prepare_clips(folder, tmp_path / "o", Codec(), Text(), (9, 16))
    with pytest.raises(ValueError, match="a: 8 frames are too few; at least 9"):
        prepare_clips(folder, tmp_path / "o", Codec(), Text(), (8, 16), max_frames=8)
    np.save(folder / "a_pose.npy", np.tile(np.eye(4), (19, 1, 1)))
    with pytest.raises(ValueError, match="a: 20 frames, 19 poses, 20 intrinsics"):
        prepare_clips(folder, tmp_path / "o", Codec(), Text(), (8, 16))
    with pytest.raises(ValueError, match=r"no manifest\.jsonl"):
        prepare_clips(tmp_path / "nowhere", tmp_path / "o", Codec(), Text(), (8, 16))
    (tmp_path / "none").mkdir()
    (tmp_path / "none/manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"manifest\.jsonl: no clips in it$"):
        prepare_clips(tmp_path / "none", tmp_path / "o", Codec(), Text(), (8, 16))
    (tmp_path / "none/verdicts.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"kept, there was none; .*`sana-wm data prepare --own`"):
        prepare_clips(tmp_path / "none", tmp_path / "p", Codec(), Text(), (8, 16))
    assert not (tmp_path / "p").exists()
