"""recipes/: each one's commands by the scripts' own parsers, its numbers, tolerances and costs, and damaged ones."""

import math
import re
import shlex
import tomllib
from argparse import Namespace

import pytest

import main_coclr
import main_nce
from eval import merge_2stream_prob
from eval import options as classifier
from experiments import cost as costs
from experiments import recipe as recipes
from experiments.recipe import TRAINING, Recipe
from utils.errors import OptionError

PARSERS = {"main_nce.py": main_nce.parse, "main_coclr.py": main_coclr.parse,
           "eval/main_classifier.py": lambda argv: classifier.parse(argv, ""),
           "eval/merge_2stream_prob.py": merge_2stream_prob.parse}
# As published, in percent: InfoNCE and CoCLR by CoCLR and its released files, CoCLR+CPR and its mining by CPR.
PUBLISHED = {
    "ucf101_infonce_rgb": [36.1, 52.3, 61.7, 71.0, 82.1], "ucf101_infonce_flow": [45.2],
    "ucf101_cpr_cycle1_rgb": [34.0, 40.3, 83.3], "ucf101_cpr_cycle1_flow": [],
    "ucf101_cpr_cycle2_rgb": [51.8], "ucf101_cpr_cycle2_flow": [48.4],
    "ucf101_ubernce": [], "k400_cpr_rgb": [], "k400_cpr_flow": [],
    "ucf101_retrieval_rgb": [51.8], "ucf101_retrieval_2stream": [56.7],
    "hmdb51_retrieval_rgb": [], "hmdb51_retrieval_2stream": [24.4],
    "ucf101_finetune_rgb": [81.4], "ucf101_finetune_2stream": [83.8], "ucf101_probe_rgb": [70.2],
    "hmdb51_finetune_rgb": [], "hmdb51_finetune_2stream": [54.8],
    "k400_finetune_rgb": [87.9], "k400_finetune_flow": [85.3], "k400_finetune_2stream": [90.6],
}
WITHOUT_CPR = {51.8, 48.4, 81.4, 70.2, 87.9, 85.3, 90.6}  # of CoCLR, which CPR builds on
ALL = sorted(PUBLISHED)


def parsed(command: str) -> tuple[Namespace, int]:
    """A command's options by its script's parser, and its number of processes; names in braces stand for files."""
    words = shlex.split(re.sub(r"\{[^}]*\}", "random", command))
    processes = int(words.pop(1).removeprefix("--nproc_per_node=")) if words[0] == "torchrun" else 1
    assert words[0] in ("torchrun", "python")
    return PARSERS[words[1]](words[2:]), processes


def test_every_recipe_is_looked_at():
    assert recipes.names() == ALL


def test_the_page_has_every_recipe_and_its_numbers():
    page = (recipes.FOLDER / "README.md").read_text()
    page = page.replace("`..._", "`k400_finetune_")
    for name, values in PUBLISHED.items():
        [row] = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert all(str(value) in row for value in values), name


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_has_the_published_numbers(name):
    recipe = recipes.load(name)
    assert [each.value for each in recipe.expect] == PUBLISHED[name]
    for each in recipe.expect:
        bound = each.value in WITHOUT_CPR and name != "ucf101_retrieval_rgb"  # that one is of the released file itself
        assert (each.side == "least") == bound == ("without CPR, hence a lower bound" in each.source)


@pytest.mark.parametrize("name", ALL)
def test_the_scripts_take_a_recipes_commands(name):
    recipe = recipes.load(name)
    for command in recipe.commands + [each.make for each in recipe.expect if each.make]:
        parsed(command)


@pytest.mark.parametrize("name", ALL)
def test_the_first_command_has_the_recipes_options(name):
    recipe = recipes.load(name)
    args, processes = parsed(recipe.commands[0])
    made_with = vars(args) | retrieval_note(args)
    assert {key: made_with[key] for key in recipe.options} == recipe.options
    if recipe.record == TRAINING:
        assert recipe.processes == (2 if "main_classifier" in recipe.commands[0] else processes)
    for each in recipe.expect:
        if each.note:
            made_with = vars(parsed(each.make)[0]) | retrieval_note(parsed(each.make)[0])
            assert {key: made_with[key] for key in recipe.evaluation} == recipe.evaluation


def retrieval_note(args: Namespace) -> dict:
    """What the note of a retrieval calls otherwise than the options do."""
    return {"normalised": args.train_what == "last", "mean_of": args.gallery} if "gallery" in args else {}


@pytest.mark.parametrize("name", ALL)
def test_a_tolerance_comes_from_spread_and_sampling_error(name):
    """Of a share p measured on n videos the variance is p (1 - p) / n; two measurements have twice that."""
    for each in recipes.load(name).expect:
        if each.file:
            share = each.value / 100
            deviation = 100 * math.sqrt(2 * share * (1 - share) / each.videos)
            both = math.sqrt(each.spread ** 2 + (2 * deviation) ** 2)
            assert both <= each.tolerance + 1e-6 < both + 0.5 + 1e-6, both
            assert each.videos == {"ucf101": 3783, "hmdb51": 1530}["hmdb51" if "hmdb51" in name else "ucf101"]


