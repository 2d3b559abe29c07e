"""The short temporal filter on keys: depthwise over latent frames, each place of the grid on its own."""

from gdn_kernels.short_conv.api import short_conv

__all__ = ["short_conv"]
