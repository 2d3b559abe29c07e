"""Procedural worlds and a deterministic benchmark for world models."""
