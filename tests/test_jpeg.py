"""JPEGs of many kinds have the pixels that Pillow and OpenCV find; damaged ones are named."""

import io

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
    found = jpeg.decode([KINDS[kind]])
    assert found.dtype == np.uint8 and found.shape == (1, 33, 50, 3)
    assert (found[0] == expected).all()


def test_images_of_several_kinds_stand_in_their_order():
    together = jpeg.decode(list(KINDS.values()))
    assert all((image == jpeg.decode([data])[0]).all() for image, data in zip(together, KINDS.values(), strict=True))


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", KINDS["grey"][:20], KINDS["4:2:0"][:-40],
                                  KINDS["PNG"][:100]])
def test_the_damaged_one_is_named(data):
    with pytest.raises(jpeg.FrameError, match="does not decode") as caught:
        jpeg.decode([KINDS["4:4:4"], data])
    assert caught.value.place == 1


def test_another_size_is_named():
    with pytest.raises(jpeg.FrameError, match="another size") as caught:
        jpeg.decode([KINDS["4:4:4"], KINDS["grey"], saved(PICTURE.resize((50, 34)))])
    assert caught.value.place == 2


@given(st.sampled_from(["4:4:4", "4:2:0", "grey"]), st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_gives_what_opencv_reads_or_an_error(kind, place, byte):
    data = bytearray(KINDS[kind])
    data[place % len(data)] = byte
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), jpeg.DECODE_FLAGS)
    try:
        found = jpeg.decode([bytes(data)])[0]
    except jpeg.FrameError:
        assert expected is None
    else:
        assert expected is not None and (found == expected).all()
