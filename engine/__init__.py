"""Training: the loop, the steps, checkpoints and exact resume, run folders, precision, monitors, options."""
