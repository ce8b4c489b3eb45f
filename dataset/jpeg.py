"""JPEGs of one video as one array."""

import re
import struct
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import simplejpeg

# Frames were made by us or are read as Pillow reads them: no turning by EXIF orientation.
DECODE_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # what they begin with
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers before a size
WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
END, NEXT = 0xD9, re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", flags=re.DOTALL)  # the next marker after compressed data

MAX_PIXELS = 1 << 25  # of a frame, more than 8K video has: a damaged header can promise any size
MAX_BYTES = 1 << 32  # of the frames that are decoded together: 18,000 of 320x240, ten minutes
# A scan of a progressive JPEG goes over all pixels of a component, and may take ten bytes alone; 10 to 20 are usual.
MAX_SCANS, MAX_SCANNED = 100, 1 << 30  # of one component each; scans times pixels, some 4 s
SCAN = b"\xff\xda"


class TooMuchError(ValueError):
    """Frames that together take more memory than any clip should."""


class FrameError(ValueError):
    """An image that cannot be used. place: which one of those given."""

    def __init__(self, place: int, text: str) -> None:
        super().__init__(text)
        self.place = place


def decode(jpegs: Sequence[memoryview]) -> np.ndarray:
    """Images of one size, uint8 RGB (N, H, W, 3), each decoded into its place of the array.

    Where simplejpeg, which is faster, refuses an image, OpenCV has a try: it reads PNGs too, and some JPEGs with
    harmless faults. Both decode the JPEGs that they accept to the same pixels.

    Raises:
        FrameError: an image does not decode, or is of another size than the first.
        TooMuchError: together they take more than 4 GiB.
    """
    size = checked_size(jpegs[0], 0)
    for place, jpeg in enumerate(jpegs):  # all of them first: one that lies about its size takes no memory
        if checked_size(jpeg, place) != size:
            raise FrameError(place, "is of another size than the first one")
    refuse_too_much(3 * size[0] * size[1] * len(jpegs))
    images = np.empty((len(jpegs), *size, 3), dtype=np.uint8)
    for place, jpeg in enumerate(jpegs):
        try:
            simplejpeg.decode_jpeg(jpeg, buffer=images[place])
        except ValueError:
            images[place] = _decode_any(jpeg, place)
    return images


def refuse_too_much(size: int) -> None:
    """Raises TooMuchError where that many bytes are too many for the frames of a sample."""
    if size > MAX_BYTES:
        raise TooMuchError(f"its frames take {size / 2**30:.1f} GiB in one sample, more than {MAX_BYTES >> 30}: cut "
                           "the video into several, or make its frames smaller")


def checked_size(jpeg: memoryview, place: int = 0) -> tuple[int, int]:
    """Height and width of an image by its header.

    Raises:
        FrameError: it is none that :func:`decode` reads, or would take too long.
    """
    size = _size(jpeg, place)
    scans = _scans(bytes(jpeg))
    if scans > MAX_SCANS or scans * size[0] * size[1] > MAX_SCANNED:
        raise FrameError(place, f"has {scans} scans")
    return size


def _scans(image: bytes) -> int:
    """Scans of a JPEG's components, counted each."""
    if image.count(SCAN) < 2:
        return 1
    return sum(min(4, image[place + 4]) for marker, place in _markers(image) if marker == SCAN[1])


def _size(jpeg: memoryview, place: int) -> tuple[int, int]:
    """Height and width."""
    try:
        size = simplejpeg.decode_jpeg_header(jpeg)[:2]
    except ValueError:
        size = _promised(jpeg)
    if size is None:
        raise FrameError(place, "does not decode as a JPEG")
    height, width = size
    if height * width > MAX_PIXELS:
        raise FrameError(place, f"says that it has {width} x {height} pixels")
    return height, width


def _decode_any(image: memoryview, place: int) -> np.ndarray:
    try:
        found = cv2.imdecode(np.frombuffer(image, np.uint8), DECODE_FLAGS)
    except cv2.error:
        found = None
    if found is None or found.shape[:2] != _size(image, place):
        raise FrameError(place, "does not decode as a JPEG")
    return found


def _promised(image: memoryview) -> tuple[int, int] | None:
    """Height and width as the header of a JPEG or PNG has them, None for anything else.

    OpenCV would set aside memory for whatever a header says, and knows a dozen more formats, each a way in.
    """
    if bytes(image[:8]) == PNG and len(image) > 24:
        width, height = struct.unpack_from(">II", image, 16)
        return height, width
    found = next((place for marker, place in _markers(image) if marker in FRAME_HEADERS), None)
    return None if found is None else struct.unpack_from(">HH", image, found + 5)


def _markers(image: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG up to its end, and where each lies with at least nine bytes from there on."""
    place = 2 if bytes(image[:2]) == JPEG else len(image)
    while place + 9 <= len(image):
        marker = image[place + 1]
        if image[place] != 0xFF or marker == 0xFF:
            place += 1
            continue
        yield marker, place
        if marker == END:
            return
        place += 2 if marker in WITHOUT_LENGTH else 2 + struct.unpack_from(">H", image, place + 2)[0]
        if marker == SCAN[1]:
            found = NEXT.search(image, place)
            place = found.start() if found else len(image)
