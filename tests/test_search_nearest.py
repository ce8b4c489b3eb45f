"""The nearest clips of an index, against all products in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eval import protocols
from tools.search.clips import ClipSettings, EncoderSpec
from tools.search.index import Video, VideoIndex

GONE = (-1, 0)  # state of a file that is not there, so that a query of the index is not read again


def made(n: int = 60, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, (n, width)).astype(np.float32)


def normalised(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return rows (N, D) less the centre, of length 1, in float64."""
    away = rows.astype(np.float64) - centre.astype(np.float64)
    return away / np.linalg.norm(away, axis=1, keepdims=True)


def index_of(features: np.ndarray, clips: int = 1, streams: int = 1) -> VideoIndex:
    """An index of videos of so many clips each."""
    specs = tuple(EncoderSpec("", "", view, "s3d", 4, 1, 8) for view in ("rgb", "flow")[:streams])
    seconds = np.stack([np.arange(clips), np.arange(1, clips + 1)], axis=1).astype(np.float64)
    parts = np.split(features, len(features) // clips)
    videos = [Video(f"/v/{i:04d}", GONE, rows, seconds) for i, rows in enumerate(parts)]
    return VideoIndex(Path("none"), ClipSettings(specs), ["/v"], videos, {})


def test_clips_are_ranked_as_by_all_products():
    rows = made()
    unit = normalised(rows, rows.astype(np.float64).mean(axis=0))
    index = index_of(rows)
    for query in (0, 17):
        sims = unit @ unit[query]
        order = np.argsort(-sims)
        hits = index.search(f"/v/{query:04d}", k=9).hits
        assert [hit.path for hit in hits] == [f"/v/{i:04d}" for i in order[:9]]
        np.testing.assert_allclose([hit.similarity for hit in hits], sims[order[:9]], atol=1e-5)
        assert [hit.is_query for hit in hits] == [True] + [False] * 8
        others = index.search(f"/v/{query:04d}", k=9, exclude_self=True).hits
        assert [hit.path for hit in others] == [f"/v/{i:04d}" for i in order[1:10]]
        assert [hit.rank for hit in others] == list(range(1, 10))
    assert len(index.search("/v/0000", k=10**4).hits) == len(rows)


def test_similarities_are_those_of_retrieval_and_its_fusion_of_two_streams():
    """With the whole index as queries both sets have one mean, as `protocols.similarity` centres each by its own."""
    rows = made()
    parts = [protocols.similarity(stream, stream)[3].numpy() for stream in torch.from_numpy(rows).chunk(2, dim=1)]
    for hit in index_of(rows, streams=2).search("/v/0003", k=60).hits:
        row = int(hit.path[3:])
        assert hit.similarity == pytest.approx(parts[0][row] + parts[1][row], abs=1e-5)
        assert hit.by_stream == {"rgb": pytest.approx(parts[0][row], abs=1e-5),
                                 "flow": pytest.approx(parts[1][row], abs=1e-5)}


def test_each_clip_is_compared_with_the_piece_of_the_query_that_is_most_like_it():
    rows = made()
    unit = normalised(rows, rows.astype(np.float64).mean(axis=0))
    sims = unit @ unit[6:9].T  # to the clips of video 2
    answer = index_of(rows, clips=3).search("/v/0002", k=60)
    assert answer.query_clips == 3 and "time in query" in answer.table()
    found = {int(hit.path[3:]) * 3 + int(hit.start): hit for hit in answer.hits}
    assert sorted(list(found)[:3]) == [6, 7, 8] and list(found)[3:] == np.argsort(-sims.max(axis=1))[3:].tolist()
    for row, hit in found.items():
        assert hit.similarity == pytest.approx(sims[row].max(), abs=1e-5)
        assert (hit.query_start, hit.query_end) == (sims[row].argmax(), sims[row].argmax() + 1)


def test_a_single_clip_keeps_a_direction():
    assert index_of(made(1)).search("/v/0000").hits[0].similarity == pytest.approx(1)
