"""Frames in place of damaged ones: a run of days need not end because one frame of a million does not decode."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from dataset import jpeg
from dataset.errors import DamagedFramesError


def clips(indices: np.ndarray, images_of: Callable[[list[int]], np.ndarray],
          repaired: Callable[[list[int], DamagedFramesError], tuple[np.ndarray, list[int]]],
          replaced: list[int] | None) -> list[np.ndarray]:
    """Clips of a video, uint8 RGB (T, H, W, 3) each; a frame that is in several places is made once.

    Args:
        indices: frames of each clip, (clips, T). images_of: images of some frames, ascending. repaired: the same with
            stand-ins, and which frames they are for, after an error. replaced: takes these; None leaves the error.

    Raises:
        DamagedFramesError: of ``images_of``, or of ``repaired``.
    """
    distinct, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
    wanted = distinct.tolist()
    try:
        images = images_of(wanted)
    except DamagedFramesError as error:
        if replaced is None:
            raise
        images, lost = repaired(wanted, error)
        replaced += lost
    return [taken(images, clip) for clip in places.reshape(np.shape(indices))]


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
    return nearest(lambda frame: _image(jpeg_of(frame)), wanted, count)


def nearest(image_of: Callable[[int], np.ndarray | None], wanted: Sequence[int], count: int
            ) -> tuple[np.ndarray, list[int]]:
    """The same of images, None where there is none, each of which is asked for once. See :func:`decode`."""
    decoded: dict[int, np.ndarray | None] = {}

    def image(frame: int) -> np.ndarray | None:
        if frame not in decoded:
            decoded[frame] = image_of(frame)
        return decoded[frame]

    sizes = Counter(found.shape for frame in wanted if (found := image(frame)) is not None)
    if not sizes:
        sizes.update(found.shape for frame in _by_distance(wanted[0], count) if (found := image(frame)) is not None)
    if not sizes:
        raise jpeg.FrameError(0, "does not decode as a JPEG, nor does any other of the video")
    size = sizes.most_common(1)[0][0]
    chosen = [next(other for other in _by_distance(frame, count) if (found := image(other)) is not None
                   and found.shape == size) for frame in wanted]
    images = np.stack([found for other in chosen if (found := image(other)) is not None])
    return images, [frame for frame, other in zip(wanted, chosen, strict=True) if other != frame]


def _image(data: memoryview | None) -> np.ndarray | None:
    try:
        return None if data is None else jpeg.decode([data])[0]
    except jpeg.FrameError:
        return None


def taken(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """images[places], as a view where the places follow one another."""
    first, last = int(places[0]), int(places[-1])
    if (places == np.arange(first, first + len(places))).all():
        return images[first:last + 1]
    return images[places]


def _by_distance(frame: int, count: int) -> list[int]:
    """All frames, the nearest first."""
    return sorted(range(count), key=lambda other: (abs(other - frame), other))
