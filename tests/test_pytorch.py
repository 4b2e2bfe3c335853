"""PyTorch checkpoints read as torch reads them; files that lie are refused."""

import pickle
import struct
import time
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hostile.archive import WHOLE, directory, renamed
from opcodes import LEGACY, named, storage, tensor, text, zipped
from refusal import failure

from mlx_sd import CheckpointError
from mlx_sd.convert.readers import Entry, read_file

GOLDEN = Path(__file__).parent / "golden"
REAL = Path(__file__).parents[2] / "shared" / "real-weights"
FILES = {  # golden file → number of tensors
    "pytorch_zip.ckpt": 30,
    "pytorch_legacy.ckpt": 30,
    "pytorch_old.pth": 3,
    "every_type.safetensors": 17,
}


def values(entry: Entry) -> np.ndarray:
    """What is read; bfloat16 as its bits."""
    array = entry.read()
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, and in type and shape."""
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("file", FILES)
def test_every_tensor_of_torch_is_read_bit_for_bit(file):
    golden = np.load(GOLDEN / "tensors.npz")
    entries = read_file(GOLDEN / file)
    assert len(entries) == FILES[file]
    wrong = [n for n, entry in entries.items() if not equal(values(entry), golden[n])]
    assert not wrong
    assert all(entry.shape == golden[n].shape for n, entry in entries.items())


@pytest.mark.skipif(not REAL.exists(), reason="no real weights here")
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_real_checkpoint_is_read(part):
    entries = read_file(REAL / f"taef2_{part}.pth")
    total = sum(values(entry).astype("f4").size for entry in entries.values())
    assert len(entries) == 79 and {e.dtype for e in entries.values()} == {"F16"}
    assert 2 * total == sum(entry.nbytes for entry in entries.values()) > 2.6e6
    assert all(np.isfinite(values(entry)).all() for entry in entries.values())


@pytest.mark.peers
@pytest.mark.skipif(not REAL.exists(), reason="no real weights here")
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_real_checkpoint_is_read_as_by_torch(part):
    torch = pytest.importorskip("torch")
    path = REAL / f"taef2_{part}.pth"
    entries, theirs = read_file(path), torch.load(path)
    assert entries.keys() == theirs.keys()
    assert all(equal(values(entries[n]), t.numpy()) for n, t in theirs.items())


@pytest.mark.peers
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_any_strides_of_any_type_are_read_as_by_torch(zip_format, protocol, tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(protocol)
    kinds = [torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool]
    kinds += [torch.int16, torch.uint32, torch.float8_e5m2]
    tensors = {}
    for i in range(300):
        base = torch.from_numpy(rng.integers(0, 2, 400)).to(kinds[i % len(kinds)])
        shape = rng.integers(0, 5, rng.integers(0, 5)).tolist()
        strides = rng.integers(0, 20, len(shape)).tolist()
        tensors[f"t{i}"] = base.as_strided(shape, strides, int(rng.integers(0, 50)))
    path = tmp_path / "x.ckpt"
    torch.save(
        {"model": tensors, "rng": np.float64(1), "seen": {1, 2}},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zip_format,
    )
    entries = read_file(path)
    assert entries.keys() == tensors.keys()
    for name, theirs in tensors.items():
        wanted = theirs.half() if theirs.dtype == torch.float8_e5m2 else theirs
        assert equal(values(entries[name]), wanted.contiguous().numpy()), name


def test_a_7_gb_checkpoint_opens_at_once(tmp_path):
    length = struct.pack("<i", 7 << 28)
    opcodes = b"}" + text("a") + tensor(storage(length=b"J" + length)) + b"s"
    path = zipped(tmp_path / "x.ckpt", opcodes)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", opcodes + b".")
        with archive.open("x/data/0", "w", force_zip64=True):
            pass
        info = archive.getinfo("x/data/0")
        info.file_size = info.compress_size = 7 << 30
        archive.start_dir += 7 << 30  # after a hole
    assert path.stat().st_size > 7 << 30
    start = time.process_time()
    entry = read_file(path)["a"]
    assert time.process_time() - start < 0.1
    np.testing.assert_array_equal(values(entry), np.zeros(3, "f4"))


def rewritten(path: Path, **changes) -> Path:
    """A good checkpoint, its members' descriptions in the directory changed."""
    zipped(path, named("a"), **{"data/1": b"12"})
    with zipfile.ZipFile(path, "a") as archive:
        for field, value in changes.items():
            setattr(archive.getinfo("x/data/0"), field, value)
        archive.writestr("x/version", "3")
    return path


LIES = {
    "elsewhere": ({"header_offset": 20}, "'x/data/0' is not in its place"),
    "far": ({"header_offset": 1 << 50}, "members beyond its end"),
    "overlapping": ({"file_size": 60, "compress_size": 60}, "overlap or reach beyond"),
    "too long": ({"file_size": 1 << 50, "compress_size": 1 << 50}, "reach beyond"),
    "a bomb": ({"file_size": 1 << 40}, "'x/data/0' is compressed"),
    "compressed": ({"compress_type": zipfile.ZIP_DEFLATED}, "'x/data/0' is compressed"),
    "twice": ({"filename": "x/data/1"}, "several folders, or of one name"),
    "other folder": ({"filename": "y/data/0"}, "several folders, or of one name"),
    "missing": ({"filename": "x/data/2"}, "nothing for its storage '0' of 12 bytes"),
    "short": ({"file_size": 8, "compress_size": 8}, "only 8 bytes of its storage '0'"),
}


