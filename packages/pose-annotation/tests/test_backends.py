"""Backends against what they adapt: fakes of Pi3X, MoGe-2, transformers and ViPE; COLMAP's own files."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.backends import Depth, Missing, identity
from pose_annotation.backends.fused import FusedDepth
from pose_annotation.backends.pi3x import model_size
from pose_annotation.backends.vipe import Vipe
from pose_annotation.exporters import export_folder
from pose_annotation.pipeline import Tools
from pose_annotation.rotations import angle_deg
from pose_annotation.solve import Unsolvable

sys.path.insert(0, str(Path(__file__).parent))
from annotated_folder import write_folder


class Flat:
    """Depth that is the same everywhere, times a factor a frame."""

    version, weights_id, licence = "1", "w", "CC0"

    def __init__(self, name, factors, metric):
        self.name, self.factors, self.metric = name, np.asarray(factors, np.float32), metric

    def infer(self, frames, first, intrinsics):
        ramp = np.linspace(1, 3, 20 * 30, dtype=np.float32).reshape(20, 30)
        return Depth(self.factors[first : first + len(frames), None, None] * ramp, self.metric)


def test_two_depths_become_one_with_the_scales_recorded():
    relative, metric = Flat("shape", [1.0] * 5, False), Flat("metres", [2.0, 2.0, 9.0, 2.0, 2.0], True)
    fused = FusedDepth(relative, metric)
    found = fused.infer(np.zeros((4, 40, 60, 3), np.uint8), 1, None)
    assert found.metric and np.allclose(found.scale_raw, [2, 9, 2, 2]) and np.allclose(found.scale, 2.0)
    assert np.allclose(found.z[0], relative.infer(np.zeros(1), 0, None).z[0] * 2)
    assert identity(fused)["name"] == "shape+metres:l1+robust_global" and identity(fused)["weights_id"] == "w+w"
    papers = FusedDepth(relative, metric, "ls", "ema").infer(np.zeros((4, 40, 60, 3), np.uint8), 1, None)
    assert np.allclose(papers.scale, [2, 2.07, 2.0693, 2.068607])
    with pytest.raises(ValueError, match="temporal is 'kalman'; allowed: ema"):
        FusedDepth(relative, metric, "ls", "kalman")
    with pytest.raises(ValueError, match="depth shape with poses by metres; allowed"):
        Tools(depth=relative, pose=metric)


def test_missing_packages_and_weights_are_one_line(tmp_path, monkeypatch):
    from pose_annotation.backends.moge import MoGe2
    from pose_annotation.backends.pi3x import Pi3X

    with pytest.raises(Missing, match=r"no weights at .*nothing is downloaded"):
        MoGe2(tmp_path / "gone.pt")
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    (tmp_path / "w.pt").write_bytes(b"x")
    for backend, package in ((MoGe2, "moge.model.v2"), (Pi3X, "pi3.models.pi3x")):
        with pytest.raises(Missing, match=f"{package} is not installed; allowed: installing"):
            backend(tmp_path / "w.pt")
    with pytest.raises(Missing, match="no command 'vipe-not-here'"):
        Vipe("vipe-not-here")


def fake_package(monkeypatch, name, **content):
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    for key, value in content.items():
        setattr(sys.modules[name], key, value)


def test_moge_and_pi3x_are_called_as_their_packages_are_written(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from pose_annotation.backends.moge import MoGe2
    from pose_annotation.backends.pi3x import Pi3X

    (tmp_path / "w.pt").write_bytes(b"x")
    seen = {}

    class Model:
        @classmethod
        def from_pretrained(cls, path):
            seen["path"] = path
            return cls()

        def to(self, device):
            return self

        def eval(self):
            return self

        def disable_multimodal(self):
            seen["plain"] = True

        def infer(self, image, fov_x=None):
            seen["fov"], depth = fov_x, image.mean(1) * 10 + 1
            depth[:, 0, 0] = torch.inf
            return {"depth": depth, "mask": torch.isfinite(depth)}

        def __call__(self, images):
            seen["images"] = tuple(images.shape)
            b, n, _, h, w = images.shape
            points = torch.full((b, n, h, w, 3), 2.0)
            conf = torch.full((b, n, h, w, 1), 4.0)
            conf[:, :, :, 0] = -9.0
            return {"local_points": points, "conf": conf, "metric": torch.tensor([1.5])}

    fake_package(monkeypatch, "moge.model.v2", MoGeModel=Model)
    fake_package(monkeypatch, "pi3.models.pi3x", Pi3X=Model)
    frames = np.full((5, 60, 90, 3), 51, np.uint8)
    found = MoGe2(tmp_path / "w.pt", batch=2).infer(frames, 0, np.array([45.0, 45, 45, 30]))
    assert found.metric and found.z.shape == (5, 60, 90) and found.z[0, 5, 5] == pytest.approx(3.0)
    assert np.isnan(found.z[:, 0, 0]).all() and seen["fov"] == pytest.approx(90.0)
    found = Pi3X(tmp_path / "w.pt", window=3).infer(frames, 0, None)
    assert not found.metric and found.z.shape == (5, *model_size((60, 90))) and seen["plain"]
    assert seen["images"][:3] == (1, 2, 3) and found.z[0, 3, 3] == 3.0 and np.isnan(found.z[:, :, 0]).all()
    assert model_size((720, 1280)) == (378, 672) and seen["path"].endswith("w.pt")


def test_transformers_depth_reads_a_local_folder_only(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from pose_annotation.backends.transformers_depth import TransformersDepth

    (tmp_path / "model.safetensors").write_bytes(b"x")
    options = []

    class Part:
        @classmethod
        def from_pretrained(cls, folder, **given):
            options.append(given)
            return cls()

        def to(self, device):
            return self

        def eval(self):
            return self

    class Processor(Part):
        def __call__(self, images, return_tensors):
            assert images.dtype == np.uint8 and return_tensors == "pt"
            return types.SimpleNamespace(to=lambda device: {"pixel_values": torch.tensor(images).float()})

        def post_process_depth_estimation(self, outputs, target_sizes):
            return [{"predicted_depth": torch.full(target_sizes[0], float(outputs))}]

    class Model(Part):
        def __call__(self, pixel_values):
            return pixel_values.mean() / 10

    fake = types.ModuleType("transformers")
    fake.AutoImageProcessor, fake.AutoModelForDepthEstimation = Processor, Model
    monkeypatch.setitem(sys.modules, "transformers", fake)
    backend = TransformersDepth(tmp_path, licence="apache-2.0")
    found = backend.infer(np.full((2, 12, 16, 3), 40, np.uint8), 0, None)
    assert found.metric and found.z.shape == (2, 12, 16) and np.allclose(found.z, 4.0)
    assert all(given["local_files_only"] for given in options) and options[1]["use_safetensors"]
    assert backend.weights_id.startswith(tmp_path.name)


SCRIPT = """#!{python}
import sys
from pathlib import Path
import numpy as np
assert sys.argv[1] == "infer" and Path(sys.argv[2]).stat().st_size > 0 and sys.argv[3] == "--output"
if "{mode}" == "fail":
    sys.exit("CUDA is not here")
