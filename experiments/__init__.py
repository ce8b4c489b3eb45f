"""What trainings showed, and whether that is what was published."""
