"""GGUF files: read as the gguf package does, and one error for every lie in them."""

import struct
import time
import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import seeded
from gguf_parts import (
    ARRAY,
    BOOL,
    F16_TENSOR,
    F32,
    I32,
    Q4_0,
    Q8_1,
    STRING,
    U8,
    U32,
    U64,
    array,
    gguf,
    key,
    shape_key,
    tensor,
    text,
)
from refusal import failure

from mlx_sd import CheckpointError
from mlx_sd.convert.ggml import TYPE_IDS
from mlx_sd.convert.readers import read_file
from mlx_sd.convert.readers.gguf import read_gguf

GOLDEN = Path(__file__).parent / "golden"
VALUES = np.load(GOLDEN / "gguf.npz")
NAMES = [key[: -len("_shape")] for key in VALUES.files if key.endswith("_shape")]


@pytest.fixture
def written(tmp_path):
    """A function that puts bytes into a file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "x.gguf"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("file", ["written.gguf", "written-128.gguf"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_written_by_gguf_reads_as_it_was(file, name):
    entries = read_gguf(GOLDEN / file)
    assert list(entries) == NAMES
    entry, expected = entries[name], VALUES[f"{name}_values"]
    assert entry.shape == tuple(VALUES[f"{name}_shape"])
    assert entry.dtype == ("Q4_0" if name == "flat" else name.upper())
    values = entry.read()
    if name == "bf16":
        values = values.astype(mx.float32)
    if name == "f64":  # of random bytes, some beyond float32
        with np.errstate(over="ignore"):
            expected = expected.astype(np.float32)
    np.testing.assert_array_equal(np.array(values), expected, strict=True)


def test_version_2_reads_as_version_3(written):
    content = (GOLDEN / "written.gguf").read_bytes()
    second = read_gguf(written(content[:4] + struct.pack("<I", 2) + content[8:]))
    third = read_gguf(GOLDEN / "written.gguf")
    assert [(e.name, e.dtype, e.shape, e.nbytes) for e in second.values()] == [
        (e.name, e.dtype, e.shape, e.nbytes) for e in third.values()
    ]
    for name, entry in second.items():
        assert bytes(entry.raw()) == bytes(third[name].raw())


def test_a_file_without_metadata_reads_in_the_order_of_torch(written):
    data = np.arange(12, dtype="<f4").tobytes()
    # As stable-diffusion.cpp writes (3, 2), and (1, 2), whose last axis it leaves out.
    path = written(gguf(tensor("a", (2, 3)), tensor("b", (2,), offset=32), data=data))
    a, b = read_gguf(path).values()
    assert (a.shape, b.shape, a.nbytes, b.nbytes) == ((3, 2), (2,), 24, 8)
    np.testing.assert_array_equal(np.array(a.read()), [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(np.array(b.read()), [8, 9])


def test_a_scalar_has_no_axes(written):
    (entry,) = read_gguf(written(gguf(tensor(dims=())))).values()
    assert entry.shape == () and entry.read().shape == ()


@pytest.mark.parametrize("alignment", [1, 8, 32, 4096])
def test_tensors_begin_where_the_alignment_says(alignment, written):
    metadata = [key("general.alignment", U32, struct.pack("<I", alignment))]
    data = bytes(alignment) + struct.pack("<f", 5)
    content = gguf(
        tensor(dims=(1,), offset=alignment),
        metadata=metadata,
        data=data,
        alignment=alignment,
    )
    assert read_gguf(written(content))["a"].read().item() == 5


def test_content_tells_a_gguf_file_even_with_as_many_tensors_as_a_brace(tmp_path):
    count = ord("{")  # where a safetensors file has this character
    tensors = [tensor(f"{i}", offset=32 * i) for i in range(count)]
    path = tmp_path / "x.safetensors"
    path.write_bytes(gguf(*tensors, data=bytes(32 * count)))
    assert len(read_file(path)) == count


def test_gaps_between_tensors_and_bytes_after_them_do_no_harm(written):
    content = gguf(tensor("b", offset=64), tensor("a"), data=bytes(200))
    assert list(read_gguf(written(content))) == ["b", "a"]


def test_a_tensor_is_read_only_when_asked(written):
    path = written(gguf(tensor()))
    entry = read_gguf(path)["a"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match="a cannot be read .*has the file changed"
    ):
        entry.read()


MAX = 2**64 - 1
LIES = {
    "magic": (b"GGML" + gguf()[4:], "it does not begin with GGUF"),
    "empty": (b"", "empty file"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(64), "for big-endian machines; take"),
    "version 0": (gguf(version=0), "version 0; readable are 2 and 3"),
    "version 1": (gguf(version=1), "version 1; readable are 2 and 3"),
    "version 4": (gguf(version=4), "version 4; readable are 2 and 3"),
    "many tensors": (gguf(counts=(MAX, 0)), f"{MAX} tensors at byte 8 are too many"),
    "much metadata": (gguf(counts=(0, 2**17)), "131072 pieces of metadata at byte 16"),
    "more tensors": (gguf(tensor(), counts=(5, 0), data=b""), "ends within its header"),
    "more metadata": (
        gguf(counts=(0, 9), data=bytes(99)),
        "metadata '' is there twice",
    ),
    "long name": (gguf(struct.pack("<Q", MAX)), "bytes of a name at byte 24 are too"),
    "name beyond": (gguf(struct.pack("<Q", 9999)), "in what begins at byte 32"),
    "name not text": (gguf(tensor(b"\xff")), "the name at byte 32 is not in UTF-8"),
    "key not text": (gguf(metadata=[key(b"\xff", U8, b"1")]), "name at byte 32"),
    "same name": (gguf(tensor(), tensor(offset=32)), "tensor 'a' is there twice"),
    "same key": (
        gguf(metadata=2 * [key("x", U8, b"1")]),
        "metadata 'x' is there twice",
    ),
    "length 0": (gguf(tensor(dims=(4, 0))), "'a' at byte 24 has an axis of length 0"),
    "negative": (gguf(tensor(dims=(MAX,))), "'a' ends at byte"),
    "2^60": (gguf(tensor(dims=(2**60,))), "'a' ends at byte"),
    "product beyond 2^64": (gguf(tensor(dims=(2**32, 2**32))), "'a' ends at byte"),
    "five axes": (gguf(tensor(dims=(1,) * 5)), "has 5 axes, and ggml at most 4"),
    "many axes": (gguf(tensor(axes=2**31)), "has 2147483648 axes"),
    "rows": (
        gguf(tensor(dims=(16, 2), kind=Q4_0)),
        "'a' at byte 24 is Q4_0, but 32 does not divide its rows",
    ),
    "scalar rows": (gguf(tensor(dims=(), kind=Q4_0)), "32 does not divide its rows"),
    "offset beyond": (gguf(tensor(offset=MAX - 31)), "'a' ends at byte"),
    "end beyond": (gguf(tensor(dims=(9,))), "'a' ends at byte 100, the file at 96"),
    "unaligned": (
        gguf(tensor(offset=4)),
        "'a' begins 4 bytes after the header, not at",
    ),
    "overlap": (
        gguf(tensor("a", (9,)), tensor("b", offset=32), data=bytes(64)),
        "'a' and 'b' overlap",
    ),
    "same place": (gguf(tensor("a"), tensor("b")), "'a' and 'b' overlap"),
    "metadata type": (gguf(metadata=[key("x", 13, b"")]), "has unknown type 13"),
    "nested array": (
        gguf(metadata=[key("x", ARRAY, array(ARRAY, 1, array(U8, 1, b"1")))]),
        "has unknown type 9",
    ),
    "array beyond": (
        gguf(metadata=[key("x", ARRAY, array(U64, 2**61))]),
        "in what begins at byte 49",
    ),
    "strings beyond": (
        gguf(metadata=[key("x", ARRAY, array(STRING, MAX, text("a")))]),
        "ends within its header",
    ),
    "long string": (
        gguf(metadata=[key("x", STRING, struct.pack("<Q", MAX))]),
        "ends within its header",
    ),
    "long string in array": (
        gguf(metadata=[key("x", ARRAY, array(STRING, 2, struct.pack("<Q", MAX)))]),
        "ends within its header",
    ),
    "original shape of others": (
        gguf(tensor(), metadata=[shape_key("a", 3, 3)]),
        "'a' of shape [2, 4] cannot have had '(3, 3)' as its original shape",
    ),
    "original shape negative": (
        gguf(tensor(), metadata=[shape_key("a", -2, -4)]),
        "as its original shape",
    ),
    "original shape not whole": (
        gguf(
            tensor(),
            metadata=[
                key(
                    "comfy.gguf.orig_shape.a",
                    ARRAY,
                    array(F32, 2, struct.pack("<2f", 2, 4)),
                )
            ],
        ),
        "as its original shape",
    ),
    "original shape a text": (
        gguf(tensor(), metadata=[key("comfy.gguf.orig_shape.a", STRING, text("2,4"))]),
        "as its original shape",
    ),
}


@pytest.mark.parametrize("content, reason", LIES.values(), ids=LIES.keys())
def test_a_lie_is_one_error_that_says_where(content, reason, written):
    message = failure(written(content), read_gguf)
    assert reason in message
    if "readable are" not in message and "big-endian" not in message:
        assert message.endswith("; download or copy it again")


def test_no_lie_takes_memory(written):
    tracemalloc.start()
    try:
        for content, _ in LIES.values():
            failure(written(content), read_gguf)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [0, 3, 48, -4])
def test_an_alignment_is_a_power_of_two(value, written):
    metadata = [key("general.alignment", I32, struct.pack("<i", value))]
    assert f"its alignment is {value}," in failure(
        written(gguf(metadata=metadata)), read_gguf
    )


def test_an_alignment_is_a_number(written):
    metadata = [key("general.alignment", STRING, text("32"))]
    assert "its alignment is None," in failure(
        written(gguf(metadata=metadata)), read_gguf
    )


@pytest.mark.parametrize("number", [Q8_1, 4, 31, 38, 999, 2**32 - 1])
def test_a_type_that_cannot_be_read_is_named_with_those_that_can(number, written):
    message = failure(written(gguf(tensor("b.weight", kind=number))), read_gguf)
    assert f"tensor 'b.weight' has type {number}, which is" in message
    assert message.endswith(f"readable are {', '.join(TYPE_IDS)}")


@pytest.mark.parametrize("name", ["", "\n", "\u2028x", "\x1b[31m", 30_000 * "n"])
def test_a_strange_name_leaves_an_error_one_short_line(name, written):
    message = failure(written(gguf(tensor(name, dims=(0,)))), read_gguf)
    assert message.isprintable() and len(message) < 500


def test_a_file_cut_at_any_byte_is_an_error(written):
    whole = gguf(
        tensor("a", (4, 2)),
        tensor("b", (32,), Q4_0, offset=32),
        metadata=[
            key("x", ARRAY, array(STRING, 3, text("a") + text("") + text("bc"))),
            key("y", BOOL, b"\1"),
            shape_key("a", 2, 2, 2),
        ],
        data=bytes(50),
    )
    assert len(read_gguf(written(whole))) == 2
    for size in range(len(whole)):
        failure(written(whole[:size]), read_gguf)


def test_a_flipped_bit_is_an_error_or_reads(written):
    whole = (GOLDEN / "written-128.gguf").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path = written(damaged)
        try:
            *_, entry = read_gguf(path).values()
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()
        else:
            assert entry.raw().size == entry.nbytes


def sparse(path: Path, start: bytes, size: int) -> Path:
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def test_a_model_of_7_gb_opens_at_once(tmp_path):
    rows = 518  # of 2560 float16 values, in each of as many tensors as SDXL has
    tensors = [
        tensor(f"model.diffusion_model.{i}.weight", (2560, rows), F16_TENSOR, offset)
        for i, offset in enumerate(range(0, 2641 * rows * 5120, rows * 5120))
    ]
    path = sparse(tmp_path / "x.gguf", gguf(*tensors, data=b""), 7_005_000_000)
    start = time.process_time()
    assert len(read_gguf(path)) == 2641
    assert time.process_time() - start < 0.3


def test_a_header_without_end_is_an_error_soon(tmp_path):
    strings = gguf(metadata=[key("x", ARRAY, array(STRING, MAX))], data=b"")
    path = sparse(tmp_path / "x.gguf", strings, 7_000_000_000)
    assert "its header has more than 33554432 bytes" in failure(path, read_gguf)


def test_the_longest_header_is_read_soon(written):
    many = 2**15
    metadata = [key(f"{i:x}", ARRAY, array(U64, 16, bytes(128))) for i in range(many)]
    tensors = [tensor(f"{i:x}", (1,) * 4, offset=32 * i) for i in range(1, many)]
    tensors.append(tensor("last", offset=64))
    content = gguf(*tensors, metadata=metadata, data=bytes(32 * many))
    assert "'2' and 'last' overlap" in failure(written(content), read_gguf)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q5_1", "Q4_K", "IQ4_NL"])
def test_a_file_of_stable_diffusion_cpp_reads_as_gguf_reads_it(kind, tmp_path):
    gguf = pytest.importorskip("gguf")
    cpp = pytest.importorskip("stable_diffusion_cpp", exc_type=ImportError)
    source, path = tmp_path / "x.safetensors", tmp_path / "x.gguf"
    seeded.save(source, seeded.small_shapes())
    number = getattr(cpp.stable_diffusion_cpp.GGMLType, f"SD_TYPE_{kind}")
    done = cpp.stable_diffusion_cpp.convert(
        str(source).encode(), b"", str(path).encode(), number, b"", False
    )
    assert done
    entries, expected = read_gguf(path), gguf.GGUFReader(path).tensors
    assert list(entries) == [theirs.name for theirs in expected]
    assert kind in {entry.dtype for entry in entries.values()}
    for theirs in expected:
        ours = entries[theirs.name]
        assert ours.dtype == theirs.tensor_type.name
        assert ours.shape == tuple(map(int, theirs.shape[::-1]))
        assert bytes(ours.raw()) == theirs.data.tobytes()
