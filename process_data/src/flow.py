"""Optical flow between neighbouring frames, and both as JPEGs."""

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

from process_data.src.errors import VideoError

BOUND = 20.0  # pixels; larger displacements are clipped
QUALITY = 100  # JPEG
METHODS = ("tvl1", "dis")
NONE = "none"  # in place of a method: frames alone


def make_flow(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of two grey frames (H, W) uint8 giving the flow between them, (H, W, 2) float32: x and y in pixels.

    "tvl1" is Dual TV-L1 (Zach et al., 2007) with OpenCV's defaults, what published flow data is made with; "dis" is
    Dense Inverse Search (Kroeger et al., 2016), some 300 times faster and coarser.
    """
    if method == "tvl1":
        estimator: cv2.DenseOpticalFlow = cv2.optflow.DualTVL1OpticalFlow.create()
    elif method == "dis":
        estimator = cv2.DISOpticalFlow.create()
    else:
        raise ValueError(f"flow method {method!r}, expected one of {METHODS}")
    return lambda first, second: estimator.calc(
        first, second, None)  # type: ignore[call-overload]  # None makes a new array, which OpenCV's stubs do not know


def flow_image(flow: np.ndarray) -> np.ndarray:
    """Flow (H, W, 2) in pixels as a picture (H, W, 3) uint8 in OpenCV's channel order: x, y, 128.

    Clipped to [-20, 20] pixels and scaled to [0, 255], so 128 means no motion.
    """
    scaled = (np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))
    image = np.full((*flow.shape[:2], 3), 128, np.uint8)
    image[..., :2] = np.round(scaled)
    return image


def flow_images(frames: Iterable[np.ndarray], method: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Each frame (H, W, 3) uint8 BGR with the picture of the flow that leads to it (none for the first frame).

    With the method "none" no frame has one.
    """
    if method == NONE:
        yield from ((frame, None) for frame in frames)
        return
    estimate, before = make_flow(method), None
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        yield frame, None if before is None else flow_image(estimate(before, grey))
        before = grey


def jpeg(image: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 BGR as JPEG bytes of quality 100. Raises VideoError where it is too wide or high."""
    good, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not good:
        raise VideoError(f"a frame of {image.shape[1]} x {image.shape[0]} pixels does not go into a JPEG")
    return coded.tobytes()
