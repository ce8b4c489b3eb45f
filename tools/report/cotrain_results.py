"""What cotrain.py prints at its end."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.report.run_reader import read_run
from tools.report.verdict import better_than_random, verdict
from utils.console import duration, inline, mark_best, paint_table, say, table, warn

# Evaluation, key of its results, and head of the column. Results have labels, or they have not.
COLUMNS = (*(("retrieval", k, f"R@{k}") for k in ("1", "5", "10", "20", "50")),
           *((name, "1", f"{name}, ten crops") for name in ("probe", "finetune")),
           ("retrieval", "second_clip", "second clip, %"), ("retrieval", "second_clip_random", "random weights, %"),
           ("retrieval", "effective_rank", "effective rank"), ("retrieval", "agreement", "agreement, %"))


def results_table(numbers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Format R@k and top-1 with ten crops, in percent; without labels, what needs none."""
    used = [column for column in COLUMNS if any(column[1] in row.get(column[0], {}) for row in numbers.values())]
    rows = [[stream, *(f"{row[name][key]:.2f}" if key in row.get(name, {}) else "-" for name, key, _ in used)]
            for stream, row in numbers.items()]
    return table(["percent" if used[0][1].isdigit() else "", *(head for _, _, head in used)], mark_best(rows))


def show(out: Path, content: Mapping[str, Any]) -> None:
    """Print the results of a work folder, the content of its results.json, and what comes next."""
    if content["results"]:
        say(f"\n{results_table(content['results'])}\n", paint=paint_table)
    for name, folder in content["runs"].items():
        for finding in verdict(read_run(out / folder)):
            say(f"{name}: {finding}")
    for finding in better_than_random(content["results"], content["test_videos"]):
        say(str(finding))
    for line in content["warnings"]:
        warn(line)
    times = {name: duration(3600 * value) for name, value in content["hours"].items() if value}
    say(f"time {', '.join(f'{name} {text}' for name, text in times.items())}; all numbers, checkpoints and commands: "
        f"{out / 'results.json'}")
    say(f"open this page: {out / 'report.html'}")
    if (out / "index").is_dir():
        say(inline(f"search like this: python -m tools.search search {shlex.quote(str(out / 'index'))} CLIP"))
