"""The language of pickles, protocols 0 to 5, run by an interpreter that can only describe: it imports nothing and calls nothing.

A pickle is a program for a stack machine. This one has the stack, the memo and the containers; where a program names a function, the
name is looked up in a table of *our* functions from arguments to descriptions (:mod:`data_prep.contract.described`), and a name that is not
there is refused. Large payloads are not read: the stack holds where they lie in the file.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_prep.contract.limits import limits, too_much
from data_prep.contract.raw_file import LARGE_BYTES, RawFile, Refusal, Span

Call = Callable[..., Any]
HIGHEST_PROTOCOL = 5
MOST_DIGITS = 40
"""Characters of an integer in text; and in bytes a half of it: 64 bits are what arrays hold, more is a key or a hash."""
MOST_TUPLE_KEYS = 10_000
"""Keys that are tuples: tuples of one hash are easily made, and that many cost seconds."""
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Name:
    """A function or class by name, which the program may call by :meth:`Machine.reduce` or hand to another."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


class Large:
    """A payload that stays in the file: bytes, or text in UTF-8 (``latin1``: of which each character is a byte)."""

    def __init__(self, span: Span, kind: str) -> None:
        self.span, self.kind = span, kind


class _Mark:
    pass


_MARK = _Mark()


class Machine:
    """One program in a file.

    Parameters
    ----------
    names
        Our function for each (module, name) that the program may name; None for a name that it may only hand on.
    outside
        What a persistent id stands for (storages of torch); None refuses them.
    """

    def __init__(
        self, file: RawFile, start: int, end: int, names: Mapping[tuple[str, str], Call | None], outside: Call | None = None
    ) -> None:
        self.file, self.position, self.end = file, start, end
        self._buffer = file.buffer
        self.names, self.outside = names, outside
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._tuple_keys = 0
        self._budget = 4 * limits().text_bytes + 2 * file.size

    def run(self) -> Any:
        """What the program leaves: plain values and descriptions. ``position`` is then after its end.

        Raises
        ------
        Refusal, StudyError
            What it asks for and may not have, or a limit.
        Exception
            Of several kinds: it is no program, or ends early.
        """
        buffer, end = self._buffer, self.end
        for _ in range(limits().objects):
            if self.position >= end:
                raise self._ends_within(1)
            code = buffer[self.position]
            self.position += 1
            if code == _STOP:
                return self._stack.pop()
            read, act = _STEPS[code]
            if read is None:
                act(self)
            else:
                act(self, read(self))
        raise too_much(self.file.path, "a pickle of more instructions", "objects")

    def charge(self, num_bytes: int) -> None:
        """Count what is copied: a short program could copy the same long text again and again."""
        self._budget -= num_bytes
        if self._budget < 0:
            raise too_much(self.file.path, "a pickle whose copies of text and lists exceed four such texts", "text_bytes")

    # ------------------------------------------------------------------------------------------------------- reading

    def _ends_within(self, size: int) -> EOFError:
        return EOFError(f"{size:,} bytes at byte {self.position:,}, where {self.end - self.position:,} are left")

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes of the program."""
        start = self.position
        if size > self.end - start:
            raise self._ends_within(size)
        self.position = start + size
        return self._buffer[start : start + size] if size < LARGE_BYTES else self.file.read(Span(start, size))

    def line(self) -> bytes:
        """The program to the end of a line, without its end."""
        stop = self.file.find(b"\n", self.position, self.end)
        if stop < 0:
            raise EOFError("a line that does not end")
        return self.take(stop + 1 - self.position)[:-1]

    def packed(self, layout: struct.Struct) -> Any:
        """The next number of the program."""
        start = self.position
        if layout.size > self.end - start:
            raise self._ends_within(layout.size)
        self.position = start + layout.size
        return layout.unpack_from(self._buffer, start)[0]

    def sized(self, layout: struct.Struct, kind: str) -> Any:
        """The next payload, which carries its length before its content: bytes, a string of Python 2, or text."""
        length = self.packed(layout)
        if not 0 <= length <= self.end - self.position:
            raise self._ends_within(length)
        if length >= LARGE_BYTES:
            span = Span(self.position, length)
            self.position += length
            return Large(span, kind)
        content = self.take(length)
        return content if kind == "bytes" else content.decode("latin1" if kind == "string" else "utf-8")

    # ------------------------------------------------------------------------------------------------------ the stack

    def since_mark(self) -> list[Any]:
        """What lies above the last mark, taken off with the mark."""
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                items = self._stack[place + 1 :]
                del self._stack[place:]
                return items
        raise ValueError("no mark on the stack")

    def top(self, kind: type[Any]) -> Any:
        """The container that is filled."""
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"a {type(self._stack[-1]).__name__} where a {kind.__name__} is filled")
        return self._stack[-1]

    def key(self, value: Any) -> Any:
        """``value``, which may be a key: text or a number, or a flat tuple of them."""
        if isinstance(value, tuple):
            self._tuple_keys += 1
            if self._tuple_keys > MOST_TUPLE_KEYS or len(value) > 8:
                raise Refusal("keys that are many or long tuples")
            for each in value:
                if isinstance(each, tuple):
                    raise Refusal("a tuple of tuples as a key")
                self.key(each)
        elif isinstance(value, int) and value.bit_length() > 60:  # larger ones share their hashes
            raise Refusal("an integer of more than 60 bits as a key")
        elif not (value is None or isinstance(value, (str, bytes, int, float, np.integer))):
            raise Refusal(f"a {type(value).__name__} as a key")
        return value

    def fill(self, target: dict[Any, Any], items: list[Any]) -> None:
        """Put key, value, key, value ... into ``target``."""
        if len(items) % 2:
            raise ValueError("a key without a value")
        for place in range(0, len(items), 2):
            target[self.key(items[place])] = items[place + 1]

    def name(self, module: Any, name: Any) -> Name:
        """A name that the program asks for, refused unless it is in the table."""
        found = Name(_PYTHON_2.get(module, module), name) if isinstance(module, str) and isinstance(name, str) else None
        if found is None or (found.module, found.name) not in self.names:
            raise Refusal(str(found or "a name that is no text"))
        return found

    def reduce(self) -> None:
        """Call our function for the name below the arguments."""
        arguments, function = self._stack.pop(), self._stack.pop()
        ours = self.names[function.module, function.name] if isinstance(function, Name) else None
        if ours is None:
            raise Refusal(f"a call of {function if isinstance(function, Name) else type(function).__name__}")
        if type(arguments) is not tuple:
            raise ValueError("a call without a tuple of arguments")
        self._stack.append(ours(self, *arguments))

    def build(self) -> None:
        """Give a description its state."""
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is dict:  # attributes of an OrderedDict, as torch's state_dict has
            return
        if not hasattr(target, "set_state"):
            raise Refusal(f"a state for a {type(target).__name__}")
        target.set_state(self, state)

    def instance(self, pair: tuple[str, str]) -> None:
        """Never: an old class would be called."""
        raise Refusal(f"an instance of {self.name(*pair)}")

    def persistent(self, identity: Any) -> None:
        """What lies outside the program under a name."""
        if self.outside is None:
            raise Refusal("an object outside the file")
        self._stack.append(self.outside(identity))

    def remember(self, place: int) -> None:
        """Keep the top of the stack in the memo."""
        self._memo[place] = self._stack[-1]

    def memoize(self) -> None:
        """Keep the top of the stack in the memo's next place."""
        self._memo[len(self._memo)] = self._stack[-1]

    def recall(self, place: int) -> None:
        """Put what the memo keeps on the stack."""
        self._stack.append(self._memo[place])

    def push(self, value: Any) -> None:
        """Put ``value`` on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the top off the stack."""
        return self._stack.pop()

    def double(self) -> None:
        """Put the top of the stack on it once more."""
        self._stack.append(self._stack[-1])

    def take_last(self, count: int) -> None:
        """Make a tuple of the last ``count`` values."""
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def append(self) -> None:
        """Put the top of the stack into the list below it."""
        value = self._stack.pop()
        self.top(list).append(value)

    def appends(self) -> None:
        """Put all above the mark into the list below it."""
        items = self.since_mark()
        self.top(list).extend(items)

    def set_item(self) -> None:
        """Put a key and a value into the dict below them."""
        value, key = self._stack.pop(), self._stack.pop()
        self.top(dict)[self.key(key)] = value

    def set_items(self) -> None:
        """Put keys and values above the mark into the dict below it."""
        items = self.since_mark()
        self.fill(self.top(dict), items)

    def as_dict(self) -> None:
        """Make a dict of keys and values above the mark."""
        items = self.since_mark()
        self._stack.append({})
        self.fill(self._stack[-1], items)

    def add_items(self) -> None:
        """Put all above the mark into the set below it."""
        items = self.since_mark()
        self.top(set).update(map(self.key, items))

    def protocol(self, number: int) -> None:
        """The program says of which protocol it is."""
        if number > HIGHEST_PROTOCOL:
            raise Refusal(f"protocol {number}")


