"""Two folders of a user's own images: normal source images, and target images that nobody has labelled."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.data.base import DATASETS, Dataset
from trainables.data.folder import ImageFile, image_domain, is_image
from trainables.errors import TwofoldError, nearest_name
from trainables.seeding import stable_hash
from trainables.types import ImageDomain


@DATASETS.register("unlabelled")
class Unlabelled(Dataset):
    """One task, ``source->target/normal``, over all images in the two folders and below them."""

    labelled: ClassVar[bool] = False

    source: Path = Field(description="folder of normal images from the source domain")
    target: Path = Field(description="folder of unlabelled, mostly normal images from the target domain")

    def domains(self) -> list[str]:
        """``source`` and ``target``."""
        return ["source", "target"]

    def classes(self) -> list[str]:
        """``normal`` alone."""
        return ["normal"]

    def pairs(self) -> list[tuple[str, str]]:
        """The one pair."""
        return [("source", "target")]

    def domain(self, name: str) -> ImageDomain:
        """All images of one of the two folders."""
        return image_domain(name, self._files(name))

    def class_of(self, name: str) -> dict[str, str]:
        """``normal`` for every source image; nothing for the target."""
        return {file.id: "normal" for file in self._files(name)} if name == "source" else {}

    def _files(self, name: str) -> list[ImageFile]:
        return _images_below(self._folder(name), name)

    def _folder(self, name: str) -> Path:
        if name not in self.domains():
            raise TwofoldError(
                f"unknown domain '{name}' of dataset 'unlabelled'.{nearest_name(name, self.domains())} "
                "Known: source, target."
            )
        source, target = self.source.resolve(), self.target.resolve()
        if source.is_relative_to(target) or target.is_relative_to(source):
            raise TwofoldError(f"`source` {source} and `target` {target} overlap; give two separate folders.")
        folder = self.source if name == "source" else self.target
        if not folder.is_dir():
            raise TwofoldError(f"`{name}`: there is no folder {folder}; give a folder of images.")
        return folder


def folder_domain(folder: Path) -> ImageDomain:
    """All images in a folder and below it, as one domain named after the folder.

    Raises:
        TwofoldError: there is no such folder, or no image in it.
    """
    return image_domain(folder.name, images_below(folder))


def images_below(folder: Path) -> list[ImageFile]:
    """All images in a folder and below it.

    Raises:
        TwofoldError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise TwofoldError(f"there is no folder {folder}; give a folder of images.")
    return _images_below(folder, folder.name)


def _images_below(folder: Path, name: str) -> list[ImageFile]:
    files = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if is_image(path) and not any(part.startswith(".") for part in relative.parts):
            key = relative.as_posix()
            files.append(ImageFile(stable_hash([name, key]), path, f"{name}/{key}"))
    if not files:
        raise TwofoldError(f"`{name}`: no image that Pillow reads lies in {folder} or below; add images.")
    return files
