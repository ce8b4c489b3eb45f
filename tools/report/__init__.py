"""One self-contained HTML page about a run: ``python -m tools.report RUN_DIR``."""
