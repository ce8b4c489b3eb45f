"""Decode the JPEGs of a clip into one array."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

# Frames are read as Pillow reads them: not turned by their EXIF orientation.
DECODE_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
MAX_PIXELS = 1 << 25  # of a frame, more than 8K video has
MAX_BYTES = 1 << 32  # of the frames that are decoded together: 18,000 of 320x240, ten minutes


def decode(jpegs: Sequence[memoryview]) -> tuple[np.ndarray, dict[int, str]]:
    """Decode the images that can be decoded, each straight into its place in one array.

    Where simplejpeg, which is faster, refuses an image, OpenCV tries: it also reads PNGs, and JPEGs with harmless
    faults. Both decode the JPEGs that they accept to the same pixels.

    Returns uint8 RGB (N, H, W, 3), and what is wrong with each image that does not decode or is of another size than
    most; its pixels are undefined. Where no image decodes, H and W are 0. ValueError if they take more than 4 GiB.
    """
    sizes: dict[int, tuple[int, int]] = {}
    faults: dict[int, str] = {}
    for place, data in enumerate(jpegs):
        try:
            sizes[place] = dimensions(data)
        except ValueError as error:
            faults[place] = str(error)
    [(size, _)] = Counter(sizes.values()).most_common(1) or [((0, 0), 0)]
    total = 3 * size[0] * size[1] * len(jpegs)
    if total > MAX_BYTES:
        raise ValueError(f"its frames take {total / 2**30:.1f} GiB in one sample, more than {MAX_BYTES >> 30}: cut "
                         "the video into several, or make its frames smaller")
    images = np.empty((len(jpegs), *size, 3), dtype=np.uint8)
    for place in sizes:
        if sizes[place] != size:
            faults[place] = "is of another size than most"
            continue
        try:
            simplejpeg.decode_jpeg(jpegs[place], buffer=images[place])
        except ValueError:
            try:
                images[place] = _decode_by_opencv(jpegs[place])
            except ValueError as error:
                faults[place] = str(error)
    return images, faults


def dimensions(data: memoryview) -> tuple[int, int]:
    """Return height and width, by the header where simplejpeg knows it."""
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError:
        height, width = _decode_by_opencv(data).shape[:2]
    if height * width > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels, too many for a frame")
    return height, width


def _decode_by_opencv(data: memoryview) -> np.ndarray:
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), DECODE_FLAGS)
    except cv2.error:
        found = None
    if found is None:
        raise ValueError("does not decode as a JPEG")
    return found
