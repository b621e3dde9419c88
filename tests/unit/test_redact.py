"""No password in anything that is shown, however an address is spelt."""

from __future__ import annotations

import pytest

from orchestrator.redact import redacted, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg2://:secret@host/db", "postgresql+psycopg2://:***@host/db"),
        ("http://me:se:cr/et@host", "http://me:***@host"),
        ("http://me:p@secret@host/path", "http://me:***@host/path"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("https://host/mlflow?access_token=secret", "https://host/mlflow?access_token=***"),
        ("at http://a:secret@b: refused (http://c:secret@d)", "at http://a:***@b: refused (http://c:***@d)"),
    ],
)
def test_a_password_is_replaced(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////data/runs/mlflow.db",
        "http://127.0.0.1:5000/api/2.0/mlflow",
        "http://host:5000: write to me@host",
        "postgresql://me@host:5432/db",
        "units 3:4 @ host",
    ],
)
def test_what_holds_no_password_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_a_library_may_spell_the_password_as_it_likes() -> None:
    uri = "postgresql://me:s%40cret@host/db?sslpassword=other"
    text = 'invalid dsn "host=host password=s@cret" (or s%40cret, with other)'
    assert without_secrets(text, uri) == 'invalid dsn "host=host password=***" (or ***, with ***)'
