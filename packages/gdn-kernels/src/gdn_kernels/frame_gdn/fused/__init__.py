"""The phases as Triton kernels: tokens.py (parallel over frames), scans.py (sequential), launch.py (host side)."""
