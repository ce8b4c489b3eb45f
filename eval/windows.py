"""From decoded videos to one row a window: each frame is decoded and jittered once, windows run in full batches.

An evaluation sample holds the distinct frames of a video (in one to ten crops) and where its windows lie in them.
Windows of all crops and videos are packed into batches of one size, so the device is busy even where a video has a
single window; the rows are handed back per video and crop, in the order of the dataset.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset.video_dataset import VideoDataset
from utils.augmentation import photometric
from utils.console import say, shows_bars
from utils.loader import items
from utils.stop import outlive
from utils.watch import FrameWatch, video_names

SECONDS_BETWEEN_LINES = 30.0
Chunk = tuple[tuple[int, int], Tensor]  # (row of the dataset's index, crop), (W, ...) rows or clips


def read_samples(dataset: VideoDataset, *, workers: int, device: torch.device, title: str,
                 watch: FrameWatch | None = None) -> Iterator[dict]:
    """Samples of `dataset` one by one, in its order, with progress on the console.

    Videos differ in length, so nothing is collated. On a terminal there is a bar, elsewhere a line every half minute.

    watch: counts frames that cannot be read; None for a new one that knows of whole videos.

    Raises:
        DataError: a video cannot be read.
        TrainingError: more than 1 % of the frames cannot, or a loader worker was lost.
    """
    # A generator of its own: a training that measures would else draw other numbers than one that does not.
    loader = DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, worker_init_fn=outlive,
                        generator=torch.Generator(), pin_memory=device.type == "cuda",
                        prefetch_factor=2 if workers else None)
    watch = watch or FrameWatch(video_names(dataset), sum(map(int, dataset.index.num_frames)))
    terminal = shows_bars()
    spoken = time.monotonic()
    bar = tqdm(items(loader), total=len(loader), desc=title, unit="video", disable=not terminal, leave=False)
    for count, sample in enumerate(bar, start=1):
        if not terminal and time.monotonic() - spoken > SECONDS_BETWEEN_LINES:
            spoken = time.monotonic()
            say(f"{title}: {count} of {len(loader)} videos read")
        watch.add({"index": torch.tensor([sample["index"]]), "damaged": sample["damaged"][None]})
        yield sample


def window_clips(samples: Iterable[dict], device: torch.device | str) -> Iterator[Chunk]:
    """Float clips (W, 3, T, h, w) of each video and crop, normalised, on `device`, in channels-last memory.

    samples: dicts with "clips" uint8 (C, 1, F, h, w, 3), "photo" (C leading), "windows" int64 (W, T) and "index".
    The colour jitter of a video and crop is applied to its F frames once, for all windows; one crop at a time is
    held in float.
    """
    for sample in samples:
        windows = sample["windows"].to(device, non_blocking=True)  # (W, T) positions in 0 ... F-1
        for crop in range(len(sample["clips"])):
            one = slice(crop, crop + 1)
            frames = sample["clips"][one].to(device, non_blocking=True)
            frames = photometric(frames, {name: value[one] for name, value in sample["photo"].items()})[0, 0]
            clips = frames.permute(1, 2, 3, 0)[windows]  # (3, F, h, w) -> (F, h, w, 3) -> (W, T, h, w, 3)
            yield (int(sample["index"]), crop), clips.permute(0, 4, 1, 2, 3)


def rebatch(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Join pieces (n_i, ...) and cut them into batches of exactly `size` rows; the last one may be smaller."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        count = sum(map(len, waiting))
        if count >= size:
            joined = torch.cat(waiting)
            whole = count // size * size
            yield from joined[:whole].split(size)
            waiting = [joined[whole:].clone()]  # a copy lets the large tensor go
    if sum(map(len, waiting)):
        yield torch.cat(waiting)


def apply_packed(net: Callable[[Tensor], Tensor], chunks: Iterable[Chunk], batch_size: int) -> Iterator[Chunk]:
    """Run `net` on the rows of all chunks in full batches; yield each chunk's key with its rows of the output.

    Chunks come back in their order. A chunk may be larger or smaller than a batch; how chunks share batches has no
    influence on a network in evaluation mode.
    """
    owed: deque[tuple[tuple[int, int], int]] = deque()  # key and rows of the chunks that went in, oldest first

    def clips() -> Iterator[Tensor]:
        for key, rows in chunks:
            owed.append((key, len(rows)))
            yield rows

    done = None
    for batch in rebatch(clips(), batch_size):
        output = net(batch)
        done = output if done is None else torch.cat([done, output])
        while owed and owed[0][1] <= len(done):
            key, count = owed.popleft()
            yield key, done[:count]
            done = done[count:]
