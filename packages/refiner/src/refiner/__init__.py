"""The second stage of SANA-WM, not written yet: see the README of this package."""

from importlib.metadata import version

__version__ = version("sana-wm-refiner")
