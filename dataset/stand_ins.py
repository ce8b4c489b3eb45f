"""Frames in place of damaged ones: a run of days need not end because one frame of a million does not decode."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from dataset import jpeg


def clips(indices: np.ndarray, images_of: Callable[[list[int], bool], tuple[np.ndarray, list[int]]],
          replaced: list[int] | None) -> list[np.ndarray]:
    """Clips of a video, uint8 RGB (T, H, W, 3) each; a frame that is in several places is made once.

    Args:
        indices: frames of each clip, (clips, T). images_of: images of some frames, ascending, and those that others
            stand in for; told whether others may. replaced: takes these; with None no other may.

    Raises:
        DamagedFramesError: of ``images_of``.
    """
    distinct, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
    images, lost = images_of(distinct.tolist(), replaced is not None)
    if replaced is not None:
        replaced += lost
    return [taken(images, clip) for clip in places.reshape(np.shape(indices))]


def taken(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """images[places], as a view where the places follow one another."""
    first, last = int(places[0]), int(places[-1])
    if (places == np.arange(first, first + len(places))).all():
        return images[first:last + 1]
    return images[places]


def decode(jpeg_of: Callable[[int], memoryview], wanted: Sequence[int], readable: int) -> tuple[np.ndarray, list[int]]:
    """Images of some frames of a video; in place of one that does not decode, or is of another size than most, stands
    the nearest one that does (of two, the earlier).

    Args:
        jpeg_of: the bytes of a frame. wanted: frames, ascending. readable: how many frames of the video have bytes;
            later ones are lost.

    Returns:
        uint8 RGB (len(wanted), H, W, 3), and the frames that others stand in for.

    Raises:
        jpeg.FrameError: no frame of the video decodes.
        jpeg.TooMuchError: see `jpeg.decode`.
    """
    return nearest(lambda frame: _image(jpeg_of(frame)), wanted, readable)


def nearest(image_of: Callable[[int], np.ndarray | None], wanted: Sequence[int], readable: int
            ) -> tuple[np.ndarray, list[int]]:
    """The same of images, None where there is none, each of which is asked for once. See :func:`decode`."""
    decoded: dict[int, np.ndarray] = {}
    absent: set[int] = set()
    held = 0  # bytes

    def shape(frame: int) -> tuple[int, ...] | None:
        nonlocal held
        if frame not in decoded and frame not in absent:
            found = image_of(frame)
            if found is None:
                absent.add(frame)
            else:
                decoded[frame] = found
                held += found.nbytes
                jpeg.refuse_too_much(held)
        return decoded[frame].shape if frame in decoded else None

    present = [found for frame in wanted if frame < readable and (found := shape(frame)) is not None]
    if present:
        size: tuple[int, ...] | None = Counter(present).most_common(1)[0][0]
    else:
        anyone = _Nearest(readable, lambda frame: shape(frame) is not None)
        size = shape(anyone(wanted[0]))
    suited = _Nearest(readable, lambda frame: shape(frame) == size)
    chosen = [suited(frame) for frame in wanted]
    jpeg.refuse_too_much(len(wanted) * decoded[chosen[0]].nbytes)
    images = np.stack([decoded[other] for other in chosen])
    return images, [frame for frame, other in zip(wanted, chosen, strict=True) if other != frame]


def _image(data: memoryview) -> np.ndarray | None:
    try:
        return jpeg.decode([data])[0]
    except jpeg.FrameError:
        return None


class _Nearest:
    """Finds the nearest frame that suits; each frame that does not is looked at once."""

    def __init__(self, count: int, suits: Callable[[int], bool]) -> None:
        self._left, self._suits = list(range(count)), suits

    def __call__(self, frame: int) -> int:
        while self._left:
            after = bisect_left(self._left, frame)
            place = min(range(max(0, after - 1), min(after + 1, len(self._left))),
                        key=lambda place: abs(self._left[place] - frame))
            if self._suits(self._left[place]):
                return self._left[place]
            del self._left[place]
        raise jpeg.FrameError(0, "does not decode as a JPEG, nor does any other of the video")
