"""Strangers' words in our own lines. No torch here."""

from __future__ import annotations

from collections.abc import Sequence


def one_line(text: object, most: int = 200) -> str:
    """`text` as one line of at most `most` characters: no line ends, and no control characters for a terminal."""
    words = " ".join(str(text).split())
    return "".join(character for character in words if character.isprintable())[:most]


def first_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def does_not_run(network: object, shape: Sequence[int], error: str, otherwise: str = "") -> str:
    """One line on a network that raised `error` on a picture of `shape` (C, H, W), and what to do where that is known,
    else `otherwise`."""
    advice = f"; {otherwise}" if otherwise else ""
    if "cuda" in error.lower():
        advice = "; leave .cuda() out of the network and move it from outside, with .to(device)"
    elif error.startswith("its output"):  # says so itself
        advice = ""
    size = "x".join(map(str, shape))
    return f"{type(network).__name__} does not run on a picture of {size}: {error}{advice}"
