"""--config: options from a YAML file are as those of the command line, which win; what is wrong there is one line."""

import argparse

import pytest
import yaml

import cotrain
import main_coclr
import main_nce
from eval import merge_2stream_prob
from eval import options as classifier
from process_data.src import index_lmdb
from process_data.src.errors import PrepareError
from utils import run_folder
from utils.errors import OptionError

NCE = """
# comments are welcome
dataset: hmdb51-f-2clip
second_view: residual
lr: 1e-2
moco-k: 010
schedule: [5, 8]
cos: true
compile: false
name_prefix: 'no'
workers: 0
precision:
"""
NCE_FLAGS = "--dataset hmdb51-f-2clip --second_view residual --lr 1e-2 --moco-k 010 --schedule 5 8 --cos " \
    "--name_prefix no -j 0"


def written(folder, text: str) -> list[str]:
    (folder / "run.yaml").write_text(text)
    return ["--config", str(folder / "run.yaml")]


@pytest.mark.parametrize(("parse", "text", "flags"), [
    (main_nce.parse, NCE, NCE_FLAGS), (main_nce.parse, "", ""), (main_nce.parse, "schedule: []\n", "--schedule"),
    (main_nce.parse, "moco_k: 4096\n", "--moco-k 4096"), (main_nce.parse, "schedule: 7\n", "--schedule 7"),
    (main_nce.parse, "local_rank: 3\nj: 2\n", "--local-rank 3 -j 2"),
    (main_coclr.parse, "pretrain: [random, random]\nreverse: yes\nprogressive:\n- 1\n- 2\n",
     "--pretrain random random --reverse --progressive 1 2"),
    (lambda argv: classifier.parse(argv, ""), "test: random\nten_crop: on\ngpu: 0,1\ntrain_what: ft\n",
     "--test random --ten_crop --gpu 0,1 --train_what ft"),
    (merge_2stream_prob.parse, "prob1: a b\nprob2: -x\nmode: s\n", "--prob1 a\u00a0b --prob2=-x --mode s"),
    (cotrain.parse, "coclr_options: --topk 3 --cascade\ncycles: 1\nskip: [probe]\n",
     "--coclr_options --topk\u00a03\u00a0--cascade --cycles 1 --skip probe")])
def test_a_file_is_as_the_flags(parse, text, flags, tmp_path):
    words = [word.replace("\u00a0", " ") for word in flags.split(" ") if word]
    assert vars(parse(written(tmp_path, text))) == vars(parse(words))


def test_the_run_folder_has_the_same_name(tmp_path):
    one, two = main_nce.parse(written(tmp_path, NCE)), main_nce.parse(NCE_FLAGS.split())
    assert run_folder.nce_folder(one) == run_folder.nce_folder(two)
    assert str(run_folder.nce_folder(one)) != str(run_folder.nce_folder(main_nce.parse([])))


@pytest.mark.parametrize("before", [True, False])
def test_flags_win_wherever_they_stand(before, tmp_path):
    config, flags = written(tmp_path, NCE), ["--lr", "3", "--schedule", "1", "-j4"]
    args = main_nce.parse([*flags, *config] if before else [*config, *flags])
    assert (args.lr, args.schedule, args.workers, args.moco_k) == (3.0, [1], 4, 10)


def test_every_option_of_a_run_comes_back_from_a_file(tmp_path):
    """As PyYAML writes them, null included."""
    args = main_coclr.parse(["--lr", "1e-7", "--schedule", "--cascade", "--stage", "2", "--dist-timeout", "3",
                             "--name_prefix", "yes"])
    assert vars(main_coclr.parse(written(tmp_path, yaml.safe_dump(vars(args))))) == vars(args)


@pytest.mark.parametrize(("text", "words"), [
    ("lr: 1\nbatchsize: 3\n", "run.yaml, line 2: there is no option 'batchsize', the nearest name is batch_size"),
    ("lr: zzz\n", "run.yaml, line 1: argument --lr: 'zzz' is not a number above 0"),
    ("\nworkers: -3\n", "run.yaml, line 2: argument -j/--workers: '-3' is not a whole number"),
    ("model: moco\n", "run.yaml, line 1: argument --model: invalid choice: 'moco'"),
    ("lr: 1\nlr: 2\n", "run.yaml, line 2: lr is there twice, also in line 1"),
    ("moco-k: 1\nmoco_k: 2\n", "moco_k is there twice"), ("cos: maybe\n", "cos is a flag: it takes true or false"),
    ("net: [a]\n", "net takes one value"), ("net: {a: b}\n", "net takes one value"),
    ("schedule: [[1]]\n", "schedule takes a list of values"), ("schedule: [--test]\n", "looks like a flag"),
    ("schedule: &a [*a]\n", "schedule takes a list of values"), ("[1]: 2\n", "in the place of an option's name"),
    ("config: x\n", "there is no option 'config'"), ("help: true\n", "there is no option 'help'"),
    ("- lr\n", "should have lines like batch_size: 16"), ("just text", "should have lines like"),
    ("{a: [}\n", "is not a YAML file (line 1"), ("a: b: c\n", "is not a YAML file"), ("[" * 5000, "is not a YAML"),
    ("!!python/object/apply:os.system [ls]: 1\n", "in the place of an option's name"),
    ('"ev\\x1b[2Jil\\n": 3\n', "there is no option 'ev\\x1b[2Jil\\n'"), ("\x00", "is not a YAML file")])
def test_what_is_wrong_in_a_file_is_one_line_with_its_place(text, words, tmp_path):
    with pytest.raises(OptionError) as caught:
        main_nce.parse(written(tmp_path, text))
    assert words in str(caught.value) and "run.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(OptionError, match=r"^argument --lr: 'x'"):
        main_nce.parse([*written(tmp_path, "lr: 1\n"), "--lr", "x"])


@pytest.mark.parametrize(("argv", "words"), [
    (["--config"], "expected one argument"), (["--config="], "expected one argument"),
    (["--config", "a", "--config=b"], "give one file"), (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    (["--config", "."], "cannot be read"), (["--confi", "a"], "unrecognized arguments")])
def test_a_file_that_is_not_there_is_one_line(argv, words):
    with pytest.raises(OptionError, match=words):
        main_nce.parse(argv)


def test_preparation_complains_in_its_own_way(tmp_path):
    parser = index_lmdb.make_parser()
    assert parser.parse_args(["a.lmdb", *written(tmp_path, "{}")]).lmdb
    with pytest.raises(PrepareError, match="no option 'x'"):
        parser.parse_args(["a.lmdb", *written(tmp_path, "x: 1")])


def test_cotrain_lets_no_file_in_by_the_back_door():
    with pytest.raises(OptionError, match="--config is set by cotrain"):
        cotrain.parse(["--coclr_options", "--config x.yaml"])
    with pytest.raises(argparse.ArgumentTypeError):
        cotrain.words("--config=x.yaml")
