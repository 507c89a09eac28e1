"""TIFF files, whose pixels we write ourselves: no library at hand keeps more than 8 bits and EXIF directories too.

A TIFF file and an EXIF block are the same structure. So the block is written first, as it lies, and a new first
directory behind it: every offset in the block stays true, those inside the maker notes of cameras too.
"""

import struct
import zlib
from typing import BinaryIO, Literal

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from unsmear.errors import ImageError
from unsmear.exif import PREFIX, entries_of

NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, ORIENTATION = 254, 258, 259, 262, 274
SAMPLES_PER_PIXEL, EXTRA_SAMPLES, SAMPLE_FORMAT = 277, 338, 339
WIDTH, HEIGHT, XMP, PHOTOSHOP, ICC, DNG_VERSION = 256, 257, 700, 34377, 34675, 50706

Order = Literal["<", ">"]
"""Whether the low bytes of numbers come first, or the high ones."""

_SHORT, _LONG, _RATIONAL, _BYTE, _UNDEFINED = 3, 4, 5, 1, 7
# Tags of how pixels are stored, and those that we write ourselves.
_STORAGE = {*range(254, 267), 273, 274, *range(277, 285), *range(286, 293), 296, 297, 301, *range(317, 348)}
_STORAGE |= {*range(512, 533), XMP, PHOTOSHOP, ICC}
_STRIP_BYTES = 1 << 20
_MAX_BYTES = 2**32 - 2**20
_LEVEL = 4  # of deflate: more takes twice as long and saves some percent


def read_tags(file: BinaryIO) -> list[ImageFileDirectory_v2]:
    """All directories of a file, first of its pages first; as many as 100.

    Of those behind the first only `NEW_SUBFILE_TYPE` is read: a small file may have many that all name the same data.

    Args:
        file: The file, which is left anywhere.

    Raises:
        ImageError: If there is none, or one of them is damaged.
    """
    file.seek(0)
    head = file.read(16)
    is_big = head[2:4] in (b"+\0", b"\0+")
    found: list[ImageFileDirectory_v2] = []
    seen = set()
    place = ImageFileDirectory_v2(head if is_big else head[:8]).next
    while place not in (0, *seen) and len(found) < 100:
        tags = ImageFileDirectory_v2(head if is_big else head[:8])
        file.seek(place)
        seen.add(place)
        if found:
            tags[NEW_SUBFILE_TYPE], place = _skim(file, "<" if head[:2] == b"II" else ">", is_big)
        else:
            tags.load(file)
            place = tags.next
            if WIDTH not in tags or HEIGHT not in tags:
                raise ImageError("the TIFF file is damaged or cut off")
        found.append(tags)
    if not found:
        raise ImageError("the TIFF file is damaged or cut off")
    return found


