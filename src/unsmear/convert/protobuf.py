"""The wire format of protocol buffers, as far as weights files need it: no schema, no generated code."""

from collections.abc import Iterator

Value = int | memoryview
"""A whole number, or the bytes of anything else: text, floats, arrays, or another message."""


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read a number of one to ten bytes; returns it and the position after it.

    Raises:
        ValueError: If it does not end.
    """
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("the data end within a number")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number has more than ten bytes")


def read_fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Go through the fields of a message: their numbers and values, in the order of the file.

    Nothing is copied: values are views of the message.

    Raises:
        ValueError: If a field is cut off, or of a kind that no file of weights has.
    """
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            number, position = read_varint(message, position)
            yield tag >> 3, number
            continue
        if kind == 2:
            size, position = read_varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if size > len(message) - position:
            raise ValueError("the data end within a field")
        yield tag >> 3, message[position : position + size]
        position += size
