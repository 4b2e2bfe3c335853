"""The pickle of a PyTorch checkpoint: tensors by name; all else is refused unharmed."""

import json
import os
import pickle
import struct
import subprocess
from pathlib import Path

import pytest
from opcodes import LEGACY, named, storage, tensor, text, zipped
from process import python
from refusal import failure

from mlx_sd.convert.readers import read_file

NAMES = {  # opcodes → the names of the tensors
    "flat": (named("a", "b"), ["a", "b"]),
    "a trainer's": (
        b"}" + text("epoch") + b"K\1s" + text("state_dict") + named("a.b") + b"s",
        ["a.b"],
    ),
    "wrapped twice": (
        b"}" + text("model") + b"}" + text("module") + named("a") + b"ss",
        ["a"],
    ),
    "parts": (
        b"}" + text("image_proj") + named("a") + b"s" + text("ip") + named("a") + b"s",
        ["image_proj.a", "ip.a"],
    ),
    "moving average": (
        b"}"
        + text("model")
        + named("a")
        + b"s"
        + text("model_ema")
        + named("a")
        + b"s",
        ["a", "model_ema.a"],
    ),
    "lists": (b"]}" + text("m") + tensor() + b"sa" + tensor() + b"a", ["0.m", "1"]),
    "numbers": (b"}K\7" + tensor() + b"s", ["7"]),
    "called as a wrapper": (named("model"), ["model"]),
    "one tensor twice": (
        b"}" + text("a") + tensor() + b"q\1s" + text("b") + b"h\1s",
        ["a", "b"],
    ),
}


@pytest.mark.parametrize("opcodes, names", NAMES.values(), ids=NAMES.keys())
def test_names_are_keys_joined_without_wrappers(opcodes, names, tmp_path):
    assert list(read_file(zipped(tmp_path / "x.pt", opcodes))) == names


def touch(path: Path) -> str:
    return f"touch {path}"


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def calls(path: Path):
    """Objects that would leave a file if a pickle of them were loaded by Python."""
    yield Evil(os.system, touch(path)), f"{os.name}.system"
    yield Evil(eval, f"__import__('os').system('{touch(path)}')"), "eval"
    yield Evil(exec, f"open({str(path)!r}, 'w')"), "exec"
    yield Evil(subprocess.call, ["touch", str(path)]), ".call"
    yield Evil(getattr, Evil(__import__, "os"), "system"), "getattr"
    yield Evil(print, Evil(os.system, touch(path))), "print"
    yield Evil(open, str(path), "w"), "open"
    yield Evil(pickle.loads, pickle.dumps(Evil(os.system, touch(path)))), "loads"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["zip", "first", "object", "value"])
def test_a_call_is_refused_by_name_and_nothing_of_it_runs(kind, protocol, tmp_path):
    for evil, name in calls(tmp_path / "ran"):
        code = pickle.dumps({"a": evil} if kind == "value" else evil, protocol)
        path = tmp_path / "x.ckpt"
        if kind in ("zip", "value"):
            zipped(path, b"", **{"data.pkl": code})
        else:
            begin = LEGACY if kind == "object" else b"\x80\x02"
            path.write_bytes(begin + code)
        assert f"{name}', which is no part of a tensor; nothing of it" in failure(path)
        assert not (tmp_path / "ran").exists()


_DICT = b"ctorch.nn.modules.container\nParameterDict\n"
_NO_ATTRIBUTES = "sets other attributes of torch.nn.modules.container.ParameterDict"
_EMPTY = b"}" + text("_parameters") + b"}s"

