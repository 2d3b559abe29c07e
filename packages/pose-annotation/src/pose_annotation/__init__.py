"""Metric camera poses from ordinary video, not written yet: see the README of this package."""

from importlib.metadata import version

__version__ = version("pose-annotation")
