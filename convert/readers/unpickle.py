"""A pickle's objects, made by a stack machine that can make nothing else.

Why it is safe: the machine calls only the functions in the `Call` objects that its
`find` returns, and `find` looks names up in a table of ours; nothing is imported, and
no name of the file's reaches getattr, copyreg or a class.
Why it is bounded: the pickle is at most MAX_BYTES long and runs at most MAX_STEPS
opcodes, each of constant cost beside its own argument: dicts are lists of pairs, so
keys are never hashed; no container is copied, compared or printed; nothing recurses.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from .entry import reason

MAX_BYTES = 4 << 20  # that of SD 1.5 has 0.3 MB
MAX_STEPS = 500_000  # some 40 per tensor
_MAX_LINE = 1000  # of the few arguments that are text, and of names
_MAX_ARGUMENTS = 16
_MAX_ATTRIBUTES = 64  # a module of torch 2.13 has 17


class Refused(Exception):
    """What a pickle asks for that it does not get."""


@dataclass(frozen=True)
class Call:
    """A function that a pickle may call."""

    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Inert:
    """Stands for an object that holds no tensor and is never made."""

    name: str


@dataclass(frozen=True)
class Pairs:
    """A dict's items in the file's order, maybe with a key twice."""

    items: list[Any]


@dataclass(frozen=True)
class Class:
    """A class whose objects are told, here, by one of their attributes, a dict."""

    name: str
    attribute: str


@dataclass(frozen=True)
class Object(Pairs):
    """An object of a Class: its attribute alone, once it has been set."""

    of: Class


class Stream(io.BytesIO):
    """The bytes of some pickles; its lines are short and mean what they say."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(_MAX_LINE)
        if b"\\" in line:
            raise Refused("has a text with a backslash")
        return line


Find = Callable[[str], Any]
Load = Callable[[Any], Any]


def unpickle(stream: Stream, find: Find, load: Load) -> Any:
    """The object pickled at the stream's position, which moves to the pickle's end.

    Args:
        find: "module.name" → what stands for it; raises Refused for all but a few.
        load: persistent id → what stands for an object outside the pickle.

    Raises: Refused, with the position, for a pickle that is malformed, too long, or
        asks for more than plain values, lists, tuples, Pairs and what find knows.
    """
    machine = _Machine(find, load)
    position = start = stream.tell()
    try:
        for step, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            position = start if at is None else at
            if step == MAX_STEPS:
                raise Refused(f"more than {MAX_STEPS} opcodes")
            machine.run(opcode.name, argument)
        return machine.pop()
    except (Refused, ValueError) as error:
        raise Refused(
            f"byte {position} of its pickle: {reason(error)[:200]}"
        ) from error