def _python_2_text(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a text without its quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _encodable(text: str) -> str:
    text.encode()  # half a surrogate pair is no text
    return text


def _bounded(number: int) -> int:
    if number.bit_length() > MOST_DIGITS // 2 * 8:
        raise Refusal(f"a number of {number.bit_length():,} bits")
    return number


def _digits(machine: Machine) -> bytes:
    line = machine.line()
    if len(line) >= MOST_DIGITS:
        raise Refusal(f"a number of {len(line):,} characters")
    return line


def _integer(machine: Machine) -> int:
    line = _digits(machine)
    return int(line) if line not in (b"00", b"01") else line == b"01"  # truth as protocol 0 writes it


def _long_text(machine: Machine) -> int:
    line = _digits(machine)
    return int(line[:-1] if line[-1:] == b"L" else line)


def _place(machine: Machine) -> int:
    return _bounded(int(machine.line()))


def _long1(machine: Machine) -> int:
    return _bounded(int.from_bytes(machine.take(machine.packed(_UINT1)), "little", signed=True))


def _long4(machine: Machine) -> int:
    count = machine.packed(_INT4)
    if not 0 <= count <= MOST_DIGITS // 2:
        raise Refusal(f"a number of {count:,} bytes")
    return int.from_bytes(machine.take(count), "little", signed=True)


def _pair(machine: Machine) -> tuple[str, str]:
    return machine.line().decode("utf-8"), machine.line().decode("utf-8")


_UINT1, _UINT2, _UINT4, _UINT8, _INT4, _FLOAT8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q", "<i", ">d"))
Act = Callable[..., Any]
Read = Callable[[Machine], Any]
_WITHOUT_ARGUMENT: dict[str, Act] = {
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "EMPTY_DICT": lambda machine: machine.push({}),
    "EMPTY_SET": lambda machine: machine.push(set()),
    "MARK": lambda machine: machine.push(_MARK),
    "POP": Machine.pop,
    "POP_MARK": Machine.since_mark,
    "DUP": Machine.double,
    "LIST": lambda machine: machine.push(machine.since_mark()),
    "TUPLE": lambda machine: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine: machine.take_last(1),
    "TUPLE2": lambda machine: machine.take_last(2),
    "TUPLE3": lambda machine: machine.take_last(3),
    "DICT": Machine.as_dict,
    "FROZENSET": lambda machine: machine.push(frozenset(map(machine.key, machine.since_mark()))),
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
    "ADDITEMS": Machine.add_items,
    "MEMOIZE": Machine.memoize,
    "STACK_GLOBAL": lambda machine: machine.push(machine.name(*[machine.pop(), machine.pop()][::-1])),
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
    "BINPERSID": lambda machine: machine.persistent(machine.pop()),
}
_WITH_ARGUMENT: dict[str, tuple[Read, Act]] = {
    "INT": (_integer, Machine.push),
    "LONG": (_long_text, Machine.push),
    "FLOAT": (lambda machine: float(_digits(machine)), Machine.push),
    "BININT": (lambda machine: machine.packed(_INT4), Machine.push),
    "BININT1": (lambda machine: machine.packed(_UINT1), Machine.push),
    "BININT2": (lambda machine: machine.packed(_UINT2), Machine.push),
    "LONG1": (_long1, Machine.push),
    "LONG4": (_long4, Machine.push),
    "BINFLOAT": (lambda machine: machine.packed(_FLOAT8), Machine.push),
    "BINBYTES": (lambda machine: machine.sized(_UINT4, "bytes"), Machine.push),
    "SHORT_BINBYTES": (lambda machine: machine.sized(_UINT1, "bytes"), Machine.push),
    "BINBYTES8": (lambda machine: machine.sized(_UINT8, "bytes"), Machine.push),
    "BYTEARRAY8": (lambda machine: machine.sized(_UINT8, "bytes"), Machine.push),
    "STRING": (lambda machine: _python_2_text(machine.line()), Machine.push),
    "BINSTRING": (lambda machine: machine.sized(_INT4, "string"), Machine.push),
    "SHORT_BINSTRING": (lambda machine: machine.sized(_UINT1, "string"), Machine.push),
    "UNICODE": (lambda machine: _encodable(machine.line().decode("raw-unicode-escape")), Machine.push),
    "BINUNICODE": (lambda machine: machine.sized(_UINT4, "text"), Machine.push),
    "SHORT_BINUNICODE": (lambda machine: machine.sized(_UINT1, "text"), Machine.push),
    "BINUNICODE8": (lambda machine: machine.sized(_UINT8, "text"), Machine.push),
    "PROTO": (lambda machine: machine.packed(_UINT1), Machine.protocol),
    "FRAME": (lambda machine: machine.packed(_UINT8), lambda machine, _: None),
    "PUT": (_place, Machine.remember),
    "BINPUT": (lambda machine: machine.packed(_UINT1), Machine.remember),
    "LONG_BINPUT": (lambda machine: machine.packed(_UINT4), Machine.remember),
    "GET": (_place, Machine.recall),
    "BINGET": (lambda machine: machine.packed(_UINT1), Machine.recall),
    "LONG_BINGET": (lambda machine: machine.packed(_UINT4), Machine.recall),
    "GLOBAL": (_pair, lambda machine, pair: machine.push(machine.name(*pair))),
    "INST": (_pair, Machine.instance),
    "PERSID": (lambda machine: codecs.escape_decode(machine.line())[0].decode("ascii"), Machine.persistent),
}

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_STOP = next(code for code, name in _NAMES.items() if name == "STOP")


def _step(code: int) -> tuple[Read | None, Act]:
    """How the instruction ``code`` reads its argument, None for one that has none, and what it does."""
    name = _NAMES.get(code)
    if name in _WITH_ARGUMENT:
        return _WITH_ARGUMENT[name]
    if name in _WITHOUT_ARGUMENT:
        return None, _WITHOUT_ARGUMENT[name]

    def refuse(_: Machine) -> None:
        raise KeyError(chr(code)) if name is None else Refusal(f"the instruction {name}")

    return None, refuse


_STEPS = [_step(code) for code in range(256)]
"""By the instruction's byte."""
