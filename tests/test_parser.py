"""Options from the command line and from YAML files, their errors of one line, and the completion of a shell."""

import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

import main_coclr
import main_nce
from tools.search.__main__ import make_parser as search_parser
from utils.errors import OptionError
from utils.parser import HIDDEN, Parser

ROOT = Path(__file__).parents[1]
YAML = """
# comments are welcome
net: r50
lr: 1e-2
moco-k: 010
schedule: [5, 8]
cos: true
reverse: false
name_prefix: 'no'
workers: 0
out:
"""
FLAGS = "--net r50 --lr 1e-2 --moco-k 010 --schedule 5 8 --cos --name_prefix no -j 0"


def make_parser(parser: Parser | None = None) -> Parser:
    parser = parser or Parser("Train a network.", prog="train.py")
    add = parser.topic("training")
    add("--lr", type=float, default=1e-3, help="learning rate")
    add("--moco-k", type=int, default=2048, help="queue length")
    add("--schedule", type=int, nargs="*", default=[120, 160], help="epochs")
    add("--progressive", type=int, nargs="+", default=[], help="topk of each phase")
    add("--pretrain", nargs=2, default=["random", "random"], metavar=("CKPT_A", "CKPT_B"), help="two checkpoints")
    add("--net", choices=["s3d", "r50"], default="s3d", help="backbone")
    add("--cos", action="store_true", help="cosine")
    add("--reverse", action="store_true", help="swap the views")
    add("-j", "--workers", type=int, default=16, help="loader processes")
    add("-k", type=int, default=10, help="rows of the table")
    add("--name_prefix", default="", help="first part of the name")
    add("--local_rank", "--local-rank", type=int, help=HIDDEN)
    add("--out", type=Path, metavar="FOLDER", help="where the results go")
    return parser


def parse(*argv: str) -> Namespace:
    return make_parser().parse_args(argv)


def config(folder: Path, text: str) -> list[str]:
    (folder / "run.yaml").write_text(text)
    return ["--config", str(folder / "run.yaml")]


@pytest.mark.parametrize(("text", "flags"), [
    (YAML, FLAGS), ("", ""), ("# nothing\n", ""), ("schedule: []\n", "--schedule"), ("progressive: []\n", ""),
    ("moco_k: 4096\nname-prefix: a", "--moco_k 4096 --name-prefix a"),
    ("schedule: 7\n", "--schedule 7"), ("k: 3\nj: 2\n", "-k 3 -j 2"),
    ("local-rank: 3\n", "--local-rank 3"), ("pretrain: [a b, c]\nreverse: yes\n", "--pretrain a\u00a0b c --reverse"),
    ("progressive:\n- 1\n- 2\n", "--progressive 1 2"), ("name_prefix: -x\n", "--name_prefix=-x"),
    ("name_prefix: null\nlr: ~\nschedule:\n", ""), ("out: a\n", "--out a")])
def test_a_file_equals_its_flags_and_leaves_no_trace(text, flags, tmp_path):
    words = [word.replace("\u00a0", " ") for word in flags.split(" ") if word]
    options = vars(parse(*config(tmp_path, text)))
    assert options == vars(parse(*words)) and "config" not in options and "print_completion" not in options


@pytest.mark.parametrize("before", [True, False])
def test_flags_win_wherever_they_stand(before, tmp_path):
    file, flags = config(tmp_path, YAML), ["--lr", "3", "--schedule", "1", "-j4"]
    options = parse(*flags, *file) if before else parse(*file, *flags)
    assert (options.lr, options.schedule, options.workers, options.moco_k) == (3.0, [1], 4, 10)


@pytest.mark.parametrize("script", [main_nce, main_coclr])
def test_every_option_of_a_script_comes_back_from_a_file(script, tmp_path):
    words = ["--lr", "1e-7", "--schedule", "--stage=2", "--cascade"][:3 if script is main_nce else None]
    options = script.make_parser().parse_args([*words, "--dist-timeout", "3", "--name_prefix", "yes"])
    assert script.make_parser().parse_args(config(tmp_path, yaml.safe_dump(vars(options)))) == options


