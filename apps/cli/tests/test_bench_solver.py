"""The solver of pose-annotation as a benchmark estimator: close to the truth on exact renders, repeatable, by name."""

import numpy as np
import pytest
from sana_wm_cli.bench_solver import register
from wm_bench.estimators import PoseRequest, get_estimator
from wm_bench.poses import score_poses
from wm_bench.splits import load_procedural
from wm_bench.splits.procedural import truth


@pytest.fixture(scope="module")
def ask():
    scene = load_procedural("proc_simple_60s", ["indoor_001"], 10.0).scenes[0]
    times = np.arange(0, 10.1, 0.5)
    size = (96, 160)
    frames = truth(scene, times, size).rgb
    return scene, PoseRequest(frames, scene.trajectory(size).at(times)[1], times, np.arange(len(times)), None)


def test_it_finds_the_camera_of_an_exact_render(ask):
    scene, request = ask
    register()
    estimator = get_estimator("pose-annotation")
    found = estimator.estimate(request)
    assert found.registered.all() and estimator.weights_sha256 == "none" and "lens=fixed" in estimator.version
    score = score_poses("code-v1", found.c2w, scene.trajectory().at(request.times_s)[0], request.times_s)
    assert score.rot_err_deg < 1.0 and score.trans_err < 0.1
    np.testing.assert_array_equal(estimator.estimate(request).c2w, found.c2w)


def test_a_picture_without_structure_is_no_path(ask):
    register()
    request = ask[1]._replace(frames=np.full((21, 96, 160, 3), 128, np.uint8))
    with pytest.raises(ValueError, match="tracked points"):
        get_estimator("pose-annotation").estimate(request)
    with pytest.raises(ValueError, match="takes no options"):
        get_estimator("pose-annotation:fast")
