"""The whole system on a small rendered video set, from .avi files to one table of results (started by demo.sh).

    python scripts/demo.py --out demo

Every step is a command of the project, printed before it runs; its output is in OUT/logs/. In the rendered set the
class is a motion and the scene varies, so flow knows more than RGB, and positives mined in flow can teach RGB.
"""

import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cotrain import CLASSIFIER, MERGE, ROOT, SCRIPTS
from engine.options import positive_int
from engine.run_folder import last_checkpoint
from eval import main_classifier
from utils import launch
from utils.console import duration, say, table
from utils.files import read_json
from utils.parser import Parser
from utils.runner import Runner, Step

CLIP = ["--seq_len", "8", "--ds", "2", "--img_dim", "64"]
KS = ("1", "5", "10", "20")
DATASETS = {"RGB": "motions", "flow": "motions-f"}  # by the last word of a model's name


class Demo:
    """Runs the commands in a folder."""

    def __init__(self, runner: Runner, args: Namespace) -> None:
        self.runner, self.out, self.args = runner, runner.out, args
        self.roots = ["--data_root", str(self.out / "data"), "--split_root", str(self.out / "splits")]

    def step(self, name: str, script: str, *options: object) -> None:
        """Run a script of the project in the demo's folder."""
        self.runner.run_step(Step(name, ("python", str(ROOT / script), *map(str, options))))

    def train(self, name: str, script: str, epochs: int, *options: object) -> Path:
        """Run a training, and return its last checkpoint."""
        words = [*map(str, options), "--epochs", str(epochs), "--schedule", str(epochs * 4 // 5), *self.roots]
        args = SCRIPTS[script].parse(words, planned=True)
        self.step(name, script, *words)
        return self.out / last_checkpoint(SCRIPTS[script].run_folder_of(args), args.epochs)

    def merge(self, name: str, mode: str, streams: Sequence[Path]) -> dict[str, float]:
        """Fuse RGB and flow, and return the numbers of both together."""
        output = self.out / "merged" / f"{mode}.json"
        self.step(name, MERGE, "--mode", mode, "--dataset", "motions", "--prob1", streams[0], "--prob2", streams[1],
                  "--split_root", self.out / "splits", "--output", output)
        return read_json(output)["both"]


def prepare(demo: Demo) -> None:
    """Render the videos, and make LMDBs and splits of them; remove the runs of an earlier demo in the same folder."""
    for earlier in (demo.out / "ckpt", *demo.out.glob("log-eval-*")):
        if earlier.is_dir():
            say(f"removing the runs of an earlier demo, {earlier}")
            shutil.rmtree(earlier)
    if not (demo.out / "videos").exists():
        demo.step("render", "experiments/rendered_set.py", "--out", demo.out / "videos", "--groups", 8,
                  "--clips", 2, "--contact_sheet", demo.out / "contact_sheet.png")
    demo.step("prepare", "process_data/src/prepare.py", "--videos", demo.out / "videos", "--name", "motions",
              "--workers", demo.args.workers, *demo.roots)


def pretrain(demo: Demo) -> dict[str, Path]:
    """Train InfoNCE on both streams, then one cycle of CoCLR with CPR; return the checkpoints by name."""
    # A short run on few clips: a queue of four batches, so that its keys are fresh, a key encoder that follows soon,
    # and small steps, since weights that start at 0.01 would move by their own size within ten steps of 1e-3.
    common = [*CLIP, "--batch_size", 16, "--moco-k", 64, "--moco-m", 0.99, "--lr", 1e-4, "-j", 1, "--save_freq", 4]
    mining = [*common, "--dataset", "motions-2stream-2clip", "--topk", 3, "--cascade", "--stage", 3, "--ratio", 0.8]
    epochs, ckpt = demo.args.coclr_epochs, dict[str, Path]()
    for name in ("InfoNCE RGB", "InfoNCE flow"):
        ckpt[name] = demo.train(name, "main_nce.py", demo.args.epochs, *common, "--dataset",
                                f"{DATASETS[name.split()[1]]}-2clip")
    ckpt["CPR RGB"] = demo.train("CPR RGB", "main_coclr.py", epochs, *mining, "--name_prefix", "FlowMining_",
                                 "--pretrain", ckpt["InfoNCE RGB"], ckpt["InfoNCE flow"])
    ckpt["CPR flow"] = demo.train("CPR flow", "main_coclr.py", epochs, *mining, "--name_prefix", "RGBMining_",
                                  "--reverse", "--pretrain", ckpt["InfoNCE flow"], ckpt["CPR RGB"])
    return ckpt


def retrieve(demo: Demo, ckpt: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Measure R@k of random weights, every checkpoint, and both CPR streams together."""
    rows = {}
    for name, path in {"random RGB": "random", "random flow": "random", **ckpt}.items():
        dataset = DATASETS[name.split()[1]]
        words = ["--dataset", dataset, *CLIP, "-j", "1", "--test", str(path), "--retrieval", *demo.roots]
        demo.step(f"retrieval {name}", CLASSIFIER, *words)
        beside = ckpt.get(name) or demo.out / main_classifier.random_weights(main_classifier.parse(words, planned=True))
        rows[name] = read_json(beside.parent / "feature" / f"{dataset}_recall.json")
    folders = [ckpt[name].parent / "feature" for name in ("CPR RGB", "CPR flow")]
    rows["CPR RGB + flow"] = demo.merge("retrieval merge", "s", folders)
    return rows


def finetune(demo: Demo, ckpt: dict[str, Path]) -> dict[str, float]:
    """Finetune both CPR models, test them with ten crops, and merge the streams; return top-1 in percent."""
    rows, prob = {}, []
    for name in ("CPR RGB", "CPR flow"):
        common = ["--dataset", DATASETS[name.split()[1]], *CLIP, "--batch_size", 8, "-j", 1, "--train_what", "ft"]
        path = demo.train(f"finetune {name}", CLASSIFIER, demo.args.finetune_epochs, *common, "--dropout", 0.5,
                          "--eval_freq", 4, "--pretrain", ckpt[name])
        demo.step(f"ten-crop test {name}", CLASSIFIER, *common, *demo.roots, "--test", path, "--ten_crop")
        rows[name] = read_json(path.with_name(path.name + "-acc-ten.json"))["ten"]["1"]
        prob.append(path.with_name(path.name + "-prob-ten.json"))
    rows["CPR RGB + flow"] = demo.merge("classification merge", "c", prob)["1"]
    return rows


def report(demo: Demo, recall: dict[str, dict[str, float]], accuracy: dict[str, float], ckpt: dict[str, Path]) -> str:
    """Format the table of results, and where everything lies."""
    rows = [[name, *(f"{values[k]:.1f}" for k in KS), f"{accuracy[name]:.1f}" if name in accuracy else ""]
            for name, values in recall.items()]
    lines = [table(["", *(f"R@{k}" for k in KS), "finetuned"], rows)]
    classes = len((demo.out / "splits" / "motions" / "ClassInd.txt").read_text().split())
    seconds = sum(step["seconds"] for step in demo.runner.record().values())
    lines += ["", f"percent; retrieval of test videos among training videos, finetuned: top-1 with ten crops; "
              f"chance is {100 / classes:.1f}", f"time in all: {duration(seconds)}", "",
              f"videos            {demo.out / 'videos'}, a look at them: {demo.out / 'contact_sheet.png'}",
              f"LMDBs and splits  {demo.out / 'data'}, {demo.out / 'splits'}"]
    lines += [f"{name:18}{path}" for name, path in ckpt.items()]
    return "\n".join(lines)


def make_parser() -> Parser:
    """Build the parser of the options."""
    parser = Parser(__doc__)
    add = parser.topic("training")
    add("--epochs", type=positive_int, default=12, help="epochs of InfoNCE")
    add("--coclr_epochs", type=positive_int, default=8, metavar="EPOCHS", help="epochs of CoCLR with CPR")
    add("--finetune_epochs", type=positive_int, default=10, metavar="EPOCHS", help="epochs of finetuning")
    parser.topic("hardware")("--workers", type=positive_int, default=2, metavar="PROCESSES", help="processes that "
                             "prepare the videos")
    parser.topic("output")("--out", type=Path, default=ROOT / "demo", metavar="FOLDER", help="folder of everything "
                           "that the demo makes (default: demo/ of the repository)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo, and show its results."""
    args = make_parser().parse_args(argv)
    with Runner(args.out.resolve()).open() as runner:
        (runner.out / "steps.json").unlink(missing_ok=True)  # times of an earlier demo
        demo = Demo(runner, args)
        prepare(demo)
        ckpt = pretrain(demo)
        recall, accuracy = retrieve(demo, ckpt), finetune(demo, ckpt)
    table = report(demo, recall, accuracy, ckpt)
    (demo.out / "results.txt").write_text(table + "\n")
    print(f"\n{table}")
    return 0


if __name__ == "__main__":
    launch.run(main)
