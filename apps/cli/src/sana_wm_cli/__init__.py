"""Fly a camera through a world that starts from one picture."""
