"""The figure of the documentation: what is drawn of a cascade."""

from model.cascade import stage_sizes
from tools import figures


def test_each_stage_keeps_a_part_of_the_one_before_and_none_of_the_query_s_source():
    queue = figures.make_queue(256, 3)
    kept = figures.survivors(queue, 5, 0.5, 5)
    assert [int(each.sum()) for each in kept] == stage_sizes(256, 5, 0.5, 5)
    for before, after in zip([~queue.excluded, *kept], kept, strict=False):
        assert (before | ~after).all()
    others = queue.other[~queue.excluded]
    assert float(queue.other[kept[0]].min()) >= float(others.sort(descending=True).values[127])  # ranked by that view


def test_the_cascade_is_drawn_with_the_same_bytes_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        assert figures.main(["cascade", "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