class _Machine:
    def __init__(self, find: Find, load: Load):
        self.find, self.load = find, load
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # what lies below each mark
        self.memo: dict[int, Any] = {}

    def run(self, opcode: str, argument: Any) -> None:
        if opcode in _ARGUMENTS:
            self.stack.append(argument)
        elif opcode in _NEW:
            self.stack.append(_NEW[opcode]())
        elif opcode in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(items)))
        elif opcode in _MARKED:
            items = self.to_mark()
            self.stack.append(_MARKED[opcode](items))
        elif opcode in _HANDLERS:
            _HANDLERS[opcode](self, argument)
        elif opcode not in _IDLE:
            raise Refused(f"uses opcode {opcode}, which no tensor needs")

    def pop(self) -> Any:
        if not self.stack:
            raise Refused("takes an object from an empty stack")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        if not self.outer:
            raise Refused("goes back to a mark that was never set")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def filled(self, kind: type) -> Any:
        """The container on top of the stack."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Refused("fills a container that is not there")
        return self.stack[-1]

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def discard(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def discard_to_mark(self, _: None) -> None:
        self.to_mark()

    def duplicate(self, _: None) -> None:
        self.stack += [self.pop()] * 2

    def put(self, index: int | None) -> None:
        index = len(self.memo) if index is None else index
        if not 0 <= index <= MAX_STEPS:  # so that no two collide in the dict
            raise Refused(f"numbers an object beyond {MAX_STEPS}")
        self.memo[index] = value = self.pop()
        self.stack.append(value)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Refused("takes a numbered object that is not there")
        self.stack.append(self.memo[index])

    def append(self, _: None) -> None:
        item = self.pop()
        self.filled(list).append(item)

    def extend(self, _: None) -> None:
        items = self.to_mark()
        self.filled(list).extend(items)

    def set_item(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.filled(Pairs).items.append((key, value))

    def set_items(self, _: None) -> None:
        items = self.to_mark()
        self.filled(Pairs).items.extend(_pairs(items))

    def name(self, argument: str) -> None:
        self.stack.append(self.find(argument.replace(" ", ".", 1)))

    def name_on_stack(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Refused("asks for something whose name is no text")
        if len(module) + len(name) > _MAX_LINE:  # or each would be another long text
            raise Refused("asks for something with a name beyond all measure")
        self.stack.append(self.find(f"{module}.{name}"))

    def persistent(self, _: None) -> None:
        self.stack.append(self.load(self.pop()))

    def reduce(self, _: None) -> None:
        arguments, call = self.pop(), self.pop()
        if not isinstance(call, Call):
            raise Refused(f"calls {_called(call)}, which is no function of tensors")
        if type(arguments) is not tuple or len(arguments) > _MAX_ARGUMENTS:
            raise Refused(f"calls {call.name} with the wrong arguments")
        try:
            self.stack.append(call.function(*arguments))
        except TypeError as error:
            raise Refused(f"calls {call.name} with the wrong arguments") from error

    def build(self, _: None) -> None:
        """Drop attributes: torch keeps versions beside a state_dict's items."""
        state, target = self.pop(), self.pop()
        if isinstance(target, Object):
            target.items.append(_attribute(target, state))
        elif not (isinstance(target, Inert) or _is_metadata(target, state)):
            raise Refused(f"sets attributes of {_called(target)}")
        self.stack.append(target)

    def new_object(self, _: None) -> None:
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, Class) or arguments != ():
            raise Refused("makes an object of a class")
        self.stack.append(Object([], kind))

    def instance(self, argument: str | None) -> NoReturn:
        """INST, OBJ and NEWOBJ_EX call a class."""
        if argument is not None:
            self.name(argument)
        raise Refused("makes an object of a class")


def _pairs(items: list[Any]) -> list[Any]:
    if len(items) % 2:
        raise Refused("gives a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def _attribute(target: Object, state: Any) -> tuple[str, Any]:
    """The one attribute that counts, with its name; its dict is not copied."""
    items = state.items if isinstance(state, Pairs) else []
    if len(items) <= _MAX_ATTRIBUTES and not target.items:
        for pair in items:
            match pair:
                case (str(name), Pairs()) if name == target.of.attribute:
                    return pair
    raise Refused(f"sets other attributes of {_called(target.of)} than it has")


def _is_metadata(target: Any, state: Any) -> bool:
    match target, state:
        case Pairs(), Pairs(items=[("_metadata", _)]):
            return True
    return False


def _called(value: Any) -> str:
    if isinstance(value, Call | Inert | Class):
        return value.name
    return "a dict" if isinstance(value, Pairs) else f"a {type(value).__name__.lower()}"


# What is done at each opcode, by pickletools' names.
_IDLE = ("PROTO", "FRAME", "STOP")
_ARGUMENTS = frozenset(
    (
        "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
        "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE "
        "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
    ).split()
)
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": lambda: Pairs([]),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARKED: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": list,
    "DICT": lambda items: Pairs(_pairs(items)),
}
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "ADDITEMS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "INST": _Machine.instance,
    "OBJ": _Machine.instance,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.instance,
}
