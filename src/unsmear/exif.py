"""EXIF blocks made true again for a changed picture, with nothing else in them disturbed.

Reading and rewriting a block would move the camera's maker notes, which hold offsets from the start of the
block and are lost when they move. So a block is patched where it lies: same length, same offsets. Only that of a TIFF
or raw file, which is the file itself, is put together anew.
"""

import struct
from collections.abc import Callable

from PIL import Image

PREFIX = b"Exif\0\0"

_ORIENTATION = 0x0112
_THUMBNAIL_OFFSET = 0x0201
_THUMBNAIL_LENGTH = 0x0202
_SHORT = 3

_DIRECTORIES = (34665, 34853)  # EXIF proper, GPS
_INTEROP = 40965  # a directory inside EXIF proper, which Pillow cannot move

# Tags of a TIFF file that tell of the picture; all others tell how its pixels are stored, and must not move
# on.
_NAMES = (269, 270, 285)  # document, description, page
_ORIGIN = (271, 272, 305, 306, 315, 316, 33432)  # camera, software, date, artist, computer, copyright
_NOTES = (18246, 18249, 33723, *range(40091, 40096))  # ratings, IPTC, Windows
_RESOURCE = b"8BIM"
_OLD_LOOKS = (1033, 1036)  # thumbnails among the resources of Photoshop


def clean_exif(block: bytes) -> tuple[bytes, int]:
    """Set the orientation to 1 (upright) and blank the thumbnail, which shows the picture as it was.

    Args:
        block: A TIFF structure as EXIF defines it, with or without the prefix that JPEG files give it.

    Returns:
        The patched block, beginning with `PREFIX`, and the orientation it had, 1 to 8. An empty or damaged
        block gives `(b"", 1)`.
    """
    data = bytearray(block)
    while data.startswith(PREFIX):  # some programs write it twice
        del data[: len(PREFIX)]
    if _order(data) is None:
        return b"", 1
    try:
        orientation = _set_upright(data, *_first(data))
        place = _thumbnail(data)
    except struct.error:
        return b"", 1
    if place is not None:
        data[place] = bytes(place.stop - place.start)
    return PREFIX + bytes(data), orientation


def with_thumbnail(block: bytes, encode: Callable[[int], bytes | None]) -> bytes:
    """Give a block a new thumbnail in the place of its old one, if it had one; else it stays as it is.

    Args:
        block: As `clean_exif` gives it, or empty.
        encode: Takes the room there is in bytes, and gives a JPEG picture that fits, or None.

    Returns:
        The block, of the same length. Where no thumbnail fits, nothing points to one any more.
    """
    data = bytearray(block.removeprefix(PREFIX))
    order = _order(data)
    if order is None:
        return block
    try:
        _, link = _first(data)
        (second,) = struct.unpack_from(order + "I", data, link)
        if not second:
            return block
        place = _thumbnail(data)
        picture = None if place is None else encode(place.stop - place.start)
        if place is None or picture is None:
            struct.pack_into(order + "I", data, link, 0)
        else:
            data[place] = picture.ljust(place.stop - place.start, b"\0")
            entries, _ = _entries(data, order, second)
            struct.pack_into(order + "I", data, entries[_THUMBNAIL_LENGTH] + 8, len(picture))
    except struct.error:
        return block
    return PREFIX + bytes(data)


def entries_of(block: bytes) -> dict[int, bytes]:
    """The entries of the first directory of a block without `PREFIX`, by tag, as the 12 bytes they are; or none."""
    data = bytearray(block)
    order = _order(data)
    try:
        entries = _first(data)[0] if order else {}
    except struct.error:
        return {}
    return {tag: bytes(data[at : at + 12]) for tag, at in entries.items()}


