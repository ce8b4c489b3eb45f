"""Evaluation of learned representations: linear probe, finetuning, crop testing, video retrieval, two-stream fusion."""
