"""Files damaged by seed, and what may come of them: a picture or weights, or an error of ours.

The tests use it in small, and in large as a process of its own, which may die without taking the tests with it:

    python tests/fuzz.py pictures 0 10000

prints what went wrong, with the number that makes the same file again.
"""

import faulthandler
import io
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pictures import ICC_RGB, XMP, encoded, exif_block, headline, image, tiff_of
from PIL import Image, ImageCms, PngImagePlugin

from unsmear.errors import UnsmearError
from unsmear.image import open_picture, save_picture

MAX_MEGAPIXELS = 1.0
MAX_SECONDS = 5.0  # of the processor, as others may use it, too
MAX_GROWTH = 256 * 2**20  # of the whole process, over any number of files
LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1)
WORDS = (b"IHDR", b"IDAT", b"IEND", b"VP8X", b"ALPH", b"ANIM", b"Exif\0\0", b"8BIM", b"ftyp", b"ispe", b"\xff\xc0")


# How files are damaged


def truncate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip_bits(data: bytes, other: bytes, rng: random.Random) -> bytes:
    bad = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    return bytes(bad)


def set_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 16))
    return data[:at] + rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length))) + data[at + length :]


def insert(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((rng.choice(WORDS), rng.randbytes(rng.choice((1, 3, 12, 200))))) + data[at:]


def remove(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 12, 200)) :]


