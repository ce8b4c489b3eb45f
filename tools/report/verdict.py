"""The verdict: can the other numbers of a training be trusted? Also what cotrain.py prints at its end."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.health import CLEARLY_BETTER
from engine.monitors import COLLAPSED
from tools.report.run_reader import Run
from utils.console import duration, inline, mark_best, paint_table, percent, say, table, warn

STANDARD_ERRORS = 2.0  # features should beat random weights, or chance, by more
SECOND_CLIP = "second clip of a held-out video nearest"
# Columns of cotrain.py's table: evaluation, key in its results, heading. Those without results are not shown.
COLUMNS = (*(("retrieval", k, f"R@{k}") for k in ("1", "5", "10", "20", "50")),
           *((name, "1", f"{name}, ten crops") for name in ("probe", "finetune")),
           ("retrieval", "second_clip", "second clip, %"), ("retrieval", "second_clip_random", "random weights, %"),
           ("retrieval", "effective_rank", "effective rank"), ("retrieval", "agreement", "agreement, %"),
           ("retrieval", "agreement_chance", "by chance, %"))


@dataclass(frozen=True)
class Finding:
    question: str
    answer: str
    good: bool | None = None  # None: it cannot be told

    @property
    def mark(self) -> str:
        return {True: "✓", False: "✗", None: "?"}[self.good]

    def __str__(self) -> str:
        return f"{self.mark} {self.question} {self.answer}"


def verdict(run: Run) -> list[Finding]:
    """Judge a pretraining by its metrics; questions that they cannot answer are left out."""
    if not run.metrics or run.is_classifier:
        return []
    found, last = list[Finding](), run.last
    size, batch = (run.options.get(name) for name in ("moco_k", "batch_size"))
    if size and batch:
        per_step = batch * run.starts[-1].get("processes", 1)
        needed, done = math.ceil(size / per_step), max(line.get("done", 0) for line in run.metrics)
        full = f"yes, after {needed} of {done} steps"
        vain = "nothing was trained" if run.options.get("model") == "coclr" else "the negatives were random vectors"
        empty = f"no: {done} steps fill {done * per_step} of its {size} entries, so {vain}: take a smaller --moco-k"
        found.append(Finding("Was the queue filled?", full if done > needed else empty, done > needed))
    ranks = [last[name] for name in ("rank_own", "rank_other") if name in last]
    if ranks and size != 2:  # two entries span one direction
        good = min(ranks) >= COLLAPSED
        found.append(Finding("Are the embeddings spread out?", f"{'yes' if good else 'no, they have collapsed'}: they "
                             f"vary in {min(ranks):.1f} directions (effective rank; 1 is collapsed)", good))
    if before := next((line["values"] for line in run.lines("health") if "better" in line["values"]), None):
        good = before["better"] >= CLEARLY_BETTER
        shares = [percent(before[name], 1) for name in ("second_other", "second_random")]
        found.append(Finding("Is the miner better than random weights?", f"{'yes' if good else 'not clearly'}: second "
                             f"clip of a video nearest for {shares[0]} %, random weights {shares[1]} % "
                             f"({before['better']:+.1f} standard deviations)", good))
    if run.has_labels and {"recall", "chance"} <= set(last):
        good = last["recall"] > last["chance"]
        alone = f", top-k by the other view {percent(last['recall_topk'], 1)} %" if "recall_topk" in last else ""
        found.append(Finding("Are mined positives right more often than by chance?", f"{'yes' if good else 'no'}: "
                             f"{percent(last['recall'], 1)} % in the last epoch{alone}, by chance "
                             f"{percent(last['chance'], 1)} %", good))
    return found


def better_than_random(results: Mapping[str, Mapping[str, Any]], videos: int | None = None) -> list[Finding]:
    """Judge the features in cotrain.py's results; ``videos``: how many were tested, where the results do not say."""
    found = []
    for stream, row in results.items():
        numbers, base = row.get("retrieval", {}), results.get(f"random {stream}", {}).get("retrieval", {})
        measure, value, random = SECOND_CLIP, numbers.get("second_clip"), numbers.get("second_clip_random")
        if random is None:
            measure, value, random = "R@1", numbers.get("1"), base.get("1")
        if value is not None and random is not None:
            whose = "both streams'" if stream == "both" else f"the {stream}"
            found.append(compare(f"Are {whose} features better than random weights?", measure, value,
                                 "random weights", random, numbers.get("videos", videos)))
    return found


def compare(question: str, measure: str, value: float, other: str, base: float, count: int | None) -> Finding:
    """Judge whether a percentage of ``count`` videos is above that of chance or of random weights (``other``)."""
    text = f"{measure} {value:.1f} %, {other} {base:.1f} %"
    if not count:
        return Finding(question, f"{text}; of how many videos is unknown")
    shares = [(share / 100 * count + 1) / (count + 2) for share in ((value,) if other == "chance" else (value, base))]
    errors = (value - base) / 100 / math.sqrt(sum(share * (1 - share) for share in shares) / count)
    good = errors > STANDARD_ERRORS
    answer = "yes" if good else "not clearly" if errors > 0 else "no"
    return Finding(question, f"{answer}: {text} of {count} videos ({errors:+.1f} standard errors)", good)


def together(verdicts: Mapping[str, list[Finding]]) -> list[Finding]:
    """Merge the verdicts of trainings, by name: one finding per question, naming the first training that fails."""
    merged = []
    for question in dict.fromkeys(each.question for found in verdicts.values() for each in found):
        found = [(name, each) for name, all_ in verdicts.items() for each in all_ if each.question == question]
        bad = [f"{name}: {each.answer}" for name, each in found if each.good is False]
        merged.append(Finding(question, f"not in {len(bad)} of {len(found)} trainings; {bad[0]}" if bad else
                              f"yes, in all {len(found)} trainings", not bad))
    return merged


def results_table(numbers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Format R@k and ten-crop top-1 in percent; without labels, the label-free measures."""
    used = [column for column in COLUMNS if any(column[1] in row.get(column[0], {}) for row in numbers.values())]
    rows = [[stream, *(f"{row[name][key]:.2f}" if key in row.get(name, {}) else "-" for name, key, _ in used)]
            for stream, row in numbers.items()]
    by_labels = used[0][1].isdigit()  # else a column holds other videos, or random weights: no row is the best
    return table(["percent" if by_labels else "", *(head for *_, head in used)], mark_best(rows) if by_labels else rows)


def show(out: Path, content: Mapping[str, Any]) -> None:
    """Print the results of a work folder, ``content`` of its results.json, and what to do next."""
    if content["results"]:
        say(f"\n{results_table(content['results'])}\n", paint=paint_table)
    for line in content["warnings"]:
        warn(line)
    times = {name: duration(3600 * value) for name, value in content["hours"].items() if value}
    say(f"time {', '.join(f'{name} {text}' for name, text in times.items())}; all numbers, checkpoints and commands: "
        f"{out / 'results.json'}")
    say(f"open this page: {out / 'report.html'}")
    if (out / "index").is_dir():
        say(inline(f"search like this: python -m tools.search search {shlex.quote(str(out / 'index'))} CLIP"))