def _skim(file: BinaryIO, order: Order, is_big: bool) -> tuple[int, int]:
    """What kind of page the directory is that begins here, and where the next one is."""
    number, link, entry, value = ("Q", "Q", 20, 12) if is_big else ("H", "I", 12, 8)
    (count,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
    first = file.read(entry)  # as tags are in order, and this one comes before all others
    file.seek(entry * (count - 1), 1)
    (after,) = struct.unpack(order + link, file.read(struct.calcsize(link)))
    tag, kind = struct.unpack_from(order + "HH", first)
    if tag != NEW_SUBFILE_TYPE or kind not in (_SHORT, _LONG):
        return 0, after
    return struct.unpack_from(order + ("H" if kind == _SHORT else "I"), first, value)[0], after


def encode_tiff(
    samples: np.ndarray,
    *,
    has_alpha: bool = False,
    compressed: bool = True,
    exif: bytes = b"",
    icc: bytes = b"",
    xmp: bytes = b"",
    photoshop: bytes = b"",
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """A TIFF file of one page.

    Args:
        samples: (H, W, C) of uint8, uint16, float16 or float32: gray, RGB or CMYK, and perhaps alpha.
        has_alpha: Whether the last channel is opacity.
        compressed: Whether to compress without loss (deflate, with differences), or not at all.
        exif: EXIF block, or empty.
        icc: ICC profile, or empty.
        xmp: XMP packet, or empty.
        photoshop: Image resources of Photoshop, or empty.
        dpi: Dots per inch across and down, or None.

    Raises:
        ImageError: If it would be larger than 4 GiB, which TIFF cannot address.
    """
    height, width, channels = samples.shape
    block = bytearray(exif.removeprefix(PREFIX)) or bytearray(b"II*\0" + bytes(4))
    order: Order = ">" if block.startswith(b"MM") else "<"
    block += bytes(len(block) % 2)
    is_float = samples.dtype.kind == "f"
    colors = channels - has_alpha
    rows = max(1, _STRIP_BYTES // (width * channels * samples.itemsize))
    offsets, counts = [], []
    file = [bytes(block)]
    size = len(block)
    for top in range(0, height, rows):
        strip = _strip(samples[top : top + rows], order, compressed)
        strip += bytes(len(strip) % 2)
        offsets.append(size)
        counts.append(len(strip))
        file.append(strip)
        size += len(strip)
        if size > _MAX_BYTES:
            raise ImageError("larger than 4 GiB, which TIFF files cannot be")
    values = {
        WIDTH: (_LONG, [width]),
        HEIGHT: (_LONG, [height]),
        BITS_PER_SAMPLE: (_SHORT, [samples.itemsize * 8] * channels),
        COMPRESSION: (_SHORT, [8 if compressed else 1]),
        PHOTOMETRIC: (_SHORT, [{1: 1, 3: 2, 4: 5}[colors]]),
        273: (_LONG, offsets),
        ORIENTATION: (_SHORT, [1]),
        SAMPLES_PER_PIXEL: (_SHORT, [channels]),
        278: (_LONG, [rows]),
        279: (_LONG, counts),
        284: (_SHORT, [1]),
        SAMPLE_FORMAT: (_SHORT, [3 if is_float else 1] * channels),
    }
    if compressed:
        values[317] = (_SHORT, [3 if is_float else 2])
    if has_alpha:
        values[EXTRA_SAMPLES] = (_SHORT, [2])
    packed = {
        tag: (kind, len(numbers), struct.pack(f"{order}{len(numbers)}{'H' if kind == _SHORT else 'I'}", *numbers))
        for tag, (kind, numbers) in values.items()
    }
    if dpi:
        for tag, value in zip((282, 283), dpi, strict=True):
            packed[tag] = (_RATIONAL, 1, struct.pack(order + "2I", min(round(value * 1000), 2**32 - 1), 1000))
        packed[296] = (_SHORT, 1, struct.pack(order + "H", 2))
    for tag, kind, data in ((XMP, _BYTE, xmp), (PHOTOSHOP, _BYTE, photoshop), (ICC, _UNDEFINED, icc)):
        if data:
            packed[tag] = (kind, len(data), data)
    entries = {tag: entry for tag, entry in entries_of(bytes(block)).items() if tag not in _STORAGE}
    for tag, (kind, count, data) in packed.items():
        if len(data) <= 4:
            data_or_place = data + bytes(4 - len(data))
        else:
            data_or_place = struct.pack(order + "I", size)
            file.append(data + bytes(len(data) % 2))
            size += len(file[-1])
        entries[tag] = struct.pack(order + "HHI", tag, kind, count) + data_or_place
    file.append(struct.pack(order + "H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4))
    file[0] = file[0][:4] + struct.pack(order + "I", size) + file[0][8:]
    return b"".join(file)


def _strip(samples: np.ndarray, order: Order, compressed: bool) -> bytes:
    """Some rows as they lie in the file."""
    if not compressed:
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    if samples.dtype.kind == "f":  # bytes of equal weight side by side, and the differences of neighbors
        height, width, channels = samples.shape
        raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8).reshape(height, width * channels, -1)
        flat = raw.transpose(0, 2, 1).reshape(height, -1)
        differences = flat.copy()
        differences[:, channels:] -= flat[:, :-channels]
    else:
        differences = samples.copy()
        differences[:, 1:] -= samples[:, :-1]
        differences = differences.astype(samples.dtype.newbyteorder(order))
    return zlib.compress(differences.tobytes(), _LEVEL)
