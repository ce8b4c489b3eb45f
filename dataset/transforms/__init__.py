"""Transforms of decoded frames: geometry, photometric steps, and the published presets of both."""
