"""The whole system on a small rendered video set, from .avi files to one table of results (started by demo.sh).

    python scripts/demo.py [--out demo] [--epochs 12] [--coclr_epochs 8] [--finetune_epochs 10]

Every step is a command of the project, printed before it runs, with its output in OUT/logs/. In the rendered set the
class is a motion and the scene varies, so flow knows more than RGB, and positives mined in flow can teach RGB.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIP = ["--seq_len", "8", "--ds", "2", "--img_dim", "64"]
KS = (1, 5, 10, 20)


class StepError(RuntimeError):
    """A command of the demo failed."""


class Demo:
    """Runs the commands in a folder and remembers how long each took."""

    def __init__(self, out: Path, workers: int) -> None:
        self.out, self.workers = out, workers
        self.times: dict[str, float] = {}
        (out / "logs").mkdir(parents=True, exist_ok=True)
        self.roots = ["--data_root", str(out / "data"), "--split_root", str(out / "splits")]

    def step(self, name: str, script: str, *options: object, shown: int = 1) -> str:
        """Run a script of the project inside the demo's folder, show its last lines, and return its output.

        Raises:
            StepError: it ended with an error; its last lines are shown.
        """
        command = [sys.executable, str(ROOT / script), *map(str, options)]
        print(f"\n[{name}]\n$ python {script} {' '.join(map(str, options))}", flush=True)
        start = time.perf_counter()
        log = self.out / "logs" / f"{name.replace(' ', '_')}.log"
        with open(log, "w") as file:
            code = subprocess.run(command, cwd=self.out, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        self.times[name] = time.perf_counter() - start
        text = log.read_text()
        if code:
            raise StepError(f"{name} failed with exit code {code}; the end of {log}:\n{text[-2000:]}")
        for line in text.strip().splitlines()[-shown:]:
            print(f"  {line[:150]}")
        print(f"  {self.times[name]:.0f} s, log {log}", flush=True)
        return text

    def checkpoint(self, text: str) -> Path:
        """The last checkpoint of the run folder that a training log names."""
        folder = re.findall(r"run folder (\S+)", text)[-1].rstrip(";,")
        files = (self.out / folder / "model").glob("epoch*.pth.tar")
        return max(files, key=lambda path: int(re.findall(r"\d+", path.name)[0])).resolve()


def recalls(text: str, row: str) -> list[float]:
    """R@1, 5, 10, 20 in percent, of a row of a retrieval table."""
    line = next(line for line in text.splitlines() if re.match(rf"{re.escape(row)}\s+\d", line))
    return [float(number) for number in line.split()[1 : 1 + len(KS)]]


def top1(text: str, row: str) -> float:
    """Top-1 in percent, of a row of an accuracy table."""
    line = next(line for line in text.splitlines() if re.match(rf"{re.escape(row)}\s+\d", line))
    return float(line[len(row):].split()[0])


def prepare(demo: Demo) -> None:
    """Render the videos and make LMDBs and splits of them; remove the runs of an earlier demo in the same folder."""
    for earlier in (demo.out / "ckpt", *demo.out.glob("log-eval-*")):
        if earlier.is_dir():
            print(f"removing the runs of an earlier demo, {earlier}")
            shutil.rmtree(earlier)
    if not (demo.out / "videos").exists():
        demo.step("render", "process_data/src/render_demo.py", "--out", demo.out / "videos", "--groups", 8,
                  "--clips", 2, "--contact_sheet", demo.out / "contact_sheet.png")
    demo.step("check", "process_data/src/check_demo.py", "--videos", demo.out / "videos", shown=2)
    demo.step("prepare", "process_data/src/prepare.py", "--videos", demo.out / "videos", "--name", "motions",
              "--workers", demo.workers, *demo.roots)


def pretrain(demo: Demo, args: argparse.Namespace) -> dict[str, Path]:
    """InfoNCE on both streams, then one cycle of CoCLR with CPR; checkpoints by name."""
    # A short run on few clips: a queue of four batches, so that its keys are fresh, a key encoder that follows soon,
    # and small steps, since weights that start at 0.01 would be moved by their own size within ten steps of 1e-3.
    common = [*CLIP, "--batch_size", 16, "--moco-k", 64, "--moco-m", 0.99, "--lr", 3e-4, "-j", 1, "--save_freq", 4,
              *demo.roots]
    infonce = [*common, "--epochs", args.epochs, "--schedule", args.epochs * 4 // 5]
    mining = [*common, "--dataset", "motions-2stream-2clip", "--epochs", args.coclr_epochs,
              "--schedule", args.coclr_epochs * 4 // 5, "--topk", 3, "--cascade", "--stage", 3, "--ratio", 0.5]
    ckpt = {}
    for stream, dataset in (("RGB", "motions-2clip"), ("flow", "motions-f-2clip")):
        name = f"InfoNCE {stream}"
        ckpt[name] = demo.checkpoint(demo.step(name, "main_nce.py", "--dataset", dataset, *infonce))
    ckpt["CPR RGB"] = demo.checkpoint(demo.step(
        "CPR RGB", "main_coclr.py", *mining, "--name_prefix", "FlowMining_",
        "--pretrain", ckpt["InfoNCE RGB"], ckpt["InfoNCE flow"]))
    ckpt["CPR flow"] = demo.checkpoint(demo.step(
        "CPR flow", "main_coclr.py", *mining, "--name_prefix", "RGBMining_", "--reverse",
        "--pretrain", ckpt["InfoNCE flow"], ckpt["CPR RGB"]))
    return ckpt


def retrieve(demo: Demo, ckpt: dict[str, Path]) -> dict[str, list[float]]:
    """R@k of every checkpoint, and of both CPR streams together."""
    rows = {}
    for name, path in {"random RGB": "random", "random flow": "random", **ckpt}.items():
        dataset = "motions-f" if name.endswith("flow") else "motions"
        text = demo.step(f"retrieval {name}", "eval/main_classifier.py", "--dataset", dataset, *CLIP, "-j", 1,
                         "--test", path, "--retrieval", *demo.roots)
        rows[name] = recalls(text, dataset)
    folders = [ckpt[name].parent / "feature" for name in ("CPR RGB", "CPR flow")]
    text = demo.step("retrieval merge", "eval/merge_2stream_prob.py", "--mode", "s", "--dataset", "motions",
                     "--prob1", folders[0], "--prob2", folders[1], "--split_root", demo.out / "splits")
    rows["CPR RGB + flow"] = recalls(text, "both")
    return rows


def finetune(demo: Demo, ckpt: dict[str, Path], epochs: int) -> dict[str, float]:
    """Finetune both CPR models, test with ten crops, and merge the streams; top-1 in percent."""
    rows, prob = {}, []
    for name in ("CPR RGB", "CPR flow"):
        dataset = "motions-f" if name.endswith("flow") else "motions"
        common = ["--dataset", dataset, *CLIP, "--batch_size", 8, "-j", 1, "--train_what", "ft", *demo.roots]
        text = demo.step(f"finetune {name}", "eval/main_classifier.py", *common, "--epochs", epochs,
                         "--schedule", epochs * 4 // 5, "--dropout", 0.5, "--eval_freq", 4,
                         "--pretrain", ckpt[name])
        path = demo.checkpoint(text)
        text = demo.step(f"ten-crop test {name}", "eval/main_classifier.py", *common, "--test", path, "--ten_crop")
        rows[name] = top1(text, "ten crops")
        prob.append(path.with_name(path.name + "-prob-ten.json"))
    text = demo.step("classification merge", "eval/merge_2stream_prob.py", "--mode", "c", "--dataset", "motions",
                     "--prob1", prob[0], "--prob2", prob[1], "--split_root", demo.out / "splits")
    rows["CPR RGB + flow"] = top1(text, "both")
    return rows


def report(demo: Demo, recall: dict[str, list[float]], accuracy: dict[str, float], ckpt: dict[str, Path]) -> str:
    """The table of results, and where everything lies."""
    head = f"{'':18}" + "".join(f"{f'R@{k}':>8}" for k in KS) + f"{'finetuned':>12}"
    lines = [head, "-" * len(head)]
    for name, values in recall.items():
        tuned = f"{accuracy[name]:12.1f}" if name in accuracy else f"{'':12}"
        lines.append(f"{name:18}" + "".join(f"{value:8.1f}" for value in values) + tuned)
    classes = len((demo.out / "splits" / "motions" / "ClassInd.txt").read_text().split())
    lines += ["", f"percent; retrieval of test videos among training videos, finetuned: top-1 with ten crops; "
              f"chance is {100 / classes:.1f}", f"time in all: {sum(demo.times.values()) / 60:.1f} minutes", "",
              f"videos            {demo.out / 'videos'}, a look at them: {demo.out / 'contact_sheet.png'}",
              f"LMDBs and splits  {demo.out / 'data'}, {demo.out / 'splits'}"]
    lines += [f"{name:18}{path}" for name, path in ckpt.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder of everything that the demo makes")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of InfoNCE")
    parser.add_argument("--coclr_epochs", type=int, default=8, help="epochs of CoCLR with CPR")
    parser.add_argument("--finetune_epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare the videos")
    args = parser.parse_args(argv)
    demo = Demo(args.out.resolve(), args.workers)
    try:
        prepare(demo)
        ckpt = pretrain(demo, args)
        recall = retrieve(demo, ckpt)
        accuracy = finetune(demo, ckpt, args.finetune_epochs)
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = report(demo, recall, accuracy, ckpt)
    (demo.out / "results.txt").write_text(table + "\n")
    print(f"\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
