"""The language of pickles, protocols 0 to 5, run by an interpreter that can only describe: it imports nothing and calls nothing.

A pickle is a program for a stack machine. This one has the stack, the memo and the containers; where a program names a function, the
name is looked up in a table of *our* functions from arguments to descriptions (:mod:`data_prep.contract.described`), and a name that is not
there is refused. Large payloads are not read: the stack holds where they lie in the file.
"""

from __future__ import annotations

import codecs
import io
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


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


class _Mark:
    pass


_MARK = _Mark()
# Opcodes that carry their length before their content: how it is packed, and what the content is.
_SIZED = {
    "BINBYTES": ("<I", "bytes"),
    "SHORT_BINBYTES": ("<B", "bytes"),
    "BINBYTES8": ("<Q", "bytes"),
    "BYTEARRAY8": ("<Q", "bytes"),
    "BINSTRING": ("<i", "string"),
    "SHORT_BINSTRING": ("<B", "string"),
    "BINUNICODE": ("<I", "text"),
    "SHORT_BINUNICODE": ("<B", "text"),
    "BINUNICODE8": ("<Q", "text"),
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}


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
        for _ in range(limits().objects):
            code = self._take(1).decode("latin1")
            opcode = _OPCODES[code]
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode)
        raise too_much(self.file.path, "a pickle of more instructions", "objects")

    def charge(self, num_bytes: int) -> None:
        """Count what is copied: a short program could copy the same long text again and again."""
        self._budget -= num_bytes
        if self._budget < 0:
            raise too_much(self.file.path, "a pickle whose copies of text and lists exceed four such texts", "text_bytes")

    # ------------------------------------------------------------------------------------------------------- reading

    def _take(self, size: int) -> bytes:
        if size > self.end - self.position:
            raise EOFError(f"{size:,} bytes at byte {self.position:,}, where {self.end - self.position:,} are left")
        found = self.file.read(Span(self.position, size))
        self.position += size
        return found

    def _line(self) -> bytes:
        stop = self.file.find(b"\n", self.position, self.end)
        if stop < 0:
            raise EOFError("a line that does not end")
        return self._take(stop + 1 - self.position)[:-1]

    def _sized(self, layout: str, kind: str) -> Any:
        (length,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        if not 0 <= length <= self.end - self.position:
            raise EOFError(f"{length:,} bytes at byte {self.position:,}, where {self.end - self.position:,} are left")
        if length >= LARGE_BYTES:
            span = Span(self.position, length)
            self.position += length
            return Large(span, kind)
        content = self._take(length)
        return content if kind == "bytes" else content.decode("latin1" if kind == "string" else "utf-8")

    def _argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        """What follows an opcode that has no payload of its own."""
        if opcode.arg is None:
            return None
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            lines = self._line() + b"\n"
            if opcode.arg is pickletools.stringnl_noescape_pair:
                return lines[:-1].decode("utf-8"), self._line().decode("utf-8")
            if opcode.name in _NUMBERS and len(lines) > MOST_DIGITS:
                raise Refusal(f"a number of {len(lines) - 1:,} characters")
        elif opcode.arg.n == pickletools.TAKEN_FROM_ARGUMENT1:  # LONG1
            size = self._take(1)
            lines = size + self._take(size[0])
        elif opcode.arg.n == pickletools.TAKEN_FROM_ARGUMENT4:  # LONG4
            size = self._take(4)
            (count,) = struct.unpack("<i", size)
            if not 0 <= count <= MOST_DIGITS // 2:
                raise Refusal(f"a number of {count:,} bytes")
            lines = size + self._take(count)
        else:
            lines = self._take(opcode.arg.n)
        found = opcode.arg.reader(io.BytesIO(lines))
        if type(found) is int and found.bit_length() > MOST_DIGITS // 2 * 8:
            raise Refusal(f"a number of {found.bit_length():,} bits")
        return found

    # ------------------------------------------------------------------------------------------------------ the stack

    def _step(self, opcode: pickletools.OpcodeInfo) -> None:
        name = opcode.name
        if name in _SIZED:
            self._stack.append(self._sized(*_SIZED[name]))
        elif name == "STRING":
            self._stack.append(_python_2_text(self._line()))
        elif name == "UNICODE":
            self._stack.append(_encodable(self._line().decode("raw-unicode-escape")))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _NUMBERS:
            self._stack.append(self._argument(opcode))
        elif action := _ACTIONS.get(name):
            action(self, self._argument(opcode))
        else:
            raise Refusal(f"the instruction {name}")

    def _since_mark(self) -> list[Any]:
        """What lies above the last mark, taken off with the mark."""
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                items = self._stack[place + 1 :]
                del self._stack[place:]
                return items
        raise ValueError("no mark on the stack")

    def _top(self, kind: type[Any]) -> Any:
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

    def reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        ours = self.names[function.module, function.name] if isinstance(function, Name) else None
        if ours is None:
            raise Refusal(f"a call of {function if isinstance(function, Name) else type(function).__name__}")
        if type(arguments) is not tuple:
            raise ValueError("a call without a tuple of arguments")
        self._stack.append(ours(self, *arguments))

    def build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is dict:  # attributes of an OrderedDict, as torch's state_dict has
            return
        if not hasattr(target, "set_state"):
            raise Refusal(f"a state for a {type(target).__name__}")
        target.set_state(self, state)

    def instance(self, pair: Any) -> None:
        raise Refusal(f"an instance of {self.name(*pair)}")

    def persistent(self, identity: Any) -> None:
        if self.outside is None:
            raise Refusal("an object outside the file")
        self._stack.append(self.outside(identity))

    def remember(self, place: Any) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def take_last(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def recall(self, place: Any) -> None:
        self._stack.append(self._memo[int(place)])

    def into_list(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def into_dict(self, items: list[Any]) -> None:
        self.fill(self._top(dict), items)

    def as_dict(self, items: list[Any]) -> None:
        self._stack.append({})
        self.into_dict(items)

    def into_set(self, items: list[Any]) -> None:
        self._top(set).update(map(self.key, items))

    def protocol(self, number: Any) -> None:
        if number > HIGHEST_PROTOCOL:
            raise Refusal(f"protocol {number}")


def _python_2_text(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a text without its quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _encodable(text: str) -> str:
    text.encode()  # half a surrogate pair is no text
    return text


_since = Machine._since_mark
_ACTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": Machine.protocol,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: _since(machine),
    "DUP": lambda machine, _: machine.push(machine._stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "LIST": lambda machine, _: machine.push(_since(machine)),
    "TUPLE": lambda machine, _: machine.push(tuple(_since(machine))),
    "TUPLE1": lambda machine, _: machine.take_last(1),
    "TUPLE2": lambda machine, _: machine.take_last(2),
    "TUPLE3": lambda machine, _: machine.take_last(3),
    "DICT": lambda machine, _: machine.as_dict(_since(machine)),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(machine.key, _since(machine)))),
    "APPEND": lambda machine, _: machine.into_list([machine.pop()]),
    "APPENDS": lambda machine, _: machine.into_list(_since(machine)),
    "SETITEM": lambda machine, _: machine.into_dict([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.into_dict(_since(machine)),
    "ADDITEMS": lambda machine, _: machine.into_set(_since(machine)),
    "PUT": lambda machine, place: machine.remember(int(place)),
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "MEMOIZE": Machine.remember,
    "GET": Machine.recall,
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "GLOBAL": lambda machine, pair: machine.push(machine.name(*pair)),
    "STACK_GLOBAL": lambda machine, _: machine.push(machine.name(*[machine.pop(), machine.pop()][::-1])),
    "INST": lambda machine, pair: machine.instance(pair),
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
    "PERSID": Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
}
