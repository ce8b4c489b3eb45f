"""Shared by the preparation scripts: options of the extraction, and the settings that a run was begun with."""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from process_data.src.flow import METHODS, NO_FLOW
from utils.errors import OptionError
from utils.files import read_json
from utils.parser import Parser


def add_extraction_options(parser: Parser) -> None:
    """Add the options of how frames and flow are made."""
    add = parser.topic("method")
    add("--flow", choices=(*METHODS, NO_FLOW), default="tvl1", help="flow method; dis is some 300 times faster; none: "
        "no flow, for training with --second_view residual")
    add("--short_side", type=int, default=240, metavar="PIXELS", help="scale larger frames down to this short side "
        "(240 is UCF101's own; 0: never)")
    parser.topic("hardware")("--workers", type=int, default=os.cpu_count(), metavar="PROCESSES", help="processes "
                             "(default: one per core)")


def check_extraction_options(workers: int, short_side: int) -> None:
    """Raise an OptionError for values that cannot work."""
    if workers < 1:
        raise OptionError(f"--workers {workers}: give 1 or more")
    if short_side < 0 or 0 < short_side < 16:
        raise OptionError(f"--short_side {short_side}: give 16 or more pixels, or 0 for no scaling")


def require_writable(path: Path) -> None:
    """Raise an OptionError, before hours of work, if no file can be written at this path."""
    if path.is_dir():
        raise OptionError(f"{path} is a folder, but a file is to be written there: remove it or choose another path")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OptionError(f"cannot write {path}: {above} is a file, not a folder; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OptionError(f"cannot write {path}: no permission to write in {above}; choose another path")


def fingerprint(videos: Mapping[str, Path]) -> str:
    """Return a short text that changes when a video is added, removed, renamed or resized."""
    text = "\n".join(f"{name} {path.stat().st_size}" for name, path in videos.items())
    return f"{len(videos)} videos, {zlib.crc32(text.encode()):08x}"


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that an earlier run has left, {} if there was none."""
    return read_json(path) if path.exists() else {}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the settings that differ as "flow (dis, now tvl1)", or "" if none does."""
    return ", ".join(f"{key} ({old.get(key)}, now {value})" for key, value in new.items() if old.get(key) != value)
