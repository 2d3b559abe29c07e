"""The SANA-WM transformer: noisy latents, text and camera to a velocity."""

from sana_wm_core.model.dit import SanaWMTransformer, TransformerOutput

__all__ = ["SanaWMTransformer", "TransformerOutput"]
