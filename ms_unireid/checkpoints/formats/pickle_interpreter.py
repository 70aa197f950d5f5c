"""Interpret pickles without importing anything; only functions of the caller's allow-list are called.

It does not use `pickle.Unpickler`, which a hostile stream can make allocate huge memory before any hook runs.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.mapped_file import InvalidFile, truncated
from ms_unireid.errors import shown

# Far above any state dict (30 operations per tensor). They bound the memory that a small hostile file can claim.
MAX_OPERATIONS = 1_000_000
MAX_TEXT_BYTES = 1 << 24
MAX_PICKLE_BYTES = 1 << 26
_MAX_ARGUMENTS = 16
_MAX_NAME_LENGTH = 1000
_MAX_KEY_PARTS = 8

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_SCALARS = (str, bool, int, float, bytes, type(None))
_RESAVE = "save only the weights with torch.save(model.state_dict(), ...)"


@dataclass(frozen=True, eq=False)
class AllowedName:
    """A name in a stream that the caller allows."""

    name: str  # "module.attribute"
    build: Callable[..., Any] | None = None  # returns an inert object for a call's arguments; None forbids calls


@dataclass(eq=False)
class Instance:
    """Placeholder for an object whose class is never loaded; `state` is its state in the stream."""

    state: Any = None


class ByteStream:
    """A file object for `pickletools` on (bytes,) uint8."""

    def __init__(self, content: np.ndarray):
        self._content = memoryview(content)
        self._position = 0

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._position

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; InvalidFile if there are less, or more than a text can have."""
        if count > len(self._content) - self._position:
            raise truncated(f"the end of its pickle (at byte {len(self._content)})")
        if count > MAX_TEXT_BYTES:
            raise InvalidFile(f"is damaged: its pickle holds a text of {count} bytes; download or copy it again")
        self._position += count
        if self._position > MAX_PICKLE_BYTES:
            raise InvalidFile(f"has a pickle of more than {MAX_PICKLE_BYTES} bytes; {_RESAVE}")
        return bytes(self._content[self._position - count : self._position])

    def readline(self) -> bytes:
        """Return the bytes up to and including the next newline; of a longer line as many as a name can have."""
        ahead = bytes(self._content[self._position : self._position + _MAX_NAME_LENGTH])
        return self.read((ahead.find(b"\n") + 1) or _MAX_NAME_LENGTH)