def test_home_and_variables_are_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", str(tmp_path))
    (tmp_path / "a$DISK").touch()
    monkeypatch.chdir(tmp_path)
    config(tmp_path, "out: ~/runs\npretrain: [$DISK/a, '${DISK}/b']\nname_prefix: ~x$DISK\n")
    options = parse("--config=$DISK/run.yaml")
    assert options.out == Path("/home/me/runs") and options.name_prefix == "~x$DISK"
    assert options.pretrain == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert parse("--out=~/x", "--pretrain", "random", "a$DISK").pretrain == ["random", "a$DISK"]  # it exists
    index = search_parser().parse_args(["index", "~/c", "~/v", "$DISK/w", "--two_stream=~/f", "--out=~/index"])
    assert (index.checkpoint, index.two_stream, index.out) == ("/home/me/c", "/home/me/f", "/home/me/index")
    assert index.places == ["/home/me/v", f"{tmp_path}/w"]
    found = search_parser().parse_args(["search", "~/index", "~/clip.mp4", "--html", "~/page.html"])
    assert (found.index, found.video) == ("/home/me/index", "/home/me/clip.mp4")
    assert found.html == "/home/me/page.html"
    with pytest.raises(OptionError, match=r"\$NO_DISK/x: the environment has no variable NO_DISK"):
        parse("--out", "$NO_DISK/x")


@pytest.mark.parametrize(("text", "words"), [
    ("lr: 1\nmocok: 3\n", "run.yaml, line 2: there is no option 'mocok'; the nearest is moco"),
    ("lr: zzz\n", "run.yaml: argument --lr: invalid float value: 'zzz'"),
    ("net: moco\n", "run.yaml: argument --net: invalid choice: 'moco'"),
    ("pretrain: [a]\n", "run.yaml: argument --pretrain: expected 2"),
    ("moco-k: 1\nmoco_k: 2\n", "line 2: moco_k has been set"), ("lr: 1\nlr: 1\n", "line 2: lr has been set"),
    ("cos: maybe\n", "line 1: cos takes true or false"), ("net: [a]\n", "net takes one value"),
    ("schedule: [[1]]\n", "schedule takes a list of values"), ("config: x\n", "no option 'config'"),
    ("- lr\n", "should have lines like batch_size: 16"), ("a: b: c\n", "is not YAML"),
    ('"ev\\x1b[2Jil\\n": 3\n', "there is no option 'ev\\x1b[2Jil\\n'"), ("\x00", "is not YAML")])
def test_an_error_in_a_file_is_one_line_that_names_it(text, words, tmp_path):
    with pytest.raises(OptionError) as caught:
        parse(*config(tmp_path, text))
    assert words in str(caught.value) and "run.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(OptionError, match=r"^argument --lr: invalid float value: 'x'"):
        parse(*config(tmp_path, "lr: 1\n"), "--lr", "x")


@pytest.mark.parametrize(("argv", "words"), [
    (["--config"], "expected one argument"), (["--config", "a", "--config=b"], "give one file"),
    (["--config", "no.yaml"], r"^--config no.yaml cannot be read \(No such file or directory\): check the path "),
    (["--config", "."], "directory"), (["--hlep"], "no option --hlep; the nearest is --help"), (["-x"], "no option -x"),
    (["--name_prefx=a"], "no option --name_prefx; the nearest is --name_prefix"), (["--xyz"], "no option --xyz "),
    (["--sched", "3"], "no option --sched; the nearest is --schedule"),
    (["--lr"], "argument --lr: expected one argument"),
    (["--net", "x"], "argument --net: invalid choice: 'x'"), (["3"], "unrecognized arguments: 3")])
