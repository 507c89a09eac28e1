"""Clips of consecutive frames on disk: videos, and folders of pictures."""

import re
from pathlib import Path

from unsmear.data.store import is_picture
from unsmear.data.video import SUFFIXES, is_video
from unsmear.errors import UsageError
from unsmear.paths import exists


def list_clips(path: str | Path) -> dict[str, list[Path]]:
    """Clips of consecutive frames, by name: the files of each in order.

    Args:
        path: A video; or a folder, whose pictures are the frames of one clip and whose videos are a clip each;
            or a folder of such folders, as `GOPRO_Large_all/train`, which has a folder of frames for each scene.

    Raises:
        UsageError: If there is no such file or folder, it cannot be read, or no clip is in it.
    """
    path = Path(path)
    exists(path)  # or tell why that cannot be told
    if path.is_file():
        if not is_video(path):
            raise UsageError(f"{path}: not a video by its name; videos end with {' '.join(SUFFIXES)}")
        return {str(path): [path]}
    files = _inside(path)
    clips = _clips_of(path, files)
    if not clips:
        for folder in filter(Path.is_dir, files):
            clips |= _clips_of(folder, _inside(folder))
    if not clips:
        raise UsageError(f"{path}: no frames and no videos in this folder, nor in the folders in it")
    return clips


def _clips_of(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    frames = list(filter(is_picture, files))
    return ({str(folder): frames} if frames else {}) | {str(file): [file] for file in filter(is_video, files)}


def _inside(folder: Path) -> list[Path]:
    """What is in a folder and not hidden; frame 10 after frame 9, with or without leading zeros."""

    def order(path: Path) -> list[int | str]:
        return [int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", path.name)]

    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=order)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
