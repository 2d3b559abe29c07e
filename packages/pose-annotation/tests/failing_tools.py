"""Backends that go wrong in every way a worker can; importable, so that worker processes find them."""

from __future__ import annotations

import os
import time

from pose_annotation.pipeline import Tools
from pose_annotation.runner import default_tools
from pose_annotation.settings import Request


def by_name(request: Request) -> Tools:
    """Fail as the video's name says."""
    name = request.video.stem
    if name.startswith("crash"):
        os._exit(7)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("bug"):
        raise RuntimeError("a bug\nin a backend")
    return default_tools(request)
