"""The figure of the documentation: what is drawn of a cascade."""

from tools import figures


def test_the_cascade_is_drawn_with_the_same_bytes_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        assert figures.main(["cascade", "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
