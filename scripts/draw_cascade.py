import sys

print("error: this command has moved: python -m tools.figures cascade", file=sys.stderr)
sys.exit(2)
