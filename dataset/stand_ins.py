"""Frames in place of damaged ones: a run of days need not end because one frame of a million does not decode."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from dataset import jpeg


def decode(jpeg_of: Callable[[int], memoryview | None], wanted: Sequence[int], count: int
           ) -> tuple[np.ndarray, list[int]]:
    """Images of some frames of a video; in place of one that does not decode, or is of another size than most, stands
    the nearest one that does (of two, the earlier).

    Args:
        jpeg_of: the bytes of a frame, None where they are lost. wanted: frames, ascending. count: frames of the video.

    Returns:
        uint8 RGB (len(wanted), H, W, 3), and the frames that others stand in for.

    Raises:
        jpeg.FrameError: no frame of the video decodes.
    """
    decoded: dict[int, np.ndarray | None] = {}

    def image(frame: int) -> np.ndarray | None:
        if frame not in decoded:
            decoded[frame] = _image(jpeg_of(frame))
        return decoded[frame]

    sizes = Counter(found.shape for frame in wanted if (found := image(frame)) is not None)
    if not sizes:
        sizes.update(found.shape for frame in _nearest(wanted[0], count) if (found := image(frame)) is not None)
    if not sizes:
        raise jpeg.FrameError(0, "does not decode as a JPEG, nor does any other of the video")
    size = sizes.most_common(1)[0][0]
    chosen = [next(other for other in _nearest(frame, count) if (found := image(other)) is not None
                   and found.shape == size) for frame in wanted]
    images = np.stack([found for other in chosen if (found := image(other)) is not None])
    return images, [frame for frame, other in zip(wanted, chosen, strict=True) if other != frame]


def _image(data: memoryview | None) -> np.ndarray | None:
    try:
        return None if data is None else jpeg.decode([data])[0]
    except jpeg.FrameError:
        return None


def _nearest(frame: int, count: int) -> list[int]:
    """All frames, the nearest first."""
    return sorted(range(count), key=lambda other: (abs(other - frame), other))