@pytest.mark.parametrize("changes, reason", LIES.values(), ids=LIES.keys())
def test_a_directory_that_lies_is_an_error(changes, reason, tmp_path):
    assert reason in failure(rewritten(tmp_path / "x.pt", **changes))


BROKEN = {
    "cut": WHOLE[:-1],
    "of a later version": directory(version=99),
    "a name that is no UTF-8": directory(
        renamed(b"x/data/0", b"x/data/\xff"), b"x/data/\xff", flags=0x800
    ),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_directory_that_cannot_be_read_is_an_error(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    assert "its zip directory is broken: " in failure(tmp_path / "x.pt")


def test_a_compressed_pickle_is_not_inflated(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 24))
    assert path.stat().st_size < 20_000
    assert "'x/data.pkl' is compressed" in failure(path)


@pytest.mark.parametrize("members", [{}, {"y/data.pkl": b"N."}], ids=["none", "two"])
def test_a_zip_file_has_one_pickle(members, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, content in {
            "z/data.pkl" if members else "z": b"N.",
            **members,
        }.items():
            archive.writestr(name, content)
    assert f"a zip file with {2 * len(members)} pickles" in failure(tmp_path / "x.pt")


def test_a_damaged_pickle_is_noticed(tmp_path):
    path = zipped(tmp_path / "x.pt", named("a"))
    path.write_bytes(
        path.read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")
    )
    assert "its member 'x/data.pkl' is damaged" in failure(path)


def test_big_endian_bytes_are_refused(tmp_path):
    path = zipped(tmp_path / "x.pt", named("a"), byteorder=b"big")
    assert "written by a big-endian machine" in failure(path)
    machine = pickle.dumps({"little_endian": False}, 2)
    path.write_bytes(LEGACY.removesuffix(pickle.dumps({}, 2)) + machine)
    assert "written by a big-endian machine" in failure(path)


def legacy(path: Path, keys: object = ("0",), length: int = 3, size: int = 12) -> Path:
    opcodes = b"\x80\x02" + named("a") + b"."
    listed = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2)
    data = length.to_bytes(8, "little") + np.arange(3, dtype="<f4").tobytes()[:size]
    path.write_bytes(LEGACY + opcodes + listed + data)
    return path


LEGACY_LIES = {
    "short": ({"size": 11}, "the file ends, or storage '0' has another length"),
    "other length": ({"length": 4}, "the file ends, or storage '0' has another length"),
    "2^60": ({"length": 1 << 60}, "the file ends, or storage '0' has another length"),
    "no list": ({"keys": None}, "does not list its storages"),
    "too few": ({"keys": ()}, "does not list its storages"),
    "too many": ({"keys": ("0", "0")}, "does not list its storages"),
    "another": ({"keys": ("1",)}, "lists a storage twice, or one that it does not use"),
    "no text": ({"keys": (0,)}, "lists a storage twice, or one that it does not use"),
}


@pytest.mark.parametrize("changes, reason", LEGACY_LIES.values(), ids=LEGACY_LIES)
def test_a_legacy_file_that_lies_is_an_error(changes, reason, tmp_path):
    entry = read_file(legacy(tmp_path / "x.pt"))["a"]
    np.testing.assert_array_equal(values(entry), np.arange(3, dtype="f4"))
    assert reason in failure(legacy(tmp_path / "x.pt", **changes))


@pytest.mark.parametrize(
    "begin", [b"\x80\x04N.", LEGACY[:17], LEGACY[:17] + b"\x80\2N."]
)
def test_another_pickle_is_no_checkpoint(begin, tmp_path):
    (tmp_path / "x.pt").write_bytes(begin + b"\x80\2K\1.")
    assert "not written by torch.save" in failure(tmp_path / "x.pt")


CUT = ("pytorch_zip.ckpt", "pytorch_legacy.ckpt", "pytorch_old.pth")


@pytest.mark.parametrize("file", CUT)
def test_a_checkpoint_cut_anywhere_is_an_error(file, tmp_path):
    path, whole = tmp_path / file, (GOLDEN / file).read_bytes()
    for size in range(len(whole) - 1, 0, -1 - len(whole) // 300):
        path.write_bytes(whole[:size])
        failure(path)


@pytest.mark.parametrize("file", CUT)
def test_a_checkpoint_with_a_flipped_bit_is_an_error_or_read(file, tmp_path):
    path, whole = tmp_path / file, (GOLDEN / file).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            for entry in read_file(path).values():
                entry.read()
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()


def test_a_checkpoint_that_shrank_since_it_was_opened_is_an_error(tmp_path):
    path = legacy(tmp_path / "x.pt")
    entry = read_file(path)["a"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(CheckpointError, match="has the file changed since it was"):
        entry.read()
