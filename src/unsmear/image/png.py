"""What PNG files hold beside pixels, chunk by chunk: copied as it came, or put together anew."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from unsmear.exif import PREFIX

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_COLORS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")  # which hold for the restored pixels too
_XMP = b"XML:com.adobe.xmp\0"
_OWN_WAY = (_XMP, b"Raw profile type exif\0", b"Raw profile type APP1\0", b"Raw profile type xmp\0")
_SIGNATURE = 8
_HEADER_END = 33  # of the signature and the IHDR chunk

Chunk = tuple[bytes, bytes]


def chunks_of(file: BinaryIO) -> dict[str, list[Chunk]]:
    """Chunks worth keeping: "texts", and the "colors" that tell of colors. EXIF, ICC and XMP have their own way.

    Args:
        file: A PNG file, which is left anywhere.
    """
    texts, colors = [], []
    file.seek(_SIGNATURE)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _TEXTS or kind in _COLORS:
            data = file.read(length)
            if kind in _COLORS:
                colors.append((kind, data))
            elif not data.startswith(_OWN_WAY):
                texts.append((kind, data))
            length = 0
        file.seek(length + 4, 1)
        if kind == b"IEND":
            break
    return {"texts": texts, "colors": colors}


def with_chunks(data: bytes, chunks: list[Chunk]) -> bytes:
    """A PNG file with only these chunks beside its pixels.

    Args:
        data: The file.
        chunks: Chunks by name and content, of the kinds that go before the pixels.
    """
    parts = [data[:_HEADER_END], *(_chunk(*chunk) for chunk in chunks)]
    parts += [data[start:stop] for kind, start, stop in _places(data) if kind in (b"PLTE", b"IDAT", b"IEND")]
    return b"".join(parts)


def metadata_chunks(exif: bytes, icc: bytes, xmp: bytes, dpi: tuple[float, float] | None) -> list[Chunk]:
    """Chunks for what `Picture` holds."""
    chunks = []
    if icc:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(icc)))
    if dpi:
        per_meter = (min(round(value / 0.0254), 2**31 - 1) for value in dpi)
        chunks.append((b"pHYs", struct.pack(">2IB", *per_meter, 1)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(PREFIX)))
    if xmp:
        chunks.append((b"iTXt", _XMP + bytes(4) + xmp))
    return chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _places(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    start = _HEADER_END
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        stop = start + length + 12
        yield kind, start, stop
        start = stop
