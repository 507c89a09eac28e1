"""EXIF blocks made true again for a changed picture, with nothing else in them disturbed.

Reading and rewriting a block would move the camera's maker notes, which hold offsets from the start of the
block and are lost when they move. So a block is patched where it lies: same length, same offsets. Only TIFF
files, where the block is the file itself, have theirs put together anew.
"""

import struct

from PIL import Image

PREFIX = b"Exif\0\0"

_ORIENTATION = 0x0112
_THUMBNAIL_OFFSET = 0x0201
_THUMBNAIL_LENGTH = 0x0202
_SHORT = 3

_XMP = 700
_DIRECTORIES = (34665, 34853)  # EXIF proper, GPS
_INTEROP = 40965  # a directory inside EXIF proper, which Pillow cannot move

# Tags of a TIFF file that tell of the picture; all others tell how its pixels are stored, and must not move
# on.
_NAMES = (269, 270, 285)  # document, description, page
_ORIGIN = (271, 272, 305, 306, 315, 316, 33432)  # camera, software, date, artist, computer, copyright
_NOTES = (18246, 18249, 33723, 34377, *range(40091, 40096))  # ratings, IPTC, Photoshop, Windows


def clean_exif(block: bytes) -> tuple[bytes, int]:
    """Set the orientation to 1 (upright) and take out the thumbnail, which shows the picture as it was.

    Args:
        block: A TIFF structure as EXIF defines it, with or without the prefix that JPEG files give it.

    Returns:
        The patched block, beginning with `PREFIX`, and the orientation it had, 1 to 8. An empty or damaged
        block gives `(b"", 1)`.
    """
    data = bytearray(block)
    while data.startswith(PREFIX):  # some programs write it twice
        del data[: len(PREFIX)]
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        return b"", 1
    orientation = 1
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        entries, link = _entries(data, order, first)
        if _ORIENTATION in entries:
            at = entries[_ORIENTATION]
            (found,) = struct.unpack_from(order + "H", data, at + 8)
            orientation = found if 1 <= found <= 8 else 1
            struct.pack_into(order + "HHIHH", data, at, _ORIENTATION, _SHORT, 1, 1, 0)
        (second,) = struct.unpack_from(order + "I", data, link)
        struct.pack_into(order + "I", data, link, 0)
    except struct.error:
        return b"", 1
    if second:
        _erase_thumbnail(data, order, second)
    return PREFIX + bytes(data), orientation


def describe(tags: Image.Exif, xmp: bytes = b"") -> bytes:
    """Put together a block of only those tags that tell of a picture, as TIFF files need it; it may be empty.

    Args:
        tags: Tags of a TIFF file or of an EXIF block.
        xmp: An XMP packet, which TIFF files keep among the tags.
    """
    kept = Image.Exif()
    for tag in (*_NAMES, *_ORIGIN, *_NOTES):
        if isinstance(tags.get(tag), str | bytes | int):
            kept[tag] = tags[tag]
    if xmp:
        kept[_XMP] = xmp
    found = len(kept) > 0
    for directory in _DIRECTORIES:
        entries = {tag: value for tag, value in tags.get_ifd(directory).items() if tag != _INTEROP}
        kept.get_ifd(directory).update(entries)
        found = found or len(entries) > 0
    return kept.tobytes() if found else b""


def _entries(data: bytearray, order: str, start: int) -> tuple[dict[int, int], int]:
    """Where the entries of the directory at `start` lie, by tag, and where its link to the next one lies."""
    (count,) = struct.unpack_from(order + "H", data, start)
    link = start + 2 + 12 * count
    places = range(start + 2, link, 12)
    return {struct.unpack_from(order + "H", data, at)[0]: at for at in places}, link


def _erase_thumbnail(data: bytearray, order: str, directory: int) -> None:
    """Overwrite the pixels of the thumbnail with zeros. Nothing points to them any more."""
    try:
        entries, _ = _entries(data, order, directory)
        start, length = (
            struct.unpack_from(order + "I", data, entries[tag] + 8)[0] for tag in (_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH)
        )
    except (struct.error, KeyError):  # damaged, or not there; it is unlinked in any case
        return
    stop = min(start + length, len(data))
    if start < stop:
        data[start:stop] = bytes(stop - start)
