"""Damage small valid files, to test that every reader returns a result or a one-line error."""

import random
from collections.abc import Callable, Iterator

from utils.errors import UserError

WORDS = (b"\0", b"\n", b'"', b",", b"/", b"-1", b"1e999", b"null", b"[[", b"9" * 5000, b"\xff\xfe", b"\xc2\x85")


def damaged(data: bytes, count: int, *, seed: int = 0, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield ``count`` damaged copies of `data`: cut short, bits flipped, parts overwritten, removed, doubled, inserted.

    Args:
        data: a valid file.
        count: number of copies.
        seed: seed of all draws.
        start: first byte that may be damaged.
        end: end of the bytes that may be damaged.
    """
    rng = random.Random(seed)
    for _ in range(count):
        changed = data
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(start, max(start + 1, min(len(changed), len(data) if end is None else end)))
            size = rng.choice((1, 2, 8, 64))
            head, part, tail = changed[:at], changed[at:at + size], changed[at + size:]
            changed = rng.choice((
                head, head + tail, head + part + part + tail, head + rng.choice(WORDS) + part + tail,
                head + bytes(byte ^ 1 << rng.randrange(8) for byte in part[:1]) + part[1:] + tail,
                head + rng.randbytes(len(part)) + tail,
                head + bytes([rng.choice((0, 1, 127, 128, 255))]) * len(part) + tail))
        yield changed


def refused(read: Callable[[], object]) -> bool:
    """Call a reader, which checks its result; return whether it refuses its input in one line.

    Any exception but a UserError is passed on: the test fails.
    """
    try:
        read()
    except UserError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return True
    return False
