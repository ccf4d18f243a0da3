"""Strangers' words in our own lines. No torch here."""

from __future__ import annotations


def one_line(text: object, most: int = 200) -> str:
    """`text` as one line of at most `most` characters: no line ends, and no control characters for a terminal."""
    words = " ".join(str(text).split())
    return "".join(character for character in words if character.isprintable())[:most]


def first_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
