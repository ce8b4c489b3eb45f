"""Names of videos, "Class/video". Folders, lists and LMDBs that others made bring them; files are called by them."""

import re
from pathlib import Path, PurePath

from process_data.src.errors import PrepareError

# Line breaks, which would make two names of one in lists, and other control characters, which steer terminals.
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def require_name(name: str, where: str | Path) -> None:
    """Raises PrepareError for a name whose files would lie outside of a folder, or that no text file could hold.

    where: what the name is from.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise PrepareError(f"the name of {str(where)!a} is not UTF-8: rename it") from error
    parts = name.split("/")
    if len(parts) != 2 or not all(map(_is_plain, parts)):
        raise PrepareError(f"{where}: {name!r} is no video's name, which is Class/video without '..': rename it")
    if parts[0] != parts[0].strip() or parts[0].startswith("\ufeff"):
        raise PrepareError(f"{where}: the class of {name!r} begins or ends with a space, which lists of classes do not "
                           "keep: rename it")
    if UNFIT.search(name):
        raise PrepareError(f"{where}: {name!r} holds a line break or control character: rename the video or its class")


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and PurePath(part).name == part  # what separates parts differs between systems


def below(folder: Path, name: str) -> Path:
    """The place `folder/Class/video` of a video. Raises PrepareError for a name that leads elsewhere."""
    require_name(name, folder)
    return folder / name
