"""The third dataset of the study and what is learned from it: a package in, folders and a number out."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.selection import emoji, freeze


def picture(colour: tuple[int, int, int, int], form: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGBA", (8, 8), colour).save(content, form, lossless=True)
    return content.getvalue()


def test_pictures_are_drawn_on_white_by_domain_and_class(tmp_path: Path) -> None:
    files = {"img/1f436.png": picture((255, 0, 0, 255), "PNG"), "img/1f34e.png": picture((0, 0, 0, 0), "PNG")}
    classes = {"1f436": "animals", "1f34e": "food", "missing": "food"}
    assert emoji.write(classes, files, "img/{}.png", tmp_path) == 2
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")} == {
        "animals/1f436.png",
        "food/1f34e.png",
    }
    with (
        Image.open(tmp_path / "food" / "1f34e.png") as clear,
        Image.open(tmp_path / "animals" / "1f436.png") as red,
    ):
        assert clear.mode == "RGB" and clear.getpixel((3, 3)) == (255, 255, 255)
        assert red.getpixel((3, 3)) == (255, 0, 0)


def test_the_files_of_a_package_are_read_from_its_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(command: list[str], cwd: str, check: bool) -> None:
        assert command[-1] == "some-package@1.0.0" and check
        with tarfile.open(Path(cwd) / "some-package-1.0.0.tgz", "w:gz") as archive:
            entry = tarfile.TarInfo("package/img/a.png")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))

    monkeypatch.setattr(subprocess, "run", pack)
    assert emoji.fetch("some-package@1.0.0") == {"img/a.png": b"abc"}


def test_what_mixing_is_worth_is_found_beside_what_else_is_known() -> None:
    rng = np.random.default_rng(0)
    settings = []
    for mixing in (0.0, 0.1, 0.2, 0.3):
        terms = [
            {"constant": 1.0, "score knn": float(i % 2), freeze.MIXING: mixing * (i < 4)} for i in range(12)
        ]
        worth = [3 * row["score knn"] + 10 * row[freeze.MIXING] for row in terms]
        settings.append((terms, 80 + np.array(worth) + rng.normal(0, 0.01, 12)))
    found = freeze._fit_mixing({"constant": -2.0, "score knn": 3.0}, settings)
    assert found == pytest.approx(10, abs=0.1)
