"""Does what was written hold together? Counts, pictures, and the rows of the splits."""

import csv
from pathlib import Path

from dataset import jpeg
from process_data.src.errors import PrepareError
from process_data.src.files import read_text
from process_data.src.lmdb_file import LmdbFile, count, open_lmdb


def check_pair(rgb_path: Path, flow_path: Path) -> dict[str, int]:
    """Check the two LMDBs of a data set; returns {"Class/video": RGB frames}.

    The same videos in both, counts that hold, one flow frame less than RGB frames, first and last frame of each video
    decode and are of one size in both. Raises PrepareError that names the first video at fault.
    """
    with open_lmdb(rgb_path) as rgb, open_lmdb(flow_path) as flow:
        if rgb.lengths.keys() != flow.lengths.keys():
            odd = min(rgb.lengths.keys() ^ flow.lengths.keys())
            raise PrepareError(f"{odd} is in one of {rgb_path} and {flow_path} only: prepare again with --overwrite")
        for name, frames in rgb.lengths.items():
            if flow.lengths[name] != frames - 1:
                raise PrepareError(f"{name} has {frames} frames in {rgb_path} and {flow.lengths[name]} in {flow_path}: "
                                   "flow should be one less; prepare them again with --overwrite")
            if _check_video(rgb, name, rgb_path) != _check_video(flow, name, flow_path):
                raise PrepareError(f"{name}: frames of {rgb_path} and {flow_path} differ in size: prepare them again")
        return dict(rgb.lengths)


def check_alone(rgb_path: Path) -> dict[str, int]:
    """Check the LMDB of a data set without flow as :func:`check_pair` does; returns {"Class/video": RGB frames}."""
    with open_lmdb(rgb_path) as rgb:
        for name in rgb.lengths:
            _check_video(rgb, name, rgb_path)
        return dict(rgb.lengths)


def _check_video(file: LmdbFile, name: str, path: Path) -> tuple[int, int]:
    """Height and width of a video's frames."""
    jpegs = file.jpegs(name)
    if not len(jpegs) == count(file.value(name)) == file.lengths[name]:
        raise PrepareError(f"{path}: {name} holds {len(jpegs)} frames, {file.lengths[name]} by the index")
    if not jpegs:
        raise PrepareError(f"{path}: {name} holds no frame; prepare it again with --overwrite")
    try:
        return jpeg.decode([memoryview(jpegs[i]) for i in (0, -1)]).shape[1:3]
    except jpeg.FrameError as error:
        raise PrepareError(f"{path}: a frame of {name} {error}; prepare it again with --overwrite") from error


def check_rows(folder: Path, lengths: dict[str, int]) -> dict[str, int]:
    """Check that every row of the csv files of a split folder is a video of that length; returns {csv name: rows}."""
    rows = {}
    for path in sorted(folder.glob("*_split*.csv")):
        reader = csv.reader(read_text(path).splitlines())
        try:
            entries = [(row[0], int(row[1])) for row in reader if row]
        except (IndexError, ValueError, csv.Error) as error:
            raise PrepareError(f"{path}, line {reader.line_num}: not 'Class/video,number of frames': correct or remove "
                               "the file") from error
        for name, frames in entries:
            if lengths.get(name) != frames:
                raise PrepareError(f"{path}: {name} with {frames} frames, but the LMDB holds {lengths.get(name)}: "
                                   "write the splits again with --overwrite, or remove this file")
        rows[path.name] = len(entries)
    return rows