def test_tolerances_of_mining_tell_cpr_from_plain_top_k():
    first, last, classes = recipes.load("ucf101_cpr_cycle1_rgb").expect
    assert (first.metric, first.at, last.metric, last.at) == ("recall", "first", "recall", "last")
    assert last.value - last.tolerance > 37.4 and classes.value - classes.tolerance > 77.8
    assert classes.value == round(100 * 15 / 18, 1) and classes.tolerance < 100 / 18 / 2


@pytest.mark.parametrize("name", ALL)
def test_costs_are_worked_out_right(name):
    """By plain arithmetic: 23.5 GFLOP a pass; 95 and 88 GFLOP/s on 2 cores, 28 TFLOP/s on each GPU."""
    recipe = recipes.load(name)
    assert recipe.cost
    for part in recipe.cost:
        taken = part.batch * part.processes
        assert part.samples == part.epochs * (part.videos * part.clips // taken) * taken
        operations = part.samples * part.passes * 23.5e9
        assert part.operations == pytest.approx(operations, rel=0.006)
        assert part.cpu_hours == pytest.approx(operations / {"train": 95e9, "test": 88e9}[part.work] / 3600, rel=0.006)
        assert part.gpu_hours == pytest.approx(operations / (28e12 * part.processes) / 3600, rel=0.006)
    options = recipe.options
    if recipe.record == TRAINING:
        part = recipe.cost[0]
        assert (part.epochs, part.batch, part.processes) == (options["epochs"], options["batch_size"], recipe.processes)


def test_the_cost_of_a_co_training_by_hand(capsys):
    """9537 // 32 = 298 steps of 32 clips, 100 epochs; five passes of 23.5 GFLOP at 20 TFLOP/s on each of two GPUs."""
    assert costs.main(["ucf101_cpr_cycle1_rgb", "--rate", "20"]) == 0
    training = next(line for line in capsys.readouterr().out.splitlines() if "953,600" in line)
    assert training.split()[-5:] == ["953,600", "1.12e+17", "327.6", "0.78", "2"]


GOOD = """
name = "mine"
about = "one"
commands = ["python main_nce.py"]
[options]
lr = 0.1
[[expect]]
name = "R@1"
value = 50
tolerance = 1.5
source = "here"
reason = "so"
metric = "recall"
"""
DAMAGED = {
    'name = "other"': "its name is 'other', but must be that of its file, 'mine'",
    "nome = 1": "there is no field 'nome': it is one of name, about",
    'about = ""\nabout = "two"': "is not TOML",
    "name = 3": "name is 3, but must be a text",
    "value = -1": "value is -1, but must be a number of at least 0",
    "value = nan": "value is nan, but must be a number of at least 0",
    "value = true": "value is True, but must be a number",
    "metric = 1": "expect 1, metric is 1, but must be a text",
    'side = "above"': "expect 1, side is 'above', but must be one of both, least",
    'file = "a.json"': "R@1: a number is found by metric, or by file, key and make",
    'lr = {a = 1}': "options is {'lr': {'a': 1}}, but must be a table of options",
    "commands = []": "commands is empty",
    "commands = [1]": "commands is [1], but must be a list of texts",
    'absent = "none"': "a recipe has either a number to expect ([[expect]]) or the reason why not (absent)",
}


def changed(line: str) -> str:
    """The good recipe with a line in place of the one of the same field, or after a field of its table."""
    field = line.split(" =")[0]
    if "\n" in line or field in ("nome", "absent"):
        return line + "\n" + GOOD
    if field in ("side", "file"):
        return GOOD + line
    return re.sub(rf"(?m)^{field} = .*$", lambda _: line, GOOD, count=1)


def loaded(tmp_path, text: str) -> Recipe:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return recipes.load(str(path))


def test_a_recipe_of_ones_own(tmp_path):
    recipe = loaded(tmp_path, GOOD)
    assert recipe.options == {"lr": 0.1} and recipe.expect[0].value == 50 and recipe.cost == ()


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_recipe_is_named_in_one_line(line, tmp_path):
    text = changed(line)
    assert text != GOOD
    with pytest.raises(OptionError, match=re.escape(DAMAGED[line])) as raised:
        loaded(tmp_path, text)
    assert "mine.toml" in str(raised.value)


@pytest.mark.parametrize("field", ["name", "about", "commands", "value", "source"])
def test_a_missing_field_is_named(field, tmp_path):
    with pytest.raises(OptionError, match=f"the field {field} is missing"):
        loaded(tmp_path, re.sub(rf"(?m)^{field} = .*\n", "", GOOD, count=2 if field == "name" else 1))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 100, b"a = " + b"[" * 5000, b"cost = 1", b"expect = [1]"],
                         ids=lambda value: repr(value)[:20])
def test_files_that_are_no_recipe(content, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=r"mine\.toml"):
        recipes.load(str(path))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml", "../README"])
def test_a_recipe_that_is_not_there(name):
    with pytest.raises(OptionError, match=r"there is no recipe .*one of hmdb51_finetune_2stream"):
        recipes.load(name)


def test_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "mine.toml").mkdir()
    with pytest.raises(OptionError, match="cannot be read"):
        recipes.load(str(tmp_path / "mine.toml"))


def test_the_good_recipe_of_these_tests_is_toml():
    assert tomllib.loads(GOOD)["expect"][0]["value"] == 50
