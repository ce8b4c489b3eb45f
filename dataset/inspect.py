import sys

print("error: this command has moved: python -m tools.inspect_dataset", file=sys.stderr)
sys.exit(2)
