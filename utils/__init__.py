"""Options, distribution, checkpoints, metrics, augmentation and the training loop; nothing of the method."""
