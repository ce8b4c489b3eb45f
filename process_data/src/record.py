"""The record of a run's settings beside what it writes: a run continues only what was begun with the same settings."""

import json
import zlib
from pathlib import Path
from typing import Any

from process_data.src.errors import PrepareError
from process_data.src.files import read_text, write_text


def fingerprint(videos: dict[str, Path]) -> str:
    """A short code of the names and sizes of a set of videos."""
    text = "\n".join(f"{name} {path.stat().st_size}" for name, path in videos.items())
    return f"{len(videos)} videos, {zlib.crc32(text.encode()):08x}"


def read(path: Path, remedy: str = "remove it and run with --overwrite") -> dict[str, Any]:
    """The record in a file; {} where there is none. Raises PrepareError, with the remedy, when it is something else."""
    if not path.exists():
        return {}
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise PrepareError(f"{path} is damaged ({error}): {remedy}") from error
    if not isinstance(found, dict):
        raise PrepareError(f"{path} is no record of this command: {remedy}")
    return found


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record; it appears complete or not at all."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings in which two records differ, as text "flow (dis, now tvl1)"; empty when they agree."""
    return ", ".join(f"{key} ({old.get(key)!s:.100}, now {value})" for key, value in new.items()
                     if old.get(key) != value)
