"""Getting more out of pycolmap on small pictures: tolerances in their pixels, a robust last solve, frames it gave up.

pycolmap's own limits are made for photographs of several megapixels; at 160 pixels across, 15 px is a tenth of the
picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_bench.estimators.tracks import Tracked

Array = NDArray[np.float64]

VERSION = 2
_ROUNDS = 2
_MIN_ANGLE_DEG = 0.5
_LEAST = 12


def tighten(mapper: Any, tolerance_px: float, focal_px: float) -> None:
    """Bring the limits of pycolmap's global mapper down to what `tolerance_px` means at this focal length."""
    angle_deg = float(np.degrees(np.arctan(tolerance_px / focal_px)))
    again = mapper.retriangulation
    again.complete_max_reproj_error = again.merge_max_reproj_error = 2.0 * tolerance_px
    again.create_max_angle_error = again.continue_max_angle_error = 2.0 * angle_deg
    # A camera that moves little sees its points under small angles; they still hold its rotation.
    again.min_angle = mapper.min_tri_angle_deg = _MIN_ANGLE_DEG
    mapper.max_normalized_reproj_error = 1.5 * tolerance_px / focal_px
    mapper.bundle_adjustment.ceres.loss_function_scale = 0.5 * tolerance_px


def refine(colmap: Any, model: Any, tolerance_px: float) -> None:
    """Drop what does not fit and solve again, under a loss that hardly listens to what fits badly."""
    options = colmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_principal_point = options.refine_extra_params = False
    options.print_summary = False
    options.min_track_length = 3
    ceres = options.ceres
    ceres.loss_function_type = colmap.LossFunctionType.CAUCHY
    ceres.loss_function_scale = 0.25 * tolerance_px
    ceres.solver_options.num_threads = 1
    ceres.solver_options.max_num_iterations = 60
    for _ in range(_ROUNDS):
        colmap.ObservationManager(model).filter_all_points3D(0.8 * tolerance_px, _MIN_ANGLE_DEG)
        config = colmap.BundleAdjustmentConfig()
        for number in model.reg_image_ids():
            config.add_image(number)
        config.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        if model.num_points3D() >= _LEAST:
            colmap.create_default_bundle_adjuster(options, config, model).solve()


def place_rest(
    colmap: Any, model: Any, names: Sequence[str], tracked: Sequence[Tracked], tolerance_px: float
) -> dict[int, Array]:
    """Camera-to-world poses (3, 4) of frames outside the model, by its points that are followed into them.

    A camera that only turns gives no new points, which is where global mapping drops frames; old points still tell
    where it looks.
    """
    known: dict[int, Array] = {}
    for image in model.images.values():
        if image.has_pose:
            tracks = tracked[names.index(image.name)].tracks
            for number, point in enumerate(image.points2D):
                if point.has_point3D():
                    known[int(tracks[number])] = model.points3D[point.point3D_id].xyz
    inside = {image.name for image in model.images.values() if image.has_pose}
    camera = next(iter(model.cameras.values()))
    search = colmap.AbsolutePoseEstimationOptions()
    search.ransac.max_error, search.ransac.random_seed = 2.0 * tolerance_px, 0
    polish = colmap.AbsolutePoseRefinementOptions()
    polish.loss_function_scale, polish.gradient_tolerance = 0.25 * tolerance_px, 1e-6
    placed = {}
    for frame, (name, points) in enumerate(zip(names, tracked, strict=True)):
        seen = [i for i, track in enumerate(points.tracks) if int(track) in known]
        if name in inside or len(seen) < _LEAST:
            continue
        there = np.stack([known[int(points.tracks[i])] for i in seen])
        found = colmap.estimate_and_refine_absolute_pose(
            points.points[seen].astype(np.float64), there, camera, search, polish
        )
        if found is not None and found["num_inliers"] >= _LEAST:
            placed[frame] = np.asarray(found["cam_from_world"].inverse().matrix())
    return placed
