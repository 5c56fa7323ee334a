"""Secrets of clients: how they are made, kept and shown.

A secret is a prefix that says what it opens and 40 hexadecimal digits. The database has its hash,
and six of the digits to tell one from another; the secret itself is seen once, when it is made.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Mask:
    """What may be shown of a secret."""

    prefix: str
    length: int
    """Characters after the prefix."""
    head: str
    """The first two of them; empty when they were not kept."""
    tail: str
    """The last four."""

    def __str__(self) -> str:
        return f"{self.prefix}{self.head}…{self.tail}"


def new_secret(prefix: str) -> str:
    """Make a secret of 160 random bits."""
    return prefix + secrets.token_hex(_DIGITS // 2)


def derive_secret(prefix: str, source: str, purpose: str) -> str:
    """Make the secret that belongs to another one, the same each time, for a purpose."""
    digest = hashlib.sha256(f"{purpose}\n{source}".encode()).hexdigest()
    return prefix + digest[:_DIGITS]


def digest_secret(secret: str) -> str:
    """What is stored in place of the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def hint_secret(secret: str, prefix: str) -> str:
    """What is stored to recognise it by."""
    value = secret.removeprefix(prefix)
    return value[:2] + value[-4:]


def read_mask(prefix: str, hint: str) -> Mask:
    """Rebuild the mask from a stored hint."""
    return Mask(prefix, _DIGITS, hint[:-4], hint[-4:])
