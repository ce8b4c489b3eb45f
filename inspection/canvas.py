"""Rows of pictures with captions, put together as one."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom in shares of 0-1 of a picture's sides

GAP, MARGIN, LABELS = 4, 16, 250  # pixels; LABELS: width of the captions left of the rows
TEXT, TITLE = 13, 17  # sizes of letters
LINE = TEXT + 5
INK, FAINT, PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)
FONTS = {size: ImageFont.load_default(size) for size in (TEXT, TITLE)}


@dataclass(frozen=True)
class Strip:
    """A row of pictures. label: its caption's lines. images: uint8 (h, w, 3) each. colour: of the first line, and of a
    bar beside it."""

    label: Sequence[str]
    images: Sequence[np.ndarray]
    colour: Colour = INK


@dataclass(frozen=True)
class Block:
    """Rows that belong together. columns: captions of their columns."""

    title: str
    columns: Sequence[str]
    strips: Sequence[Strip] = field(default_factory=tuple)


def sheet(title: str, notes: Sequence[str], blocks: Sequence[Block], tile: int,
          legend: Image.Image | None = None) -> Image.Image:
    """One picture. notes: lines below the title. tile: side of the square that each picture is fitted into, in pixels.
    legend: a picture for the upper right corner."""
    columns = max(len(block.columns) for block in blocks)
    texts = max(_width(line, size) for line, size in [(title, TITLE), *((note, TEXT) for note in notes)])
    beside = legend.width + MARGIN if legend else 0
    width = 2 * MARGIN + max(LABELS + columns * (tile + GAP), texts + beside)
    head = max(TITLE + 10 + LINE * len(notes), legend.height if legend else 0) + MARGIN
    height = MARGIN + head + sum(_height(block, tile) for block in blocks)
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, INK, FONTS[TITLE])
    for number, note in enumerate(notes):
        draw.text((MARGIN, MARGIN + TITLE + 10 + LINE * number), note, INK, FONTS[TEXT])
    if legend:
        image.paste(legend, (width - MARGIN - legend.width, MARGIN))
    top = MARGIN + head
    for block in blocks:
        _draw_block(image, block, top, tile)
        top += _height(block, tile)
    return image


def _height(block: Block, tile: int) -> int:
    return 2 * LINE + len(block.strips) * (tile + GAP) + MARGIN


def _draw_block(image: Image.Image, block: Block, top: int, tile: int) -> None:
    draw = ImageDraw.Draw(image)
    draw.line((MARGIN, top - GAP, image.width - MARGIN - 1, top - GAP), FAINT)
    draw.text((MARGIN, top), _fitted(block.title, image.width - 2 * MARGIN), INK, FONTS[TEXT])
    left = MARGIN + LABELS
    for number, caption in enumerate(block.columns):
        draw.text((left + number * (tile + GAP), top + LINE), caption, FAINT, FONTS[TEXT])
    top += 2 * LINE
    for strip in block.strips:
        draw.rectangle((MARGIN, top, MARGIN + 3, top + tile - 1), strip.colour)
        for number, line in enumerate(strip.label):
            place = (MARGIN + 10, top + number * LINE)
            draw.text(place, _fitted(line, LABELS - 20), INK if number else strip.colour, FONTS[TEXT])
        for number, picture in enumerate(strip.images):
            image.paste(fitted(picture, tile), (left + number * (tile + GAP), top))
        top += tile + GAP


def fitted(picture: np.ndarray, tile: int) -> Image.Image:
    """A picture in the middle of a grey square; small ones are magnified by a whole number, so pixels stay visible."""
    image = Image.fromarray(picture)
    factor = tile / max(image.size)
    whole = factor == int(factor)
    width, height = (max(1, round(side * factor)) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (tile, tile), (225, 225, 225))
    square.paste(scaled, ((tile - width) // 2, (tile - height) // 2))
    return square


def outlined(picture: np.ndarray, boxes: Sequence[tuple[Box, Colour]]) -> np.ndarray:
    """A picture with rectangles in it."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    across, down = image.width - 1, image.height - 1
    for (left, top, right, bottom), colour in boxes:
        corners = (round(left * across), round(top * down), round(right * across), round(bottom * down))
        draw.rectangle(corners, outline=colour, width=max(1, round(max(image.size) / 80)))
    return np.asarray(image)


def _width(text: str, size: int) -> int:
    return round(FONTS[size].getlength(text))


def _fitted(text: str, width: int) -> str:
    """As much of a text as fits."""
    if _width(text[:width], TEXT) <= width and len(text) <= width:  # no letter is narrower than a pixel
        return text
    most = bisect_right(range(min(len(text), width)), width, key=lambda count: _width(text[:count] + "...", TEXT))
    return text[:most - 1] + "..."