def repeat(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    stop = start + rng.choice((4, 12, 64, 1000))
    return data[:stop] + data[start:stop] * rng.choice((1, 3, 50)) + data[stop:]


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at, start = rng.randrange(len(data)), rng.randrange(len(other))
    piece = other[start : start + rng.choice((8, 100, 10_000))]
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def set_length(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A number as lengths, counts and offsets are stored; more often near the beginning, where headers are."""
    at = rng.randrange(min(len(data), rng.choice((40, 400, len(data)))))
    kind = rng.choice("BHIQ")
    number = (rng.choice(LENGTHS) + rng.choice((0, 0, 1, -1))) % 256 ** struct.calcsize(kind)
    return data[:at] + struct.pack(rng.choice("<>") + kind, number) + data[at + struct.calcsize(kind) :]


MUTATIONS = (truncate, flip_bits, set_bytes, insert, remove, repeat, splice, set_length, set_length)


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A file with one to four damages; `other` is where foreign pieces come from."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(MUTATIONS)(data, other, rng) or b"\0"
    return with_checksums(data) if data.startswith(b"\x89PNG") and rng.random() < 0.8 else data


def with_checksums(data: bytes) -> bytes:
    """A PNG file whose damage the checksums do not give away."""
    parts, start = [data[:8]], 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        stop = min(start + 8 + length, len(data) - 4)
        parts.append(data[start:stop] + struct.pack(">I", zlib.crc32(data[start + 4 : stop])))
        start = stop + 4
    return b"".join(parts)


# Pictures


def picture_seeds() -> dict[str, bytes]:
    """Sound files of every kind that is read, small, with all that can be in them."""
    size = (23, 17)
    known = {"exif": exif_block(), "icc_profile": srgb_profile()}
    odd = {"exif": exif_block(3, ">"), "icc_profile": ICC_RGB, "dpi": (300, 300)}
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A picture", zip=True)
    info.add_itxt("XML:com.adobe.xmp", (XMP % 6).decode())
    info.add(b"gAMA", struct.pack(">I", 45455))
    frames = {"save_all": True, "append_images": [image("RGB", size), image("RGB", size)]}
    rgb, alpha, gray, palette = (image(mode, size) for mode in ("RGB", "RGBA", "L", "P"))
    deep = np.random.default_rng(1).integers(0, 65536, (size[1], size[0], 4), np.uint16)
    seeds = {
        "jpeg": encoded(rgb, "JPEG", **known, xmp=XMP % 6, comment=b"hello"),
        "jpeg-progressive": encoded(rgb, "JPEG", progressive=True, restart_marker_blocks=1, **odd),
        "jpeg-gray": encoded(gray, "JPEG"),
        "jpeg-cmyk": encoded(image("CMYK", size), "JPEG", icc_profile=known["icc_profile"]),  # which is for RGB
        "png": encoded(rgb, "PNG", pnginfo=info, **odd),
        "png-alpha": encoded(alpha, "PNG", **known),
        "png-palette": encoded(palette, "PNG", transparency=3),
        "png-bits": encoded(image("1", size), "PNG"),
        "png-16": png_16(deep),
        "png-interlaced": interlaced_png(np.asarray(gray)),
        "webp": encoded(rgb, "WEBP", **known),
        "webp-alpha": encoded(alpha, "WEBP", **odd),
        "webp-lossless": encoded(alpha, "WEBP", lossless=True, exact=True, **known),
        "webp-animated": encoded(rgb, "WEBP", **frames),
        "tiff": encoded(rgb, "TIFF", compression="raw", **known),
        "tiff-lzw": encoded(alpha, "TIFF", compression="tiff_lzw", icc_profile=ICC_RGB, dpi=(300, 300)),
        "tiff-deflate": encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": encoded(rgb, "TIFF", compression="jpeg"),
        "tiff-fax": encoded(image("1", size), "TIFF", compression="group4"),
        "tiff-palette": encoded(palette, "TIFF", compression="packbits"),
        "tiff-pages": encoded(rgb, "TIFF", **frames),
        "tiff-16": tiff_of(deep),
        "tiff-float": tiff_of(np.random.default_rng(1).random((size[1], size[0], 3), np.float32)),
        "tiff-big": encoded(rgb, "TIFF", big_tiff=True),
        "bmp": encoded(rgb, "BMP", dpi=(300, 300)),
        "bmp-palette": encoded(palette, "BMP"),
        "avif": encoded(rgb, "AVIF", **known),
        "avif-alpha": encoded(alpha, "AVIF", **odd),
    }
    return seeds | _extra_seeds(alpha, deep)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _extra_seeds(alpha: Image.Image, deep: np.ndarray) -> dict[str, bytes]:
    """Those of formats whose libraries are extras."""
    seeds = {}
    try:
        import pyvips

        inks = bytes(pyvips.Operation.call("profile_load", "cmyk"))
        seeds["tiff-cmyk"] = encoded(image("CMYK", (23, 17)), "TIFF", icc_profile=inks, compression="raw")
    except ImportError:
        pass
    try:
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(alpha).save(buffer, quality=90, exif=exif_block(), xmp=XMP % 6)
        seeds["heic"] = buffer.getvalue()
        buffer = io.BytesIO()
        rgb = np.ascontiguousarray(deep[..., :3])
        pillow_heif.from_bytes("RGB;16", (rgb.shape[1], rgb.shape[0]), rgb.tobytes()).save(buffer, quality=90)
        seeds["heic-deep"] = buffer.getvalue()
    except ImportError:
        pass
    try:
        import rawpy  # noqa: F401 - whether it is there
        from test_image_raw import dng, flat

        seeds["raw"] = dng(flat(20_000, 30_000, 10_000, (32, 48)))
    except ImportError:
        pass
    return seeds


def png_16(samples: np.ndarray) -> bytes:
    """A PNG file of 16 bits per channel, RGBA."""
    height, width = samples.shape[:2]
    return _png(width, height, 16, 6, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples))


def interlaced_png(samples: np.ndarray) -> bytes:
    """A gray PNG file whose pixels come in seven passes."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for top, left, down, across in passes for row in samples[top::down, left::across]]
    return _png(samples.shape[1], samples.shape[0], 8, 0, 1, b"".join(b"\0" + row.tobytes() for row in rows))


def _png(width: int, height: int, depth: int, color: int, interlaced: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def check_picture(data: bytes) -> str:
    """Read a file, write what is in it, and read that again; what came of it in one word.

    Raises:
        Exception: Whatever is neither a picture nor an error of ours.
    """
    try:
        size = headline(io.BytesIO(data), max_megapixels=MAX_MEGAPIXELS)[:2]
        picture = open_picture(io.BytesIO(data), max_megapixels=MAX_MEGAPIXELS)
    except UnsmearError as error:
        _check_message(error)
        return "refused"
    height, width = picture.rgb.shape[:2]
    assert (width, height) == size, f"the header says {size}, the picture is {(width, height)}"
    assert width * height <= MAX_MEGAPIXELS * 1e6
    out = io.BytesIO()
    try:
        save_picture(picture.with_srgb(picture.srgb().copy()), out)
    except UnsmearError as error:
        _check_message(error)
        return "unwritable"
    again = open_picture(io.BytesIO(out.getvalue()))
    assert again.rgb.shape == picture.rgb.shape
    return "picture"


# Weights


def weights_seeds() -> dict[str, bytes]:
    """A weights file of ours, and what others release, by the name that the file has."""
    import torch
    from safetensors.torch import save
    from test_convert import released_deepdeblur
    from test_tensorflow import blob, caffemodel

    from unsmear.models import create_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        save_model(create_model("saphn", **SMALL), path)
        ours = path.read_bytes()
        tensors = released_deepdeblur(blocks=1, width=2, scales=1)
        torch.save({"state_dict": tensors, "epoch": 3}, path)
        zipped = path.read_bytes()
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
        legacy = path.read_bytes()
    one = np.ones((2, 3, 1, 1), "float32")
    return {
        "ours.safetensors": ours,
        "foreign.safetensors": save(tensors),
        "zipped.pt": zipped,
        "legacy.pth": legacy,
        "net.caffemodel": caffemodel([("conv", [blob(one), blob(one[0, 0, 0])]), ("old", [blob(one, old=True)])]),
    }


SMALL = {"widths": (6, 8, 8), "lower_widths": None, "encoder_blocks": 1, "decoder_blocks": 1}


def check_weights(data: bytes, name: str = "w.safetensors") -> str:
    """Load a weights file, or convert it; what came of it in one word.

    Raises:
        Exception: Whatever is neither a network nor an error of ours.
    """
    from unsmear.convert.run import convert_files
    from unsmear.models import load_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            if name == "ours.safetensors":
                load_model(path)
            else:
                convert_files([path], Path(folder) / "out.safetensors")
        except UnsmearError as error:
            _check_message(error)
            return "refused"
        return "network"


def _check_message(error: UnsmearError) -> None:
    assert len(str(error).splitlines()) == 1, f"not one line: {error}"
    assert len(str(error)) < 2000, f"a message of {len(str(error))} characters"


# Many files


def cases(seeds: dict[str, bytes], numbers: Iterator[int] | range) -> Iterator[tuple[int, str, bytes]]:
    """Damaged files by number: the same number is the same file."""
    names = sorted(seeds)
    for number in numbers:
        rng = random.Random(number)
        name, other = names[number % len(names)], rng.choice(names)
        yield number, name, mutated(seeds[name], seeds[other], rng)


def check_all(seeds: dict[str, bytes], numbers: range, check: Callable[[bytes, str], str]) -> Iterator[str]:
    """Check damaged files; tells of each that is treated wrongly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of decoders, which the command does not show either
        for number, name, data in cases(seeds, numbers):
            began = time.process_time()
            try:
                check(data, name)
            except Exception:
                yield f"{number} ({name}): {traceback.format_exc()}"
            if (seconds := time.process_time() - began) > MAX_SECONDS:
                yield f"{number} ({name}): took {seconds:.1f} s"


KINDS = {
    "pictures": (picture_seeds, lambda data, name: check_picture(data)),
    "weights": (weights_seeds, check_weights),
}


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(kind: str, first: str, last: str) -> int:
    """Check the files of these numbers; 1 if any was treated wrongly. Where the process dies, its last line tells."""
    make, check = KINDS[kind]
    seeds, found = make(), 0

    def watched(data: bytes, name: str) -> str:
        faulthandler.dump_traceback_later(120, exit=True)  # whatever does not end at all
        return check(data, name)

    for name, data in seeds.items():  # and so that all libraries are loaded
        assert watched(data, name) or True
    before = _memory()
    for start in range(int(first), int(last), 100):
        print(f"from {start}", flush=True)
        for problem in check_all(seeds, range(start, min(start + 100, int(last))), watched):
            print(problem, flush=True)
            found += 1
    growth = _memory() - before
    print(f"{int(last) - int(first)} {kind}: {found} treated wrongly; memory grew by {growth / 2**20:.0f} MiB")
    return int(found > 0 or growth > MAX_GROWTH)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main(*sys.argv[1:]))
