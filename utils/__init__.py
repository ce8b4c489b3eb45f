"""Ground floor: launch, processes, console, files, options and metrics; knows no video and no method."""
