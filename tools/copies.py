"""Find copies across a split: videos of train and test that show the same, perhaps coded, scaled or cut otherwise.

The fingerprint of a video is a few frames, evenly spaced so that lengths may differ, in grey at 8 x 8 pixels and
without their brightness. Two videos are nearly equal if their mean pictures are alike and change alike; videos that
stand still, or show one colour, are like many others, so they have to be equal.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from dataset.jpeg import MAX_BYTES
from dataset.lmdb_reader import LmdbReader
from tools.dataset_survey import PARTS, Dataset, Leak, Split
from utils.console import Progress
from utils.errors import DataError

FRAMES, SIDE = 8, 8
MOST_LOOK = 10.0  # grey levels between two mean pictures that are alike
LEAST_CORRELATION = 0.8  # of the changes of two videos; of different real ones at most 0.54
SAME = 1e-4  # squared grey levels between two mean pictures that are the same
MOVING, FLAT = 1.5, 2.0  # grey levels: less change stands still, less contrast is one colour
BLOCK = 1024  # videos compared at a time
MOST_VIDEOS = 10_000  # of a list; of more, so many are drawn


def look_through(dataset: Dataset, splits: Sequence[Split], seed: int) -> dict[str, str]:
    """Read a few frames of the listed videos, and add the copies across each split to its leaks.

    Returns:
        What is wrong with the videos that are too long or too large for training and evaluation, by name.
    """
    prints: dict[tuple[str, str], np.ndarray] = {}
    problems: dict[str, str] = {}
    wanted = {(split.number, part): _draw(split.parts[part].names, seed) for split in splits for part in split.parts}
    readers = {part: LmdbReader(path) for part in PARTS for path in list(dataset.lmdbs(part).values())[:1]}
    todo = dict.fromkeys((readers[part].path, name, part) for (_, part), names in wanted.items() if part in readers
                         for name in names if name in readers[part])
    with Progress(len(todo), "comparing") as progress:
        for path, name, part in todo:
            if (path, name) not in prints:
                try:
                    prints[path, name] = fingerprint(readers[part], name)
                except DataError as error:
                    problems[name] = str(error)
            progress.step()
    for split in splits:
        sides = [{name: prints[readers[part].path, name] for name in wanted.get((split.number, part), [])
                  if part in readers and (readers[part].path, name) in prints} for part in PARTS]
        split.leaks.extend(Leak("copy", name, copies, [name]) for name, copies in find_copies(*sides).items())
    return problems


def _draw(names: Sequence[str], seed: int) -> list[str]:
    rows = np.random.default_rng(seed).permutation(len(names))[:MOST_VIDEOS]
    return [names[row] for row in sorted(rows)]


def fingerprint(reader: LmdbReader, name: str) -> np.ndarray:
    """Return float32 (FRAMES, SIDE * SIDE) of a video.

    Raises:
        DataError: none of its frames can be read, or together they take more memory than training and evaluation allow.
    """
    count = reader.num_frames(name)
    numbers = ((np.arange(FRAMES) + 0.5) * count / FRAMES).astype(np.int64)
    [frames] = reader.clips(name, numbers[None], damaged=[])
    if count * frames[0].nbytes > MAX_BYTES:
        raise DataError(f"its {count} frames take {count * frames[0].nbytes / 2**30:.1f} GiB decoded, more than "
                        f"{MAX_BYTES >> 30}: cut the video into several, or make its frames smaller")
    small = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32), (SIDE, SIDE),
                        interpolation=cv2.INTER_AREA).ravel() for frame in frames]
    return np.stack(small) - np.mean(small, axis=1, keepdims=True)


def find_copies(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Compare all fingerprints of train with all of test: {test video: its copies in train}; equal names are none."""
    copies: dict[str, list[str]] = {}
    if not train or not test:
        return copies
    gallery_names, gallery = list(train), _parts(np.stack(list(train.values())))
    for start in range(0, len(test), BLOCK):
        names = list(test)[start:start + BLOCK]
        queries = _parts(np.stack([test[name] for name in names]))
        for i, j in zip(*_pairs(queries, gallery), strict=True):
            if names[i] != gallery_names[j]:
                copies.setdefault(names[i], []).append(gallery_names[j])
    return copies


def _parts(prints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split fingerprints into mean pictures (N, 64) and changes of length 1, (N, F * 64), 0 where nothing moves."""
    look = prints.mean(axis=1, dtype=np.float64)
    change = (prints - look[:, None]).reshape(len(prints), -1)
    level = np.sqrt((change ** 2).mean(axis=1, keepdims=True))
    return look, np.where(level < MOVING, 0, change / np.maximum(level, MOVING) / np.sqrt(change.shape[1]))


def _pairs(queries: tuple[np.ndarray, np.ndarray], gallery: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return the rows of the videos that are copies of each other, (P,) and (P,)."""
    (look, change), (other_look, other_change) = queries, gallery
    square = ((look ** 2).mean(axis=1)[:, None] + (other_look ** 2).mean(axis=1)
              - 2 / look.shape[1] * look @ other_look.T)
    near = (change @ other_change.T > LEAST_CORRELATION) & (square < MOST_LOOK ** 2)
    still, other_still = (np.abs(each).sum(axis=1) == 0 for each in (change, other_change))
    pictured = look.std(axis=1) > FLAT
    return np.nonzero(near | (still & pictured)[:, None] & other_still & (square < SAME))
