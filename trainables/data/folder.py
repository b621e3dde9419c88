"""Images in folders, ``root/<domain>/<class>/*``, and the base of the presets for published benchmarks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache, partial
from itertools import permutations
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

from PIL import Image, ImageOps
from pydantic import Field

from trainables.data.base import DATASETS, Dataset
from trainables.errors import TwofoldError, nearest_name
from trainables.seeding import stable_hash
from trainables.types import ImageDomain


class ImageFile(NamedTuple):
    """One image: its opaque id, its path, and the path relative to the dataset that the fingerprint uses."""

    id: str
    path: Path
    relative: str


@DATASETS.register("folder")
class Folder(Dataset):
    """Domains are the folders of ``root``, classes the folders of a domain, as they are spelt on disk."""

    root: Path = Field(description="folder that holds one folder per domain, which holds one per class")

    def domains(self) -> list[str]:
        """Folders of ``root``, sorted."""
        return sorted(self._domain_folders())

    def classes(self) -> list[str]:
        """Classes that every domain has, sorted."""
        present = [set(self._class_folders(domain)) for domain in self.domains()]
        common = set.intersection(*present)
        if not common:
            raise TwofoldError(
                f"no class is present in every domain of {self.root}; name `classes` and `pairs`."
            )
        return sorted(common)

    def pairs(self) -> list[tuple[str, str]]:
        """All ordered pairs of domains."""
        pairs = list(permutations(self.domains(), 2))
        if not pairs:
            raise TwofoldError(
                f"{self.root} holds one domain, but a pair needs two; add root/<domain>/<class>/*."
            )
        return pairs

    def domain(self, name: str) -> ImageDomain:
        """All images of one domain."""
        return image_domain(name, (file for files in self._files(name).values() for file in files))

    def class_of(self, name: str) -> dict[str, str]:
        """Image id -> name of the folder that holds it."""
        return {file.id: label for label, files in self._files(name).items() for file in files}

    def image_hash(self, name: str) -> str:
        """Hash of the paths and bytes of the files of a domain, which takes no decoding."""
        files = sorted(file for files in self._files(name).values() for file in files)
        contents = [(file.relative, _file_hash(file.path)) for file in files]
        return stable_hash(contents, 32)

    def _spelling(self, folder_name: str) -> str:
        """Name under which a domain or class folder is known."""
        return folder_name

    def _domain_folders(self) -> dict[str, Path]:
        if not self.root.is_dir():
            raise TwofoldError(
                f"`root`: there is no folder {self.root}; give the one that holds the domains."
            )
        folders = self._subfolders(self.root)
        if not folders:
            raise TwofoldError(f"`root`: {self.root} is empty; expected root/<domain>/<class>/* images.")
        return folders

    def _domain_folder(self, domain: str) -> Path:
        folders = self._domain_folders()
        if domain not in folders:
            raise TwofoldError(
                f"unknown domain '{domain}' in {self.root}.{nearest_name(domain, folders)} "
                f"Known: {', '.join(sorted(folders))}."
            )
        return folders[domain]

    def _class_folders(self, domain: str) -> dict[str, Path]:
        folder = self._domain_folder(domain)
        classes = self._subfolders(folder)
        if not classes:
            raise TwofoldError(
                f"domain '{domain}' is empty: {folder} has no class folders; "
                f"expected {folder}/<class>/* images."
            )
        return classes

    def _subfolders(self, parent: Path) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(parent.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                name = self._spelling(path.name)
                if name in found:
                    raise TwofoldError(f"{found[name]} and {path} are both '{name}'; rename or merge one.")
                found[name] = path
        return found

    def _files(self, domain: str) -> dict[str, list[ImageFile]]:
        """Class name -> its image files."""
        files = {}
        for label, folder in self._class_folders(domain).items():
            paths = [path for path in folder.iterdir() if is_image(path)]
            if not paths:
                raise TwofoldError(
                    f"class '{label}' of domain '{domain}' is empty: no image that Pillow reads "
                    f"lies in {folder}; add images or remove the folder."
                )
            files[label] = [
                ImageFile(stable_hash([domain, label, path.name]), path, f"{domain}/{label}/{path.name}")
                for path in paths
            ]
        return files


class Preset(Folder):
    """A published benchmark: its classes and pairs, whatever way a copy spells and separates the words.

    ``Paper-Clip``, ``paper clip`` and ``Paper_Clip`` are all ``paper_clip``.
    """

    selected_classes: ClassVar[tuple[str, ...]] = ()
    default_pairs: ClassVar[tuple[tuple[str, str], ...]] = ()

    def classes(self) -> list[str]:
        """The classes of the published protocol."""
        return sorted(self.selected_classes)

    def pairs(self) -> list[tuple[str, str]]:
        """The published pairs whose two domains are on disk."""
        present = self._domain_folders()
        pairs = [pair for pair in self.default_pairs if set(pair) <= set(present)]
        if not pairs:
            wanted = ", ".join(f"{source}->{target}" for source, target in self.default_pairs)
            raise TwofoldError(
                f"`root`: {self.root} has the folders {', '.join(sorted(present))}, but none of the "
                f"pairs {wanted}; give the folder that holds the domains, or name `pairs`."
            )
        return pairs

    def _spelling(self, folder_name: str) -> str:
        return re.sub(r"[\s_-]+", "_", folder_name.strip().casefold())

    def _class_folders(self, domain: str) -> dict[str, Path]:
        """Folders of the selected classes alone: the benchmark's other classes are in no task."""
        present = super()._class_folders(domain)
        missing = sorted(set(self.selected_classes) - set(present))
        if missing:
            raise TwofoldError(
                f"domain '{domain}' in {self.root} lacks the classes {', '.join(missing)}; "
                "complete the copy, or use dataset 'folder' and name `classes`."
            )
        return {name: present[name] for name in sorted(self.selected_classes)}


