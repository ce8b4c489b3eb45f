"""Datasets by composition: an LMDB reader, an index of videos, a clip sampler and a transform that is handed in."""
