"""Camera trajectories for world models: actions, poses, rays, UCPE.

Poses are camera-to-world 4x4 with OpenCV axes (+X right, +Y down, +Z forward); intrinsics are (fx, fy, cx, cy) in
pixels. Importing this package needs numpy only; `camera_control.ucpe` needs torch and `camera_control.draw`
matplotlib.
"""

from camera_control.actions import Actions, action_string_to_c2w, format_actions, parse_actions
from camera_control.dialects import DIALECTS, Dialect
from camera_control.geometry import relative_to_first
from camera_control.rays import camera_conditions, chunk_plucker

__all__ = [
    "DIALECTS",
    "Actions",
    "Dialect",
    "action_string_to_c2w",
    "camera_conditions",
    "chunk_plucker",
    "format_actions",
    "parse_actions",
    "relative_to_first",
]
