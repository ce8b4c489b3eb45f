"""The commands of README.md, docs/ and recipes/README.md, taken apart by bash as it would run them.

A block between fences is a command block, unless it names another language; of one that begins with "$ " those lines
are commands, and the others what they say. So is what stands in backticks and starts a program with a script.
bash runs all of a page in order with no program in reach but TOOLS, in a folder that looks like the checkout, and tells
what it was asked to start: variables, comments, loops, continued lines and quotes are what they are to a shell.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "recipes" / "README.md"]
SHELL = {"", "bash", "sh"}
OTHER = {"text", "bibtex", "json", "toml", "yaml", "ini", "python", "html"}  # languages of blocks that no shell runs
PROGRAMS = ("python", "python3", "bash", "torchrun", "srun", "sbatch", "tensorboard", "pip", "conda")
INLINE = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:(?:{'|'.join(PROGRAMS)}) .*(?:\.py|\.sh|\.sbatch|-m \w|--logdir)|cd )")
ASSIGNED = re.compile(r'[A-Z_]+="[^"]*"')
TOOLS = ("basename", "dirname", "grep", "mkdir")
# What bash writes into the file $TOLD of each program that it was to start: variables, "--", words, and a mark.
TELL = r"""
set -u
command_not_found_handle() {
    local name
    { for name in $(compgen -e); do printf '%s=%s\0' "$name" "${!name}"; done
      printf '%s\0' -- "$@" $'\x1e'; } >> "$TOLD"
}
cd() { command_not_found_handle cd "$@"; }
function . { command_not_found_handle source "$@"; }
"""
SHELLS_OWN = {"PWD", "OLDPWD", "SHLVL", "_", "PATH", "TOLD", "HOME"}


class Unreadable(Exception):
    """A page whose commands no shell would run."""


@dataclass(frozen=True)
class Command:
    """What a shell starts: its words, and the variables that the page has set for it, as NAME=VALUE."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((*self.variables, *self.words))


def shell_text(page: str) -> str:
    """All that a page has for a shell, in order."""
    parts, fenced = [], False
    for number, part in enumerate(re.split(r"^```(.*)$", page, flags=re.MULTILINE)):
        if number % 2:  # what stands behind a fence
            fenced = not fenced
            if fenced and part.strip() not in SHELL | OTHER:
                raise Unreadable(f"a block of {part.strip()!r}: it is none of {sorted(OTHER)}")
            shell = fenced and part.strip() in SHELL
        elif fenced:
            parts += [typed(part)] if shell else []
        else:
            spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", part))
            parts += [f"{span}\n" for span in spans if INLINE.match(span) or ASSIGNED.fullmatch(span)]
    if fenced:
        raise Unreadable("a block that does not end")
    return "\n".join(parts)


def typed(block: str) -> str:
    """The lines of a block that somebody typed: all, or where it shows a prompt those behind one."""
    if not block.lstrip().startswith("$ "):
        return block
    return "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, flags=re.MULTILINE))


def commands(page: str) -> list[Command]:
    """What a shell would start for a page.

    Raises:
        Unreadable: bash complains, or a block's language is unknown.
    """
    text = TELL + shell_text(page)
    with tempfile.TemporaryDirectory() as folder:
        place, tools, home = (Path(folder, name) for name in ("place", "tools", "home"))
        for each in (place, tools, home):
            each.mkdir()
        for entry in ROOT.iterdir():
            (place / entry.name).symlink_to(entry)
        for name in TOOLS:
            (tools / name).symlink_to(shutil.which(name))
        path = Path(folder, "told")
        path.touch()
        done = subprocess.run(["/bin/bash", "--noprofile", "--norc", "-c", text], cwd=place, check=False,
                              env={"PATH": str(tools), "HOME": str(home), "TOLD": str(path)}, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode or done.stderr:
            raise Unreadable(done.stderr)
        return told(path.read_text())


def told(output: str) -> list[Command]:
    """The commands in what bash has told."""
    found = []
    for record in output.split("\x1e\0")[:-1]:
        fields = record.split("\0")[:-1]
        mark = fields.index("--")
        variables = sorted(each for each in fields[:mark] if each.partition("=")[0] not in SHELLS_OWN)
        found.append(Command(tuple(fields[mark + 1:]), tuple(variables)))
    return found
