"""What a checkpoint says of itself, compared with what a command needs. Published files say nothing, and are taken."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dataset import catalog
from utils.console import one_line, warn
from utils.errors import CheckpointError

Facts = dict[str, Any]  # by the names below; a fact that is not known is left out
SIZES = ("seq_len", "ds", "img_dim")
# Facts that decide whether a file is of use, and what to say where they differ.
WORDS = {
    "stream": "was trained on {then}, and is to see {now}: check the order of the files, --dataset (NAME-f is the "
              "second view), --reverse and --second_view",
    "net": "has the network {then}, and not {now}: give --net {then}",
    "classes": "was trained on other classes: its {then}, the dataset's {now}; give the --dataset and --split_root it "
               "was trained with",
    "split": "was trained on {then}, which holds test videos of {now}: give the --which_split it was trained on",
}


def facts_of(options: object, classes: object = None) -> Facts:
    """Return what the options of a command say of its network; nothing if there are none, as in published files.

    Args:
        options: by name.
        classes: names by label, if the network learns or is tested by labels.
    """
    found = catalog.NAME.fullmatch(str(options.get("dataset", ""))) if isinstance(options, Mapping) else None
    if not isinstance(options, Mapping) or not found:
        return {}
    is_second = found["streams"] == "-f" or (found["streams"] == "-2stream" and options.get("reverse"))
    facts = {"stream": options.get("second_view", "flow") if is_second else "RGB", "net": options.get("net"),
             "split": (found["base"], options.get("which_split", 1)),
             "classes": list(classes) if isinstance(classes, list | tuple) else None,
             **{name: options.get(name) for name in SIZES}}
    return {name: value for name, value in facts.items() if value is not None}


def learnt_by_labels(options: object) -> bool:
    """Return whether a file with these options is a classifier's or UberNCE's."""
    return isinstance(options, Mapping) and ("train_what" in options or options.get("model") == "ubernce")


def check_facts(saved: Mapping[str, Any], path: str | Path, needed: Facts, accept: bool = False) -> None:
    """Refuse a checkpoint that was made for something else, and warn of one that only hardly fits.

    Other sizes of clips, and without labels another split, are a warning.

    Args:
        saved: content of the checkpoint.
        path: the checkpoint.
        needed: facts of the command, see :func:`facts_of`.
        accept: warn instead of refusing.

    Raises:
        CheckpointError: stream, network, classes or split differ.
    """
    labelled = learnt_by_labels(saved.get("options"))
    then = facts_of(saved.get("options"), saved.get("classes") if labelled else None)
    for name in [name for name in WORDS if name in then and name in needed and then[name] != needed[name]]:
        if name == "split" and then[name][0] != needed[name][0]:
            continue  # of another dataset
        words = f"{path} {WORDS[name].format(**_shown(name, then[name], needed[name]))}"
        if not accept and (name != "split" or labelled):
            raise CheckpointError(f"{words}, or go on with --accept_changes")
        warn(words)
    sizes = [name for name in SIZES if name in then and name in needed and then[name] != needed[name]]
    if sizes:
        warn(f"{path} was trained with {_sizes(then, sizes)}, and is used with {_sizes(needed, sizes)}")


def _shown(name: str, then: Any, now: Any) -> dict[str, str]:
    """Show two values of a fact; of two class lists, where they first differ."""
    values = {"then": then, "now": now}
    if name == "classes":
        first = next((i for i, pair in enumerate(zip_longest(then, now)) if pair[0] != pair[1]), 0)
        values = {key: f"class {first} of {len(each)} is {' '.join(map(str, each[first:first + 1])) or 'missing'}"
                  for key, each in values.items()}
    elif name == "split":
        values = {key: f"split {number} of {base}" for key, (base, number) in values.items()}
    return {key: one_line(str(value), 80) for key, value in values.items()}


def _sizes(facts: Facts, names: list[str]) -> str:
    return " ".join(f"--{name} {one_line(str(facts[name]), 20)}" for name in names)
