"""`mlx-sd metadata`, and the hash by which A1111 knows a model."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from loaded import bundled
from PIL import Image, PngImagePlugin

from mlx_sd import Request, SDError
from mlx_sd.cli import main
from mlx_sd.image import save
from mlx_sd.metadata import model_hash, model_hash_later, repeat
from mlx_sd.pipeline import Picture

GOLDEN = Path(__file__).parent / "golden" / "metadata"
BLANK = Image.new("RGB", (16, 16))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mlx-sd" / "hashes.json"


def run(*args):
    return CliRunner().invoke(main, ["metadata", *map(str, args)])


def test_settings_are_listed_and_what_cannot_be_repeated():
    done = run(GOLDEN / "a1111.jpg")
    assert done.exit_code == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "painted by: A1111",
        "prompt: masterpiece, (a red house:1.2), café 🏠",
    ]
    assert "negative prompt: blurry, text: none" in lines
    assert "Seed: 965400086" in lines and "cannot be repeated: ENSD: 31337" in lines


def test_json_holds_the_request_and_all_texts():
    done = run(GOLDEN / "sdcpp.webp", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert facts["program"] == "stable-diffusion.cpp" and facts["format"] == "WebP"
    assert facts["request"]["cfg_scale"] == 7.300000190734863
    (text,) = facts["texts"]
    assert (text["where"], text["key"]) == ("XMP", "sdcpp:parameters")
    assert text["text"].startswith("a fox & <lora:x:1>")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_picture_is_painted_again_to_the_byte(suffix, tmp_path):
    first, again = (tmp_path / f"{name}{suffix}" for name in ("first", "again"))
    request = Request(
        prompt=" a red house,\nNegative prompt: and a tree ",
        negative_prompt="rain",
        width=64,
        height=64,
        steps=2,
        cfg_scale=0.1 + 6.2,
        seed=2**63,
        sampling_method="euler_a",
        scheduler="karras",
    )
    paint(request, first)
    fields, lost = repeat(first)
    assert lost == []
    paint(Request(**fields), again)
    assert again.read_bytes() == first.read_bytes()


def paint(request: Request, path: Path) -> None:
    for event in bundled().stream(request):
        if isinstance(event, Picture):
            event.save(path)


def test_what_says_nothing_cannot_be_repeated(tmp_path):
    save(BLANK, tmp_path / "a.png")
    with pytest.raises(SDError, match="a.png: says nothing of how it was painted"):
        repeat(tmp_path / "a.png")
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", '{"1": {"class_type": "Flux", "inputs": {}}}')
    BLANK.save(tmp_path / "b.png", pnginfo=info)
    with pytest.raises(SDError, match="b.png: cannot be repeated: no KSampler"):
        repeat(tmp_path / "b.png")


def test_picture_without_settings_is_one_line_and_exit_1(tmp_path):
    path = tmp_path / "a.png"
    save(BLANK, path)
    done = run(path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and "says nothing" in done.stderr


def test_other_texts_are_listed_in_json(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "a paint program", zip=True)
    BLANK.save(tmp_path / "a.png", pnginfo=info)
    done = run(tmp_path / "a.png")
    assert done.exit_code == 1 and "--json lists its other texts" in done.stderr
    done = run(tmp_path / "a.png", "--json")
    assert done.exit_code == 1 and "says nothing" in done.stderr
    assert json.loads(done.stdout)["texts"] == [
        {"where": "PNG zTXt", "key": "Software", "text": "a paint program"}
    ]


def test_text_cannot_steer_the_terminal(tmp_path):
    save(BLANK, tmp_path / "a.png", "red \x1b[31m\x07 \x9b and\nblue")
    done = run(tmp_path / "a.png")
    assert done.exit_code == 0
    assert "red \\x1b[31m\\x07 \\x9b and\nblue" in done.stdout


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_missing_file_is_one_line(name, tmp_path):
    done = run(tmp_path / name)
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1
    assert "no such file" in done.stderr


def test_hash_of_a_model_is_a1111s(tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(range(256)) * 9000)
    expected = hashlib.sha256(model.read_bytes()).hexdigest()[:10]
    assert model_hash(model) == expected
    assert model_hash_later(model).result(timeout=60) == expected


def test_hash_is_computed_once_and_anew_for_a_changed_file(tmp_path, cache):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"one")
    first = model_hash(model)
    kept = json.loads(cache.read_text())
    assert list(kept.values()) == [first]
    cache.write_text(json.dumps(dict.fromkeys(kept, "remembered")))
    assert model_hash(model) == "remembered"
    model.write_bytes(b"two")
    os.utime(model, ns=(1, 1))
    assert model_hash(model) == hashlib.sha256(b"two").hexdigest()[:10]


def test_folders_and_unreadable_models_have_no_hash(tmp_path, cache):
    assert model_hash(tmp_path) is None and not cache.exists()
    assert model_hash(tmp_path / "missing") is None
    cache.parent.mkdir(parents=True)
    cache.write_text("{broken")
    (tmp_path / "m").write_bytes(b"x")
    assert model_hash(tmp_path / "m") == hashlib.sha256(b"x").hexdigest()[:10]


def test_a_hash_does_not_need_a_place_to_be_kept(tmp_path, cache, monkeypatch):
    model = tmp_path / "m"
    model.write_bytes(b"x")
    expected = hashlib.sha256(b"x").hexdigest()[:10]
    cache.parent.parent.write_bytes(b"a file where the folder should be")
    assert model_hash(model) == expected
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert model_hash_later(model).result(timeout=60) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, '{"KEY": 5}'])
def test_damaged_notes_of_hashes_are_not_believed(text, tmp_path, cache):
    model = tmp_path / "m"
    model.write_bytes(b"x")
    cache.parent.mkdir(parents=True)
    found = model.stat()
    key = f"{model.resolve()}|{found.st_size}|{found.st_mtime_ns}"
    cache.write_text(text.replace("KEY", key))
    assert model_hash(model) == hashlib.sha256(b"x").hexdigest()[:10]
