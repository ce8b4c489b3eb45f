"""JPEGs of one video as one array."""

from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

# Frames were made by us or are read as Pillow reads them: no turning by EXIF orientation.
DECODE_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


MAX_PIXELS = 1 << 25  # of a frame, more than 8K video has: a damaged header can promise any size


class FrameError(ValueError):
    """An image that cannot be used. place: which one of those given."""

    def __init__(self, place: int, text: str) -> None:
        super().__init__(text)
        self.place = place


def decode(jpegs: Sequence[memoryview]) -> np.ndarray:
    """Images of one size, uint8 RGB (N, H, W, 3), each decoded into its place of the array.

    Where simplejpeg, which is faster, refuses an image, OpenCV has a try: it reads other formats too, and some JPEGs
    with harmless faults. Both decode the JPEGs that they accept to the same pixels.

    Raises:
        FrameError: an image does not decode, or is of another size than the first.
    """
    images = np.empty((len(jpegs), *_size(jpegs[0], 0), 3), dtype=np.uint8)
    for place, jpeg in enumerate(jpegs):
        if _size(jpeg, place) != images.shape[1:3]:
            raise FrameError(place, "is of another size than the first one")
        try:
            simplejpeg.decode_jpeg(jpeg, buffer=images[place])
        except ValueError:
            images[place] = _decode_any(jpeg, place)
    return images


def _size(jpeg: memoryview, place: int) -> tuple[int, int]:
    """Height and width."""
    try:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    except ValueError:
        return _decode_any(jpeg, place).shape[:2]
    if height * width > MAX_PIXELS:
        raise FrameError(place, f"says that it has {width} x {height} pixels")
    return height, width


def _decode_any(image: memoryview, place: int) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(image, np.uint8), DECODE_FLAGS) if len(image) else None
    if found is None:
        raise FrameError(place, "does not decode as a JPEG")
    return found
