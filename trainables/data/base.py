"""What a dataset is: domains of images without labels, and labels that only the oracle reads."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar, cast

from pydantic import ValidationError

from trainables.errors import TwofoldError
from trainables.registry import Component, Registry
from trainables.seeding import canonical_json
from trainables.types import ImageDomain


class Dataset(Component, ABC):
    """Images of several domains; its fields are the arguments a user gives, e.g. ``root``.

    Attributes:
        labelled: False where nobody knows the classes of the target images, so that nothing can be judged.
    """

    labelled: ClassVar[bool] = True

    @abstractmethod
    def domains(self) -> list[str]:
        """Names of all domains, sorted."""

    @abstractmethod
    def classes(self) -> list[str]:
        """Names of the classes that can be the normal class of a task, sorted."""

    @abstractmethod
    def pairs(self) -> list[tuple[str, str]]:
        """Default (source, target) pairs."""

    @abstractmethod
    def domain(self, name: str) -> ImageDomain:
        """The images of one domain, without labels.

        Raises:
            TwofoldError: the domain is unknown or holds no images.
        """

    @abstractmethod
    def class_of(self, name: str) -> dict[str, str]:
        """LABELS, image id -> class name, of one domain. Only ``orchestrator/oracle.py`` may call it."""

    def image_hash(self, name: str) -> str:
        """Hash of the ids and pixels of a domain, whose fingerprint may go by the times of files instead.

        It reads every image.
        """
        domain = self.domain(name)
        digest = hashlib.blake2b(digest_size=16)
        for index, image_id in enumerate(domain.ids):
            image = domain.read(index)
            digest.update(canonical_json([image_id, *image.size]).encode())
            digest.update(image.tobytes())
        return digest.hexdigest()


# The registry hands out classes to construct; that Dataset itself is abstract does not matter to it.
DATASETS: Registry[Dataset] = Registry("dataset", "trainables.data")


def build_dataset(name: str, **arguments: object) -> Dataset:
    """Construct the dataset registered under ``name``.

    Raises:
        TwofoldError: unknown name, or arguments that the dataset does not take.
    """
    entry = DATASETS.get(name)
    try:
        return cast(Dataset, entry(**arguments))
    except ValidationError as error:
        problems = "; ".join(
            f"`{'.'.join(map(str, detail['loc']))}`: {detail['msg'].lower()}" for detail in error.errors()
        )
        known = ", ".join(f"`{field}`" for field in entry.model_fields) or "none"
        raise TwofoldError(f"arguments of dataset '{name}': {problems}. It takes: {known}.") from error
