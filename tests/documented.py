"""The commands of README.md and docs/*.md.

A block between fences is a block of commands unless it names another language. In one that shows a prompt, "$ ", the
lines behind it are the commands. A span in backticks that starts a program with a script is one, too.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL, OTHER = {"", "bash"}, {"text", "bibtex", "json", "yaml", "python"}  # languages of blocks
INLINE = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|bash|torchrun|srun|sbatch|tensorboard|pip) "
                    r".*(?:\.py|\.sh|\.sbatch|-m \w|--logdir)")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
ENDS = {";", "&&", "||", "|"}  # of a command in a line


@dataclass(frozen=True)
class Command:
    """Words of a command, and the variables that are set for it, as NAME=VALUE."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((*self.variables, *self.words))


def shell_text(page: str) -> str:
    """Return all shell text of a page in order."""
    parts = re.split(r"^```(.*)\n((?s:.*?))^```$", page, flags=re.MULTILINE)  # prose, language, block, prose, ...
    found = []
    for number, part in enumerate(parts):
        if number % 3 == 0:
            spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", part))
            found += [span for span in spans if INLINE.match(span) or re.fullmatch(r'[A-Z_]+="[^"]*"', span)]
        elif number % 3 == 1:
            assert part.strip() in SHELL | OTHER, f"a block of {part!r}, which is none of {sorted(OTHER)}"
        elif parts[number - 1].strip() in SHELL:
            prompted = re.findall(r"^\$ ((?:.*\\\n)*.*)$", part, flags=re.MULTILINE)
            found += prompted if part.lstrip().startswith("$ ") else [part]
    return "\n".join(found).replace("\\\n", " ")


def commands(page: str) -> list[Command]:
    """Return the commands of a page in order, with the page's variables put in."""
    values: dict[str, str] = {}
    found = []
    for line in shell_text(page).splitlines():
        for name, value in values.items():
            line = line.replace(f"${name}", value)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            count = next((i for i, each in enumerate(words) if not ASSIGNMENT.match(each)), len(words))
            variables, rest = words[:count], words[count:]
            if rest:
                end = next((i for i, each in enumerate(rest) if each in (">", ">>")), len(rest))
                found.append(Command(tuple(rest[:end]), tuple(variables)))
            else:
                values |= dict(each.split("=", 1) for each in variables)
            words = []
    return found
