import sys

print("error: this command has moved: python -m tools.verify", file=sys.stderr)
sys.exit(2)
