"""A report as one picture, in four columns."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unsmear.explain.draw import Legend
from unsmear.explain.report import Panel, Report

_COLUMNS, _COLUMN, _GAP, _MARGIN = 4, 480, 24, 40  # pixels
_HIGHEST = {False: 640, True: 900}  # of pictures, by whether they are wide
_TEXT_WIDTH = 1500
_INK, _SOFT, _PAPER = (27, 27, 27), (85, 85, 85), (255, 255, 255)
_TITLE, _SECTION, _PANEL, _TEXT, _SMALL = 38, 27, 20, 18, 16  # sizes of letters


def render_sheet(report: Report) -> Image.Image:
    """Draw a report; about 2000 pixels wide, as high as needed."""
    width = _COLUMNS * _COLUMN + (_COLUMNS - 1) * _GAP
    strips = [_text(report.title, _TITLE, _INK, width), _text(report.subtitle, _TEXT, _SOFT, width)]
    for section in report.sections:
        strips += [_blank(18), _rule(width), _text(section.title, _SECTION, _INK, width)]
        strips += [_text(section.text, _TEXT, _SOFT, _TEXT_WIDTH), _blank(4)]
        strips += [_beside([_draw(panel) for panel in row]) for row in _rows(section.panels)]
    return _framed(_below(strips))


def _rows(panels: list[Panel]) -> list[list[Panel]]:
    """Panels line by line; a wide one takes two columns."""
    rows: list[list[Panel]] = [[]]
    room = _COLUMNS
    for panel in panels:
        need = 2 if panel.is_wide else 1
        if need > room:
            rows.append([])
            room = _COLUMNS
        rows[-1].append(panel)
        room -= need
    return rows


def _draw(panel: Panel) -> Image.Image:
    width = 2 * _COLUMN + _GAP if panel.is_wide else _COLUMN
    picture = _fit(panel.picture, width, _HIGHEST[panel.is_wide])
    strips = [_text(panel.title, _PANEL, _INK, width), picture]
    if panel.legend is not None:
        strips.append(_legend(panel.legend, max(picture.width, _COLUMN // 2)))
    return _widened(_below([*strips, _text(panel.caption, _SMALL, _SOFT, width)], gap=5), width)


def _fit(picture: np.ndarray, width: int, height: int) -> Image.Image:
    """A picture as large as its place allows; small ones are enlarged by whole pixels."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = min(width / image.width, height / image.height)
    scale = int(scale) if scale >= 1 else scale
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _legend(legend: Legend, width: int) -> Image.Image:
    bar = Image.fromarray(legend.colors[None]).resize((width, 12), Image.Resampling.NEAREST)
    font, count = _font(_SMALL), len(legend.labels)
    strip = Image.new("RGB", (width, 14 + _line(_SMALL)), _PAPER)
    strip.paste(bar, (0, 0))
    pen = ImageDraw.Draw(strip)
    for i, label in enumerate(legend.labels):
        room = width - font.getlength(label)
        pen.text((room * i / max(1, count - 1), 14), label, _INK, font)
    return strip


def _text(text: str, size: int, color: tuple[int, int, int], width: int) -> Image.Image:
    font, lines = _font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += _pieces(word, font, width)
    lines = [line for line in lines if line]
    image = Image.new("RGB", (width, max(1, len(lines) * _line(size))), _PAPER)
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        pen.text((0, i * _line(size)), line, color, font)
    return image


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word cut up where it is longer than a line, as the name of a file may be."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as with every Pillow that has FreeType
    return font


def _line(size: int) -> int:
    return round(1.35 * size)


def _blank(height: int) -> Image.Image:
    return Image.new("RGB", (1, height), _PAPER)


def _rule(width: int) -> Image.Image:
    return Image.new("RGB", (width, 2), (200, 200, 200))


def _below(images: list[Image.Image], gap: int = 10) -> Image.Image:
    whole = Image.new("RGB", (max(i.width for i in images), sum(i.height + gap for i in images) - gap), _PAPER)
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height + gap
    return whole


def _beside(images: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (sum(i.width + _GAP for i in images), max(i.height for i in images) + 10), _PAPER)
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + _GAP
    return whole


def _widened(image: Image.Image, width: int) -> Image.Image:
    whole = Image.new("RGB", (width, image.height), _PAPER)
    whole.paste(image, (0, 0))
    return whole


def _framed(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (image.width + 2 * _MARGIN, image.height + 2 * _MARGIN), _PAPER)
    whole.paste(image, (_MARGIN, _MARGIN))
    return whole
