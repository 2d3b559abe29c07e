"""The phases in Triton: tokens.py and tokens_backward.py over tokens, scans.py over frames, launch.py to call them."""
