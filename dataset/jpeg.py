"""JPEGs of one video as one array."""

import struct
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

# Frames were made by us or are read as Pillow reads them: no turning by EXIF orientation.
DECODE_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # what they begin with
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers before a size
WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))

MAX_PIXELS = 1 << 25  # of a frame, more than 8K video has: a damaged header can promise any size


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
    """
    size = _size(jpegs[0], 0)
    for place, jpeg in enumerate(jpegs):  # all of them first: one that lies about its size takes no memory
        if _size(jpeg, place) != size:
            raise FrameError(place, "is of another size than the first one")
    images = np.empty((len(jpegs), *size, 3), dtype=np.uint8)
    for place, jpeg in enumerate(jpegs):
        try:
            simplejpeg.decode_jpeg(jpeg, buffer=images[place])
        except ValueError:
            images[place] = _decode_any(jpeg, place)
    return images


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
    place = 2 if bytes(image[:2]) == JPEG else len(image)
    while place + 9 <= len(image):
        marker = image[place + 1]
        if image[place] != 0xFF or marker == 0xFF:
            place += 1
        elif marker in FRAME_HEADERS:
            return struct.unpack_from(">HH", image, place + 5)
        else:
            place += 2 if marker in WITHOUT_LENGTH else 2 + struct.unpack_from(">H", image, place + 2)[0]
    return None
