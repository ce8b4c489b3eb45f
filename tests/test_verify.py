"""experiments.verify on run folders made up here, and on one of a real training."""

import json
import re
from dataclasses import replace
from pathlib import Path

import noise
import pytest

import launch
import main_coclr
from experiments import recipe as recipes
from experiments import verify

SMALL = """
name = "small"
about = "a recipe of these tests"
processes = 2
commands = ["python main_coclr.py"]
[options]
lr = 0.001
epochs = 3
schedule = [2]
cascade = true
net = "s3d"
[evaluation]
seq_len = 32
[[expect]]
name = "mining, first"
value = 30
tolerance = 2
source = "s"
reason = "r"
metric = "recall"
at = "first"
[[expect]]
name = "mining, last"
value = 40.0
tolerance = 2.0
source = "s"
reason = "r"
metric = "recall"
[[expect]]
name = "R@1"
value = 50.0
tolerance = 1.0
side = "least"
source = "s"
reason = "r"
file = "feature/ucf101_recall.json"
key = ["1"]
make = "python eval/main_classifier.py --test {model}/epoch2.pth.tar --retrieval"
note = "feature/ucf101_train_made_from.json"
"""
OPTIONS = {"lr": 1e-3, "epochs": 3, "schedule": [2], "cascade": True, "net": "s3d", "accept_changes": False, "seed": 0}


@pytest.fixture
def small(tmp_path):
    """The path of a recipe."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def make_run(folder: Path, recalls=(None, 0.31, 0.35, 0.39), *, options=(), processes=2, first=0.495) -> Path:
    """A run folder of so many epochs, and its retrieval where ``first`` (R@1) is a share."""
    (folder / "model" / "feature").mkdir(parents=True)
    start = {"command": ["python"], "options": OPTIONS | dict(options), "processes": processes}
    earlier = {"command": ["python"], "options": {"lr": 7}, "processes": 1}  # what the last start says counts
    (folder / "run.json").write_text(json.dumps({"starts": [earlier, start]}))
    lines = [{"kind": "steps", "title": "train", "epoch": 0, "done": 5, "values": {"recall": 0.99}, "seconds": {}}]
    for epoch, recall in enumerate(recalls):
        lines.append({"kind": "epoch", "title": "val", "epoch": epoch, "done": 0, "values": {"recall": 0.98}})
        lines.append({"kind": "epoch", "title": "train", "epoch": epoch, "done": 5,
                      "values": {"loss": 1.0} | ({} if recall is None else {"recall": recall})})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if first is not None:
        feature = folder / "model" / "feature"
        (feature / "ucf101_recall.json").write_text(json.dumps({"1": 100 * first, "5": 70.0}))
        (feature / "ucf101_train_made_from.json").write_text(json.dumps({"seq_len": 32}))
    return folder


def checked(capsys, run: Path, recipe: Path | str) -> tuple[int, str]:
    """The exit code, and what was said."""
    code = launch.exit_code(lambda: verify.main([str(run), str(recipe)]))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def verdicts(text: str) -> dict[str, str]:
    """The verdict of each row of the table."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("number, %"))
    words = [re.split(r"  +", line) for line in lines[start + 2:start + 5]]
    return {row[0]: row[-1] for row in words}