out = Path(sys.argv[4])
inds = np.arange(0, 18, 2)
c2w = np.tile(np.eye(4, dtype=np.float32), (9, 1, 1))
c2w[:, 0, 3] = inds * 0.1
for kind, data in (("pose", c2w), ("intrinsics", np.tile(np.float32([100, 100, 80, 48]), (9, 1)))):
    (out / kind).mkdir(parents=True)
    np.savez(out / kind / "clip.npz", data=data, inds=inds)
"""


def test_vipe_is_run_as_a_command_and_its_artifacts_are_read(tmp_path):
    frames = np.zeros((17, 96, 160, 3), np.uint8)
    for mode in ("work", "fail"):
        command = tmp_path / mode
        command.write_text(SCRIPT.format(python=sys.executable, mode=mode))
        command.chmod(0o755)
    camera = Vipe(str(tmp_path / "work")).solve(frames, 16.0, None)
    assert camera.metric and len(camera) == 17 and np.allclose(camera.c2w[:, 0, 3], 0.1 * np.arange(17), atol=1e-6)
    assert camera.is_keyframe.sum() == 9 and np.allclose(camera.intrinsics, [100, 100, 80, 48])
    with pytest.raises(Unsolvable, match="ViPE ended with 1: CUDA is not here"):
        Vipe(str(tmp_path / "fail")).solve(frames, 16.0, None)


def test_colmaps_model_becomes_a_camera(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is an extra")
    from pose_annotation.backends.colmap import Colmap, _as_camera

    truth = write_folder(tmp_path / "root", clips=1)
    export_folder(tmp_path / "root", tmp_path / "c", "colmap")
    ((name, (c2w, lens)),) = truth.items()
    model = pycolmap.Reconstruction(tmp_path / "c" / name / "sparse")
    camera = _as_camera(model, [f"frame_{i + 1:05d}.png" for i in range(17)], (96, 160))
    scale = np.linalg.norm(c2w[-1, :3, 3]) / np.linalg.norm(camera.c2w[-1, :3, 3])
    assert np.abs(camera.c2w[:, :3, 3] * scale - c2w[:, :3, 3]).max() < 1e-9
    assert angle_deg(camera.c2w[:, :3, :3], c2w[:, :3, :3]).max() < 1e-9 and np.allclose(camera.intrinsics, lens)
    assert Colmap(shared_lens=True).version.endswith("shared=True;overlap=10")
