"""SANA-WM: the camera-controlled world model, its sampler and its trainer."""
