"""Pairs on disk: every layout in small, and what is said when one is incomplete."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsmear.data.pairs import Pair, check_sizes, find_pairs, is_paired, pair_folders
from unsmear.errors import ImageError, UsageError

J_FOLDER = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
R_FOLDER = "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"


def make(top: Path, *files: str) -> Path:
    """Files with nothing in them: pairs are found by name."""
    for file in files:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return top


def rows(found) -> list[tuple[str, str, str]]:
    """Name and the last two parts of both paths of each pair."""
    return [(p.name, "/".join(p.blurred.parts[-2:]), "/".join(p.sharp.parts[-2:])) for p in found.pairs]


def gopro(top: Path) -> Path:
    """As GOPRO_Large.zip."""
    for scene in ("train/GOPR0372_07_00", "train/GOPR0372_07_01", "test/GOPR0384_11_00"):
        for side in ("blur", "blur_gamma", "sharp"):
            make(top, f"{scene}/{side}/000047.png", f"{scene}/{side}/000048.png")
    return top


def hide(top: Path) -> Path:
    """As HIDE_dataset.zip without its lists."""
    make(top, "train/109fromGOPR1096.MP4.png", "train/1fromGOPR0950.png")
    make(top, "test/test-close-ups/2fromGOPR0950.png", "test/test-long-shot/3fromGOPR1096.MP4.png")
    names = ("109fromGOPR1096.MP4", "1fromGOPR0950", "2fromGOPR0950", "3fromGOPR1096.MP4")
    return make(top, *(f"GT/{name}.png" for name in names))


def real_blur(top: Path, *folders: str) -> Path:
    """As RealBlur.zip without its lists."""
    for folder in folders:
        for file in ("scene001/blur/blur_1.png", "scene001/gt/gt_1.png"):
            make(top, f"{folder}/{file}", f"{folder}/{file.replace('_1', '_10')}")
        make(top, f"{folder}/scene230/blur/blur_7.png", f"{folder}/scene230/gt/gt_7.png")
    return top


def real_blur_list(file: Path, folder: str, *numbers: tuple[str, int], line: str = "{gt} {blur} \n") -> None:
    file.write_text(
        "".join(
            line.format(gt=f"{folder}/{scene}/gt/gt_{n}.png", blur=f"{folder}/{scene}/blur/blur_{n}.png")
            for scene, n in numbers
        )
    )


def reds(top: Path, *, folder: str = "{part}/") -> Path:
    """As the archives of REDS, unpacked in one place."""
    for part in ("train", "val"):
        for side, suffix in (
            ("blur", "png"),
            ("blur_jpeg", "jpg"),
            ("blur_bicubic", "png"),
            ("sharp", "png"),
        ):
            make(top, folder.format(part=part, side=side) + f"{part}_{side}/000/00000000.{suffix}")
    return top


# Layouts


def test_gopro_averages_encoded_values_by_default(tmp_path):
    found = find_pairs(gopro(tmp_path))
    assert (found.layout, found.variant, found.split) == ("GoPro", "blur", "train")
    assert rows(found)[0] == ("GOPR0372_07_00/000047", "blur/000047.png", "sharp/000047.png")
    assert [p.name for p in found.pairs] == [
        f"GOPR0372_07_0{scene}/00004{number}" for scene in (0, 1) for number in (7, 8)
    ]
    assert all(p.blurred.parent.parent == p.sharp.parent.parent for p in found.pairs)
    assert str(found) == "GoPro (blur), train: 4 pairs"


def test_gopro_variant_and_split_are_named(tmp_path):
    found = find_pairs(gopro(tmp_path), split="test", variant="blur_gamma")
    assert str(found) == "GoPro (blur_gamma), test: 2 pairs"
    assert {p.blurred.parent.name for p in found.pairs} == {"blur_gamma"}


def test_gopro_part_alone_is_taken_as_a_whole(tmp_path):
    found = find_pairs(gopro(tmp_path) / "test", split="train")
    assert str(found) == "GoPro (blur), all: 2 pairs"


def test_gopro_with_gamma_alone_says_so(tmp_path):
    make(tmp_path, "train/A/blur_gamma/1.png", "train/A/sharp/1.png")
    assert find_pairs(tmp_path).variant == "blur_gamma"


def test_hide_finds_sharp_pictures_of_both_parts_in_one_folder(tmp_path):
    train, test = (find_pairs(hide(tmp_path), split=split) for split in ("train", "test"))
    assert (train.layout, train.variant, train.split) == ("HIDE", "", "train")
    assert [p.name for p in train.pairs] == ["109fromGOPR1096.MP4", "1fromGOPR0950"]
    assert rows(test) == [
        ("2fromGOPR0950", "test-close-ups/2fromGOPR0950.png", "GT/2fromGOPR0950.png"),
        ("3fromGOPR1096.MP4", "test-long-shot/3fromGOPR1096.MP4.png", "GT/3fromGOPR1096.MP4.png"),
    ]


def test_hide_list_decides_what_belongs_to_a_part(tmp_path):
    for name in ("3fromGOPR1096.MP4.png\n", "test/test-long-shot/3fromGOPR1096.MP4.png\r\n"):
        (hide(tmp_path) / "test.txt").write_text(name)
        assert [p.name for p in find_pairs(tmp_path, split="test").pairs] == ["3fromGOPR1096.MP4"]
    assert len(find_pairs(tmp_path).pairs) == 2
    (tmp_path / "test.txt").write_text("3fromGOPR1096.MP4.png\n9fromGOPR0950.png\n")
    with pytest.raises(UsageError, match=r"missing in test or GT: 9fromGOPR0950\.png"):
        find_pairs(tmp_path, split="test")


@pytest.mark.parametrize("line", ["{gt} {blur} \n", "{blur} {gt}\r\n\r\n"])
def test_real_blur_follows_the_list_of_a_part(tmp_path, line):
    real_blur(tmp_path, J_FOLDER, R_FOLDER)
    both = [("scene230", 7), ("scene001", 10)]
    real_blur_list(tmp_path / "RealBlur_J_test_list.txt", J_FOLDER, *both, line=line)
    real_blur_list(tmp_path / "RealBlur_R_test_list.txt", R_FOLDER, *both[:1], line=line)
    found = find_pairs(tmp_path, split="test")
    assert (found.layout, found.variant, found.split) == ("RealBlur", "J", "test")
    assert rows(found) == [
        ("scene001/blur_10", "blur/blur_10.png", "gt/gt_10.png"),
        ("scene230/blur_7", "blur/blur_7.png", "gt/gt_7.png"),
    ]
    assert J_FOLDER in found.pairs[0].sharp.parts
    found = find_pairs(tmp_path, split="test", variant="R")
    assert [p.blurred.parts[-4] for p in found.pairs] == [R_FOLDER]


def test_real_blur_list_beside_a_folder_of_another_name(tmp_path):
    real_blur(tmp_path, "realblur_r")
    real_blur_list(tmp_path / "RealBlur_R_train_list.txt", R_FOLDER, ("scene001", 1))
    found = find_pairs(tmp_path / "realblur_r")
    assert str(found) == "RealBlur (R), train: 1 pairs"


def test_real_blur_without_lists_is_not_divided(tmp_path):
    found = find_pairs(real_blur(tmp_path, J_FOLDER), split="test")
    assert str(found) == "RealBlur (J), all: 3 pairs"
    assert rows(found)[0] == ("scene001/blur_1", "blur/blur_1.png", "gt/gt_1.png")


def test_real_blur_with_the_other_list_only_mixes_nothing(tmp_path):
    real_blur(tmp_path, J_FOLDER)
    real_blur_list(tmp_path / "RealBlur_J_train_list.txt", J_FOLDER, ("scene001", 1))
    with pytest.raises(UsageError, match=r"RealBlur_J_test_list\.txt: no such list"):
        find_pairs(tmp_path, split="test")


def test_real_blur_list_with_a_strange_line_or_a_missing_file(tmp_path):
    real_blur(tmp_path, J_FOLDER)
    file = tmp_path / "RealBlur_J_train_list.txt"
    real_blur_list(file, J_FOLDER, ("scene001", 1), line="{gt} {blur}\n{gt}\n")
    with pytest.raises(UsageError, match=r"train_list\.txt: line 2 does not name"):
        find_pairs(tmp_path)
    real_blur_list(file, J_FOLDER, ("scene001", 1), ("scene001", 2))
    with pytest.raises(UsageError, match=r"missing: scene001/blur/blur_2\.png, scene001/gt/gt_2\.png;"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("folder", ["{part}/", "", "{part}_{side}/{part}/"])
def test_reds_validates_on_its_validation_part(tmp_path, folder):
    reds(tmp_path, folder=folder)
    found = find_pairs(tmp_path, split="test")
    assert (found.layout, found.variant, found.split) == ("REDS", "blur", "test")
    assert [(p.name, p.blurred.parts[-3], p.sharp.parts[-3]) for p in found.pairs] == [
        ("000/00000000", "val_blur", "val_sharp")
    ]
    assert find_pairs(tmp_path, variant="blur_jpeg").pairs[0].blurred.suffix == ".jpg"
    with pytest.raises(UsageError, match=r"no variant 'blur_bicubic'.* there is blur, blur_jpeg"):
        find_pairs(tmp_path, variant="blur_bicubic")


@pytest.mark.parametrize(
    ("blurred", "sharp"),
    [("input", "target"), ("blur", "sharp"), ("blurry", "sharp"), ("lq", "gt"), ("Blur", "Sharp")],
)
def test_parallel_folders_with_and_without_parts(tmp_path, blurred, sharp):
    make(tmp_path / "flat", f"{blurred}/b.png", f"{blurred}/a.jpg", f"{sharp}/a.png", f"{sharp}/b.png")
    make(tmp_path / "parts", f"train/{blurred}/a.png", f"train/{sharp}/a.png")
    make(tmp_path / "parts", f"val/{blurred}/v.png", f"val/{sharp}/v.png")
    flat = find_pairs(tmp_path / "flat", split="test")
    assert str(flat) == f"{blurred}/{sharp}, all: 2 pairs".lower()
    assert rows(flat)[0] == ("a", f"{blurred}/a.jpg", f"{sharp}/a.png")
    parts = find_pairs(tmp_path / "parts", split="test")
    assert (parts.split, [p.name for p in parts.pairs]) == ("test", ["v"])


def test_reds_without_sharp_test_pictures_is_tested_on_its_validation_part(tmp_path):
    make(reds(tmp_path), "test/test_blur/000/00000000.png")
    assert find_pairs(tmp_path, split="test").pairs[0].blurred.parts[-3] == "val_blur"


def test_what_is_no_picture_is_left_alone(tmp_path):
    make(tmp_path, "blur/a.png", "sharp/a.png", "blur/notes.txt", "sharp/.b.png", "sharp/Thumbs.db", ".git/x")
    assert len(find_pairs(tmp_path).pairs) == 1


# Detection


def test_paired_folders_are_known_from_others(tmp_path):
    assert is_paired(gopro(tmp_path / "gopro"))
    assert is_paired(tmp_path / "gopro/train")
    assert is_paired(tmp_path / "gopro/train/GOPR0372_07_00")
    assert is_paired(hide(tmp_path / "hide"))
    assert is_paired(real_blur(tmp_path / "real", J_FOLDER))
    assert is_paired(tmp_path / "real" / J_FOLDER)
    assert is_paired(reds(tmp_path / "reds"))
    assert not is_paired(make(tmp_path / "photos", "a.png", "b.jpg", "old/c.jpg"))
    assert not is_paired(make(tmp_path / "sharp only", "train/sharp/a.png"))
    assert not is_paired(tmp_path / "nowhere")
    assert not is_paired(tmp_path / "photos/a.png")


def test_unknown_layout_lists_the_known_ones(tmp_path):
    make(tmp_path, "a.png")
    with pytest.raises(UsageError, match=r"no pairs in a known layout.*GoPro.*HIDE.*RealBlur.*REDS.*input"):
        find_pairs(tmp_path)


# Incomplete data


def test_missing_folder_and_missing_part(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        find_pairs(tmp_path / "nowhere")
    make(tmp_path, "test/input/a.png", "test/target/a.png")
    with pytest.raises(UsageError, match="no folder 'train'"):
        find_pairs(tmp_path)
    with pytest.raises(UsageError, match="must be train or test"):
        find_pairs(tmp_path, split="dev")  # type: ignore[arg-type]


def test_missing_counterparts_are_named_in_one_line(tmp_path):
    gopro(tmp_path)
    for number in range(5):
        make(tmp_path, f"train/GOPR0372_07_01/sharp/1{number}.png")
    (tmp_path / "train/GOPR0372_07_00/sharp/000048.png").unlink()
    with pytest.raises(UsageError) as caught:
        find_pairs(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "train") in message
    assert "GOPR0372_07_00/blur/000048.png, GOPR0372_07_01/sharp/10.png, " in message
    assert "and 3 more;" in message
    assert find_pairs(tmp_path, split="test").pairs


def test_scene_without_a_side_or_a_variant_is_named(tmp_path):
    gopro(tmp_path)
    make(tmp_path, "train/GOPR9/blur/1.png", "train/GOPR9/sharp/1.png")
    with pytest.raises(UsageError, match=r"GOPR9: there is no variant 'blur_gamma' in it; there is blur"):
        find_pairs(tmp_path, variant="blur_gamma")
    make(tmp_path, "test/GOPR8/sharp/1.png")
    with pytest.raises(UsageError, match="GOPR8: this scene has blurred or sharp pictures only"):
        find_pairs(tmp_path, split="test")


def test_empty_folders_and_variants_that_do_not_exist(tmp_path):
    (tmp_path / "blur").mkdir()
    (tmp_path / "sharp").mkdir()
    with pytest.raises(UsageError, match="no pictures for train in this blur/sharp folder"):
        find_pairs(tmp_path)
    with pytest.raises(UsageError, match="no variant 'blur_gamma'"):
        find_pairs(tmp_path, variant="blur_gamma")
    with pytest.raises(UsageError, match="no variants"):
        find_pairs(hide(tmp_path / "hide"), variant="blur")


# Two folders given by hand


def test_two_folders_pair_by_path_whatever_the_format(tmp_path):
    make(tmp_path, "soft/one/a.jpg", "soft/b.1.png", "crisp/one/a.png", "crisp/b.1.tif")
    found = pair_folders(tmp_path / "soft", tmp_path / "crisp")
    assert (found.layout, found.split) == ("soft/crisp", "all")
    assert rows(found) == [("b.1", "soft/b.1.png", "crisp/b.1.tif"), ("one/a", "one/a.jpg", "one/a.png")]


@pytest.mark.parametrize(
    ("blurred", "sharp"),
    [
        (["blur_1", "blur_12", "blur_2"], ["gt_1", "gt_12", "gt_2"]),
        (["0001_blurred", "0002_blurred"], ["0001-sharp", "0002-sharp"]),
        (["IMG_cat_in", "IMG_cow_in"], ["IMG_cat_out", "IMG_cow_out"]),
        (["blur_7"], ["gt_7"]),
    ],
)
def test_two_folders_pair_by_what_differs(tmp_path, blurred, sharp):
    make(tmp_path, *(f"a/{name}.png" for name in blurred), *(f"b/{name}.png" for name in sharp))
    found = pair_folders(tmp_path / "a", tmp_path / "b")
    assert [(p.blurred.stem, p.sharp.stem) for p in found.pairs] == list(zip(blurred, sharp, strict=True))


def test_two_folders_of_unlike_names_do_not_pair(tmp_path):
    make(tmp_path, "a/cat.png", "a/dog.png", "b/cow.png", "b/hen.png")
    with pytest.raises(UsageError, match=r"without a counterpart: a/cat\.png, a/dog\.png, b/cow\.png and 1 more"):
        pair_folders(tmp_path / "a", tmp_path / "b")


def test_two_files_of_one_name_are_refused(tmp_path):
    make(tmp_path, "a/cat.png", "a/cat.jpg", "b/cat.png")
    with pytest.raises(UsageError, match=r"cat\.\w+: there is also cat\.\w+"):
        pair_folders(tmp_path / "a", tmp_path / "b")


def test_two_folders_that_are_missing_or_empty(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="b: no such folder"):
        pair_folders(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        pair_folders(tmp_path / "a", tmp_path / "b")


# Sizes


def save(path: Path, width: int, height: int, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=exif)
    return path


def test_sizes_are_compared_upright_from_headers(tmp_path):
    a, b = save(tmp_path / "a.jpg", 30, 20), save(tmp_path / "b.jpg", 20, 30, orientation=6)
    data = b.read_bytes()
    b.write_bytes(data[: len(data) * 2 // 3])  # the header is enough
    check_sizes([Pair("one", a, b)])


def test_sizes_that_differ_are_named(tmp_path):
    a, b = save(tmp_path / "a.png", 30, 20), save(tmp_path / "b.png", 30, 21)
    pairs = [Pair(f"scene/{n}", a, b) for n in range(5)]
    with pytest.raises(UsageError, match=r"size: scene/0 \(30 x 20 and 30 x 21\), .* and 2 more"):
        check_sizes([Pair("good", a, a), *pairs])


def test_files_that_are_no_pictures_have_no_size(tmp_path):
    make(tmp_path, "a.png")
    with pytest.raises(ImageError, match=r"a\.png: cannot be decoded"):
        check_sizes([Pair("a", tmp_path / "a.png", tmp_path / "a.png")])
