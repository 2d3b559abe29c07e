"""Worlds that go on: sessions that take actions chunk by chunk, and their state as a value."""

from sana_wm_core.streaming.session import Piece, Session
from sana_wm_core.streaming.state import Settings, WorldState

__all__ = ["Piece", "Session", "Settings", "WorldState"]
