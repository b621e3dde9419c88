"""A third dataset for the study: the same emojis as three companies draw them.

python benchmarks/selection/emoji.py FOLDER

Domains are the styles (``noto`` by Google, ``twemoji`` by Twitter, ``fluent`` by Microsoft), classes the
categories of the Unicode Consortium. The pictures come from npm packages, all under licences that permit it
(Apache 2.0, CC BY 4.0, MIT); nothing of them is in this repository. Writes FOLDER/<domain>/<class>/*.png,
drawn on white, as ``data.dataset: folder`` reads them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

PACKAGES = {
    "noto": ("emoji-datasource-google@16.0.0", "img/google/64/{}.png"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "img/twitter/64/{}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "assets/{}.webp"),
}
"""Domain -> its npm package, and where that has the picture of a code."""

LIST = ("noto", "emoji.json")
"""Domain and file that has the code and the category of every emoji."""

CLASSES = {
    "Animals & Nature": "animals",
    "Flags": "flags",
    "Food & Drink": "food",
    "Objects": "objects",
    "People & Body": "people",
    "Smileys & Emotion": "smileys",
    "Symbols": "symbols",
    "Travel & Places": "travel",
}
"""Category -> class; the other categories hold fewer than 100 emojis."""


def main() -> None:
    """Fetch the packages and write the folders."""
    parser = argparse.ArgumentParser(description="make a dataset of emojis from npm packages (needs npm)")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write <domain>/<class>/*.png")
    folder = parser.parse_args().folder
    files = {domain: fetch(package) for domain, (package, _) in PACKAGES.items()}
    classes = {
        one["unified"].lower(): CLASSES[one["category"]]
        for one in json.loads(files[LIST[0]][LIST[1]])
        if one["category"] in CLASSES
    }
    for domain, (_, place) in PACKAGES.items():
        print(f"{domain}: {write(classes, files[domain], place, folder / domain)} pictures")


def fetch(package: str) -> dict[str, bytes]:
    """The files of an npm package, by their path in it."""
    with TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as packed:
            return {
                member.name.removeprefix("package/"): content.read()
                for member in packed
                if (content := packed.extractfile(member)) is not None
            }


def write(classes: Mapping[str, str], files: Mapping[str, bytes], place: str, folder: Path) -> int:
    """Write the pictures of a domain, and return how many of the emojis it has."""
    found = 0
    for code, name in classes.items():
        if place.format(code) in files:
            picture = Image.open(BytesIO(files[place.format(code)])).convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.alpha_composite(white, picture).convert("RGB").save(folder / name / f"{code}.png")
            found += 1
    return found


if __name__ == "__main__":
    main()
