"""Metric camera poses from ordinary video. Not yet."""
