"""What an index is made with: its settings, and the refusal to mix features of different ones."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.search.clips import Recipe
from eval.search.encoders import Stream, describe
from process_data.src.flow import METHODS
from utils.errors import CheckpointError, OptionError

DEFAULTS: dict[str, Any] = {"short_side": 240, "clip_seconds": 10.0, "flow": "dis"}
OF_STREAMS = ("net", "seq_len", "ds", "img_dim")
SMALLEST = 16  # pixels of a frame's short side
SHOWN = 12  # digits of a checkpoint's sha256


@dataclass(frozen=True)
class Settings:
    """How an index is made. What is None is as the index that is there has it, or else the default.

    two_stream: a second checkpoint, "" for one stream. view, second_view: what they were trained on, "rgb", "flow" or
    "residual", where the files do not say ("": RGB, and flow). net, seq_len, ds, img_dim: in place of those that the
    checkpoints were trained with. short_side: larger frames are scaled down to it, pixels (240; 0 never).
    clip_seconds: of the pieces that videos are cut into (10). flow: "dis" or "tvl1" (dis).

    batch_size: windows in a batch. workers: processes that decode; 0 decodes in this one. hnsw_from: clips from which
    on the index is a graph. forget: folders whose videos are dropped.
    """

    two_stream: str = ""
    view: str = ""
    second_view: str = ""
    net: str | None = None
    seq_len: int | None = None
    ds: int | None = None
    img_dim: int | None = None
    short_side: int | None = None
    clip_seconds: float | None = None
    flow: str | None = None
    batch_size: int = 32
    workers: int = 0
    hnsw_from: int = 100_000
    forget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What features depend on besides the files, and the checkpoints' paths."""

    made_from: dict[str, Any]
    checkpoints: list[str]

    @property
    def streams(self) -> list[Stream]:
        """The encoders."""
        return [Stream(**stream) for stream in self.made_from["streams"]]

    @property
    def recipe(self) -> Recipe:
        """How files become clips."""
        common = {name: self.made_from[name] for name in DEFAULTS}
        return Recipe(**common, views=tuple(stream.seen for stream in self.streams))


def make_plan(checkpoint: str, settings: Settings, earlier: Plan | None) -> Plan:
    """The plan of an index, or of an update of an earlier one.

    Raises:
        OptionError: the settings contradict each other or a checkpoint, or differ from the earlier ones.
        CheckpointError: a checkpoint is missing, damaged, or not that of the earlier index.
    """
    before: Mapping[str, Any] = earlier.made_from if earlier else {"streams": []}
    paths = [checkpoint, settings.two_stream]
    if not settings.two_stream:
        paths = [checkpoint, *(earlier.checkpoints[1:] if earlier else [])]
    streams: list[Stream] = []
    views = zip(paths, ("view", "second_view"), ("rgb", "flow"), strict=False)
    for number, (path, view, usual) in enumerate(views):
        old = before["streams"][number] if number < len(before["streams"]) else {}
        given = {name: old.get(name) if getattr(settings, name) is None else getattr(settings, name)
                 for name in OF_STREAMS}
        streams.append(describe(path, given, getattr(settings, view), old.get("view", usual)))
    if len({stream.view for stream in streams}) < len(streams):
        raise OptionError(f"--two_stream: {paths[0]} and {paths[1]} are both for {streams[0].view}: give one of RGB "
                          "and one of flow or residual frames")
    made_from = {name: before.get(name, default) if getattr(settings, name) is None else getattr(settings, name)
                 for name, default in DEFAULTS.items()}
    _check(made_from)
    plan = Plan(made_from | {"streams": [stream.made_from for stream in streams]}, list(map(os.path.abspath, paths)))
    if earlier:
        refuse_difference(earlier, plan)
    return plan


def _check(made_from: Mapping[str, Any]) -> None:
    if not (made_from["short_side"] == 0 or made_from["short_side"] >= SMALLEST):
        raise OptionError(f"--short_side {made_from['short_side']}: give {SMALLEST} or more pixels, or 0 for no "
                          "scaling")
    if not 0 < made_from["clip_seconds"] < math.inf:
        raise OptionError(f"--clip_seconds {made_from['clip_seconds']}: give a number above 0")
    if made_from["flow"] not in METHODS:
        raise OptionError(f"--flow {made_from['flow']}: give one of {', '.join(METHODS)}")


def refuse_difference(earlier: Plan, plan: Plan) -> None:
    """Refuse features that an index must not mix with its own; a checkpoint may have moved."""
    old, new = earlier.streams, plan.streams
    if len(old) != len(new):
        raise OptionError(f"the index is of {len(old)} streams, and not {len(new)}: give another --out")
    for ours, theirs, path, there in zip(old, new, earlier.checkpoints, plan.checkpoints, strict=True):
        if ours.sha256 != theirs.sha256:
            raise CheckpointError(f"the index was made with {path} (sha256 {ours.sha256[:SHOWN]}...), and not with "
                                  f"{there} ({theirs.sha256[:SHOWN]}...): give that one, or another --out")
    pairs = [(earlier.made_from, plan.made_from)]
    pairs += [(ours.made_from, theirs.made_from) for ours, theirs in zip(old, new, strict=True)]
    changed = [f"--{name} {ours[name]}, and not {theirs[name]}" for ours, theirs in pairs
               for name in (*DEFAULTS, *OF_STREAMS, "view") if name in ours and ours[name] != theirs[name]]
    if changed:
        raise OptionError(f"the index was made with {'; '.join(changed)}: leave that out, or give another --out")


def refuse_other_checkpoints(plan: Plan) -> None:
    """Raises CheckpointError where the checkpoints of a plan are no longer there, or others lie in their places."""
    for stream, path in zip(plan.streams, plan.checkpoints, strict=True):
        if not Path(path).is_file():
            raise CheckpointError(f"the index was made with {path}, which is not there: name its new place with "
                                  "--checkpoint")
        there = describe(path, stream.made_from, "", stream.view).sha256
        if there != stream.sha256:
            raise CheckpointError(f"{path} is not the checkpoint that the index was made with (sha256 "
                                  f"{stream.sha256[:SHOWN]}..., now {there[:SHOWN]}...): name that with --checkpoint")
