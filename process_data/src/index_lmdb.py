"""Write where the frames of LMDBs end, beside each: a clip is then read without a look at the frames before it.

    python process_data/src/index_lmdb.py data/UCF101/ucf101_frame.lmdb data/UCF101/ucf101_tvl1_frame.lmdb

LMDBs that this project writes have these files already; for published ones they save disk reads (see docs/data.md).
The LMDBs stay as they are.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from dataset.errors import DataError
from dataset.frame_ends import packed, path_beside
from dataset.lmdb_reader import LmdbReader
from process_data.src.console import say
from process_data.src.errors import PrepareError, run
from process_data.src.files import require_writable, write_bytes
from process_data.src.options import Parser
from process_data.src.progress import Progress


def frame_ends(path: Path) -> Iterator[np.ndarray]:
    """The ends of the frames of each video, in the order of `__order__`. Raises PrepareError for a damaged file."""
    try:
        reader = LmdbReader(path, walk=True)
        with Progress(len(reader.names), f"index {path.name}") as progress:
            for name in reader.names:
                yield reader.frame_ends(name)
                progress.step()
    except DataError as error:
        raise PrepareError(str(error)) from error


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    parser.topic("data")("lmdb", type=Path, nargs="+", help="an LMDB of frames, file or folder")
    return parser


def main() -> None:
    """Write the files of all given LMDBs."""
    options = make_parser().parse_args()
    for path in options.lmdb:
        beside = path_beside(path)
        require_writable(beside)
        content = packed(frame_ends(path))
        write_bytes(beside, content)
        say(f"{beside}: {len(content)} bytes")


if __name__ == "__main__":
    run(main)
