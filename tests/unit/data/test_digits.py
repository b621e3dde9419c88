from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image
from sklearn.datasets import load_digits

from trainables.data.base import build_dataset
from trainables.data.typeset import FONTS, draw_digit, font_folder
from trainables.errors import TwofoldError

DIGITS = build_dataset("digits")
GLYPHS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_counts() -> None:
    counts = {name: Counter(DIGITS.class_of(name).values()) for name in DIGITS.domains()}
    assert counts["typeset"] == {str(digit): 130 for digit in range(10)}
    assert counts["mnist"] == {str(digit): 500 for digit in range(10)}
    assert counts["optdigits"] == Counter(map(str, load_digits().target.tolist()))


def test_default_tasks() -> None:
    assert DIGITS.pairs() == [("typeset", "mnist"), ("typeset", "optdigits")]
    assert DIGITS.classes() == list("0123456789")


@pytest.mark.parametrize("name", DIGITS.domains())
def test_images_are_white_digits_on_black(name: str) -> None:
    domain = DIGITS.domain(name)
    for index in range(0, len(domain.ids), 97):
        image = domain.read(index)
        pixels = np.asarray(image)
        assert image.mode == "RGB"
        assert pixels.max() > 150
        assert pixels.mean() < 128


@pytest.mark.parametrize("name", DIGITS.domains())
def test_ids_are_unique_sorted_and_tell_no_class(name: str) -> None:
    domain, labels = DIGITS.domain(name), DIGITS.class_of(name)
    assert list(domain.ids) == sorted(set(domain.ids)) == list(labels)
    digits = np.array([int(labels[image]) for image in domain.ids])
    values = np.array([int(image, 16) for image in domain.ids], dtype=float)
    assert abs(np.corrcoef(np.arange(len(digits)), digits)[0, 1]) < 0.08
    assert abs(np.corrcoef(values, digits)[0, 1]) < 0.08


@pytest.mark.parametrize("name", DIGITS.domains())
def test_a_digit_looks_like_its_label(name: str) -> None:
    """Images and labels stay aligned: the nearest class mean is right far more often than by chance."""
    domain, labels = DIGITS.domain(name), DIGITS.class_of(name)
    pixels = np.array(
        [np.asarray(domain.read(i).convert("L")).ravel() for i in range(len(domain.ids))], float
    )
    digits = np.array([int(labels[image]) for image in domain.ids])
    means = np.stack([pixels[digits == digit].mean(axis=0) for digit in range(10)])
    distances = ((pixels[:300, None] - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == digits[:300]).mean() > 0.6


def test_optdigits_are_the_scans() -> None:
    domain = DIGITS.domain("optdigits")
    small = np.stack(
        [
            np.asarray(domain.read(i).convert("L").resize((8, 8), Image.Resampling.BOX), float)
            for i in range(50)
        ]
    )
    scans = load_digits().images * (255 / 16)
    closest = np.abs(small[:, None] - scans).mean(axis=(2, 3)).min(axis=1)
    assert closest.max() < 25


def test_every_font_holds_the_ten_digits() -> None:
    assert len(set(FONTS)) >= 20
    for name in FONTS:
        characters = TTFont(font_folder() / f"{name}.ttf").getBestCmap()
        assert [characters[ord(digit)] for digit in "0123456789"] == GLYPHS, name


def test_drawing_is_seeded_and_varied() -> None:
    drawn = [draw_digit(3, index) for index in range(130)]
    assert np.array_equal(drawn[7], draw_digit(3, 7))
    assert len({image.tobytes() for image in drawn}) == 130
    border = np.stack([np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]) for image in drawn])
    assert border.mean() < 1, "digits are cut off at the edge"


def test_fingerprint_follows_the_content() -> None:
    fingerprints = {DIGITS.domain(name).fingerprint for name in DIGITS.domains()}
    assert len(fingerprints) == 3
    assert DIGITS.domain("mnist").fingerprint == build_dataset("digits").domain("mnist").fingerprint


def test_domain_survives_pickling() -> None:
    domain = DIGITS.domain("optdigits")
    copy = pickle.loads(pickle.dumps(domain))
    assert copy.ids == domain.ids
    assert copy.read(5).tobytes() == domain.read(5).tobytes()


def test_unknown_domain_names_the_nearest() -> None:
    with pytest.raises(TwofoldError, match=r"'minst'.*Did you mean 'mnist'"):
        DIGITS.domain("minst")
