"""Camera files: round trips, foreign files, and every kind of broken input."""

import json
import os
import stat

import numpy as np
import pytest
from camera_control.families import dolly, orbit
from camera_control.files import replacing
from camera_control.formats import guess_format
from camera_control.trajectory import Trajectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

NAMES = {"npy": "p.npy", "npz": "p.npz", "tum": "p.txt", "nerfstudio": "transforms.json", "colmap": "model"}


def random_trajectory(frames=7, seed=0, fps=16.0):
    random = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = Rotation.random(frames, random_state=seed).as_matrix()
    c2w[:, :3, 3] = random.normal(size=(frames, 3)) * 10
    return Trajectory(c2w, 500 + random.uniform(0, 50, size=(frames, 4)), fps, (704, 1280))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 14), st.integers(0, 10**6), st.sampled_from(list(NAMES)))
def test_round_trips(tmp_path, frames, seed, kind):
    path = random_trajectory(frames, seed, fps=24.0)
    written = path.save(tmp_path / f"{kind}{seed}" / NAMES[kind])
    assert all(file.is_file() for file in written)
    again = Trajectory.load(tmp_path / f"{kind}{seed}" / NAMES[kind])
    np.testing.assert_allclose(again.c2w, path.c2w, atol=4e-6 if kind == "npy" else 1e-12)
    if kind == "tum":
        assert again.intrinsics is None
    else:
        np.testing.assert_allclose(again.intrinsics, path.intrinsics, atol=1e-4 if kind == "npy" else 1e-12)
    if kind in ("npz", "nerfstudio", "colmap"):
        assert again.image_size == (704, 1280)
    assert again.fps == pytest.approx(24.0 if kind in ("npz", "tum", "nerfstudio") else 16.0)


