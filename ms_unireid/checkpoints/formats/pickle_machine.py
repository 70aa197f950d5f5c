"""An interpreter of pickles that imports nothing and calls only functions of the caller's allow-list.

It is not built on `pickle.Unpickler`: a stream may drive that to huge allocations before any hook of ours is asked.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.mapped_file import Refusal, shown, truncated

# Far above any state dict (30 operations a tensor); they bound what a small hostile file can make us allocate.
MAX_OPERATIONS = 1_000_000
MAX_TEXT_BYTES = 1 << 24
_MAX_NAME_LENGTH = 1000
_MAX_KEY_PARTS = 8

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
)
_SCALARS = (str, bool, int, float, bytes, type(None))
_RESAVE = "save only the weights with torch.save(model.state_dict(), ...)"


@dataclass(frozen=True, eq=False)
class Name:
    """A name that a stream mentions and the caller allows.

    Attributes:
        name: "module.attribute".
        build: Returns an inert object for the arguments that the stream gives; None if it may not be called.
    """

    name: str
    build: Callable[..., Any] | None = None


@dataclass(eq=False)
class Instance:
    """Stands for an object of a class that is never loaded; `state` is what the stream stores of it."""

    state: Any = None


class ByteStream:
    """Bytes of a memory map as the file object that `pickletools` expects.

    Args:
        content: (bytes,) uint8.
    """

    def __init__(self, content: np.ndarray):
        self._content = memoryview(content)
        self._position = 0

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._position

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            Refusal: If there are fewer, or they are too many for a name or a number.
        """
        if count > len(self._content) - self._position:
            raise truncated(f"the end of its description (at byte {len(self._content)})")
        if count > MAX_TEXT_BYTES:
            raise Refusal(f"is damaged: its description holds a text of {count} bytes")
        self._position += count
        return bytes(self._content[self._position - count : self._position])

    def readline(self) -> bytes:
        """Return the bytes up to and with the next newline.

        Raises:
            Refusal: If none is near.
        """
        ahead = bytes(self._content[self._position : self._position + _MAX_NAME_LENGTH])
        return self.read((ahead.find(b"\n") + 1) or _MAX_NAME_LENGTH)


def load(stream: ByteStream, find: Callable[[str], Name | None], persistent: Callable[[Any], Any]) -> Any:
    """Run one pickle, from where the stream stands to its STOP.

    Lists, tuples, strings and numbers come back as such, sets as lists, and dictionaries with their keys as strings.

    Args:
        stream: Where the pickle is.
        find: Returns what a dotted name stands for; None for a name that is not allowed.
        persistent: Returns the object that a persistent id stands for.

    Returns:
        The pickled value. It may contain itself, and may be nested as deeply as the stream is long.

    Raises:
        Refusal: If the stream is damaged, is too large, or asks for a name that is not allowed.
    """
    machine = _Machine(find, persistent)
    for count, (name, argument) in enumerate(_operations(stream)):
        if count == MAX_OPERATIONS:
            raise Refusal(f"describes more than {MAX_OPERATIONS} items; {_RESAVE}")
        machine.step(name, argument)
    return machine.pop()


def _operations(stream: ByteStream) -> Iterator[tuple[str, Any]]:
    operations = pickletools.genops(stream)
    while True:
        try:
            opcode, argument, _ = next(operations)
        except StopIteration:
            return
        except ValueError as error:
            raise _damaged(f"no valid operation at byte {stream.tell()}") from error
        yield opcode.name, argument


def _damaged(what: str) -> Refusal:
    return Refusal(f"is damaged: its pickle has {what}; download or copy it again")


class _Machine:
    def __init__(self, find: Callable[[str], Name | None], persistent: Callable[[Any], Any]):
        self._find = find
        self._persistent = persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise Refusal(f"uses the pickle operation {name}, which torch.save never writes; {_RESAVE}")

    def pop(self) -> Any:
        if not self._stack:
            raise _damaged("an operation without its operand")
        return self._stack.pop()

    def skip(self, _: Any) -> None:
        pass

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
            raise _damaged(f"{action} for something that is no {kind.__name__}")
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
            raise _damaged("a reference to something it has not stored")
        self._stack.append(self._memo[slot])

    def name(self, line: str) -> None:
        self.push_name(*line.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        attribute, module = self.pop(), self.pop()
        if type(attribute) is not str or type(module) is not str:
            raise _damaged("a name that is no text")
        self.push_name(module, attribute)

    def push_name(self, module: str, attribute: str) -> None:
        if len(module) + len(attribute) > _MAX_NAME_LENGTH:
            raise _damaged("a name of impossible length")
        name = f"{module}.{attribute}"
        found = self._find(name)
        if found is None:
            raise Refusal(
                f"asks to run {shown(name)}, which is no part of a file of weights; nothing was run; {_RESAVE}"
            )
        self._stack.append(found)

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if type(arguments) is not tuple or type(function) is not Name or function.build is None:
            raise _damaged("a call of something that cannot be called")
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


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.skip,
    "FRAME": _Machine.skip,
    "STOP": _Machine.skip,
    "MARK": _Machine.mark,
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "EMPTY_SET": lambda machine, _: machine._stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.tuple_of(0),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": _Machine.tuple_since_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "ADDITEMS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.give_state,
    "BINPERSID": _Machine.persistent,
}


def put(target: dict[str, Any], key: Any, value: Any) -> None:
    """Set an item under its key as a string: strings alone have hashes that a hostile file cannot make collide.

    Raises:
        Refusal: If the key is long, neither a scalar nor a short tuple of scalars, or taken.
    """
    parts = key if type(key) is tuple else (key,)
    if len(parts) > _MAX_KEY_PARTS or not all(type(part) in _SCALARS for part in parts):
        raise Refusal(f"has a dictionary whose key is a {type(key).__name__}; {_RESAVE}")
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > _MAX_NAME_LENGTH:
        raise Refusal(f"has a dictionary with a key of more than {_MAX_NAME_LENGTH} characters; {_RESAVE}")
    text = ",".join(texts)
    if text in target:
        raise Refusal(f"has a dictionary with the key {shown(text)} twice; {_RESAVE}")
    target[text] = value
