"""The UCPE transform: geometry by hand, diffusers parity, inverses, gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from camera_control.rays import camera_conditions  # noqa: E402
from camera_control.ucpe import decode, encode, ray_matrices  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402


def random_conditions(frames=3, batch=2, dtype=torch.float64):
    rows = []
    for seed in range(batch):
        c2w = np.tile(np.eye(4), (8 * frames - 7, 1, 1))
        c2w[:, :3, :3] = Rotation.random(len(c2w), random_state=seed).as_matrix()
        c2w[:, :3, 3] = np.random.default_rng(seed).normal(size=(len(c2w), 3))
        intrinsics = np.tile([600.0, 580.0, 630.0, 360.0], (len(c2w), 1))
        rows.append(camera_conditions(c2w, intrinsics, (192, 320), (6, 10)))
    return torch.from_numpy(np.stack(rows)).to(dtype)


def rotary(tokens, head_width, dtype=torch.float64):
    angle = torch.randn(tokens, head_width // 4, dtype=dtype)
    return angle.cos(), angle.sin()


def test_matrix_by_hand():
    """A camera at (1, 2, 3) with identity rotation: the central ray's frame has the camera's own axes."""
    row = torch.zeros(1, 1, 20, dtype=torch.float64)
    row[0, 0, :16] = torch.tensor([1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1.0])
    row[0, 0, 16:] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    matrix, inverse = ray_matrices(row, 3, 3)
    centre = torch.tensor([[1, 0, 0, -1], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(matrix[0, 4], centre)
    # One cell right: z along (0.5, 0, 1), x stays horizontal and square to it.
    ray = torch.tensor([0.5, 0, 1.0], dtype=torch.float64) / 1.25**0.5
    torch.testing.assert_close(matrix[0, 5, 2, :3], ray)
    torch.testing.assert_close(matrix[0, 5, 0, :3], torch.tensor([ray[2], 0, -ray[0]], dtype=torch.float64))
    torch.testing.assert_close(inverse[0, 5, :3, 3], torch.tensor([1.0, 2, 3], dtype=torch.float64))


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (3, 5)])
def test_matrices_equal_diffusers(patch):
    theirs = pytest.importorskip("diffusers.models.transformers.transformer_sana_wm")
    rows, columns = 6 // patch[0], 10 // patch[1]
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 4e-6)):
        conditions = random_conditions(dtype=dtype)
        expected, _ = theirs._process_camera_conditions_ucpe(conditions, 2, (3, rows, columns), (1, *patch))
        matrix, inverse = ray_matrices(conditions, rows, columns, patch)
        torch.testing.assert_close(matrix, expected.reshape(matrix.shape), atol=tolerance, rtol=1e-6)
        torch.testing.assert_close(
            inverse, theirs._invert_SE3(expected).reshape(matrix.shape), atol=tolerance, rtol=1e-6
        )


def test_transform_equals_diffusers():
    theirs = pytest.importorskip("diffusers.models.transformers.transformer_sana_wm")
    torch.manual_seed(0)
    matrix, inverse = ray_matrices(random_conditions(dtype=torch.float32), 6, 10)
    tokens = matrix.shape[1]
    x = torch.randn(2, tokens, 3, 16)
    cos, sin = rotary(tokens, 16, torch.float32)
    frequencies = torch.complex(cos, sin)[None, None]
    for ours, inverse_rope, m in ((encode, False, inverse), (decode, True, matrix)):
        expected = theirs._apply_ucpe_transform(x.transpose(1, 2), m, frequencies, inverse_rope).transpose(1, 2)
        torch.testing.assert_close(ours(x, m, cos, sin), expected, atol=1e-6, rtol=1e-6)


def test_matrices_and_inverses_cancel():
    matrix, inverse = ray_matrices(random_conditions(), 6, 10)
    identity = torch.eye(4, dtype=torch.float64).expand_as(matrix)
    torch.testing.assert_close(matrix @ inverse, identity, atol=1e-12, rtol=0)
    torch.testing.assert_close(inverse @ matrix, identity, atol=1e-12, rtol=0)


def test_decode_undoes_encode():
    torch.manual_seed(1)
    matrix, inverse = ray_matrices(random_conditions(), 6, 10)
    x = torch.randn(2, matrix.shape[1], 2, 32, dtype=torch.float64)
    cos, sin = rotary(matrix.shape[1], 32)
    encoded = encode(x, inverse, cos, sin)
    assert not torch.allclose(encoded, x, atol=0.1)
    torch.testing.assert_close(decode(encoded, matrix, cos, sin), x, atol=1e-12, rtol=0)


def test_features_may_lie_anywhere_in_memory():
    x, matrix = torch.randn(1, 6, 2, 16), torch.eye(4).expand(1, 6, 4, 4)
    cos, sin = torch.rand(6, 4), torch.rand(6, 4)
    columns = x.transpose(1, 3).contiguous().transpose(1, 3)
    uneven = torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)
    for given in (columns, uneven):
        assert torch.equal(encode(given, matrix, cos, sin), encode(x, matrix, cos, sin))


def test_only_relative_cameras_matter():
    """Moving the whole world leaves query-key products as they are."""
    torch.manual_seed(2)
    conditions = random_conditions(batch=1)
    moved = conditions.clone()
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix())
    world[:3, 3] = torch.tensor([3.0, -2.0, 5.0])
    moved[..., :16] = (world @ conditions[..., :16].reshape(1, 3, 4, 4)).flatten(-2)
    q, k = torch.randn(2, 1, 180, 1, 16, dtype=torch.float64)
    products = []
    for rows in (conditions, moved):
        matrix, inverse = ray_matrices(rows, 6, 10)
        encoded_q = encode(q, matrix.transpose(-1, -2), None, None)
        products.append(torch.einsum("bihd,bjhd->bij", encoded_q, encode(k, inverse, None, None)))
    torch.testing.assert_close(products[0], products[1], atol=1e-9, rtol=1e-9)


def test_a_ray_that_is_not_a_number_gets_the_identity():
    conditions = random_conditions(batch=1)
    conditions[0, 1, 0] = float("nan")
    matrix, inverse = ray_matrices(conditions, 6, 10)
    assert torch.equal(matrix[0, 60:120], torch.eye(4, dtype=torch.float64).expand(60, 4, 4))
    assert torch.isfinite(inverse).all()


def test_gradients_flow():
    matrix, inverse = ray_matrices(random_conditions(frames=1, batch=1), 2, 2)
    cos, sin = rotary(4, 8)
    x = torch.randn(1, 4, 1, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: encode(y, inverse, cos, sin), (x,))
    assert torch.autograd.gradcheck(lambda y: decode(y, matrix, cos, sin), (x,))


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"camera_conditions has shape \(1, 2, 19\); allowed: \(b, t, 20\)"):
        ray_matrices(torch.zeros(1, 2, 19), 2, 2)
