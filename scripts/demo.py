"""The whole system on clips that are rendered here, from a folder of videos to a page and a search (by demo.sh).

    python scripts/demo.py --out demo

A class is a motion of an object: flow shows the motion, RGB the object, and only both together tell the class. The demo
renders the clips, runs `cotrain.py --videos` on them, trains InfoNCE on RGB for as long as the co-training, to compare,
and searches for one of the clips. Every step is a command of the project; its output is in OUT/run/logs/.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cotrain
from cotrain import CLASSIFIER, ROOT, SCRIPTS
from engine.options import positive_int
from engine.run_folder import last_checkpoint
from tools.search.__main__ import main as search
from utils import launch
from utils.console import duration, say, table
from utils.files import read_json, write_text
from utils.parser import Parser
from utils.runner import Runner, Step

KS = ("1", "5", "10")
CLIPS = ["--net", "s3d_small", "--seq_len", "8", "--ds", "1", "--img_dim", "32", "-j", "1"]
QUEUE = ["--batch_size", "32", "--moco-k", "512", "--moco-m", "0.99"]
LR, COCLR_LR = "5e-4", "1e-4"
MINING = "--mining fused --own_view frozen --topk 5"
AS_LONG = "InfoNCE RGB, as long"


def render(args: Namespace) -> Path:
    """Render the clips, unless an earlier demo has; return their folder."""
    videos = args.out / "videos"
    words = ("--out", str(videos), "--groups", str(args.scenes), "--clips", "2", "--contact_sheet",
             str(args.out / "contact_sheet.png"))
    step = Step("render", ("python", str(ROOT / "experiments/synthetic.py"), *words), args.out / "contact_sheet.png")
    with Runner(args.out).open() as runner:
        runner.run([step])
    return videos


def co_train(args: Namespace, videos: Path) -> None:
    """Prepare the clips, train both streams, evaluate them, write the page and the search index."""
    cotrain.main(["--videos", str(videos), "--labels", "folders", "--out", str(args.out / "run"), *CLIPS, *QUEUE,
                  "--lr", LR, "--infonce_epochs", str(args.epochs), "--cycles", "1", "--coclr_epochs",
                  str(args.coclr_epochs), "--coclr_options", f"{MINING} --lr {COCLR_LR}",
                  "--skip", "probe", "finetune"])


def train_as_long(args: Namespace, found: Mapping[str, Any]) -> dict[str, float]:
    """Train InfoNCE on RGB for as many epochs more as the co-training took, and return its R@k."""
    out = args.out / "run"
    start = last_checkpoint(Path(found["runs"]["InfoNCE RGB"]), args.epochs)
    roots = ["--data_root", str(out / "data"), "--split_root", str(out / "splits")]
    words = ["--dataset", "videos-2clip", *CLIPS, *QUEUE, *roots, "--lr", COCLR_LR, "--epochs", str(args.coclr_epochs),
             "--save_freq", str(args.coclr_epochs), "--pretrain", str(start), "--resume", "auto"]
    script = SCRIPTS["main_nce.py"]
    model = last_checkpoint(script.run_folder_of(script.parse(words, planned=True)), args.coclr_epochs)
    recall = model.parent / "feature" / "videos_recall.json"
    test = ("--dataset", "videos", *roots, "-j", "1", "--test", str(model), "--retrieval")
    with Runner(out).open() as runner:
        runner.run([Step(AS_LONG, ("python", str(ROOT / "main_nce.py"), *words), model),
                    Step(f"retrieval {AS_LONG}", ("python", str(ROOT / CLASSIFIER), *test), recall, (model,))])
    return read_json(out / recall)


def results_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Format R@k in percent."""
    return table(["percent", *(f"R@{k}" for k in KS)],
                 [[name, *(f"{row[k]:.1f}" for k in KS)] for name, row in rows.items()])


def make_parser() -> Parser:
    """Build the parser of the options."""
    parser = Parser(__doc__)
    parser.topic("data")("--scenes", type=positive_int, default=36, metavar="N", help="scenes of 32 clips each")
    add = parser.topic("training")
    add("--epochs", type=positive_int, default=16, help="epochs of InfoNCE")
    add("--coclr_epochs", type=positive_int, default=8, metavar="EPOCHS", help="epochs of co-training")
    parser.topic("output")("--out", type=Path, default=ROOT / "demo", metavar="FOLDER", help="folder of everything "
                           "that the demo makes (default: demo/ of the repository)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo, and show its results."""
    args = make_parser().parse_args(argv)
    args.out = args.out.resolve()
    videos = render(args)
    co_train(args, videos)
    found = read_json(args.out / "run" / "results.json")
    recall = {name: row["retrieval"] for name, row in found["results"].items()}
    recall |= {AS_LONG: train_as_long(args, found)}
    order = ("random RGB", AS_LONG, "RGB", "random flow", "flow", "both")
    text = results_table({name: recall[name] for name in order if name in recall})
    write_text(args.out / "results.txt", f"{text}\n")
    clip = next(videos.glob("*/*_c01.avi"))
    search(["search", str(args.out / "run" / "index"), str(clip), "-k", "5"])
    say(f"\n{text}\n\nretrieval of test clips among training clips of other scenes; chance 6.3; "
        f"{duration(3600 * found['hours']['taken'])} of steps\nopen this page: {args.out / 'run' / 'report.html'}")
    return 0


if __name__ == "__main__":
    launch.run(main)
