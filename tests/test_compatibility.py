"""What a checkpoint says of itself against what a command needs: refused, warned of, or nothing to say."""

import pytest

from engine.compatibility import check_facts, facts_of
from utils.errors import CheckpointError

CLASSIFIER = {"dataset": "ucf101", "net": "s3d", "seq_len": 32, "ds": 1, "img_dim": 128, "which_split": 1,
              "train_what": "ft", "second_view": "flow"}
PRETRAINING = {key: value for key, value in CLASSIFIER.items() if key not in ("which_split", "train_what")} | {
    "dataset": "ucf101-2clip", "model": "infonce", "reverse": False}
UBERNCE = PRETRAINING | {"model": "ubernce"}
AB = ["A", "B"]


def said(saved: dict, needed: dict, capsys, classes: object = None, accept: bool = False) -> str:
    """The error, or the printed warnings."""
    capsys.readouterr()
    try:
        check_facts(saved, "x.pth.tar", facts_of(needed, classes), accept)
    except CheckpointError as error:
        return f"error: {error}"
    return capsys.readouterr().out


@pytest.mark.parametrize(("change", "stream"), [
    ({"dataset": "a-2clip"}, "RGB"), ({"dataset": "a-f-2clip"}, "flow"), ({"dataset": "a-f"}, "flow"),
    ({"dataset": "a-f-2clip", "second_view": "residual"}, "residual"),
    ({"dataset": "a-2stream-2clip", "second_view": "residual"}, "RGB"),
    ({"dataset": "a-2stream-2clip", "reverse": True}, "flow"),
    ({"dataset": "my-f-set"}, "RGB"), ({"dataset": "my-2stream.v1-f"}, "flow")])
@pytest.mark.parametrize(("needed", "wanted"), [
    ({"dataset": "ucf101"}, "RGB"), ({"dataset": "ucf101-f"}, "flow"),
    ({"dataset": "ucf101-f", "second_view": "residual"}, "residual")])
def test_a_file_of_another_stream_is_refused(change, stream, needed, wanted, capsys):
    words = said({"options": PRETRAINING | change}, CLASSIFIER | needed, capsys)
    assert words == "" if stream == wanted else f"was trained on {stream} but is needed for {wanted}" in words
    assert said({}, CLASSIFIER | needed, capsys) == ""  # a published file


@pytest.mark.parametrize(("options", "needed", "words"), [
    (CLASSIFIER, {"which_split": 2}, "error: x.pth.tar was trained on split 1, which holds test videos of split 2: "),
    (UBERNCE, {"which_split": 3}, "error: "), (PRETRAINING, {"which_split": 2}, "warning: "),
    (CLASSIFIER, {"which_split": 2, "dataset": "hmdb51"}, ""),  # another set's split says nothing
    (PRETRAINING, {"img_dim": 64}, "warning: x.pth.tar was trained with --img_dim 128 but is used with --img_dim "),
    ({"dataset": ["?"]}, {}, ""), ("none", {}, ""), ({"net": "s3d"}, {"net": "r50"}, "")])
def test_network_split_and_sizes(options, needed, words, capsys):
    found = said({"options": options}, CLASSIFIER | needed, capsys)
    assert found.startswith(words) and bool(found) == bool(words) and found.count("\n") <= 1
    accepted = said({"options": options}, CLASSIFIER | needed, capsys, accept=True)
    assert accepted.startswith("warning: ") if words else accepted == ""


@pytest.mark.parametrize(("file", "now", "words"), [
    (["A", "C"], AB, "other classes (C, the dataset has B)"), (AB, AB, ""),
    (["A"], AB, "other classes (none, the dataset has B)"), (None, AB, ""), (AB, None, "")])
def test_another_class_list_is_refused_where_labels_count(file, now, words, capsys):
    for options, labelled in ((CLASSIFIER, True), (UBERNCE, True), (PRETRAINING, False)):
        found = said({"options": options, "classes": file}, CLASSIFIER, capsys, classes=now)
        assert (found.startswith("error: ") and words in found) if words and labelled else found == ""
