"""Row of the start-up: an index as long as K400's, in processes of its own, since memory is what a process takes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Case, Disagreement
from benchmarks.sizes import Sizes
from process_data.src.lmdb_file import pack, write_lmdb

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 400
FRAMES = 40  # empty ones: what is measured is the index
BUILD = """
from pathlib import Path
from dataset import catalog
from utils.presets import PretrainTransform
made = catalog.build("k400-2stream-2clip", "train", transform=PretrainTransform(128), data_root=Path(root) / "data",
                     split_root=Path(root) / "splits", seq_len=32, ds=1)
rows = len(made)
"""
PLAIN = """
import lmdb, msgpack, pandas
from pathlib import Path
import torch, torch.utils.data
lists = []
for stream in ("frame", "flow"):
    env = lmdb.open(f"{root}/data/K400/k400_{stream}_train.lmdb", readonly=True, lock=False, subdir=False)
    with env.begin() as transaction:
        lists.append([msgpack.unpackb(transaction.get(key)) for key in (b"__order__", b"__keys__", b"__vlen__")])
counts = [dict(zip((order[int(key)] for key in keys), lengths)) for order, keys, lengths in lists]
classes = Path(root, "splits/k400/ClassInd.txt").read_text().splitlines()
table = pandas.read_csv(f"{root}/splits/k400/train_split.csv", header=None)
keep = []
for row, (path, length) in table.iterrows():
    name = "/".join(path.rstrip("/").split("/")[-2:])
    if all(name in found for found in counts) and name.split("/")[0] in classes:
        count = min(found[name] for found in counts)
        if count - 32 - 1 > 0:
            keep.append((path, name, classes.index(name.split("/")[0]), count))
rows = len(pandas.DataFrame(keep))
"""
MEASURED = """
import json, re, sys, time
from pathlib import Path
def peak_kb():  # of this process alone; what getrusage gives begins with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
root = sys.argv[1]
start = time.perf_counter()
import lmdb, numpy, torch, torch.utils.data{imports}
imported, before = time.perf_counter(), peak_kb()
{work}
peak = peak_kb()
print(json.dumps({{"rows": rows, "seconds": time.perf_counter() - imported, "import seconds": imported - start,
                  "peak MB": peak / 1024, "index MB": (peak - before) / 1024}}))
"""


def make_index(folder: Path, videos: int) -> None:
    """K400's files with so many videos, whose frames are empty."""
    names = [f"class number {i % CLASSES}/{i:011d}_{i % 300:06d}_{i % 300 + 10:06d}" for i in range(videos)]
    empty = pack([b""] * FRAMES)
    for stream in ("frame", "flow"):
        write_lmdb(folder / "data" / "K400" / f"k400_{stream}_train.lmdb", names, lambda name: empty)
    splits = folder / "splits" / "k400"
    splits.mkdir(parents=True)
    (splits / "ClassInd.txt").write_text("".join(f"class number {i}\n" for i in range(CLASSES)))
    (splits / "train_split.csv").write_text("".join(f"K400/frame/{name}/,{FRAMES}\n" for name in names))


def startup(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """The two-stream index; imports of the packages are measured apart."""
    make_index(folder / "startup", sizes.index)
    notes: dict[str, float | str] = {}
    ours, plain = (partial(_run, folder / "startup", work, imports, name, notes) for name, work, imports in
                   (("ours", BUILD, ", dataset.catalog, utils.presets"), ("plain", PLAIN, ", pandas, msgpack")))
    yield Case("start-up", f"{sizes.index} videos, two streams", plain=plain, ours=ours, agree=_agree, notes=notes,
               goals={"ours, seconds": "<= 3", "ours, peak MB": "<= 300"})


def _run(folder: Path, work: str, imports: str, name: str, notes: dict) -> int:
    code = MEASURED.format(work=work, imports=imports)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise Disagreement(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    notes.update({f"{name}, {key}": value for key, value in found.items()})
    return found["rows"]


def _agree(plain: int, ours: int) -> str:
    if plain != ours or not ours:
        raise Disagreement(f"{plain} videos and {ours}")
    return f"the same {ours} videos"
