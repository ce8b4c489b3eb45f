"""Rows of the flow extraction: two workers against one, and DIS against TV-L1."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks import data
from benchmarks.measure import Case, Disagreement
from benchmarks.sizes import Sizes
from process_data.src.extract_ff import extract
from process_data.src.flow import flow_images
from process_data.src.pool import each

FPS = 25


def write_video(path: Path, images: list[np.ndarray]) -> None:
    """A video file of BGR frames."""
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (width, height))
    for image in images:
        writer.write(image)
    writer.release()


def _images(sizes: Sizes, seed: int) -> list[np.ndarray]:
    coded = data.jpegs("rgb", sizes.height, sizes.width, seed)[:sizes.flow_frames]
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in coded]
    return [image for image in images if image is not None]  # all of them


def flow_workers(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Frames and TV-L1 flow of a few videos. Two workers also start two processes, which is counted."""
    videos = {}
    for number in range(sizes.flow_videos):
        videos[str(number)] = folder / f"{number}.avi"
        write_video(videos[str(number)], _images(sizes, number))
    yield Case("flow extraction, two workers", f"{len(videos)} videos of {sizes.flow_frames} frames, "
               f"{sizes.width}x{sizes.height}, TV-L1", plain=partial(_extract, videos, 1),
               ours=partial(_extract, videos, 2), agree=_same_files, goals={"ratio": ">= 1.9"})


def _extract(videos: dict[str, Path], workers: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as out:
        jobs = {name: (path, Path(out) / name, 0, "tvl1") for name, path in videos.items()}
        wrong = [text for _, text in each(extract, jobs, workers, f"{workers} workers") if text]
        if wrong:
            raise Disagreement("; ".join(wrong))
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*.jpg"))}


def _same_files(plain: dict[str, bytes], ours: dict[str, bytes]) -> str:
    if plain != ours:
        raise Disagreement("two workers write other files than one")
    return f"the same {len(plain)} files"


def flow_methods(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Both methods on the same frames; they are different estimates, so what is compared is the motion they find."""
    images = _images(sizes, 0)
    yield Case("flow, DIS against TV-L1", f"{len(images) - 1} frames of {sizes.width}x{sizes.height}",
               plain=partial(_flow, images, "tvl1"), ours=partial(_flow, images, "dis"), agree=_similar,
               clock="cpu", units=max(1, len(images) - 1), goals={"ratio": ">= 25"})


def _flow(images: list[np.ndarray], method: str) -> np.ndarray:
    return np.stack([flow for _, flow in flow_images(images, method) if flow is not None])


def _similar(plain: np.ndarray, ours: np.ndarray) -> str:
    if plain.shape != ours.shape:
        raise Disagreement(f"flow of shapes {plain.shape} and {ours.shape}")
    medians = [float(np.median(flow[..., 0])) for flow in (plain, ours)]
    return (f"different estimates by design: median horizontal flow {medians[0]:.0f} and {medians[1]:.0f} of 255, "
            f"mean difference {np.abs(plain.astype(int) - ours).mean():.1f}")
