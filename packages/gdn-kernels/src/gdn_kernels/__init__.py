"""Frame-wise Gated DeltaNet: the recurrence of SANA-WM's linear blocks, as a reference and as fast torch."""

from gdn_kernels.frame_gdn.api import frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn.state import FrameState
from gdn_kernels.short_conv import short_conv

__version__ = "0.1.0"
__all__ = ["FrameState", "frame_gdn", "frame_gdn_camera", "short_conv"]