def without_orientation(block: bytes) -> bytes:
    """A block without the entry for the orientation. The entries behind it move up, and nothing that they point to."""
    data = bytearray(block.removeprefix(PREFIX))
    order = _order(data)
    try:
        entries, link = _first(data) if order else ({}, 0)
        if order is None or _ORIENTATION not in entries:
            return block
        at, first = entries[_ORIENTATION], min(entries.values()) - 2
        data[at : link + 4] = data[at + 12 : link + 4] + bytes(12)
        struct.pack_into(order + "H", data, first, (link - first - 2) // 12 - 1)
    except struct.error:
        return block
    return PREFIX + bytes(data)


def without_old_looks(resources: bytes) -> bytes:
    """Image resources of Photoshop without the thumbnails, which show the picture as it was."""
    kept, place = [], 0
    while resources[place : place + 4] == _RESOURCE and place + 12 <= len(resources):
        (number, name_length) = struct.unpack_from(">HB", resources, place + 4)
        size_at = place + 6 + (name_length + 2) // 2 * 2
        if size_at + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">I", resources, size_at)
        stop = size_at + 4 + size + size % 2
        if number not in _OLD_LOOKS:
            kept.append(resources[place:stop])
        place = stop
    return b"".join(kept)


def describe(tags: Image.Exif) -> bytes:
    """Put together a block of only those tags that tell of a picture; it may be empty.

    Args:
        tags: Tags of a TIFF or raw file.
    """
    kept = Image.Exif()
    for tag in (*_NAMES, *_ORIGIN, *_NOTES):
        if isinstance(tags.get(tag), str | bytes | int):
            kept[tag] = tags[tag]
    found = len(kept) > 0
    for directory in _DIRECTORIES:
        entries = {tag: value for tag, value in tags.get_ifd(directory).items() if tag != _INTEROP}
        kept.get_ifd(directory).update(entries)
        found = found or len(entries) > 0
    return kept.tobytes() if found else b""


def _order(data: bytes | bytearray) -> str | None:
    return {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))


def _first(data: bytearray) -> tuple[dict[int, int], int]:
    order = _order(data) or "<"
    (first,) = struct.unpack_from(order + "I", data, 4)
    return _entries(data, order, first)


def _entries(data: bytearray, order: str, start: int) -> tuple[dict[int, int], int]:
    """Where the entries of the directory at `start` lie, by tag, and where its link to the next one lies."""
    (count,) = struct.unpack_from(order + "H", data, start)
    link = start + 2 + 12 * count
    places = range(start + 2, link, 12)
    return {struct.unpack_from(order + "H", data, at)[0]: at for at in places}, link


def _set_upright(data: bytearray, entries: dict[int, int], link: int) -> int:
    """Reset the orientation of the picture and its thumbnail; what the picture had."""
    order = _order(data) or "<"
    (second,) = struct.unpack_from(order + "I", data, link)
    found = 1
    if _ORIENTATION in entries:
        found = _reset(data, order, entries[_ORIENTATION])
    try:
        inner, _ = _entries(data, order, second) if second else ({}, 0)
    except struct.error:  # the thumbnail goes, then
        return found
    if _ORIENTATION in inner:
        _reset(data, order, inner[_ORIENTATION])
    return found


def _reset(data: bytearray, order: str, at: int) -> int:
    (found,) = struct.unpack_from(order + "H", data, at + 8)
    struct.pack_into(order + "HHIHH", data, at, _ORIENTATION, _SHORT, 1, 1, 0)
    return found if 1 <= found <= 8 else 1


def _thumbnail(data: bytearray) -> slice | None:
    """Where the thumbnail lies, if there is a sound one, behind the directories that tell of it."""
    order = _order(data) or "<"
    _, link = _first(data)
    (second,) = struct.unpack_from(order + "I", data, link)
    try:
        entries, end = _entries(data, order, second) if second else ({}, 0)
        start, length = (
            struct.unpack_from(order + "I", data, entries[tag] + 8)[0] for tag in (_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH)
        )
    except (struct.error, KeyError):
        return None
    is_sound = max(link, end) + 4 <= start < start + length <= len(data)
    return slice(start, start + length) if is_sound else None