def test_npz_is_exact_and_float32_poses_survive_npy(tmp_path):
    path = random_trajectory()
    path.save(tmp_path / "a.npz")
    np.testing.assert_array_equal(Trajectory.load(tmp_path / "a.npz").c2w, path.c2w)
    single = Trajectory(path.c2w.astype(np.float32))
    single.save(tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").dtype == np.float32
    np.testing.assert_array_equal(Trajectory.load(tmp_path / "b.npy").c2w, single.c2w)


@pytest.mark.parametrize("form", ["(4,)", "(3,3)", "(F,4)", "(F,3,3)", "2 of F", "more than F"])
def test_every_intrinsics_form_loads(tmp_path, form):
    row = np.array([600.0, 610, 640, 352])
    matrix = np.array([[600.0, 0, 640], [0, 610, 352], [0, 0, 1]])
    arrays = {
        "(4,)": row,
        "(3,3)": matrix,
        "(F,4)": np.tile(row, (5, 1)),
        "(F,3,3)": np.tile(matrix, (5, 1, 1)),
        "2 of F": np.tile(row, (2, 1)),
        "more than F": np.tile(matrix, (9, 1, 1)),
    }
    np.save(tmp_path / "poses.npy", np.tile(np.eye(4, dtype=np.float32), (5, 1, 1)))
    np.save(tmp_path / "k.npy", arrays[form])
    path = Trajectory.load(tmp_path / "poses.npy", intrinsics=tmp_path / "k.npy")
    np.testing.assert_allclose(path.intrinsics, np.tile(row, (5, 1)))
    os.rename(tmp_path / "k.npy", tmp_path / "poses_intrinsics.npy")
    np.testing.assert_array_equal(Trajectory.load(tmp_path / "poses.npy").intrinsics, path.intrinsics)


def test_nerfstudio_axes_by_hand(tmp_path):
    """An OpenGL camera with identity matrix looks along -Z with +Y up; in OpenCV axes its z is (0, 0, -1)."""
    data = {
        "w": 1280,
        "h": 704,
        "camera_angle_x": np.pi / 2,
        "frames": [
            {"file_path": "f_10.png", "transform_matrix": np.eye(4).tolist()},
            {"file_path": "f_9.png", "transform_matrix": (np.eye(4) + np.eye(4, k=3) * 5).tolist()},
        ],
    }
    (tmp_path / "t.json").write_text(json.dumps(data))
    path = Trajectory.load(tmp_path / "t.json")
    np.testing.assert_array_equal(path.c2w[0], [[1, 0, 0, 5], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(path.c2w[1, :3, 3], 0)
    np.testing.assert_allclose(path.intrinsics, [[640, 640, 640, 352]] * 2)
    assert path.image_size == (704, 1280) and path.fps == 16.0


def test_constant_lens_goes_to_the_top_and_zoom_to_the_frames(tmp_path):
    orbit(frames=9).save(tmp_path / "a.json")
    dolly(frames=9, subject_distance=5).save(tmp_path / "b.json")
    constant, zoom = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert "fl_x" in constant and "fl_x" not in constant["frames"][0]
    assert "fl_x" not in zoom and zoom["frames"][8]["fl_x"] < zoom["frames"][0]["fl_x"]


def test_colmap_by_hand(tmp_path):
    """World-to-camera: a camera at x = 2 has t = -2; names sort naturally; the points line may be empty or not."""
    (tmp_path / "cameras.txt").write_text("# c\n7 SIMPLE_PINHOLE 640 480 500 320 240\n")
    (tmp_path / "images.txt").write_text(
        "# i\n1 1 0 0 0 -2 0 0 7 f_10.png\n\n2 0.7071067811865476 0 0.7071067811865476 0 0 0 3 7 f_2.png\n1.5 2.5 -1\n"
    )
    for target in (tmp_path, tmp_path / "images.txt"):
        path = Trajectory.load(target)
        np.testing.assert_allclose(path.c2w[1], np.eye(4) + np.eye(4, k=3) * 2)
        np.testing.assert_allclose(path.c2w[0, :3, 3], [3, 0, 0], atol=1e-9)
        np.testing.assert_array_equal(path.intrinsics[0], [500, 500, 320, 240])
        assert path.image_size == (480, 640)


def test_tum_with_uneven_times_is_resampled(tmp_path):
    rows = [(0, 0), (1, 1), (3, 3), (4, 4)]
    (tmp_path / "a.txt").write_text("# t\n" + "".join(f"{t} {x} 0 0 0 0 0 1\n" for t, x in rows))
    path = Trajectory.load(tmp_path / "a.txt")
    assert path.fps == pytest.approx(0.75)
    np.testing.assert_allclose(path.c2w[:, 0, 3], [0, 4 / 3, 8 / 3, 4])


TUM_LINE = "0 0 0 0 0 0 0 1\n"
FRAME = '{"transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]%s}'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"not numpy", "not a NumPy array file"),
        ("a.npy", b"", "not a NumPy array file"),
        ("a.npz", b"PK\x03\x04 broken", "not an .npz archive"),
        ("a.npz", b"", "not an .npz archive"),
        ("a.txt", b"", "holds no pose"),
        ("a.txt", b"0 0 0\n", "line 1 is not a pose"),
        ("a.txt", b"0 0 0 x 0 0 0 1\n", "line 1 is not a pose"),
        ("a.txt", b"0 0 0 nan 0 0 0 1\n", "line 1 is not a pose"),
        ("a.txt", b"0 0 0 0 0 0 0 0\n", "zero quaternion"),
        ("a.txt", (TUM_LINE * 2).encode(), "time does not advance after pose 1"),
        ("a.txt", b"\xff\xfe\x00", "not a text file"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[]", "has no list of frames"),
        ("a.json", b'{"frames": []}', "has no list of frames"),
        ("a.json", b'{"frames": [{}]}', "transform_matrix has shape"),
        ("a.json", ('{"frames": [' + FRAME % "" + '], "fl_x": "wide", "w": 4, "h": 4}').encode(), "fl_x is 'wide'"),
        ("a.json", ('{"frames": [' + FRAME % "" + '], "fl_x": 500}').encode(), "neither cx nor w"),
        ("a.json", ('{"k1": 0.2, "frames": [' + FRAME % "" + "]}").encode(), "lens distortion k1 = 0.2"),
        ("a.json", ('{"w":4,"h":4,"frames": [' + FRAME % ', "fl_x": 5' + "," + FRAME % "" + "]}").encode(), "1 of 2"),
        ("a.mp4", b"", "cannot tell the camera format of 'a.mp4'"),
    ],
)
def test_broken_files_give_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        Trajectory.load(tmp_path / name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cameras", "images", "says"),
    [
        ("1 OPENCV 4 4 1 1 1 1 0 0 0 0\n", "", "camera model 'OPENCV'; allowed: PINHOLE"),
        ("1 PINHOLE 4 4 1 1 1\n", "", "not a camera"),
        ("1\n", "", "camera model ''"),
        ("1 PINHOLE 4 4 1 1 1 1\n", "", "holds no image"),
        ("1 PINHOLE 4 4 1 1 1 1\n", "1 1 0 0 0 0 0\n\n", "is not an image"),
        ("1 PINHOLE 4 4 1 1 1 1\n", "1 0 0 0 0 0 0 0 1 a.png\n\n", "is not an image"),
        ("1 PINHOLE 4 4 1 1 1 1\n", "1 1 0 0 0 0 0 0 2 a.png\n\n", "names camera 2; allowed: 1"),
    ],
)
def test_broken_colmap_models_give_one_line(tmp_path, cameras, images, says):
    (tmp_path / "cameras.txt").write_text(cameras)
    (tmp_path / "images.txt").write_text(images)
    with pytest.raises(ValueError) as caught:
        Trajectory.load(tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_pickles_wrong_types_and_missing_files_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a NumPy array file"):
        Trajectory.load(tmp_path / "o.npy")
    np.save(tmp_path / "s.npy", np.array(["a"]))
    with pytest.raises(ValueError, match="allowed: real numbers"):
        Trajectory.load(tmp_path / "s.npy")
    np.savez(tmp_path / "n.npz", poses=np.eye(4)[None])
    with pytest.raises(ValueError, match=r"holds poses; allowed: c2w"):
        Trajectory.load(tmp_path / "n.npz")
    np.save(tmp_path / "one.npy", np.eye(4)[None])
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"not an \.npz archive"):
        Trajectory.load(tmp_path / "one.npz")
    np.savez(tmp_path / "f.npz", c2w=np.eye(4)[None], fps=np.ones(3))
    with pytest.raises(ValueError, match="wrong fps or image_size"):
        Trajectory.load(tmp_path / "f.npz")
    with pytest.raises(ValueError, match="no such camera file"):
        Trajectory.load(tmp_path / "nowhere.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no cameras\.txt"):
        Trajectory.load(tmp_path / "empty")


def test_formats_that_need_a_lens_say_so(tmp_path):
    path = Trajectory(np.tile(np.eye(4), (3, 1, 1)))
    for name in ("t.json", "model"):
        with pytest.raises(ValueError, match="needs intrinsics and the image size"):
            path.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="unknown camera format 'usd'"):
        path.save(tmp_path / "a.npz", format="usd")
    assert guess_format("x/transforms.JSON") == "nerfstudio"


def test_unwritable_folder_gives_one_line(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*p\.npz") as caught:
        orbit(frames=9).save(blocker / "p.npz")
    assert "\n" not in str(caught.value)


def test_failed_writes_leave_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), replacing(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new" and stat.S_IMODE(target.stat().st_mode) & 0o400
