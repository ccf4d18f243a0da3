"""A reader for the pickles CIFAR-10 came in, which holds no more power than they need.

A pickle is a program for a small stack machine that may name any function of any module and call it. This reader is
that machine without the danger: it knows only the instructions those files use (Python 2, protocol 2), it calls
nothing, and the three names they mention (numpy's way of writing an array down) are mere marks to it. Everything else
ends in UserError. The standard `pickle` is not used, so there is nothing in it to get round.

Source: the comments of CPython's Lib/pickletools.py, which define every instruction.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Any

import numpy as np

from featherweight.utils import UserError


class _Refused(ValueError):
    """What the pickle asks for is not allowed here."""


class _Mark:
    """A named place on the stack that only identity tells apart."""

    def __init__(self, name: str) -> None:
        self.name = name


_MARK = _Mark("start of items")
_RECONSTRUCT, _NDARRAY, _DTYPE = _Mark("function making an array"), _Mark("array class"), _Mark("number type class")
_NEW_ARRAY, _NEW_DTYPE, _BYTE = _Mark("array without content"), _Mark("number type"), _Mark("unsigned 8-bit numbers")

_NAMES = {
    b"numpy.core.multiarray _reconstruct": _RECONSTRUCT,  # as numpy 1 wrote it
    b"numpy._core.multiarray _reconstruct": _RECONSTRUCT,  # as numpy 2 does
    b"numpy ndarray": _NDARRAY,
    b"numpy dtype": _DTYPE,
}


def read_pickle(content: bytes | bytearray | memoryview, where: object) -> Any:
    """What the pickle `content` holds: dict (with keys of type str), list, tuple, bytes, int, bool, None, uint8 arrays.

    Arrays and strings of more than 255 bytes are views into `content`, not copies.
    Raises UserError naming `where` for anything else.
    """
    try:
        return _Machine(memoryview(content)).run()
    except (_Refused, IndexError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        reason = str(error) if isinstance(error, _Refused) else "malformed"
        raise UserError(
            f"refused to read {where}: not a plain pickle of arrays, strings and numbers ({reason}); "
            "delete it and fetch it anew"
        ) from error


class _Machine:
    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.at = 0  # position of the next byte
        self.stack: list[Any] = []

    def run(self) -> Any:
        content, stack = self.content, self.stack
        while True:
            code = content[self.at]
            self.at += 1
            # The three instructions that a batch holds ten thousand times come first.
            if code == 0x72 or code == 0x71:  # LONG_BINPUT, BINPUT: number a value; nothing here looks it up again
                self.at += 4 if code == 0x72 else 1
            elif code == 0x55:  # SHORT_BINSTRING
                end = self.at + 1 + content[self.at]
                stack.append(bytes(content[self.at + 1 : end]))
                self.at = end
            elif code == 0x4B:  # BININT1
                stack.append(content[self.at])
                self.at += 1
            elif code == 0x2E:  # STOP
                if len(stack) != 1 or self.at != len(content) or isinstance(stack[0], _Mark):
                    raise _Refused("it does not end with one value")
                return stack[0]
            else:
                self._step(code)

    def _step(self, code: int) -> None:
        stack = self.stack
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code]())
        elif code in _NUMBERS:
            layout, size = _NUMBERS[code]
            stack.append(unpack_from(layout, self.content, self.at)[0])
            self.at += size
        elif code in _TUPLES:
            size = _TUPLES[code]
            items = tuple(_value(item) for item in stack[-size:])
            if len(items) != size:
                raise _Refused("too few values on the stack")
            stack[-size:] = [items]
        elif code in _HANDLERS:
            _HANDLERS[code](self)
        else:
            raise _Refused(f"instruction 0x{code:02x} at byte {self.at - 1:,}")

    def _take(self, size: int) -> memoryview:
        piece = self.content[self.at : self.at + size]
        if size < 0 or len(piece) != size:
            raise _Refused("cut short")
        self.at += size
        return piece

    def _items(self) -> list[Any]:
        """The values above the nearest mark, which leave the stack with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise _Refused("no start of items")
        items = [_value(item) for item in self.stack[at + 1 :]]
        del self.stack[at:]
        return items

    def protocol(self) -> None:
        if self.at != 1 or bytes(self._take(1)) != b"\x02":
            raise _Refused("not of protocol 2")

    def long_string(self) -> None:
        self.stack.append(self._take(unpack_from("<i", self._take(4))[0]))

    def name(self) -> None:
        longest = 100  # bytes; a name this long is none of the known ones
        words = bytes(self.content[self.at : self.at + longest]).split(b"\n", 2)
        if len(words) < 3:
            raise _Refused("a malformed name")
        asked = b" ".join(words[:2])
        if asked not in _NAMES:
            raise _Refused(f"it asks for {asked.decode('ascii', 'replace').replace(' ', '.')}")
        self.at += len(asked) + 1
        self.stack.append(_NAMES[asked])

    def make_tuple(self) -> None:
        self.stack.append(tuple(self._items()))

    def append(self) -> None:
        items = self._items()
        if not isinstance(self.stack[-1], list):
            raise _Refused("items for something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self) -> None:
        items = self._items()
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, bytes) for key in items[::2]):
            raise _Refused("keys for something that is not a dictionary of names")
        target.update({key.decode("latin-1"): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function is _RECONSTRUCT and arguments == (_NDARRAY, (0,), b"b"):
            self.stack.append(_NEW_ARRAY)
        elif function is _DTYPE and arguments in ((b"u1", 0, 1), (b"u1", False, True)):
            self.stack.append(_NEW_DTYPE)
        else:
            raise _Refused("a call")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack.pop()
        if not isinstance(state, tuple):
            raise _Refused("a state that is not a tuple")
        if target is _NEW_DTYPE and state[1:5] == (b"|", None, None, None):  # no byte order, no sub-array, no fields
            self.stack.append(_BYTE)
        elif target is _NEW_ARRAY and len(state) == 5:
            _version, shape, kind, column_order, pixels = state
            if kind is not _BYTE or column_order is not False or not isinstance(pixels, bytes | memoryview):
                raise _Refused("an array of something else than bytes in row order")
            if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
                raise _Refused("an array with a malformed shape")
            self.stack.append(np.frombuffer(pixels, np.uint8).reshape(shape))
        else:
            raise _Refused("an object")


_HALF_MADE = (_MARK, _RECONSTRUCT, _NEW_ARRAY, _NEW_DTYPE)


def _value(item: Any) -> Any:
    """`item`, unless it is a mark that must not be stored; the others may stand inside numpy's own tuples."""
    if isinstance(item, _Mark) and item in _HALF_MADE:
        raise _Refused("a half-made object among the values")
    return item


_CONSTANTS = {
    0x4E: lambda: None,
    0x88: lambda: True,
    0x89: lambda: False,  # NONE, NEWTRUE, NEWFALSE
    0x5D: list,
    0x7D: dict,
    0x28: lambda: _MARK,
}  # EMPTY_LIST, EMPTY_DICT, MARK
_NUMBERS = {0x4D: ("<H", 2), 0x4A: ("<i", 4)}  # BININT2, BININT
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}  # TUPLE1 … TUPLE3
_HANDLERS = {
    0x80: _Machine.protocol,  # PROTO
    0x54: _Machine.long_string,  # BINSTRING
    0x63: _Machine.name,  # GLOBAL
    0x74: _Machine.make_tuple,  # TUPLE
    0x65: _Machine.append,  # APPENDS
    0x75: _Machine.set_items,  # SETITEMS
    0x52: _Machine.reduce,  # REDUCE
    0x62: _Machine.build,  # BUILD
}
