import sys

print("error: this command has moved: python -m tools.benchmarks", file=sys.stderr)
sys.exit(2)
