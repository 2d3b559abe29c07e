"""A recording for the rerun viewer, through its real SDK where that is installed, and what is said where it is not."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pose_annotation import viewing
from pose_annotation.viewing import view_folder

sys.path.insert(0, str(Path(__file__).parent))
from annotated_folder import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    return root, write_folder(root)


def read(file):
    """Entity path -> {component name: values in the order of the file}, read by rerun's own reader."""
    chunks = pytest.importorskip("rerun.chunk")
    found = {}
    for chunk in chunks.RrdReader(file).stream():
        batch = chunk.to_record_batch()
        here = found.setdefault(chunk.entity_path, {})
        for name in batch.schema.names:
            here.setdefault(name, []).extend(batch.column(name).to_pylist())
    return found


def test_a_saved_recording_holds_cameras_lenses_points_and_pictures(folder, tmp_path):
    pytest.importorskip("rerun", reason="the viewer is an extra: pose-annotation[rerun]")
    root, truth = folder
    file = tmp_path / "walk.rrd"
    assert view_folder(root, save=file) == list(truth)
    assert list(tmp_path.iterdir()) == [file]
    found = read(file)
    for name, (c2w, lens) in truth.items():
        camera = found[f"/{name}/world/camera"]
        place = np.array([v for v in camera["Transform3D:translation"] if v]).reshape(-1, 3)
        assert np.allclose(place, c2w[:, :3, 3], atol=1e-5)
        turn = np.array([v for v in camera["Transform3D:mat3x3"] if v]).reshape(-1, 3, 3)
        assert np.allclose(np.swapaxes(turn, 1, 2), c2w[:, :3, :3], atol=1e-5)  # rerun stores columns
        matrix = np.array([v for v in camera["Pinhole:image_from_camera"] if v]).reshape(-1, 3, 3)
        assert np.allclose(matrix[:, 0, 0], lens[:, 0], rtol=1e-5) and np.allclose(matrix[:, 2, 0], lens[:, 2])
        assert len([v for v in found[f"/{name}/world/camera/picture"]["EncodedImage:blob"] if v]) == 17
        focal = np.array([v for v in found[f"/{name}/curves/focal_px"]["Scalars:scalars"] if v]).ravel()
        assert np.allclose(focal, lens[:, 0])
        assert f"/{name}/curves/rmse_px" not in found  # unknown in this folder, so not drawn
        points = np.array([v for v in found[f"/{name}/world/points"]["Points3D:positions"] if v])
        assert points.size > 100
        path = np.array(found[f"/{name}/world/path"]["LineStrips3D:strips"]).reshape(-1, 3)
        assert np.allclose(path, c2w[:, :3, 3], atol=1e-5)


def test_one_clip_only(folder, tmp_path):
    pytest.importorskip("rerun", reason="the viewer is an extra: pose-annotation[rerun]")
    root, truth = folder
    name = list(truth)[1]
    assert view_folder(root, clip=name, save=tmp_path / "one.rrd") == [name]
    assert not any(next(iter(truth)) in entity for entity in read(tmp_path / "one.rrd"))


def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, monkeypatch):
    root, truth = folder
    file = tmp_path / "walk.rrd"
    with pytest.raises(ValueError, match=r"allowed: a file that ends in \.rrd"):
        view_folder(root, save=tmp_path / "walk.mp4")
    with pytest.raises(ValueError, match=rf"clip is 'x'; allowed: {next(iter(truth))}"):
        view_folder(root, clip="x", save=file)
    with pytest.raises(ValueError, match="holds no records"):
        view_folder(tmp_path, save=file)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r"rerun is not installed; allowed: uv pip install 'pose-annotation\[rerun\]'"):
        view_folder(root, save=file)
    assert not file.exists()


def test_without_a_file_the_viewer_is_started_before_anything_is_logged(folder, monkeypatch):
    """A recorder in the place of the SDK: a window cannot be opened in a test."""
    root, truth = folder
    calls = []

    class Recorder:
        ViewCoordinates = SimpleNamespace(RDF="rdf")

        def __getattr__(self, name):
            return lambda *args, **kwargs: calls.append(name) or self

    monkeypatch.setattr(viewing, "_rerun", Recorder)
    assert view_folder(root) == list(truth)
    done = [name for name in calls if name in ("spawn", "log", "save", "flush", "disconnect")]
    assert done[0] == "spawn" and done[-1] == "flush" and "save" not in done and done.count("log") > 34