def image_domain(name: str, files: Iterable[ImageFile]) -> ImageDomain:
    """Make a domain of files, ordered by id; its fingerprint hashes (relative path, size, mtime_ns)."""
    ordered = sorted(files)
    stats = [(file.relative, file.path.stat()) for file in ordered]
    fingerprint = stable_hash([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats], 32)
    paths = tuple(file.path for file in ordered)
    return ImageDomain(name, tuple(file.id for file in ordered), fingerprint, partial(_read_at, paths))


def is_image(path: Path) -> bool:
    """Whether the name is that of a visible file in a format that Pillow opens."""
    return path.suffix.lower() in _suffixes() and not path.name.startswith(".") and path.is_file()


def read_image(file: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """Decode a whole image file into RGB, upright as its EXIF tag says, on white where it is transparent.

    Args:
        file: its path, or its content.
        name: what an error calls it; its path when None.

    Raises:
        TwofoldError: naming the file, when it is not an image, truncated, too large or has 32-bit pixels.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # a damaged file makes Pillow's parsers raise almost anything
        shown = name or file
        raise TwofoldError(f"cannot read the image {shown}: {error}. Replace or remove the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255, which leaves a white image
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its 32-bit pixels have no known range, convert it to 8 or 16 bits")
    if image.has_transparency_data:
        # What lies under transparent pixels is arbitrary, often black; drawings mean paper.
        drawing = image.convert("RGBA")
        paper = Image.new("RGBA", drawing.size, "white")
        return Image.alpha_composite(paper, drawing).convert("RGB")
    return image.convert("RGB")


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_at(paths: tuple[Path, ...], index: int) -> Image.Image:
    return read_image(paths[index])


@cache
def _suffixes() -> frozenset[str]:
    """Lower-case file name endings of the formats that Pillow opens, not only writes."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, format_name in known.items() if format_name in Image.OPEN)
