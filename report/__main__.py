import sys

print("error: this command has moved: python -m tools.report", file=sys.stderr)
sys.exit(2)
