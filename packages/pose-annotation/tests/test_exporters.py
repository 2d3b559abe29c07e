"""Every format is written and read back by its own reader."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from camera_control.trajectory import Trajectory
from pose_annotation.exporters import export_folder, read_clips
from pose_annotation.exporters.sana import load_sample
from pose_annotation.exporters.vipe import read as read_vipe
from pose_annotation.video import read_clip

sys.path.insert(0, str(Path(__file__).parent))
from annotated_folder import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    return root, write_folder(root)


def test_colmap_keeps_poses_a_lens_per_frame_and_true_tracks(folder, tmp_path):
    root, truth = folder
    export_folder(root, tmp_path / "c", "colmap")
    for name, (c2w, lens) in truth.items():
        sparse = tmp_path / "c" / name / "sparse"
        back = Trajectory.load(sparse)
        assert np.abs(back.c2w - c2w).max() < 1e-9 and np.array_equal(back.intrinsics, lens)
        assert len((sparse / "cameras.txt").read_text().splitlines()) == 1 + len(lens)
        assert len(list((sparse.parent / "images").iterdir())) == len(c2w)


def test_pycolmap_reads_what_was_written_and_finds_no_reprojection_error(folder, tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is an extra")
    root, truth = folder
    export_folder(root, tmp_path / "c", "colmap")
    name, (c2w, lens) = next(iter(truth.items()))
    model = pycolmap.Reconstruction(tmp_path / "c" / name / "sparse")
    assert model.num_reg_images() == len(c2w) and len(model.cameras) == len(c2w)
    for image in model.images.values():
        i = int(image.name[6:11]) - 1
        pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
        assert np.abs(np.vstack([pose.matrix(), [0, 0, 0, 1]]) - np.linalg.inv(c2w[i])).max() < 1e-9
        assert np.allclose(model.cameras[image.camera_id].params, lens[i], rtol=1e-12)
    model.update_point_3d_errors()
    assert len(model.points3D) > 30 and model.compute_mean_reprojection_error() < 1e-4
    assert all(point.track.length() >= 1 for point in model.points3D.values())


def test_nerfstudio_turns_the_axes_and_keeps_the_zoom(folder, tmp_path):
    root, truth = folder
    export_folder(root, tmp_path / "n", "nerfstudio")
    for name, (c2w, lens) in truth.items():
        data = json.loads((tmp_path / "n" / name / "transforms.json").read_text())
        assert data["frames"][3]["fl_x"] == lens[3, 0] and "fl_x" not in data
        assert np.allclose(data["frames"][0]["transform_matrix"], np.diag([1, -1, -1, 1]))
        assert (tmp_path / "n" / name / data["frames"][-1]["file_path"]).is_file()
        back = Trajectory.load(tmp_path / "n" / name / "transforms.json")
        assert np.abs(back.c2w - c2w).max() < 1e-9 and np.array_equal(back.intrinsics, lens)


def test_tum_and_bench_files(folder, tmp_path):
    root, truth = folder
    export_folder(root, tmp_path / "t", "tum")
    export_folder(root, tmp_path / "b", "bench")
    for name, (c2w, lens) in truth.items():
        assert np.abs(Trajectory.load(tmp_path / "t" / f"{name}.txt").c2w - c2w).max() < 1e-9
        with np.load(tmp_path / "b" / f"{name}.npz", allow_pickle=False) as kept:
            assert kept["intrinsics"].shape == (17, 3, 3) and int(kept["num_frames"]) == 17
            assert np.array_equal(kept["intrinsics"][:, 0, 0], lens[:, 0]) and np.array_equal(kept["c2w"], c2w)


def test_vipe_artifacts_with_a_lens_per_frame_and_the_real_residual(folder, tmp_path):
    root, truth = folder
    export_folder(root, tmp_path / "v", "vipe")
    for name, (c2w, lens) in truth.items():
        back = read_vipe(tmp_path / "v", name)
        assert np.allclose(back.c2w, c2w, atol=1e-6) and np.allclose(back.intrinsics, lens, rtol=1e-6)
        assert np.array_equal(back.inds, np.arange(17))
        info = pickle.loads((tmp_path / "v" / "vipe" / f"{name}_info.pkl").read_bytes())
        assert info == {"ba_residual": 0.25}
        assert len(read_clip(tmp_path / "v" / "rgb" / f"{name}.mp4")) == 17
    (tmp_path / "v" / "intrinsics" / f"{name}_camera.txt").write_text("0: MEI\n")
    with pytest.raises(ValueError, match="has camera MEI; allowed: PINHOLE"):
        read_vipe(tmp_path / "v", name)
    with pytest.raises(ValueError, match="cannot read"):
        read_vipe(tmp_path / "v", "other")


def test_sana_sidecars_read_as_the_released_loader_does(folder, tmp_path):
    root, truth = folder
    written = export_folder(root, tmp_path / "s", "sana")
    shard = tmp_path / "s" / "shard_00000.zip"
    assert {p.name for p in written} == {
        "shard_00000.zip", "shard_00000_camera.npz", "shard_00000_metric_scale_stats.json",
        "shard_00000_vmafmotion.json", "shard_00000_unimatch.json", "shard_00000_color.json",
        "shard_00000_scene_cut.json", "shard_00000_LongSceneStaticCaption-server-qwen3-vl.json",
    }  # fmt: skip
    for name, (c2w, lens) in truth.items():
        sample = load_sample(shard, name, (3, 5))
        assert np.array_equal(sample.c2w[0], np.eye(4)) and np.allclose(sample.c2w, c2w, atol=1e-5)
        assert np.allclose(sample.intrinsics, lens * 5 / 160, rtol=1e-5)
    scores = json.loads((tmp_path / "s" / "shard_00000_vmafmotion.json").read_text())
    assert scores[name] == {"vmafmotion_score": 7.5}
    with pytest.raises(ValueError, match="'nobody' has no camera"):
        load_sample(shard, "nobody", (3, 5))
    again = export_folder(root, tmp_path / "s2", "sana")
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]


def test_bad_exports_are_one_line(folder, tmp_path):
    root, truth = folder
    with pytest.raises(ValueError, match="form is 'usd'; allowed: sana, colmap"):
        export_folder(root, tmp_path / "x", "usd")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        export_folder(root, tmp_path / "full", "tum")
    with pytest.raises(ValueError, match="holds no records"):
        export_folder(tmp_path, tmp_path / "x", "tum")
    assert [c.name for c in read_clips(root)] == sorted(truth)