def test_a_run_as_published(tmp_path, small, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run"), small)
    assert code == 0, text
    assert text == f"""{tmp_path}/run
small: a recipe of these tests
number, %      expected  tolerance  found  verdict
--------------------------------------------------
mining, first      30.0      +-2.0  31.00    holds
mining, last       40.0      +-2.0  39.00    holds
R@1             >= 50.0       -1.0  49.50    holds
as published, within the tolerances
"""


@pytest.mark.parametrize("recalls, first, expected", [
    ((0.28, 0.3, 0.42), 0.49, ["holds", "holds", "holds"]),  # on the edges
    ((0.279, 0.3, 0.42), 0.49, ["differs", "holds", "holds"]),
    ((0.321, 0.3, 0.421), 0.99, ["differs", "differs", "holds"]),  # a lower bound has no upper one
    ((0.3, 0.3, 0.4), 0.489, ["holds", "holds", "differs"]),
])
def test_numbers_beyond_the_tolerance(recalls, first, expected, tmp_path, small, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run", recalls, first=first), small)
    assert list(verdicts(text).values()) == expected
    assert code == (1 if "differs" in expected else 0) and ("not as published" in text) == (code == 1)


@pytest.mark.parametrize("options, line", [
    ({"lr": 0.01}, "lr is 0.01, in the recipe 0.001"),
    ({"schedule": [1, 2]}, "schedule is 1 2, in the recipe 2"),
    ({"schedule": []}, "schedule is empty, in the recipe 2"),
    ({"cascade": 1}, "cascade is 1, in the recipe True"),
    ({"accept_changes": True}, "accept_changes: an earlier part of the run was made with other options"),
])
def test_other_options_are_named(options, line, tmp_path, small, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run", options=options), small)
    assert code == 1 and text.count("not as the recipe") == 1 and f"not as the recipe: {line}\n" in text
    assert text.endswith("this is not a run of the recipe\n")


def test_more_that_is_not_as_the_recipe(tmp_path, small, capsys):
    run = make_run(tmp_path / "run", processes=1)
    (run / "model/feature/ucf101_train_made_from.json").write_text('{"seq_len": 8}')
    content = json.loads((run / "run.json").read_text())
    del content["starts"][-1]["options"]["net"]
    (run / "run.json").write_text(json.dumps(content))
    code, text = checked(capsys, run, small)
    assert code == 1 and [line for line in text.splitlines() if "not as the recipe" in line] == [
        "not as the recipe: net is not known of it, in the recipe it is s3d",
        "not as the recipe: processes is 1, in the recipe 2",
        f"not as the recipe: {run}/model/feature/ucf101_train_made_from.json: seq_len is 8, in the recipe 32"]


def test_a_run_that_is_not_finished(tmp_path, small, capsys):
    run = make_run(tmp_path / "run", (0.3, 0.4))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "epoch", "title": "tr')  # killed while it wrote
    code, text = checked(capsys, run, small)
    assert code == 2 and list(verdicts(text).values()) == ["holds", "cannot tell", "holds"]
    assert "not finished: 2 of 3 epochs are done\n" in text and "it cannot be told" in text


def test_missing_results_name_the_command_that_makes_them(tmp_path, small, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run", (None, None, None), first=None), small)
    assert code == 2 and set(verdicts(text).values()) == {"cannot tell"}
    assert f"R@1: there is no {tmp_path}/run/model/feature/ucf101_recall.json: make it with python " \
        f"eval/main_classifier.py --test {tmp_path}/run/model/epoch2.pth.tar --retrieval\n" in text
    assert "mining, first: no epoch of metrics.jsonl has 'recall'\n" in text


def test_a_number_that_differs_outweighs_one_that_is_missing(tmp_path, small, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run", (0.5, 0.4, 0.4), first=None), small)
    assert code == 1 and list(verdicts(text).values()) == ["differs", "holds", "cannot tell"]


@pytest.mark.parametrize("value", [None, "0.3", True, [0.3], float("inf")])
def test_what_is_no_number_is_not_compared(value, tmp_path, small, capsys):
    run = make_run(tmp_path / "run", (value, 0.3, 0.4) if value is not None else (float("nan"), 0.3, 0.4))
    (run / "model/feature/ucf101_recall.json").write_text(json.dumps({"1": value}))
    code, text = checked(capsys, run, small)
    assert code == 2 and list(verdicts(text).values()) == ["cannot tell", "holds", "cannot tell"]
    assert "ucf101_recall.json has no number at 1" in text


def test_several_files_that_fit(tmp_path, small, capsys):
    small.write_text(SMALL.replace("feature/ucf101_recall.json", "feature/*_recall.json"))
    run = make_run(tmp_path / "run")
    (run / "model/feature/other_recall.json").write_text("{}")
    code, text = checked(capsys, run, small)
    assert code == 2 and "1 more fit feature/*_recall.json: move away all but one" in text


def damaged(run: Path, name: str, content: bytes | None) -> None:
    path = run / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)


DEEP = b"[" * 100_000


@pytest.mark.parametrize("name, content", [
    *(("run.json", content) for content in
      (None, b"", b"\xff", b"[]", b"{}", b'{"starts": []}', b'{"starts": [1]}', b'{"starts": [{}]}',
       b'{"starts": [{"options": 3}]}', DEEP, b'{"a": ' + b"1" * 10_000 + b"}")),
    *(("metrics.jsonl", content) for content in
      (None, b"\xff\n{}\n", b"[]\n[]\n", b"{}\n{}\n", DEEP + b"\n{}\n",
       b'{"kind": "epoch", "title": "train", "epoch": 1e999, "values": {}}\n{}\n',
       b'{"kind": "epoch", "title": "train", "epoch": 1, "values": 3}\n{}\n')),
    *(("model/feature/ucf101_recall.json", content) for content in (b"", b"\xff", b"[]", DEEP)),
    *(("model/feature/ucf101_train_made_from.json", content) for content in (b"", b"3")),
], ids=lambda value: repr(value)[:30])
def test_damaged_run_folders_are_named_in_one_line(name, content, tmp_path, small, capsys):
    run = make_run(tmp_path / "run")
    damaged(run, name, content)
    code, text = checked(capsys, run, small)
    assert code == 2 and text.startswith("error: ") and text.count("\n") == 1 and Path(name).name in text


@pytest.mark.parametrize("name", ["missing", "small.toml", "."])
def test_what_is_no_run_folder(name, tmp_path, small, capsys):
    code, text = checked(capsys, tmp_path / name, small)
    assert code == 2 and re.fullmatch(r"error: there is no .*RUN is the folder of a run.*\n", text)


def test_an_epoch_trained_again_counts_as_it_was_last(tmp_path, small, capsys):
    run = make_run(tmp_path / "run", (0.3, 0.3, 0.1))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "epoch", "title": "train", "epoch": 2, "done": 9, "values": {"recall": 0.4}}))
    assert checked(capsys, run, small)[0] == 0


def note_of(recipe: recipes.Recipe) -> dict:
    return dict(recipe.options) | {"checkpoint": "f00d"}


@pytest.mark.parametrize("inside", [True, False])
def test_an_evaluation_is_verified_beside_its_checkpoint(inside, tmp_path, capsys):
    """Of a released file there is no run folder."""
    recipe = recipes.load("ucf101_retrieval_rgb")
    feature = tmp_path / ("model/feature" if inside else "feature")
    feature.mkdir(parents=True)
    code, text = checked(capsys, tmp_path, "ucf101_retrieval_rgb")
    assert code == 2 and "main_classifier.py" in text
    (feature / "ucf101_train_made_from.json").write_text(json.dumps(note_of(recipe)))
    code, text = checked(capsys, tmp_path, "ucf101_retrieval_rgb")
    assert code == 2 and f"--test {feature.parent}/CHECKPOINT --retrieval" in text
    (feature / "ucf101_recall.json").write_text('{"1": 50.1, "5": 60}')
    assert checked(capsys, tmp_path, "ucf101_retrieval_rgb")[0] == 0
    (feature / "ucf101_train_made_from.json").write_text(json.dumps(note_of(recipe) | {"mean_of": "windows"}))
    code, text = checked(capsys, tmp_path, "ucf101_retrieval_rgb")
    assert code == 1 and "mean_of is windows, in the recipe clip" in text


def test_a_recipe_without_a_published_number_cannot_be_told(tmp_path, capsys):
    recipe = recipes.load("ucf101_ubernce")
    run = make_run(tmp_path / "run", (0.1,) * 300, options=recipe.options)
    code, text = checked(capsys, run, "ucf101_ubernce")
    assert code == 2 and "nothing to compare with: no number of UberNCE" in text and "not as the recipe" not in text


def test_a_classifiers_run(tmp_path, capsys):
    """Its run.json counts GPUs; its test lies beside the best checkpoint."""
    recipe = recipes.load("ucf101_finetune_rgb")
    run = make_run(tmp_path / "run", (0.1,) * 500, options=recipe.options)
    content = json.loads((run / "run.json").read_text())
    content["starts"][-1] |= {"gpus": content["starts"][-1].pop("processes")}
    (run / "run.json").write_text(json.dumps(content))
    tested = run / "model/model_best_epoch431.pth.tar-acc-ten.json"
    tested.write_text(json.dumps({"center": {"1": 10.0}, "ten": {"1": 80.0, "5": 95.0}}))
    assert checked(capsys, run, "ucf101_finetune_rgb")[0] == 0
    tested.write_text(json.dumps({"center": {"1": 90.0}, "ten": {"1": 79.0, "5": 95.0}}))
    assert checked(capsys, run, "ucf101_finetune_rgb")[0] == 1


def test_a_real_run(tmp_path, monkeypatch, capsys):
    """A training on noise is read, its options compared, and the recall that it logged is found."""
    noise.install(monkeypatch.setattr)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.chdir(tmp_path)
    words = "--seq_len 8 --img_dim 32 --batch_size 4 --moco-k 8 --moco-dim 8 -j 0 --topk 2 --epochs 3 --schedule 2 " \
        "--dataset noise-2stream-2clip"
    assert launch.exit_code(lambda: main_coclr.work(main_coclr.parse(words.split()))) == 0
    [run] = Path("ckpt/log-pretrain").iterdir()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recall = [r["values"].get("recall") for r in records if r["kind"] == "epoch"]
    recipe = recipes.load("ucf101_cpr_cycle1_rgb")
    ours = {"dataset": "noise-2stream-2clip", "epochs": 3, "schedule": [2], "seq_len": 8, "img_dim": 32,
            "batch_size": 4, "moco_k": 8, "moco_dim": 8, "topk": 2, "cascade": False}
    last = replace(recipe.expect[1], value=100 * recall[-1])
    [found] = [each for each in recipe.expect if each.metric == "cmr_median"]
    mined = [r["values"]["cmr_median"] for r in records if r["kind"] == "mining"]
    found = replace(found, value=100 * mined[-1])
    recipe = replace(recipe, options=recipe.options | ours, processes=1, expect=(last, found))
    capsys.readouterr()
    assert verify.verify(run, recipe) == 0, capsys.readouterr().out
    assert verify.verify(run, replace(recipe, options=recipe.options | {"stage": 3})) == 1
    assert "stage is 7, in the recipe 3" in capsys.readouterr().out
