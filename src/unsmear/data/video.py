"""Frames of video files, decoded by PyAV, which only those who have videos need to install."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unsmear.errors import ImageError, UsageError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".3gp")
"""Endings of the names of video files, in lower case."""


def is_video(path: Path) -> bool:
    """Whether a path is a visible file with the name of a video."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def frames_size(path: Path) -> int:
    """About how many bytes all frames of a video take, by what its file tells of itself; 0 if it tells nothing.

    Raises:
        ImageError: If it cannot be opened, or holds no video.
        UsageError: If PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        count = stream.frames or math.ceil(_seconds(container, stream) * (stream.average_rate or 0))
        return 3 * stream.width * stream.height * count


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """All frames of a video in order, each upright, (H, W, 3) uint8.

    A rotation that the file asks for is done, mirroring is not. Frames of more than 8 bits are taken in 8.

    Raises:
        ImageError: If it cannot be decoded, a frame is damaged, or the file ends early.
        UsageError: If PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"  # pyright: ignore[reportAttributeAccessIssue]
        times = []
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError(f"frame {len(times) + 1} is damaged")
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            times.append(frame.time or 0.0)
        if not times:
            raise ValueError("there are no frames in it")
        # A file cut off in the middle may end without an error. What files tell of their length is not exact.
        seconds = (times[-1] - times[0]) * len(times) / max(1, len(times) - 1)
        promised = _seconds(container, stream)
        if 0 < seconds < 0.9 * promised:
            raise ValueError(f"it ends after {seconds:.2f} of {promised:.2f} seconds; copy it anew")


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    try:
        import av
        from av.video.stream import VideoStream
    except ImportError:
        raise UsageError(f"{path}: videos need the package av: pip install 'unsmear[video]'") from None
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise ValueError("there is no video in it")
            yield container, stream
    except Exception as error:  # decoders raise whatever they like on damaged files
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be decoded for training: {why}") from None


def _seconds(container: "InputContainer", stream: "VideoStream") -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1_000_000
