"""Samples depend on seed, epoch and video alone, and hold what readers, index and sampler give."""


import numpy as np
import pytest
import torch
from miniature import frame, make

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.transforms.presets import ClassifierTransform, CropsTransform, Plan, PretrainTransform


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("set"), "ucf101", groups=4, frames=12)


def build(made, suffix="", mode="train", transform=None, **settings):
    settings = {"seq_len": 4, "ds": 1} | settings
    transform = transform or PretrainTransform(16)
    return catalog.build(made.name + suffix, mode, transform=transform, **made.roots, **settings)


def equal(one, two) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    return torch.equal(torch.as_tensor(one), torch.as_tensor(two))


class Recorder:
    """A transform that records the frames it is given."""

    def __init__(self, clips: tuple[int, ...]) -> None:
        self.clips, self.frames = clips, None

    def plan(self, rng):
        return Plan(self.clips, ())

    def render(self, plan, frames, rng):
        self.frames = frames
        return {"draw": rng.random()}


def numbers(name: str, frames: np.ndarray, stream: str) -> list[int]:
    """Return which frames of a video these are."""
    known = np.stack([frame(name, i, stream=stream) for i in range(12)]).astype(int)
    return [int(np.abs(known - each).mean(axis=(1, 2, 3)).argmin()) for each in frames]


def test_a_sample(made):
    sample = build(made, "-2stream-2clip")[2]
    assert sample["clips"].shape == (2, 2, 4, 16, 16, 3)
    index = build(made).index
    assert (sample["label"], sample["source"], sample["index"]) == (index.labels[2], index.sources[2], 2)
    assert all(type(sample[key]) is int for key in ("label", "source", "index"))
    assert len(build(made)) == len(made.train)
    with pytest.raises(IndexError):
        build(made)[len(made.train)]


def test_streams_have_the_same_frames(made):
    transform = Recorder((0, 1))
    dataset = build(made, "-2stream-2clip", transform=transform)
    for row in range(4):
        dataset[row]
        for clip in (0, 1):
            rgb, flow = (numbers(made.train[row], frames, stream)
                         for frames, stream in zip(transform.frames[clip], ("rgb", "flow"), strict=True))
            assert rgb == flow == list(range(rgb[0], rgb[0] + 4))


def test_only_what_the_plan_needs_is_decoded(made, monkeypatch):
    asked = []
    clips = LmdbReader.clips
    monkeypatch.setattr(LmdbReader, "clips", lambda *given: asked.extend(given[2]) or clips(*given))
    build(made, "-2stream-2clip", transform=Recorder((1,)))[0]
    assert len(asked) == 2  # one clip of two, in two streams


@pytest.mark.parametrize("suffix", ["-2clip", "-2stream-2clip"])
def test_a_sample_depends_on_seed_epoch_and_video_alone(made, suffix):
    dataset = build(made, suffix)
    first = [dataset[(3, i)] for i in range(len(dataset))]
    again = build(made, suffix)
    for i in reversed(range(len(dataset))):
        assert equal(again[(3, i)], first[i])
    assert not any(equal(dataset[(4, i)]["clips"], first[i]["clips"]) for i in range(len(dataset)))
    assert not equal(build(made, suffix, seed=1)[(3, 0)]["clips"], first[0]["clips"])
    assert equal(dataset[0], dataset[(0, 0)])


@pytest.mark.parametrize("mode", ["val", "test", "query", "gallery"])
def test_evaluation_does_not_depend_on_the_epoch(made, mode):
    transform = ClassifierTransform(16) if mode == "val" else CropsTransform(16, p=1.0)
    dataset = build(made, mode=mode, transform=transform)
    assert equal(dataset[(0, 0)], dataset[(7, 0)])
    assert not equal(build(made, mode=mode, transform=transform, seed=3)[0], dataset[0])


def test_windows_share_their_frames(made):
    transform = Recorder((0,))
    dataset = build(made, mode="test", transform=transform, seq_len=6, ds=1)
    sample = dataset[0]
    (frames,) = transform.frames[0]
    assert sample["windows"].tolist() == [list(range(start, start + 6)) for start in (0, 2, 4, 6)]
    assert sample["windows"].dtype == torch.int64
    assert numbers(made.test[0], frames, "rgb") == list(range(12))
