"""Optical flow between neighbouring frames, and both as JPEGs."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np

from process_data.src.video_io import Timing, VideoError, read_frames, require_two_frames
from utils.console import duration

BOUND = 20.0  # pixels; larger displacements are clipped
QUALITY = 100  # JPEG
METHODS = ("tvl1", "dis")
COUNTED = 50  # videos whose frames are counted for an estimate
NO_FLOW = "none"  # in place of a method: frames alone


def make_flow(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of two grey frames (H, W) uint8 that estimates the flow between them, (H, W, 2) in pixels.

    Args:
        method: "tvl1", Dual TV-L1 (Zach et al., 2007) with OpenCV's defaults, with which published flow data is made;
            or "dis", Dense Inverse Search (Kroeger et al., 2016), some 300 times faster and coarser.
    """
    estimator: cv2.DenseOpticalFlow = (cv2.optflow.DualTVL1OpticalFlow.create() if method == "tvl1"
                                       else cv2.DISOpticalFlow.create())
    return lambda first, second: estimator.calc(
        first, second, None)  # type: ignore[call-overload]  # None makes a new array, which OpenCV's stubs do not know


def tvl1_cost(videos: Sequence[Path], short_side: int, workers: int) -> str:
    """Estimate how long TV-L1 takes for some videos, from the first frames of one; "" if none can be read."""
    counts = [timing.promised for path in videos[:COUNTED] if (timing := _timing(path)).promised > 0]
    for path in videos[:COUNTED] if counts else ():
        with suppress(VideoError, cv2.error):
            frames = [cv2.cvtColor(each, cv2.COLOR_BGR2GRAY) for each in islice(read_frames(path, short_side), 3)]
            estimate, begun = make_flow("tvl1"), time.perf_counter()
            pairs = [estimate(first, second) for first, second in pairwise(frames)]
            if pairs:
                each = (time.perf_counter() - begun) / len(pairs)
                total = sum(counts) / len(counts) * len(videos)
                return (f"TV-L1 flow of some {total:.0f} frames, {each:.2g} s each: about "
                        f"{duration(total * each / workers)} on {workers} processes; --flow dis is some 300 times "
                        "faster, and coarser")
    return ""


def _timing(path: Path) -> Timing:
    timing = Timing()
    with suppress(VideoError):
        next(read_frames(path, timing=timing), None)
    return timing


def flow_image(flow: np.ndarray) -> np.ndarray:
    """Turn flow (H, W, 2) in pixels into an image (H, W, 3) uint8 in OpenCV's channel order: x, y, 128.

    The flow is clipped to [-20, 20] pixels and scaled to [0, 255], so 128 means no motion.
    """
    scaled = (np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))
    image = np.full((*flow.shape[:2], 3), 128, np.uint8)
    image[..., :2] = np.round(scaled)
    return image


def flow_images(frames: Iterable[np.ndarray], method: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield each frame (H, W, 3) uint8 BGR with the flow image from the frame before, None for the first frame."""
    if method == NO_FLOW:
        yield from ((frame, None) for frame in frames)
        return
    estimate, before = make_flow(method), None
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        yield frame, None if before is None else flow_image(estimate(before, grey))
        before = grey


def jpeg(image: np.ndarray) -> bytes:
    """Encode an image (H, W, 3) uint8 BGR as a JPEG of quality 100. Raises VideoError for sides that no JPEG has."""
    good, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not good:
        raise VideoError(f"a frame of {image.shape[1]} x {image.shape[0]} pixels does not go into a JPEG")
    return coded.tobytes()


def coded_frames(video: Path, short_side: int, method: str, timing: Timing | None = None
                 ) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the JPEGs of each frame of a video file and of the flow image that belongs to it; fill the timing.

    Raises:
        VideoError: the file has fewer than two frames, they are too large, or one fails.
    """
    count = 0
    try:
        for frame, flow in flow_images(read_frames(video, short_side, timing), method):
            yield jpeg(frame), None if flow is None else jpeg(flow)
            count += 1
    except cv2.error as error:
        raise VideoError(f"frame {count + 1} fails: {error.err}") from error
    require_two_frames(count, video)
