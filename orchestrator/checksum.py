"""A checksum behind the content of a file, so that one that is cut off or altered is never read as whole."""

from __future__ import annotations

import hashlib

DIGEST_BYTES = 16


def sealed(content: bytes) -> bytes:
    """The content with its 16 bytes of BLAKE2 behind it."""
    return content + hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def unsealed(stored: bytes) -> bytes | None:
    """Inverse of ``sealed``, or None where the checksum is wrong."""
    content = stored[:-DIGEST_BYTES]
    return content if sealed(content) == stored else None
