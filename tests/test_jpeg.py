"""JPEGs of many kinds decode to the pixels of Pillow and OpenCV; damaged and too large ones are named."""

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import frame
from PIL import Image

from dataset import jpeg


def saved(image: Image.Image, form: str = "JPEG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


PICTURE = Image.fromarray(frame("A/a", 0, (33, 50)))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: to be shown turned by 90 degrees
KINDS = {"4:4:4": saved(PICTURE, subsampling=0, quality=95), "4:2:2": saved(PICTURE, subsampling=1),
         "4:2:0": saved(PICTURE, subsampling=2, quality=30), "progressive": saved(PICTURE, progressive=True),
         "grey": saved(PICTURE.convert("L")), "turned": saved(PICTURE, exif=TURNED),
         "PNG": saved(PICTURE, "PNG"), "with a comment": saved(PICTURE, comment=b"x" * 1000),
         "with bytes after its end": saved(PICTURE) + b"more"}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(kind):
    expected = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    found, faults = jpeg.decode([KINDS[kind]])
    assert found.dtype == np.uint8 and found.shape == (1, 33, 50, 3)
    assert (found[0] == expected).all() and not faults


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", KINDS["grey"][:20], KINDS["4:2:0"][:-40],
                                  KINDS["PNG"][:100]])
def test_the_damaged_one_is_named(data):
    images, faults = jpeg.decode([KINDS["4:4:4"], data])
    assert faults == {1: "does not decode as a JPEG"} and (images[0] == jpeg.decode([KINDS["4:4:4"]])[0][0]).all()


@pytest.mark.parametrize("size", [(50, 34), (20, 10)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_another_size_is_named(size, form):
    other = saved(PICTURE.resize(size), form)
    assert jpeg.decode([KINDS["4:4:4"], KINDS["grey"], other])[1] == {2: "is of another size than most"}
    images, faults = jpeg.decode([other, b"", KINDS["4:4:4"], KINDS["PNG"]])  # most are of the other size
    assert sorted(faults) == [0, 1] and (images[2:] == jpeg.decode([KINDS["4:4:4"], KINDS["PNG"]])[0]).all()


@given(st.sampled_from(["4:4:4", "4:2:0", "grey"]), st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_gives_what_opencv_reads_or_an_error(kind, place, byte):
    data = bytearray(KINDS[kind])
    data[place % len(data)] = byte
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), jpeg.DECODE_FLAGS)
    [found], faults = jpeg.decode([bytes(data)])
    assert (expected is None) == bool(faults)
    assert expected is None or (found == expected).all()


def test_sides_and_bytes_are_bounded_before_decoding(monkeypatch):
    size = struct.pack(">HH", 33, 50)  # in the frame header
    assert KINDS["grey"].count(size) == 1
    huge = KINDS["grey"].replace(size, struct.pack(">HH", 60_000, 60_000))
    assert jpeg.decode([huge])[1] == {0: "has 60000 x 60000 pixels, too many for a frame"}
    monkeypatch.setattr(jpeg, "MAX_BYTES", 4 * 33 * 50 * 3)
    assert len(jpeg.decode([KINDS["grey"]] * 4)[0]) == 4
    with pytest.raises(ValueError, match="its frames take"):
        jpeg.decode([KINDS["grey"]] * 5)
