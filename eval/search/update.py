"""Making an index, and bringing one up to date: only new and changed files are read, and clips of others dropped."""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval import options
from eval.search import files, store
from eval.search.embed import Speed, embed
from eval.search.encoders import Encoders
from eval.search.files import LeftOut
from eval.search.pending import Embedded, Pending
from eval.search.plan import Plan, Settings, make_plan
from eval.search.rows import NO_ROWS, Rows, joined
from eval.search.store import Contents
from utils.console import inline, say
from utils.errors import OptionError

SAVE_SECONDS = 60.0  # between pieces that an interruption leaves


@dataclass
class Changes:
    """What an update finds. keep: paths whose clips stay. new: features to add. left_out: unusable files.

    todo: paths that are to be read.
    """

    keep: set[str]
    new: list[Embedded]
    left_out: list[LeftOut]
    todo: list[str]


def update(checkpoint: str, places: Sequence[str], folder: Path, settings: Settings
           ) -> tuple[Contents, Encoders | None]:
    """Make the index of a folder, or bring it up to date, and say what was done; the encoders if it took any.

    See `VideoIndex.build`.
    """
    plan = make_plan(checkpoint, settings, store.read_plan(folder) if store.is_index(folder) else None)
    with store.held(folder):
        old = store.read(folder) if store.is_index(folder) else None
        places = _places(old.places if old else [], places, settings.forget)
        pending, encoders, speed = Pending(folder, plan.made_from), None, Speed()
        changes = compare(old, files.find(places), pending.read())
        if changes.todo:
            encoders = Encoders(plan.streams, plan.checkpoints, options.devices(None)[0], settings.batch_size)
            read_videos(changes, plan, encoders, settings, pending, speed)
        report_left_out(changes.left_out)
        if not changes.keep and not changes.new:
            raise OptionError(f"{', '.join(places)}: no video file there that can be used, so there is nothing to "
                              "search: nothing was written")
        contents = joined_contents(old, changes, plan, places, settings.hnsw_from)
        store.write(folder, contents, changed=old is None or contents.generation != old.generation)
    report(folder, contents, old, changes, speed)
    return contents, encoders


def _places(before: Sequence[str], given: Sequence[str], forget: Sequence[str]) -> list[str]:
    """The folders and files that the index is of from now on, absolute."""
    gone = set(map(os.path.abspath, forget))
    unknown = sorted(gone - set(before))
    if unknown:
        raise OptionError(f"--forget {unknown[0]}: the index is not of that, but of {', '.join(before) or 'nothing'}")
    places = [place for place in dict.fromkeys([*before, *map(os.path.abspath, given)]) if place not in gone]
    if not places:
        raise OptionError("no folder of videos is left: name one after the checkpoint")
    return places


def compare(old: Contents | None, found: Sequence[str], pending: Sequence[Embedded]) -> Changes:
    """Which files have clips already, which are known as unusable, and which are to be read."""
    now = {path: files.state(path) for path in found}
    keep = {file.path for file in old.files if file.path in now and now[file.path][0] == file} if old else set()
    left_out = [out for out in old.left_out if now.get(out.file.path) == (out.file, out.ctime_ns)] if old else []
    new = {each.file.path: each for each in pending
           if each.file.path not in keep and each.file.path in now and now[each.file.path][0] == each.file}
    known = {out.file.path for out in left_out}
    return Changes(keep, list(new.values()), left_out,
                   [path for path in found if path not in keep and path not in new and path not in known])


def read_videos(changes: Changes, plan: Plan, encoders: Encoders, settings: Settings, pending: Pending,
                speed: Speed) -> None:
    """Read the files that are to be, and move them to those that are new or left out.

    What is done is kept as it goes, so that an interruption loses a minute.
    """
    states = [files.state(path) for path in changes.todo]
    unsaved: list[Embedded] = []
    saved = time.monotonic()
    try:
        for found in embed([Path(path) for path in changes.todo], plan.recipe, encoders, workers=settings.workers,
                           windows=2 * settings.batch_size, speed=speed):
            file, ctime = states[found.video]
            if found.wrong:
                changes.left_out.append(LeftOut(file, ctime, found.wrong))
                continue
            unsaved.append(Embedded(file, found.features, found.seconds))
            changes.new.append(unsaved[-1])
            if time.monotonic() - saved > SAVE_SECONDS:
                pending.add(unsaved)
                unsaved, saved = [], time.monotonic()
    finally:
        pending.add(unsaved)


def joined_contents(old: Contents | None, changes: Changes, plan: Plan, places: list[str], hnsw_from: int
                    ) -> Contents:
    """The index after the changes, of a new generation where its rows have changed."""
    old_files = old.files if old else []
    kept_files = [file for file in old_files if file.path in changes.keep]
    number = {file.path: i for i, file in enumerate(kept_files)}
    table = {i: number[file.path] for i, file in enumerate(old_files) if file.path in number}
    kept = old.searched.rows.renumbered(table) if old else NO_ROWS
    new = _rows(changes.new, len(kept_files))
    searched = joined(old.searched if old else None, kept, new, len(plan.streams), hnsw_from)
    left_out = sorted(changes.left_out, key=lambda out: out.file.path)
    all_files = [*kept_files, *(each.file for each in changes.new)]
    if old and not len(new) and kept.clips == old.searched.rows.clips and searched.nearest is old.searched.nearest:
        return Contents(plan, places, all_files, left_out, searched, old.exactness, old.generation)
    return Contents(plan, places, all_files, left_out, searched, str(searched.nearest.exactness() or ""),
                    old.generation + 1 if old else 1)


def _rows(new: Sequence[Embedded], first: int) -> Rows:
    """Rows of files that are numbered from `first` on."""
    if not new:
        return NO_ROWS
    return Rows(np.repeat(np.arange(first, first + len(new), dtype=np.int32), [len(each.features) for each in new]),
                np.concatenate([each.seconds for each in new]), np.concatenate([each.features for each in new]))


def report_left_out(left_out: Sequence[LeftOut]) -> None:
    """Name the files that cannot be used, and why."""
    for out in sorted(left_out, key=lambda out: out.file.path):
        say(inline(f"left out {out.file.path}: {out.reason}"))


def report(folder: Path, contents: Contents, old: Contents | None, changes: Changes, speed: Speed) -> None:
    """Say what the index holds now, what has changed, how fast it was and how exact it is."""
    rows, nearest = contents.searched.rows, contents.searched.nearest
    dropped = len(old.files) - len(changes.keep) if old else 0
    say(f"{len(changes.new)} files new or changed, {len(changes.keep)} as before, {dropped} changed or gone, "
        f"{len(changes.left_out)} left out (read again only when they change)")
    say(str(speed))
    kind = f"HNSW, {contents.exactness}" if nearest.is_graph else "flat, which is exact"
    say(f"index of {rows.clips} clips of {len(contents.files)} files, {describe_streams(contents.plan)}: {kind}")
    say(inline(f"search it: python -m eval.search search {shlex.quote(str(folder))} CLIP"))


def describe_streams(plan: Plan) -> str:
    """The encoders of an index in words."""
    return " and ".join(f"{stream.view} ({stream.net}, --seq_len {stream.seq_len} --ds {stream.ds} "
                        f"--img_dim {stream.img_dim})" for stream in plan.streams)