def load(stream: ByteStream, find: Callable[[str], AllowedName | None], persistent: Callable[[Any], Any]) -> Any:
    """Run one pickle, from the stream's position to its STOP.

    `find` returns the object for a dotted name, or None if the name is not allowed; `persistent` returns the object
    for a persistent id. Sets become lists, and the keys of dictionaries become strings. The returned value may contain
    itself, and may be nested as deeply as the stream is long. What cannot be read or is not allowed is an InvalidFile.
    """
    interpreter = _Interpreter(find, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            interpreter.spend(1)
            interpreter.step(opcode.name, argument)
    except ValueError as error:
        raise _damaged(f"no valid operation at byte {stream.tell()}") from error
    return interpreter.pop()


def _damaged(what: str) -> InvalidFile:
    return InvalidFile(f"is damaged: its pickle has {what}; download or copy it again")


class _Interpreter:
    def __init__(self, find: Callable[[str], AllowedName | None], persistent: Callable[[Any], Any]):
        self._find = find
        self._persistent = persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._spent = 0

    def spend(self, items: int) -> None:
        self._spent += items
        if self._spent > MAX_OPERATIONS:
            raise InvalidFile(f"describes more than {MAX_OPERATIONS} items; {_RESAVE}")

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise InvalidFile(f"uses the pickle operation {name}, which torch.save never writes; {_RESAVE}")

    def pop(self) -> Any:
        if not self._stack:
            raise _damaged("an operation without its operand")
        return self._stack.pop()

    def mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        if not self._outer:
            raise _damaged("an operation without its mark")
        items, self._stack = self._stack, self._outer.pop()
        return items

    def top(self, kind: type, action: str) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise _damaged(f"{action} to something that is not a {kind.__name__}")
        return self._stack[-1]

    def tuple_of(self, count: int) -> None:
        self._stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def tuple_since_mark(self, _: Any) -> None:
        items = self.since_mark()
        self._stack.append(tuple(items))

    def append(self, _: Any) -> None:
        item = self.pop()
        self.top(list, "an item").append(item)

    def extend(self, _: Any) -> None:
        items = self.since_mark()
        self.top(list, "items").extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        put(self.top(dict, "a key"), key, value)

    def set_items(self, _: Any) -> None:
        items = self.since_mark()
        target = self.top(dict, "keys")
        if len(items) % 2:
            raise _damaged("a key without its value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)

    def remember(self, slot: int | None) -> None:
        value = self.pop()
        self._memo[len(self._memo) if slot is None else slot] = value
        self._stack.append(value)

    def recall(self, slot: int) -> None:
        if slot not in self._memo:
            raise _damaged("a reference to a missing item")
        self._stack.append(self._memo[slot])

    def name(self, line: str) -> None:
        self.push_name(*line.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        attribute, module = self.pop(), self.pop()
        if type(attribute) is not str or type(module) is not str:
            raise _damaged("a name that is not text")
        self.push_name(module, attribute)

    def push_name(self, module: str, attribute: str) -> None:
        if len(module) + len(attribute) > _MAX_NAME_LENGTH:
            raise _damaged("a name of impossible length")
        name = f"{module}.{attribute}"
        found = self._find(name)
        if found is None:
            raise InvalidFile(
                f"asks to run {shown(name)}, which a file of weights never needs; nothing was run; {_RESAVE}"
            )
        self._stack.append(found)

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if type(arguments) is not tuple or type(function) is not AllowedName or function.build is None:
            raise _damaged("a call of something that cannot be called")
        if len(arguments) > _MAX_ARGUMENTS:
            raise _damaged(f"a call with {len(arguments)} arguments")
        # A stream can give one long list or tuple to many calls.
        self.spend(sum(len(argument) for argument in arguments if type(argument) in (list, tuple)))
        try:
            self._stack.append(function.build(*arguments))
        except TypeError as error:
            raise _damaged(f"wrong arguments for {shown(function.name)}") from error

    def give_state(self, _: Any) -> None:
        state = self.pop()
        if self._stack and type(self._stack[-1]) is dict:
            return  # Attributes of an OrderedDict, such as the version notes of a state dict.
        self.top(Instance, "a state").state = state

    def persistent(self, _: Any) -> None:
        self._stack.append(self._persistent(self.pop()))


_ACTIONS: dict[str, Callable[[_Interpreter, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    "MARK": _Interpreter.mark,
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda interpreter, _: interpreter._stack.append([])),
    "EMPTY_DICT": lambda interpreter, _: interpreter._stack.append({}),
    "EMPTY_TUPLE": lambda interpreter, _: interpreter.tuple_of(0),
    "TUPLE1": lambda interpreter, _: interpreter.tuple_of(1),
    "TUPLE2": lambda interpreter, _: interpreter.tuple_of(2),
    "TUPLE3": lambda interpreter, _: interpreter.tuple_of(3),
    "TUPLE": _Interpreter.tuple_since_mark,
    "APPEND": _Interpreter.append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Interpreter.extend),
    "SETITEM": _Interpreter.set_item,
    "SETITEMS": _Interpreter.set_items,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Interpreter.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Interpreter.recall),
    "GLOBAL": _Interpreter.name,
    "STACK_GLOBAL": _Interpreter.stack_name,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Interpreter.call),
    "BUILD": _Interpreter.give_state,
    "BINPERSID": _Interpreter.persistent,
}


def put(target: dict[str, Any], key: Any, value: Any) -> None:
    """Set an item under its key as a string; InvalidFile if the key is odd, too long or there already.

    A hostile file cannot make the hashes of strings collide.
    """
    parts = key if type(key) is tuple else (key,)
    if len(parts) > _MAX_KEY_PARTS or not all(type(part) in _SCALARS for part in parts):
        raise InvalidFile(f"has a dictionary whose key is a {type(key).__name__}; {_RESAVE}")
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > _MAX_NAME_LENGTH:
        raise InvalidFile(f"has a dictionary with a key of more than {_MAX_NAME_LENGTH} characters; {_RESAVE}")
    text = ",".join(texts)
    if text in target:
        raise InvalidFile(f"has a dictionary with the key {shown(text)} twice; {_RESAVE}")
    target[text] = value
