"""Blurred pictures and their sharp counterparts on disk: as in known data sets, or any two folders."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from unsmear.data.store import is_picture, picture_size
from unsmear.errors import UsageError
from unsmear.formats import SUFFIXES
from unsmear.paths import exists

Split = Literal["train", "test"]

LAYOUTS = """GoPro (train|test/SCENE/blur|blur_gamma|sharp), HIDE (train|test, GT), \
RealBlur (SCENE/blur|gt), REDS (train|val/*_blur|*_sharp/SCENE), and folders named input and target, \
blur and sharp, blurry and sharp, or lq and gt"""
"""The layouts that `find_pairs` knows, for people."""

# Names of folders in lower case, the usual one first.
_PARTS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
_BLURRED = ("blur", "blur_gamma", "blurry", "blurred", "input", "lq", "blur_crops", "input_crops")
_SHARP = ("sharp", "gt", "target", "sharp_crops", "target_crops")


@dataclass(frozen=True)
class Pair:
    """A blurred picture and its sharp counterpart.

    Attributes:
        name: What tells it from the others, such as `GOPR0384_11_00/000001`.
        blurred: File of the blurred picture.
        sharp: File of the sharp one.
    """

    name: str
    blurred: Path
    sharp: Path


@dataclass(frozen=True)
class PairedFolder:
    """What `find_pairs` found.

    Attributes:
        layout: Name of the data set whose layout the folder has, or the names of the two folders.
        variant: Which of several blurred versions: `blur` or `blur_gamma` of GoPro, `J` or `R` of RealBlur,
            `blur`, `blur_comp` or `blur_jpeg` of REDS; empty where there is only one.
        split: `train`, `test`, or `all` where the folder is not divided.
        pairs: The pairs, by name.
    """

    layout: str
    variant: str
    split: str
    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.layout}{variant}, {self.split}: {len(self.pairs)} pairs"


def is_paired(folder: str | Path) -> bool:
    """Whether a folder has one of the layouts that `find_pairs` knows; looks at names of folders only."""
    folder = Path(folder)
    return folder.is_dir() and _recognize(folder) is not None


def find_pairs(folder: str | Path, *, split: Split = "train", variant: str | None = None) -> PairedFolder:
    """Find the pairs of a data set. Its layout is told by the names of its folders, in upper or lower case.

    Args:
        folder: Top folder of the data set.
        split: Which part; a validation part serves as `test` where there is no other.
        variant: Which of several blurred versions, as in `PairedFolder`; None for the first: of GoPro `blur`,
            the plain average of encoded values, which most papers train on.

    Raises:
        UsageError: If the layout is unknown, the part or the variant is not there, or pictures lack a
            counterpart.
    """
    folder = Path(folder)
    if not exists(folder) or not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if split not in _PARTS:
        raise UsageError(f"split={split!r} must be train or test")
    read = _recognize(folder)
    if read is None:
        raise UsageError(
            f"{folder}: no pairs in a known layout; known are {LAYOUTS}; unsmear eval takes others by --sharp"
        )
    found = read(folder, split, variant)
    if not found.pairs:
        raise UsageError(f"{folder}: no pictures for {split} in this {found.layout} folder")
    return found


def pair_folders(blurred: str | Path, sharp: str | Path) -> PairedFolder:
    """Pair the pictures of two folders and the folders inside.

    Pictures pair by path and name without extension. Where no names agree, words that all names of a folder
    begin or end with are left out: `blur_12.png` pairs with `gt_12.jpg`.

    Raises:
        UsageError: If a folder is not there or empty, or pictures lack a counterpart.
    """
    blurred, sharp = Path(blurred), Path(sharp)
    pairs = _match(blurred, [("", blurred, sharp)])
    if not pairs:
        raise UsageError(f"{blurred}: no pictures in this folder, nor in {sharp}")
    return PairedFolder(f"{blurred.name}/{sharp.name}", "", "all", pairs)


def check_sizes(pairs: Sequence[Pair]) -> None:
    """Check that both pictures of each pair are of one size, reading only the headers.

    Raises:
        UsageError: If they are not; names the first.
        ImageError: If a file is no picture.
    """
    wrong = []
    for pair in pairs:
        (height, width), (other_height, other_width) = picture_size(pair.blurred), picture_size(pair.sharp)
        if (height, width) != (other_height, other_width):
            wrong.append(f"{pair.name} ({width} x {height} and {other_width} x {other_height})")
    if wrong:
        raise UsageError(f"blurred and sharp pictures differ in size: {_some(wrong)}")


_Layout = Callable[[Path, Split, str | None], PairedFolder]


def _recognize(folder: Path) -> _Layout | None:
    parts = _folders(folder)
    tops = [folder, *(parts[name] for names in _PARTS.values() for name in names if name in parts)]
    if "gt" in parts and len(tops) > 1:
        return _read_hide
    if any(_reds_sides(folder, split) for split in _PARTS):
        return _read_reds
    if _real_blur_roots(folder):
        return _read_real_blur
    if any(_sides(top) or any(map(_sides, _folders(top).values())) for top in tops):
        return _read_sides
    return None


def _read_hide(folder: Path, split: Split, variant: str | None) -> PairedFolder:
    """Sharp pictures of both parts are in one folder; a list of names, where there is one, decides.

    Verified in Hiroki-Tomosada/DCTGAN-master, which reads the archive of joanshen0508/HA_deblur as it is:
    train/*.png, test/*/*.png (the folders test-close-ups and test-long-shot), GT/*.png under the same names, and
    train.txt and test.txt with names alone, one a line.
    """
    if variant:
        raise UsageError(f"{folder}: HIDE has no variants; leave out {variant!r}")
    parts = _folders(folder)
    sharp = {p.name: p for p in _pictures(parts["gt"])}
    top, split_found = _part(folder, split)
    blurred = {p.name: p for p in _pictures(top)}
    names = sorted(blurred)
    list_file = folder / f"{split}.txt"
    if list_file.is_file():
        words = list_file.read_text(encoding="utf-8", errors="replace").split()
        listed = {PurePosixPath(w).name for w in words if PurePosixPath(w).suffix.lower() in SUFFIXES}
        names = sorted(listed) or names
    missing = [name for name in names if name not in blurred or name not in sharp]
    _refuse(f"{folder}: missing in {top.name} or GT", missing)
    pairs = tuple(Pair(blurred[name].stem, blurred[name], sharp[name]) for name in names)
    return PairedFolder("HIDE", "", split_found, pairs)


def _reds_sides(folder: Path, split: str) -> tuple[dict[str, Path], Path] | None:
    """Folders of blurred pictures by kind, and that of the sharp ones, as in train_blur_jpeg, train_sharp.

    Verified: the archives train_blur.zip, train_blur_comp.zip, train_sharp.zip and the same of val
    (SeungjunNah/seungjunnah.github.io) and train_blur_jpeg.zip with .jpg (megvii-research/NAFNet) hold
    train/train_blur/000/00000000.png and so on (open-mmlab/mmagic, which unpacks each into a folder of its own
    name, and drops the train in between). Of test there is nothing sharp.
    """
    for part in _PARTS[split]:
        for top in (folder, _folders(folder).get(part)):
            inside = _folders(top) if top else {}
            # Not train_blur_bicubic, whose pictures are smaller.
            names = [name for name in inside if re.fullmatch(f"{part}_blur(_comp|_jpeg)?", name)]
            kinds = {name.removeprefix(f"{part}_"): _unpacked(inside[name], part) for name in names}
            sharp = inside.get(f"{part}_sharp")
            if kinds and sharp:
                return kinds, _unpacked(sharp, part)
    return None


def _unpacked(folder: Path, part: str) -> Path:
    """The pictures of an archive that was unpacked into a folder of its own name: train_blur/train/train_blur."""
    inner = folder / part / folder.name
    return inner if inner.is_dir() else folder


def _read_reds(folder: Path, split: Split, variant: str | None) -> PairedFolder:
    sides = _reds_sides(folder, split)
    if sides is None:
        raise UsageError(f"{folder}: this REDS folder has no pairs for {split}")
    kind = _choose(folder, sides[0], variant)
    return PairedFolder("REDS", kind, split, _match(folder, [("", sides[0][kind], sides[1])]))


def _real_blur_roots(folder: Path) -> dict[str, Path]:
    """Folders of scenes by kind, J or R: the folder itself, or those in it."""
    roots = {}
    for path in (folder.absolute(), *_folders(folder).values()):
        kind = re.match(r"realblur[-_]?([jr])", path.name, re.IGNORECASE)
        scenes = filter(None, map(_sides, _folders(path).values())) if kind else ()
        if kind and any(sharp.name.lower() == "gt" for _, sharp in scenes):
            roots[kind[1].upper()] = path
    return roots


def _read_real_blur(folder: Path, split: Split, variant: str | None) -> PairedFolder:
    """Scenes are divided by two lists, beside their folder or in it.

    Verified: names of folders and lists in rimchang/RealBlur, lines of both lists of J in rimchang/RSBlur: sharp
    and blurred file, each with the folder of the scenes, and a space at the end. Those of R are read alike by
    others, but were not seen.
    """
    roots = _real_blur_roots(folder)
    kind = _choose(folder, roots, variant)
    root = roots[kind]
    lists = {part: f"RealBlur_{kind}_{part}_list.txt" for part in _PARTS}
    for place in (root, root.parent):
        if (place / lists[split]).is_file():
            return PairedFolder("RealBlur", kind, split, _read_list(place / lists[split], root))
        if any((place / name).is_file() for name in lists.values()):
            raise UsageError(f"{place / lists[split]}: no such list, which tells what is for {split}")
    return PairedFolder("RealBlur", kind, "all", _match(root, _scenes(root, "blur")))


def _read_list(list_file: Path, root: Path) -> tuple[Pair, ...]:
    """Pairs of a list that has a sharp and a blurred file a line."""
    pairs = []
    for number, line in enumerate(list_file.read_text(encoding="utf-8-sig").splitlines(), 1):
        paths = [PurePosixPath(word) for word in line.split()]
        # Only scene, side and file count: the folder before them may have been renamed.
        sides = {path.parent.name.lower(): root.joinpath(*path.parts[-3:]) for path in paths}
        if paths and not {"blur", "gt"} <= sides.keys():
            raise UsageError(f"{list_file}: line {number} does not name a file in gt and one in blur")
        if paths:
            scene = sides["blur"].parent.parent.name
            pairs.append(Pair(f"{scene}/{sides['blur'].stem}", sides["blur"], sides["gt"]))
    files = [file for pair in pairs for file in (pair.blurred, pair.sharp)]
    missing = [file.relative_to(root).as_posix() for file in files if not file.is_file()]
    _refuse(f"{list_file}: these pictures are missing", missing)
    return tuple(sorted(pairs, key=lambda pair: pair.name))


def _read_sides(folder: Path, split: Split, variant: str | None) -> PairedFolder:
    """Two parallel folders, directly or in each of several scenes, as in GoPro.

    Verified: GOPRO_Large.zip holds train/GOPR0372_07_00/blur_gamma/000047.png and so on, also blur and sharp
    (SeungjunNah/DeepDeblur-PyTorch, SeungjunNah/DeepDeblur_release). Its authors train on blur_gamma; the copy with
    input and target of swz30/MPRNet holds blur (its issue 75), as does what the paper's base model was trained on
    (HongguangZhang/DMPHN-cvpr19-master, issue 22).
    """
    top, split_found = _part(folder, split)
    sides = _sides(top)
    if sides:
        kind = _choose(top, sides[0], variant)
        pairs = _match(top, [("", sides[0][kind], sides[1])])
        return PairedFolder(f"{kind}/{sides[1].name}".lower(), "", split_found, pairs)
    found = next(filter(None, map(_sides, _folders(top).values())), None)
    if found is None:
        raise UsageError(f"{top}: no pairs for {split} in this folder")
    kind, sharp = _choose(top, found[0], variant), found[1].name.lower()
    is_gopro = kind in ("blur", "blur_gamma") and sharp == "sharp"
    layout = "GoPro" if is_gopro else f"scenes of {kind}/{sharp}"
    return PairedFolder(layout, kind if is_gopro else "", split_found, _match(top, _scenes(top, kind)))


def _part(folder: Path, split: Split) -> tuple[Path, str]:
    """The folder of a part, and the name of the part; a folder that is not divided is all there is."""
    parts = _folders(folder)
    for name in _PARTS[split]:
        if name in parts:
            return parts[name], split
    if any(name in parts for names in _PARTS.values() for name in names):
        raise UsageError(f"{folder}: there is no folder {split!r} in it")
    return folder, "all"


def _sides(folder: Path) -> tuple[dict[str, Path], Path] | None:
    """Folders of blurred pictures by name, and that of the sharp ones, if both are in a folder."""
    parts = _folders(folder)
    blurred = {name: parts[name] for name in _BLURRED if name in parts}
    sharp = [parts[name] for name in _SHARP if name in parts]
    return (blurred, sharp[0]) if blurred and sharp else None


def _scenes(top: Path, kind: str) -> list[tuple[str, Path, Path]]:
    """Name, blurred and sharp folder of all scenes."""
    scenes = []
    for scene in _folders(top).values():
        sides = _sides(scene)
        if sides:
            scenes.append((f"{scene.name}/", sides[0][_choose(scene, sides[0], kind)], sides[1]))
        elif _folders(scene).keys() & {*_BLURRED, *_SHARP}:
            raise UsageError(f"{scene}: this scene has blurred or sharp pictures only; complete or remove it")
    return scenes


def _choose(folder: Path, kinds: dict[str, Path], variant: str | None) -> str:
    if variant and variant not in kinds:
        raise UsageError(f"{folder}: there is no variant {variant!r} in it; there is {', '.join(kinds)}")
    return variant or next(iter(kinds))


def _folders(folder: Path) -> dict[str, Path]:
    """Folders in a folder by name in lower case, in order."""
    try:
        with os.scandir(folder) as entries:
            inside = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    return {name.lower(): folder / name for name in inside}


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    return sorted(p for p in folder.rglob("*") if is_picture(p))


def _match(folder: Path, sides: Iterable[tuple[str, Path, Path]]) -> tuple[Pair, ...]:
    """Pairs of the pictures of some blurred and sharp folders, each with what the names begin with."""
    pairs, lonely = [], []
    for begin, *tops in sides:
        inside = [_by_folder(top) for top in tops]
        for place in sorted({*inside[0], *inside[1]}):
            files = [folders.get(place, []) for folders in inside]
            left, right = map(_by_name, files)
            if not left.keys() & right.keys():
                left, right = map(_by_difference, files)
            for key in sorted(left.keys() & right.keys()):
                name = (place / left[key].stem).as_posix()
                pairs.append(Pair(begin + name, left[key], right[key]))
            for side, top in ((left, tops[0]), (right, tops[1])):
                odd = sorted(left.keys() ^ right.keys())
                lonely += [begin + side[k].relative_to(top.parent).as_posix() for k in odd if k in side]
    _refuse(f"{folder}: pictures without a counterpart", lonely)
    return tuple(pairs)


def _by_folder(top: Path) -> dict[Path, list[Path]]:
    places: dict[Path, list[Path]] = {}
    for file in _pictures(top):
        places.setdefault(file.parent.relative_to(top), []).append(file)
    return places


def _by_name(files: list[Path]) -> dict[str, Path]:
    names = {file.stem: file for file in files}
    if len(names) < len(files):
        twice = next(file for file in files if names[file.stem] != file)
        raise UsageError(f"{twice}: there is also {names[twice.stem].name}; remove one of them")
    return names


def _by_difference(files: list[Path]) -> dict[str, Path]:
    """Files by the words that tell their names apart, such as 12 of blur_12."""
    names = [re.split(r"([_\-. ])", file.stem) for file in files]
    for end in (0, -1):
        while names and len({words[end] for words in names}) == 1 and min(map(len, names)) > 1:
            for words in names:
                del words[end]
    return {"".join(words): file for words, file in zip(names, files, strict=True)}


def _refuse(what: str, names: list[str]) -> None:
    if names:
        raise UsageError(f"{what}: {_some(names)}; complete the data set or remove them")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
