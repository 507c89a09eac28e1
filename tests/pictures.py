"""What the tests of pictures share: pictures of every kind, and files put together by hand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from unsmear.errors import UnsmearError
from unsmear.image import open_picture, probe, save_picture

RNG = np.random.default_rng(0)
ICC_RGB = b"\0\0\0\x90test\x02\x10\0\0mntrRGB XYZ " + bytes(range(120))
ICC_GRAY = ICC_RGB.replace(b"RGB ", b"GRAY")
XMP = b'<x:xmpmeta><rdf:Description xmp:Rating="5" tiff:Orientation="%d"/></x:xmpmeta>'
ORIENTATION, MAKER_NOTE, EXIF_IFD, GPS_IFD = 274, 37500, 34665, 34853


def headline(source, **limits):
    """What the header of a picture tells: width, height and format."""
    header = probe(source, **limits)
    return header.width, header.height, header.format


def image(mode="RGB", size=(23, 17)):
    """Noise of any mode, transparency included."""
    width, height = size
    noise = RNG.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode in ("1", "P"):
        return Image.fromarray(noise[..., :3]).convert(mode)
    if mode == "PA":
        return Image.fromarray(noise).convert("PA")
    return Image.merge(mode, [Image.fromarray(noise[..., c].copy()) for c in range(len(mode))])


def make(name, color=10, size=(8, 6)):
    """A file of one gray."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color,) * 3).save(path)
    return path


def encoded(img, format, **options):
    buffer = io.BytesIO()
    img.save(buffer, format, **options)
    return buffer.getvalue()


def reopened(picture, format=None):
    """What a viewer sees of a picture that was written and read again."""
    buffer = io.BytesIO()
    save_picture(picture, buffer, format=format)
    img = Image.open(io.BytesIO(buffer.getvalue()))
    img.load()
    return img


def opened(data):
    return open_picture(io.BytesIO(data))


def exif_block(orientation=6, order="<", thumbnail=b"\xff\xd8thumbnail\xff\xd9"):
    """An EXIF block with maker notes, GPS and a thumbnail, built by hand as cameras do."""
    mark = b"II" if order == "<" else b"MM"
    note = b"maker\0note"

    def directory(entries, after):
        body = b"".join(struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
        return struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", after)

    def long(value):
        return struct.pack(order + "I", value)

    def short(value):
        return struct.pack(order + "HH", value, 0)

    first, inner, gps, second, data = 8, 62, 80, 98, 140
    block = mark + struct.pack(order + "HI", 42, first)
    block += directory(
        [
            (0x010F, 2, 4, b"Cam\0"),
            (ORIENTATION, 3, 1, short(orientation)),
            (EXIF_IFD, 4, 1, long(inner)),
            (GPS_IFD, 4, 1, long(gps)),
        ],
        second,
    )
    block += directory([(MAKER_NOTE, 7, len(note), long(data))], 0)
    block += directory([(1, 2, 2, b"N\0\0\0")], 0)
    block += directory(
        [(0x0103, 3, 1, short(6)), (0x0201, 4, 1, long(data + 10)), (0x0202, 4, 1, long(len(thumbnail)))], 0
    )
    assert len(block) == data
    return b"Exif\0\0" + block + note + thumbnail


def png_with_header(width, height, depth=8, color=2):
    """A PNG file that promises much and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def resource(number, data):
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2)


def tiff_of(values, **tags):
    """An uncompressed TIFF file of an array (H, W, C), which Pillow cannot write if it is not 8-bit.

    Tags go by "t" and their number.
    """
    height, width, channels = values.shape
    data = values.tobytes()
    bits = struct.pack(f"<{channels}H", *[values.dtype.itemsize * 8] * channels)
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, channels, 8 + len(data) if channels > 2 else struct.unpack("<I", bits.ljust(4, b"\0"))[0]),
        259: (3, 1, 1),
        262: (3, 1, 2 if channels > 2 else 1),
        273: (4, 1, 8),
        277: (3, 1, channels),
        278: (4, 1, height),
        279: (4, 1, len(data)),
        **({338: (3, 1, 2)} if channels in (2, 4) else {}),
        339: (3, 1, 3 if values.dtype.kind == "f" else 1),
        **{int(tag[1:]): value for tag, value in tags.items()},
    }
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    directory = struct.pack("<H", len(entries)) + body + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + directory


def saved(picture, format=None):
    """The bytes of a file of a picture."""
    buffer = io.BytesIO()
    save_picture(picture, buffer, format=format)
    return buffer.getvalue()


def damaged(good, count=60, seed=0):
    """Files with some bytes changed, most of them near the head, and some cut off."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        bad = bytearray(good)
        for _ in range(rng.integers(1, 7)):
            bad[rng.integers(len(bad) if rng.random() < 0.3 else min(len(bad), 600))] = rng.integers(256)
        yield bytes(bad[: rng.integers(1, len(bad))] if rng.random() < 0.2 else bad)


def survive(good):
    """Damaged files give a picture, which can be written, or our own error in one line."""
    for bad in damaged(good):
        try:
            picture = open_picture(io.BytesIO(bad), max_megapixels=1)
            save_picture(picture.with_srgb(picture.srgb()), io.BytesIO())
        except UnsmearError as error:
            assert "\n" not in str(error)  # noqa: PT017