REFUSED = {  # opcodes → what is said
    "named, never called": (b"cos\nsystem\n", "asks for 'os.system'"),
    "by the stack": (text("os") + text("system") + b"\x93", "asks for 'os.system'"),
    "INST": (b"(S'id'\nios\nsystem\n", "asks for 'os.system'"),
    "INST of what is known": (b"(icollections\nOrderedDict\n", "makes an object"),
    "OBJ": (b"(cos\nsystem\nS'id'\no", "asks for 'os.system'"),
    "OBJ of what is known": (b"(ccollections\nOrderedDict\no", "makes an object"),
    "NEWOBJ": (b"ctorch\nFloatStorage\n)\x81", "makes an object of a class"),
    "NEWOBJ_EX": (b"ctorch\nFloatStorage\n)}\x92", "makes an object of a class"),
    "an extension": (b"\x82\1", "uses opcode EXT1, which no tensor needs"),
    "a persistent text": (b"Pos.system\n", "uses opcode PERSID"),
    "a buffer": (b"\x97", "uses opcode NEXT_BUFFER"),
    "through an attribute": (
        text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93",
        "asks for 'torch._utils._rebuild_tensor_v2.__globals__'",
    ),
    "through a module": (
        text("torch.os") + text("system") + b"\x93",
        "asks for 'torch.os.system'",
    ),
    "torch.load": (b"ctorch\nload\n", "asks for 'torch.load'"),
    "an array": (
        b"cnumpy.core.multiarray\n_reconstruct\n",
        "asks for 'numpy.core.multiarray._reconstruct'",
    ),
    "settings": (b"cargparse\nNamespace\n", "asks for 'argparse.Namespace'"),
    "a name that is none": (b"K\1K\2\x93", "asks for something whose name is no text"),
    "a callback": (
        b"cpytorch_lightning.callbacks.x\nY\n)R",
        "calls pytorch_lightning.callbacks.x.Y, which is no function",
    ),
    "a number": (b"K\1)R", "calls a int, which is no function"),
    "a dict": (b"})R", "calls a dict, which is no function"),
    "a storage": (storage() + b")R", "calls a storage, which is no function"),
    "too many arguments": (
        b"ctorch._utils\n_rebuild_parameter\n(KKKKKKKKtR",
        "calls torch._utils._rebuild_parameter with the wrong arguments",
    ),
    "far too many arguments": (
        b"c_codecs\nencode\n(" + b"N" * 100 + b"tR",
        "calls _codecs.encode with the wrong arguments",
    ),
    "no arguments": (b"c_codecs\nencode\nNR", "with the wrong arguments"),
    "attributes": (b"}}" + text("__class__") + b"Nsb", "sets attributes of a dict"),
    "attributes of a tensor": (tensor() + b"}b", "sets attributes of a tensor"),
    "a module with arguments": (_DICT + b"N\x85\x81", "makes an object of a class"),
    "a module called": (
        _DICT + b")R",
        "calls torch.nn.modules.container.ParameterDict",
    ),
    "a module without parameters": (_DICT + b")\x81}b", _NO_ATTRIBUTES),
    "a module of no dict": (_DICT + b")\x81" + _EMPTY[:-2] + b"]sb", _NO_ATTRIBUTES),
    "a module filled twice": (
        _DICT + b")\x81" + (_EMPTY + b"b") * 2,
        _NO_ATTRIBUTES,
    ),
    "a module of many attributes": (
        _DICT + b")\x81}(" + b"NN" * 64 + _EMPTY[1:-1] + b"ub",
        _NO_ATTRIBUTES,
    ),
    "items for a module": (
        _DICT + b")\x81NNs",
        "fills a container that is not there",
    ),
    "an empty stack": (b"0", "goes back to a mark that was never set"),
    "nothing": (b"", "takes an object from an empty stack"),
    "no mark": (b"t", "goes back to a mark that was never set"),
    "no list": (b"NNa", "fills a container that is not there"),
    "no dict": (b"]NNs", "fills a container that is not there"),
    "no value": (b"}(Nu", "gives a key without a value"),
    "no memory": (b"h\5", "takes a numbered object that is not there"),
    "odd": (b"\xff", "at position 2, opcode b'\\xff' unknown"),
}


