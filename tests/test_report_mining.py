"""Mining gallery, curves and class mining recall of python -m report, against loops over what a small run left."""

import json

import pytest
import torch
from made_run import fixture_made, small_network  # noqa: F401

import main_coclr
from dataset import catalog
from model import momentum
from report import class_mining, curves, mining_gallery
from report.run_files import read_run
from utils import checkpoint
from utils.errors import OptionError
from utils.presets import PretrainTransform, to_blocks


@pytest.fixture
def looked(made):
    args = mining_gallery.options(read_run(made.folder).options, str(made.data.data_root), str(made.data.split_root))
    return mining_gallery.look(args, str(read_run(made.folder).checkpoint), 12)


def plain_stage(candidates: list[int], similarity: torch.Tensor, excluded: list[bool], size: int) -> list[int]:
    return sorted(candidates, key=lambda j: (excluded[j], -float(similarity[j])))[:size]


def test_what_is_mined_is_what_the_next_step_would_mine(made, looked):
    """q, k and kf by the encoders themselves, and the cascade by sorting lists."""
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    args = looked.args
    model = main_coclr.build(args)
    model.load_state_dict(saved["state_dict"])
    model.train()
    dataset = catalog.build(args.dataset, "train", transform=PretrainTransform(32), seq_len=8, ds=1,
                            data_root=args.data_root, split_root=args.split_root, seed=0)
    index, rows = dataset.index, saved["label_ring"]["rows"]
    assert looked.rows.tolist() == rows.tolist() and looked.views == ["other", "own", "other"]
    first = [query.row for query in looked.queries[:4]]  # a batch
    blocks = to_blocks(torch.utils.data.default_collate([dataset[2, row] for row in first]), torch.device("cpu"))
    with torch.no_grad():
        q = momentum.embed(model.encoder_q, blocks[:, 0, 0])
        kf = momentum.embed(model.sampler, blocks[:, 1, 1])
    state = saved["state_dict"]
    for i, query in enumerate(looked.queries[:4]):
        sims = {"own": q[i] @ state["queue"], "other": kf[i] @ state["queue_second"]}
        own_source = [int(index.sources[row]) == int(index.sources[query.row]) for row in rows]
        right = [index.labels[row] == index.labels[query.row] and not own_source[j] for j, row in enumerate(rows)]
        kept = list(range(8))
        for view, size, stage, hits in zip(looked.views, (5, 3, 2), query.stages, query.hits, strict=True):
            kept = plain_stage(kept, sims[view], own_source, size)
            assert sorted(stage.tolist()) == sorted(kept) and hits == sum(right[j] for j in kept)
        assert query.stages[-1].tolist() == kept  # the mined ones, best first
        assert query.own.tolist() == pytest.approx(sims["own"].tolist(), abs=1e-5)
        taken = [j for j in kept if not own_source[j]]
        assert query.recall == pytest.approx(sum(right[j] for j in taken) / max(1, len(taken)))


def test_a_queue_that_the_checkpoint_does_not_tell_is_made_anew(made, looked, tmp_path):
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    del saved["label_ring"]
    checkpoint.save(tmp_path / "published.pth.tar", saved)
    again = mining_gallery.look(looked.args, str(tmp_path / "published.pth.tar"), 6)
    assert "made for this page" in again.origin and "made for this page" not in looked.origin
    assert len(again.rows) == 8 and len(again.queries) == 6 and all(len(query.own) == 8 for query in again.queries)
    for query in again.queries:
        sources = [looked.dataset.index.sources[row] for row in again.rows]
        expected = [source != looked.dataset.index.sources[query.row] for source in sources]
        assert query.allowed.tolist() == expected


def test_queries_are_shown_from_the_best_to_the_worst(looked):
    recalls = [query.recall for query in looked.chosen]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] == max(q.recall for q in looked.queries) and recalls[-1] == min(q.recall for q in looked.queries)


@pytest.mark.parametrize(("name", "value"), [("moco_k", "8"), ("topk", True), ("dataset", 5), ("ratio", None)])
def test_odd_options_of_a_run_are_refused(made, name, value):
    with pytest.raises(OptionError, match=name):
        mining_gallery.options({**read_run(made.folder).options, name: value}, "data", "splits")


def test_curves_and_class_mining_are_those_of_the_journal(made):
    run = read_run(made.folder)
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    drawn = {line.name: line.points for chart in curves.draw(run) for line in chart.series}
    assert drawn["PMR"] == [(line["done"], line["values"]["recall"]) for line in lines if line["kind"] == "epoch"]
    hits = [line["values"]["stage2_hits"] / 3 for line in lines if line["kind"] == "epoch"]
    assert [y for _, y in drawn["stage 2, own view, keeps 3"]] == pytest.approx(hits)
    last = [line for line in lines if line["kind"] == "mining"][-1]
    found = class_mining.read(run, run)
    assert {name: value for name, value, _ in found.rows} == last["classes"] and found.epoch == 1
    assert all(value == beside for _, value, beside in found.rows)
    assert [value for _, value, _ in found.rows] == sorted(last["classes"].values())
