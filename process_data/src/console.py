"""What the data-preparation scripts say. Names from folders and lists must not steer the terminal they are shown on."""

import sys


def say(text: str) -> None:
    """Print lines on standard output."""
    print(printable(text))


def complain(text: str) -> None:
    """Print lines on standard error."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """The text with all but line breaks and printable characters written as escape sequences."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
