"""Shell completion of a script's options: what ``--print-completion`` prints, made by shtab."""

import argparse
import re
from pathlib import Path
from typing import Any

import shtab

# shtab's function answers for the script as a command, but scripts are given to python or torchrun. All scripts print
# this same part: it looks which of them stands in the line, and hands the rest of the line to that one's function.
DISPATCH = """
_script_of_python() {
  local i name
  for ((i = 1; i < COMP_CWORD; i++)); do
    name="${COMP_WORDS[i]##*/}"
    name="_shtab_${name//[^a-zA-Z0-9]/_}"
    if [[ "${COMP_WORDS[i]}" == *.py ]] && declare -F "$name" > /dev/null; then
      COMP_WORDS=("${COMP_WORDS[@]:i}")
      COMP_CWORD=$((COMP_CWORD - i))
      "$name"
      return
    fi
  done
}
complete -o bashdefault -o default -F _script_of_python python python3 torchrun
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion of a parser's options, their choices, and files and folders where an option takes such."""
    for action in parser._actions:
        if action.nargs != 0 and action.choices is None and _takes(action):
            setattr(action, "complete", _takes(action))  # noqa: B010 - what shtab looks for, and argparse has not
    text = shtab.complete(parser, shell)
    return text + DISPATCH if shell == "bash" else text


def _takes(action: argparse.Action) -> dict[str, Any] | None:
    shown = " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar or ""
    if re.search("FOLDER", shown):
        return shtab.DIRECTORY
    return shtab.FILE if action.type is Path or re.search("CKPT|FILE", shown) else None
