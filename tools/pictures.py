"""Self-contained HTML pages of the templates in `tools/pages`, and their pictures: film strips, flow in colours."""

import base64
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torchvision.utils import flow_to_image

from process_data.src.video_io import BOUND, VideoError, next_frame, opened, silence_decoder
from utils.console import duration, percent
from utils.files import write_bytes

FLOW_STEP = 2 * BOUND / 255  # pixels of motion from one grey level of a stored flow frame to the next
WHEEL_RADIUS = 55  # pixels, of the legend
CLIP_FRAMES, CLIP_HEIGHT = 4, 160  # of a clip's picture, half of them in a row; pixels of a row


def write_page(path: Path, template: str, **content: Any) -> None:
    """Write a page in place of any earlier file; all content is escaped, unless it is marked as markup."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).with_name("pages")), autoescape=True,
                              trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"percent": partial(percent, digits=1), "duration": duration, "shell": shlex.join}
    page = environment.get_template(template).render(content)
    write_bytes(path, page.encode("utf-8", "backslashreplace"))  # file names may not be valid UTF-8


def evenly_spaced(count: int, wanted: int) -> np.ndarray:
    """Split ``count`` frames into ``wanted`` equal parts; return the middle of each, int64 (min(wanted, count),)."""
    wanted = min(wanted, count)
    return ((np.arange(wanted) + 0.5) * count / max(1, wanted)).astype(np.int64)


def film_strip(frames: np.ndarray, height: int) -> np.ndarray:
    """Put frames, uint8 RGB (T, H, W, 3), side by side: uint8 (height, width, 3).

    If the height is a multiple of H, frames are magnified without smoothing, so pixels stay visible.
    """
    size = max(1, round(frames.shape[2] * height / frames.shape[1])), height
    smooth = cv2.INTER_LINEAR if height % frames.shape[1] else cv2.INTER_NEAREST
    method = cv2.INTER_AREA if height < frames.shape[1] else smooth
    separator = np.full((height, 2, 3), 128, np.uint8)
    parts = [part for frame in frames for part in (separator, cv2.resize(frame, size, interpolation=method))]
    return np.concatenate(parts[1:], axis=1)


def data_uri(image: np.ndarray, quality: int = 80) -> str:
    """Encode a picture, uint8 RGB (H, W, 3), for the src of an HTML image."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    code = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), settings)[1]
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode()


def strip_uri(kind: str, frames: np.ndarray, height: int, quality: int = 80) -> str:
    """Encode a film strip; frames of kind "flow" are shown in colours."""
    if kind == "flow":
        frames = flow_to_colour(flow_from_frames(frames))
    return data_uri(film_strip(frames, height), quality)


def clip_strip(path: str, start: float, end: float) -> str:
    """Draw four frames of a clip (start and end in seconds) in two rows, as a data URI; "" if none decodes."""
    silence_decoder()
    frames = []
    try:
        with opened(Path(path)) as capture:
            for seconds in start + (end - start) * (np.arange(CLIP_FRAMES) + 0.5) / CLIP_FRAMES:
                capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * float(seconds))
                if (frame := next_frame(capture, CLIP_HEIGHT)) is not None:
                    frames.append(frame[..., ::-1])
    except (VideoError, cv2.error):
        pass  # gone since it was indexed: the page says so
    if not frames:
        return ""
    rows = np.stack(frames + frames[-1:] * (CLIP_FRAMES - len(frames))).reshape(2, -1, *frames[0].shape)
    return data_uri(np.concatenate([film_strip(row, CLIP_HEIGHT) for row in rows]))


def flow_from_frames(frames: np.ndarray) -> np.ndarray:
    """Decode stored flow frames, uint8 (..., H, W, 3): motion (x, y) in pixels a frame, float32 (..., H, W, 2).

    Less than two grey levels count as 0: rounding and JPEG compression alone cause that much.
    """
    motion = frames[..., [2, 1]] * np.float32(FLOW_STEP) - np.float32(BOUND)  # 0 lies between 127 and 128
    return np.where(np.abs(motion) < 2 * FLOW_STEP, np.float32(0), motion)


def flow_to_colour(motion: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Colour motion by Middlebury's wheel: hue is direction, saturation is speed, white is no motion.

    ``motion`` is (x, y) in pixels a frame, (..., H, W, 2); ``scale`` the lowest speed shown in full colour, by default
    the 99th percentile, at least 1.
    """
    speed = np.hypot(motion[..., 0], motion[..., 1])[..., None]
    if scale is None:
        scale = max(1.0, float(np.percentile(speed, 99)))
    limited = motion * np.minimum(1, scale / np.maximum(speed, 1e-9))
    flat = torch.from_numpy(limited.reshape(-1, 2).astype(np.float32))
    with_scale = torch.cat([flat, torch.tensor([[scale, 0.0]])])  # torchvision gives full colour to the fastest pixel
    colours = flow_to_image(with_scale.T[:, None])  # (3, 1, N + 1)
    return colours[:, 0, :-1].T.reshape(*motion.shape[:-1], 3).numpy()


def flow_legend() -> np.ndarray:
    """Draw the colour wheel on white: the colour at an offset from the centre stands for that motion."""
    axis = np.linspace(-1, 1, 2 * WHEEL_RADIUS + 1)
    motion = np.stack(np.meshgrid(axis, axis), axis=-1)
    wheel = flow_to_colour(motion, 1.0)
    wheel[np.hypot(motion[..., 0], motion[..., 1]) > 1] = 255
    return wheel
