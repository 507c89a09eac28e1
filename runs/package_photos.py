"""Make a folder of 1,162 photographs out of packages of Debian and Ubuntu, to train on beside others.

    python runs/package_photos.py OUT --packages DIR

DIR must have the packages that `package_photos.tsv` names, as they lie on any mirror
(http://deb.debian.org/debian/pool/..., http://archive.ubuntu.com/ubuntu/pool/...) or as `apt-get download NAME=VERSION`
leaves them: those of bookworm, trixie and sid, and of xenial to questing, in November 2026. Those that it lacks are
told. All are free by the guidelines of both, most are CC BY-SA, CC0 or in the public domain; the file `copyright` of
each package tells whose they are. They were picked by eye from all large pictures there, without drawings, renderings
and what other photos show as well. Short sides of more than 960 pixels become 960, so that the photos are sharp in
every pixel. Those that the table has as held back go to OUT/held instead, for questions that photos trained on cannot
answer.
"""

import argparse
import csv
import io
import re
import subprocess
import tarfile
from pathlib import Path

from PIL import Image

TABLE = Path(__file__).with_suffix(".tsv")
SHORT_SIDE = 960


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, required=True, help="folder with .deb files")
    args = parser.parse_args()
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    pools = dict.fromkeys(row["package"] for row in rows)
    found = {re.sub(r"_\d+%3a", "_", file.name): file for file in args.packages.glob("*.deb")}  # apt-get tells epochs
    missing = [pool for pool in pools if Path(pool).name not in found]
    if missing:
        parser.error(f"{args.packages} lacks:\n" + "\n".join(missing))
    (args.out / "held").mkdir(parents=True, exist_ok=True)
    for pool in pools:
        wanted = {row["path"]: row for row in rows if row["package"] == pool}
        for path, data in files_of(found[Path(pool).name], set(wanted)):
            row = wanted.pop(path)
            folder = args.out / "held" if row["held_back"] == "yes" else args.out
            shrink(data).save(folder / row["photo"], quality=92, subsampling=0)
        if wanted:
            parser.error(f"{pool} lacks {', '.join(wanted)}")
        print(f"{Path(pool).name}: done", flush=True)


def files_of(package: Path, paths: set[str]):
    """Some files of a .deb package, path and content."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            path = member.name.removeprefix("./")
            if path in paths:
                yield path, archive.extractfile(member).read()


def shrink(data: bytes) -> Image.Image:
    """The picture in a file, at most so large."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    factor = max(1, min(picture.size) / SHORT_SIDE)
    size = tuple(round(side / factor) for side in picture.size)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
