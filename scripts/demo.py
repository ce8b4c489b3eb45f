"""The whole system on clips that are rendered here, from a folder of videos to a page and a search (by demo.sh).

    python scripts/demo.py --out demo

A class is a motion of an object: flow shows the motion, RGB the object, and only both together tell the class. The demo
renders the clips, runs `cotrain.py --videos --baseline` on them, and searches for one of the clips. The output of
cotrain.py's steps is in OUT/run/logs/.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cotrain
from cotrain import ROOT
from engine.options import positive_int, seed
from experiments import synthetic
from tools.report.verdict import results_table
from tools.search.__main__ import main as search
from utils import launch
from utils.console import duration, say
from utils.files import read_json, write_text
from utils.parser import Parser

SETTINGS = shlex.split("--net s3d_small --seq_len 8 --ds 1 --img_dim 32 -j 0 --batch_size 32 --moco-k 512 "
                       "--moco-m 0.99 --mining fused --own_view frozen --topk 5 --lr 5e-4 --coclr_lr 1e-4 --cycles 1 "
                       "--baseline --skip probe finetune --infonce_options '--moco-k 128 --save_freq 8'")


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.topic("data")("--scenes", type=positive_int, default=36, metavar="N", help="scenes of 32 clips each")
    add = parser.topic("training")
    add("--epochs", type=positive_int, default=34, help="epochs of InfoNCE")
    add("--coclr_epochs", type=positive_int, default=4, metavar="EPOCHS", help="epochs of co-training")
    add("--seed", type=seed, default=0, help="seed of clips and trainings")
    parser.topic("output")("--out", type=Path, default=ROOT / "demo", metavar="FOLDER", help="for all (default: demo/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    out = args.out.resolve()
    videos = out / f"videos_{args.scenes}_{args.seed}"  # others make cotrain.py refuse to continue
    if not videos.is_dir():
        synthetic.main(["--out", str(videos), "--groups", str(args.scenes), "--seed", str(args.seed)])
    cotrain.main(["--videos", str(videos), "--labels", "folders", "--out", str(out / "run"), *SETTINGS,
                  f"--infonce_epochs={args.epochs}", f"--coclr_epochs={args.coclr_epochs}", f"--seed={args.seed}"])
    found = read_json(out / "run" / "results.json")
    order = ("random RGB", cotrain.BASELINE, "RGB", "random flow", "flow", "random both", "both")
    text = results_table({name: found["results"][name] for name in order})
    write_text(out / "results.txt", f"{text}\n")
    clip = min(videos.glob("*/*_c01.avi"))
    search(["search", str(out / "run" / "index"), str(clip), "-k", "5"])
    say(f"\n{text}\n\nretrieval of test clips among training clips of other scenes; chance 6.3; "
        f"{duration(3600 * found['hours']['taken'])} of steps\nopen this page: {out / 'run' / 'report.html'}")
    return 0


if __name__ == "__main__":
    launch.run(main)