def test_a_mistake_on_the_command_line_is_one_line(argv, words):
    with pytest.raises(OptionError, match=words) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_is_named_before_missing_ones_and_help_shows_those_that_matter(capsys):
    parser = make_parser(Parser("Train.", "lr out", prog="train.py"))
    parser.topic("data")("--videos", required=True, metavar="FOLDER", help="videos")
    with pytest.raises(OptionError, match=r"^there is no option --vidoes; the nearest is --videos \(--help-all lists"):
        parser.parse_args(["--vidoes", "x"])
    for flag in ("--help-all", "--help"):
        with pytest.raises(SystemExit):
            parser.parse_args([flag])
    every, _, short = capsys.readouterr().out.partition("usage: ")[2].partition("usage: ")
    assert "--lr" in short and "--out" in short and "--moco-k" not in short and "--local-rank" not in every
    assert "--help-all" in short and "--moco-k" in every and "--schedule" in every
    assert parser.parse_args(["--videos", "x", "--moco_k=3", "--name-prefix", "a b"]).moco_k == 3


@pytest.mark.parametrize("argv", ["a b --lr 2 -k 3", "--lr 2 a b -k 3", "a --lr 2 b -k 3", "a --config FILE b",
                                  "--config FILE a b"])
def test_positional_arguments_may_stand_between_options(argv, tmp_path):
    _, file = config(tmp_path, "lr: 2\nk: 3\n")
    parser = make_parser()
    parser.add_argument("places", nargs="*")
    options = parser.parse_args(argv.replace("FILE", file).split())
    assert (options.places, options.lr, options.k) == (["a", "b"], 2.0, 3)


def test_commands_have_options_and_files_of_their_own(tmp_path):
    parser = Parser("Search.", prog="search")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    make_parser(commands.add_parser("index", description="Index.")).add_argument("places", nargs="+", metavar="FOLDER")
    commands.add_parser("find", description="Find.").topic("data")("--clip", required=True, metavar="FILE", help="clip")
    file = config(tmp_path, "lr: 2\n")
    options = parser.parse_args(["index", "a", *file, "b"])
    assert (options.places, options.lr) == (["a", "b"], 2.0) and not hasattr(options, "config")
    assert parser.parse_args(["find", "--clip", "x"]) == Namespace(clip="x")
    assert parser.format_usage().split() == ["usage:", "search", "COMMAND", "[options]"]
    assert commands.choices["find"].format_usage().split()[1:5] == ["search", "find", "--clip", "FILE"]
    for argv, words in (([], "COMMAND"), (["other"], "other"), ([*file, "index", "a"], "run.yaml"),
                        (["find"], "--clip"), (["find", *file], "no option 'lr'")):
        with pytest.raises(OptionError, match=words):
            parser.parse_args(argv)


@pytest.mark.parametrize(("line", "completed"), [
    ("python train.py --moc", "--moco-k"), ("python3 some/where/train.py --lr 3 --net r", "r50"),
    ("torchrun --nproc_per_node=2 train.py --net s", "s3d"), ("./train.py --revers", "--reverse"),
    ("python train.py --out fo", "folder"), ("python train.py --pretrain ch", "checkpoint.pth.tar")])
def test_bash_completes_a_script_by_itself_and_behind_python(line, completed, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "checkpoint.pth.tar").touch()
    with pytest.raises(SystemExit):
        parse("--print-completion", "bash")
    (tmp_path / "train.py.bash").write_text(capsys.readouterr().out)
    function = "_complete_script" if line.startswith(("p", "t")) else "_shtab_train_py"
    program = f"source train.py.bash; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {function}; " \
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p python train.py'
    shown = subprocess.run(["bash", "--norc", "-c", program], cwd=tmp_path, capture_output=True, text=True).stdout
    replies, by_python, by_itself = shown.rsplit("\n", 3)[:3]
    assert replies.split() == [completed]
    assert "_complete_script" in by_python and "_shtab_train_py" in by_itself
