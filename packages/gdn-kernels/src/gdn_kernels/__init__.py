"""Frame-wise Gated DeltaNet: the recurrence of SANA-WM, as a reference, as fast torch and as kernels."""

from gdn_kernels.frame_gdn.api import frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn.context_parallel import CameraTokens, frame_gdn_cp
from gdn_kernels.frame_gdn.state import FrameState
from gdn_kernels.layer import FrameGDN, MixerState
from gdn_kernels.short_conv import short_conv

__version__ = "0.1.0"
__all__ = [
    "CameraTokens",
    "FrameGDN",
    "FrameState",
    "MixerState",
    "frame_gdn",
    "frame_gdn_camera",
    "frame_gdn_cp",
    "short_conv",
]
