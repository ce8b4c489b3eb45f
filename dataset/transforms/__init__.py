"""What happens to frames after decoding: geometry, photometric steps, and the published presets of both."""