@pytest.mark.parametrize("opcodes, reason", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_tensor_needs_is_refused(opcodes, reason, tmp_path):
    message = failure(zipped(tmp_path / "x.pt", opcodes))
    assert "(byte " in message and reason in message
    (tmp_path / "y.pt").write_bytes(LEGACY + b"\x80\x02" + opcodes + b".")
    assert reason.partition(" position ")[0] in failure(tmp_path / "y.pt")


WRONG = {  # opcodes of a tensor → what is said
    "beyond": (
        tensor(offset=b"K\1"),
        "shape [3] that ends 16 bytes into a storage of 12",
    ),
    "strides beyond": (tensor(stride=b"K\2\x85"), "ends 20 bytes into a storage of 12"),
    "huge": (tensor(shape=b"\x8a\6\0\0\0\0\0\1\x85"), "ends 4398046511104 bytes in"),
    "2^60 values": (tensor(shape=b"\x8a\x08" + bytes(7) + b"\x10\x85"), "impossible"),
    "overflow": (
        tensor(shape=b"(" + b"J\0\0\0\1" * 4 + b"t"),
        "more axes than strides",
    ),
    "negative": (tensor(shape=b"J\xff\xff\xff\xff\x85"), "impossible shape"),
    "negative stride": (tensor(stride=b"J\xff\xff\xff\xff\x85"), "impossible shape"),
    "negative offset": (tensor(offset=b"J\xff\xff\xff\xff"), "impossible shape"),
    "logical": (tensor(shape=b"\x88\x85"), "impossible shape"),
    "no shape": (tensor(shape=b"N"), "impossible shape"),
    "many axes": (tensor(shape=b"(" + b"K\1" * 17 + b"t"), "impossible shape"),
    "no storage": (tensor(of=b"N"), "a tensor without a storage"),
    "no type": (
        tensor(of=storage().replace(b"torch\nFloat", b"torch.storage\nUntyped")),
        "a tensor without a type",
    ),
    "negated": (
        tensor().replace(b"\x89NtR", b"\x89N}" + text("neg") + b"\x88stR"),
        "a tensor that is conjugate or negated",
    ),
    "repeating": (
        tensor(shape=b"J\0\0\0\1\x85", stride=b"K\0\x85"),
        "a of shape [16777216] repeats a storage of 12 bytes",
    ),
    "short storage": (
        tensor(storage(length=b"K\4")),
        "only 12 bytes of its storage '0' of 16 bytes",
    ),
    "no such storage": (tensor(storage("../0")), "nothing for its storage '../0'"),
    "negative storage": (
        tensor(storage(length=b"J\xff\xff\xff\xff")),
        "names a storage",
    ),
    "another type": (
        tensor(storage(kind="ComplexFloat")),
        "torch.ComplexFloatStorage'",
    ),
    "other sizes": (
        b"]" + tensor() + b"a" + tensor(storage(kind="Double")) + b"a",
        "gives storage '0' two sizes",
    ),
}


@pytest.mark.parametrize("opcodes, reason", WRONG.values(), ids=WRONG.keys())
def test_a_tensor_that_cannot_be_is_an_error(opcodes, reason, tmp_path):
    opcodes = b"}" + text("a") + opcodes + b"s"
    assert reason in failure(zipped(tmp_path / "x.pt", opcodes))


MISNAMED = {
    "two in one place": (
        b"}" + text("model") + named("a") + b"s" + text("a") + tensor() + b"s",
        "holds two tensors named 'a'",
    ),
    "one key twice": (named("a", "a"), "holds two tensors named 'a'"),
    "no name": (tensor(), "whose key is neither a short text nor a number"),
    "nothing": (b"}N" + tensor() + b"s", "whose key is neither a short text nor a"),
    "long": (named("a" * 501), "whose key is neither a short text nor a number"),
    "a line": (named("a\nb"), "a tensor is named 'a\\nb', which is no proper name"),
    "in itself": (b"}q\1" + text("a") + b"h\1s", "too deep in each other, or in them"),
    "a wrapper in itself": (
        b"}q\1" + text("model") + b"h\1s" + text("a") + tensor() + b"s",
        "too deep in each other, or in themselves",
    ),
    "no pair": (b"ccollections\nOrderedDict\n](K\1e\x85R", "an item that is no pair"),
    "none": (b"N", "no tensors in it; is it the right file?"),
}


@pytest.mark.parametrize("opcodes, reason", MISNAMED.values(), ids=MISNAMED.keys())
def test_tensors_without_a_name_of_their_own_are_an_error(opcodes, reason, tmp_path):
    assert reason in failure(zipped(tmp_path / "x.pt", opcodes))


def colliding(i: int) -> bytes:
    """A number whose hash is that of 0."""
    return b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little")


def references(size: int) -> bytes:
    """12 lists, each of `size` references to the one before."""
    lists = (b"](" + b"h%c" % i * size + b"eq%c" % (i + 1) for i in range(12))
    return b"]q\0" + b"".join(lists)


BOMBS = {  # far more costly to Python's unpickler, or to a careless reader of its tree
    "references": references(1000),
    "deep lists": b"]" * 240_000 + b"a" * 239_999,
    "deep tuples": b")" + b"\x85" * 490_000,
    "marks": b"(" * 240_000 + b"t" * 240_000,
    "a list in itself": b"]q\0(" + b"h\0" * 200_000 + b"e",
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 62),
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 40),
    "text": b"\x8d" + struct.pack("<Q", 1 << 40),
    "number": b"\x8b" + struct.pack("<i", (1 << 31) - 1),
    "long number": b"\x8b" + struct.pack("<i", 3 << 20) + b"\x7f" * (3 << 20),
    "written number": b"L" + b"9" * (3 << 20) + b"L\n",
    "memo": b"".join(b"Np%d\n0" % (i * (2**61 - 1)) for i in range(100_000)),
    "keys": b"}(" + b"".join(colliding(i) + b"N" for i in range(200_000)) + b"u",
    "set": b"\x8f(" + b"".join(colliding(i) for i in range(240_000)) + b"\x90",
    "nothing": b"N0" * 2_000_000,
    "copies": b"]q\0(" + b"N" * 200_000 + b"e0ccollections\nOrderedDict\nq\1"
    + b"h\1h\0\x85R0" * 50_000,
    "one tensor": b"](" + tensor() + b"q\0" + b"h\0" * 200_000 + b"e",
    "calls": b"](" + b"ccollections\nOrderedDict\n)R" * 140_000 + b"e",
    "length": b"N" * (5 << 20),
}  # fmt: skip


MEASURE = """
import json, sys, time
from process import peak
from refusal import failure
seconds, before = {}, peak()
for path in sys.argv[1:]:
    start = time.process_time()
    failure(path)
    seconds[path] = time.process_time() - start
print(json.dumps([seconds, peak() - before]))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Bomb → CPU seconds until it is refused; the bytes that all of them took."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = [
        zipped(folder / f"{i}.pt", opcodes) for i, opcodes in enumerate(BOMBS.values())
    ]
    seconds, memory = json.loads(python("-c", MEASURE, *paths))
    return dict(zip(BOMBS, seconds.values(), strict=True)), memory


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_grows_without_bound_is_an_error_soon(name, measured):
    assert measured[0][name] < 2


def test_a_pickle_of_too_many_steps_is_said_to_be_that(tmp_path):
    path = zipped(tmp_path / "x.pt", BOMBS["nothing"])
    assert "byte 500001 of its pickle: more than 500000 opcodes" in failure(path)


def test_such_pickles_need_little_memory(measured):
    assert measured[1] < 200 << 20
