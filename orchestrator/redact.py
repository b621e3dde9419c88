"""Addresses without their passwords: what is printed, logged or written goes through here."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
# Greedy up to the last @ of a word: a password may hold characters that should have been escaped.
_USERINFO = re.compile(r"(://[^\s/?#:@]*:)(\S+)(?=@)")
_PARAMETER = re.compile(r"([?&][^\s=&#]*(?:password|passwd|secret|token)[^\s=&#]*=)([^\s&#'\"]+)", re.I)


def redacted(text: str) -> str:
    """``text`` with the password of every address in it replaced."""
    for pattern in (_USERINFO, _PARAMETER):
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def without_secrets(text: str, uri: str) -> str:
    """``text`` without the passwords that ``uri`` holds, however a library spelt or cut the address."""
    text = redacted(text)
    for pattern in (_USERINFO, _PARAMETER):
        for _, secret in pattern.findall(uri):
            for spelling in (secret, unquote(secret)):
                text = text.replace(spelling, MASK)
    return text
