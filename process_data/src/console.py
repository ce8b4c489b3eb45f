"""What the data-preparation scripts say. Names from folders and lists must not steer the terminal they are shown on."""

import sys

from utils.terminal import painted

STYLES = {"error": "error", "left out": "warning", "warning": "warning"}  # by the first words


def say(text: str) -> None:
    """Print lines on standard output."""
    print(printable(text))


def complain(text: str) -> None:
    """Print lines on standard error, errors in red and videos that are left out in yellow where it has colours."""
    style = next((style for start, style in STYLES.items() if text.startswith(start)), None)
    text = printable(text)
    print(painted(text, style, sys.stderr) if style else text, file=sys.stderr)


def printable(text: str) -> str:
    """The text with all but line breaks and printable characters written as escape sequences."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
