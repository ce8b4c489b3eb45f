"""--print-completion: what an interactive bash makes of the printed script, for a flag, a choice and a file."""

import os
import pty
import select
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import main_nce
from eval import merge_2stream_prob


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """An interactive bash on a pseudo-terminal that has read the completions of two scripts; types and waits."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "a checkpoint.pth.tar").touch()
    for module in (main_nce, merge_2stream_prob):
        parser = module.make_parser()
        parser.prog = Path(module.__file__).name  # as if it had been started
        with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
            parser.parse_args(["--print-completion", "bash"])
        (folder / f"{parser.prog}.bash").write_text(printed.getvalue())
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"],
                  {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "$ ", "COLUMNS": "500"})

    def typed(text: str, wanted: str) -> str:
        """What is shown after some typing, until the wanted text is there or ten seconds have passed."""
        os.write(terminal, text.encode())
        shown, end = "", time.monotonic() + 10
        while wanted not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536).decode().replace("\r", "").replace("\a", "")
        os.write(terminal, b"\x15")  # takes the line away
        return shown
    typed("bind 'set enable-bracketed-paste off'; stty cols 500; source main_nce.py.bash; "
          "source merge_2stream_prob.py.bash; echo all re''ad\n", "all read")
    yield typed
    os.close(terminal)
    os.waitpid(process, 0)


@pytest.mark.parametrize(("line", "completed"), [
    ("python main_nce.py --accum", "--accumulate "),
    ("python3 some/where/main_nce.py --epochs 3 --model ube", "ubernce "),
    ("torchrun --standalone --nproc_per_node=2 main_nce.py --lr 1 --second_view res", "residual "),
    ("python eval/merge_2stream_prob.py --prob2 x --outp", "--output "), ("./main_nce.py --moco-d", "--moco-dim "),
    ("python main_nce.py --pretrain a", "a\\ checkpoint.pth.tar "), ("python a", "a\\ checkpoint.pth.tar ")])
def test_bash_completes(line, completed, shell):
    start = line.rpartition(" ")[0] + " "
    assert start + completed in shell(f"{line}\t", start + completed)


def test_zsh_gets_the_same_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main_nce.make_parser().parse_args(["--print-completion", "zsh"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and out.startswith("#compdef ")
    for words in ("--accumulate", "infonce ubernce", "flow residual", "_files"):
        assert words in out
