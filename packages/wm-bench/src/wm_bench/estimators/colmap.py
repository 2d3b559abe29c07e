"""Structure from motion with pycolmap: no weights, no GPU, known lens, points tracked or matched in sequence."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_bench.estimators import PoseEstimate, PoseRequest, Unavailable
from wm_bench.estimators.refining import VERSION as RULES
from wm_bench.estimators.refining import place_rest, refine, tighten
from wm_bench.estimators.tracks import Tracked, follow_points

_LEAST = 12
_OPTIONS = {"features": 1024, "overlap": 8, "sift": 0}


class Pycolmap:
    """Options "features=1024,overlap=8,sift=0": points a frame, and how many following frames each is matched with.

    Points are followed by optical flow, which also works on smooth surfaces; sift=1 matches SIFT descriptors instead.
    """

    id = "pycolmap"
    weights_sha256 = "none"

    def __init__(self, options: str = "") -> None:
        try:
            import pycolmap
        except ImportError:
            raise Unavailable("pycolmap is not installed; pip install 'wm-bench[poses]'") from None
        if not hasattr(pycolmap, "GlobalPipelineOptions"):
            raise Unavailable(f"pycolmap {pycolmap.__version__} has no global mapping; pip install 'wm-bench[poses]'")
        self._colmap: Any = pycolmap
        self._options = dict(_OPTIONS)
        for part in filter(None, options.split(",")):
            name, _, value = part.partition("=")
            if name not in _OPTIONS or not value.isdecimal() or int(value) < (name != "sift"):
                allowed = ", ".join(_OPTIONS)
                raise ValueError(
                    f"pycolmap option {part!r}; allowed: {allowed} as whole numbers; example: features=2048"
                )
            self._options[name] = int(value)
        settings = ",".join(f"{k}={v}" for k, v in self._options.items())
        self.version = f"{pycolmap.__version__};{settings};rules={RULES}"

    def estimate(self, request: PoseRequest) -> PoseEstimate:
        """Global mapping on one thread with fixed seeds; the largest model counts."""
        colmap = self._colmap
        colmap.logging.minloglevel = 3
        colmap.set_random_seed(0)
        with tempfile.TemporaryDirectory(prefix="wm-bench-colmap-") as folder:
            root = Path(folder)
            images = root / "images"
            images.mkdir()
            names = [f"{i:05d}.png" for i in range(len(request.frames))]
            for name, frame in zip(names, request.frames, strict=True):
                Image.fromarray(frame).save(images / name, compress_level=1)
            database = root / "database.db"
            tolerance_px = _tolerance_px(request.frames)
            tracked = None
            if self._options["sift"]:
                self._features(database, images, request.intrinsics[0])
            else:
                tracked = follow_points(request.frames, self._options["features"])
                self._tracks(database, images, names, tracked, request.intrinsics[0], tolerance_px)
            models = self._map(database, images, root, tolerance_px, float(request.intrinsics[0, 0]))
        if not models:
            raise ValueError("pycolmap found no camera path")
        best = max(models.values(), key=lambda model: model.num_reg_images())
        refine(colmap, best, tolerance_px)
        poses = np.tile(np.eye(4), (len(names), 1, 1))
        registered = np.zeros(len(names), dtype=bool)
        for image in best.images.values():
            if image.has_pose:
                place = names.index(image.name)
                world_to_camera = image.cam_from_world()
                inverse = world_to_camera.inverse().matrix()
                poses[place, :3] = inverse
                registered[place] = True
        if tracked is not None and not registered.all():
            for place, pose in place_rest(colmap, best, names, tracked, tolerance_px).items():
                poses[place, :3], registered[place] = pose, True
        return PoseEstimate(poses, registered)

    def _tracks(
        self, database: Path, images: Path, names: list[str], tracked: list[Tracked], lens: NDArray[np.float64],
        tolerance_px: float,
    ) -> None:  # fmt: skip
        colmap = self._colmap
        reader = colmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(repr(float(v)) for v in lens)
        with colmap.Database.open(database):
            pass  # import_images wants the file to be there
        colmap.import_images(database, images, camera_mode=colmap.CameraMode.SINGLE, image_names=names, options=reader)
        pairs = []
        with colmap.Database.open(database) as opened:
            ids = {image.name: image.image_id for image in opened.read_all_images()}
            for name, points in zip(names, tracked, strict=True):
                opened.write_keypoints(ids[name], points.points)
            for i, j in _pairs(len(names), self._options["overlap"]):
                _, here, there = np.intersect1d(tracked[i].tracks, tracked[j].tracks, True, True)
                if len(here) >= _LEAST:
                    opened.write_matches(ids[names[i]], ids[names[j]], np.stack([here, there], 1).astype(np.uint32))
                    pairs.append(f"{names[i]} {names[j]}")
        listed = images.parent / "pairs.txt"
        listed.write_text("\n".join(pairs) + "\n")
        settings = colmap.TwoViewGeometryOptions()
        settings.ransac.random_seed = 0
        settings.ransac.max_error = tolerance_px
        colmap.verify_matches(database, listed, options=settings)

    def _features(self, database: Path, images: Path, lens: NDArray[np.float64]) -> None:
        colmap = self._colmap
        extraction = colmap.FeatureExtractionOptions()
        extraction.num_threads = 1
        extraction.use_gpu = False
        extraction.sift.max_num_features = self._options["features"]
        # Small, soft frames have few strong corners.
        extraction.sift.peak_threshold = 0.002
        reader = colmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(repr(float(v)) for v in lens)
        colmap.extract_features(
            database, images, camera_mode=colmap.CameraMode.SINGLE, reader_options=reader,
            extraction_options=extraction, device=colmap.Device.cpu,
        )  # fmt: skip
        matching = colmap.FeatureMatchingOptions()
        matching.num_threads = 1
        matching.use_gpu = False
        pairing = colmap.SequentialPairingOptions()
        pairing.overlap = self._options["overlap"]
        pairing.quadratic_overlap = True
        colmap.match_sequential(database, matching_options=matching, pairing_options=pairing, device=colmap.Device.cpu)

    def _map(self, database: Path, images: Path, root: Path, tolerance_px: float, focal_px: float) -> dict[int, Any]:
        """Global mapping: all frames at once, which forward motion upsets less than adding frame after frame."""
        colmap = self._colmap
        options = colmap.GlobalPipelineOptions()
        options.min_num_matches = _LEAST
        options.multiple_models = False
        mapper = options.mapper
        for part in (options, mapper, mapper.rotation_averaging, mapper.global_positioning, mapper.retriangulation):
            part.random_seed = 0
        options.num_threads = mapper.num_threads = mapper.bundle_adjustment.ceres.solver_options.num_threads = 1
        mapper.global_positioning.use_gpu = mapper.bundle_adjustment.ceres.use_gpu = False
        tighten(mapper, tolerance_px, focal_px)
        # The lens is known exactly; a world model is asked for it.
        mapper.bundle_adjustment.refine_focal_length = False
        mapper.bundle_adjustment.refine_principal_point = False
        mapper.bundle_adjustment.refine_extra_params = False
        out = root / "sparse"
        out.mkdir()
        models: dict[int, Any] = colmap.global_mapping(database, images, out, options)
        return models


def _pairs(frames: int, overlap: int) -> list[tuple[int, int]]:
    """Each frame with the next `overlap` ones and those a power of two away."""
    steps = sorted({*range(1, overlap + 1), *(2**k for k in range(int(np.log2(max(frames, 2))) + 1))})
    return [(i, i + step) for i in range(frames) for step in steps if i + step < frames]


def _tolerance_px(frames: NDArray[np.uint8]) -> float:
    """How far a point may be off: pycolmap's own 4 px at 1080 lines, never less than what tracking can hold."""
    return max(0.75, min(frames.shape[1:3]) / 270.0)
