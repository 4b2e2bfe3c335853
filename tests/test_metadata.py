"""Settings in picture files: ours there and back, and those of other programs."""

import json
import random
from dataclasses import replace
from pathlib import Path

import a1111
import pytest
from PIL import Image

from mlx_sd.errors import SDError
from mlx_sd.image import save
from mlx_sd.metadata import Recipe, parameters, read, to_request_fields
from mlx_sd.metadata import settings as settings_module
from mlx_sd.metadata.settings import written
from mlx_sd.request import Request
from mlx_sd.sampling.samplers import SAMPLERS
from mlx_sd.sampling.schedules import SCHEDULES

GOLDEN = Path(__file__).parent / "golden" / "metadata"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
BLANK = Image.new("RGB", (16, 16))
BASE = Request(
    prompt="a house",
    negative_prompt="rain",
    width=64,
    height=128,
    seed=7,
    scheduler="discrete",
)

# Each is hard for A1111's rules, for a file format, or for JSON.
NASTY = (
    "",
    " ",
    " led and followed by blanks ",
    "\n\nempty lines above\n\nbetween and below\n\n",
    "a house\nNegative prompt: not really",
    "Negative prompt: from the start",
    "\nNegative prompt:",
    "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1",
    "a\nSteps: 20, Sampler: x, Seed: 1, Size: 8x8\nTemplate: b, c: d, e: f, g: h",
    "Template: a",
    'quotes " and \\" and \\\\ and \\',
    ', MLXSD: "{}", SDCPP: {"seed": 1}',
    "carriage\rreturn\r\nand tab\t, form feed\f, next line\x85, separator\u2028.",
    "café, naïve, Ã©",
    "🏠🌳👩‍👩‍👧 and 𝔘nicode",
    "שלום עולם \u202eabc\u202c مرحبا",
    "(a:1.2) [b] \\(c\\) <lora:d:0.8> AND e BREAK",
    "a stray byte: \udcff",
    "nothing\0after",
    "very long, " * 600,
    "[", "]", ",", ":", '"', '"x"',
)  # fmt: skip


def requests(count: int) -> list[Request]:
    """Every nasty prompt on either side, and random mixtures of them."""
    rng = random.Random(0)
    texts = list(NASTY)
    for _ in range(count):
        parts = rng.sample(NASTY[:-6], 2) + rng.choices('\n,:" \\', k=2)
        rng.shuffle(parts)
        texts.append("".join(parts))
    return [
        Request(
            prompt=text,
            negative_prompt=rng.choice(texts),
            width=8 * rng.randint(1, 99),
            height=8 * rng.randint(1, 99),
            steps=rng.randint(1, 99),
            cfg_scale=rng.choice([0.0, 7.0, 0.1 + 0.2, 1e-7, rng.uniform(0, 1e3)]),
            seed=rng.choice([0, 2**64 - 2, rng.getrandbits(63)]),
            sampling_method=rng.choice(list(SAMPLERS)),
            scheduler=rng.choice(list(SCHEDULES)),
        )
        for text in texts
    ]


def text_of(request: Request, **options) -> str:
    return parameters(request, "dreamshaper_8", "1.2.3", **options)


def repeated(recipe: Recipe) -> Request:
    fields, lost = to_request_fields(recipe)
    assert lost == []
    return Request(**fields)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_any_request_comes_back_from_its_picture(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    for request in requests(100):
        save(BLANK, path, text_of(request))
        found = read(path).recipe
        assert found.program == "mlx-sd"
        assert (found.prompt, found.negative_prompt) == (
            request.prompt,
            request.negative_prompt,
        )
        assert repeated(found) == request


def test_a1111_reads_the_settings_whatever_the_prompts():
    for request in requests(100):
        _, _, settings = a1111.png_info(text_of(request))
        assert float(settings["CFG scale"]) == request.cfg_scale
        assert settings["Size"] == f"{request.width}x{request.height}"
        assert settings["Steps"] == str(request.steps)
        assert settings["Seed"] == str(request.seed)
        assert settings["Sampler"] == SAMPLERS[request.sampling_method].label
        assert settings["Model"] == "dreamshaper_8"


def test_a1111_reads_ordinary_prompts_and_none_is_written_twice():
    prompt = 'a "red" house, (tree:1.2)\nwith a garden: 🏠'
    text = text_of(
        Request(prompt=prompt, negative_prompt="rain,\nsnow", width=8, height=8)
    )
    shown, negative, _ = a1111.png_info(text)
    assert (shown, negative) == (prompt, "rain,\nsnow")
    assert text.count("red") == 1


def test_model_and_parts_are_quoted_where_a1111_quotes():
    parts = {"VAE": "kl: f8, mse.safetensors"}
    text = text_of(BASE, model_hash="6ce0161689", parts=parts)
    _, _, settings = a1111.png_info(text)
    assert settings["Model hash"] == "6ce0161689"
    assert settings["VAE"] == "kl: f8, mse.safetensors"
    assert settings["Version"] == "mlx-sd 1.2.3"
    assert "Model hash" not in a1111.png_info(text_of(BASE))[2]


def test_a_model_whose_name_is_no_unicode_is_named_as_well_as_it_can_be(tmp_path):
    text = parameters(BASE, "a\udcff", "0", parts={"VAE": "b\udcff"})
    settings = a1111.png_info(text)[2]
    assert settings["Model"] == "a?" and settings["VAE"] == "b?"


def test_how_the_model_was_loaded_comes_back(tmp_path):
    save(BLANK, tmp_path / "a.png", text_of(BASE, loading={"dtype": "bf16"}))
    assert read(tmp_path / "a.png").recipe.loading == {"dtype": "bf16"}


@pytest.mark.parametrize("name", EXPECTED)
def test_other_programs_files_are_read(name):
    found, expected = read(GOLDEN / name).recipe, EXPECTED[name]
    assert found.program == expected["program"]
    assert found.prompt == expected["prompt"]
    assert found.negative_prompt == expected["negative_prompt"]
    assert found.settings == expected["settings"]


def request_of(name: str) -> tuple[dict, list[str]]:
    return to_request_fields(read(GOLDEN / name).recipe)


@pytest.mark.parametrize("name", ["sdcpp.png", "sdcpp.jpg", "sdcpp.webp"])
def test_sdcpp_json_is_exact_where_its_text_is_rounded(name):
    fields, _ = request_of(name)
    assert fields["cfg_scale"] == 7.300000190734863
    assert (fields["sampling_method"], fields["scheduler"]) == ("euler_a", "discrete")
    assert (fields["width"], fields["height"], fields["seed"]) == (512, 640, 43)
    assert fields["rng"] == "cuda" and "eta" not in fields


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ('"clip_skip":2', '"clip_skip":-1', None),
        ('"custom_sigmas":[]', '"custom_sigmas":[1,0]', None),
        ('"mode":"img_gen"', '"mode":"vid_gen"', "SDCPP mode"),
        ('"rng":', '"hires":{"enabled":true},"rng":', "SDCPP hires"),
        ('"rng":', '"loras":[{"name":"x","multiplier":1}],"rng":', "SDCPP loras"),
        ('"scale":0.0', '"scale":2.5', "SDCPP slg"),
        ('"sampling":', '"other":', "SDCPP: damaged; the settings beside it are used"),
    ],
)
def test_sdcpp_json_with_other_settings(old, new, note, tmp_path):
    text = read(GOLDEN / "sdcpp.png").texts[0].text
    assert text.count(old) == 1
    save(BLANK, tmp_path / "a.png", text.replace(old, new))
    recipe = read(tmp_path / "a.png").recipe
    assert recipe.notes == (() if note is None else (note,))
    assert ("clip_skip" in recipe.exact) == (
        "clip_skip" not in new and "other" not in new
    )
    assert recipe.exact.get("sigmas") == ([1, 0] if "sigmas" in new else None)


def test_what_cannot_be_repeated_is_named():
    _, lost = request_of("a1111.png")
    for entry in ("ENSD: 31337", "Hires upscale: 1.75", "Denoising strength: 0.55"):
        assert entry in lost
    assert not any(entry.startswith(("Model", "Version", "Steps")) for entry in lost)
    _, lost = request_of("comfyui.png")
    assert any("LoraLoader (node 10)" in entry for entry in lost)
    assert request_of("a1111_old.png")[1] == []


@pytest.mark.parametrize(
    ("settings", "sampler", "scheduler"),
    [
        ({"Sampler": "DPM++ 2M Karras"}, "dpm++2m", "karras"),
        ({"Sampler": "DPM++ 2M"}, "dpm++2m", "discrete"),
        ({"Sampler": "DPM++ 2M", "Schedule type": "Automatic"}, "dpm++2m", "karras"),
        ({"Sampler": "Euler a", "Schedule type": "Automatic"}, "euler_a", "discrete"),
        ({"Sampler": "Euler", "Schedule type": "Karras"}, "euler", "karras"),
        ({"Sampler": "euler_ancestral"}, "euler_a", "discrete"),
        ({"Sampler": "LCM", "Schedule type": "Automatic"}, "lcm", "lcm"),
    ],
)
def test_samplers_go_by_every_programs_names(settings, sampler, scheduler):
    fields, lost = to_request_fields(Recipe("A1111", "", "", settings))
    assert (fields["sampling_method"], fields["scheduler"]) == (sampler, scheduler)
    assert lost == []


def test_automatic_schedules_are_of_samplers_that_exist():
    assert settings_module._AUTOMATIC.keys() <= SAMPLERS.keys()


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("Steps", "many"),
        ("Size", "big"),
        ("Sampler", "Magic"),
        ("Sampler", "Euler" * 1000),
        ("Seed", "9" * 5000),
    ],
)
def test_settings_without_sense_are_named_not_guessed(label, value):
    fields, lost = to_request_fields(Recipe("A1111", "x", "", {label: value}))
    assert fields == {"prompt": "x", "negative_prompt": ""}
    assert len(lost) == 1 and lost[0].startswith(label) and len(lost[0]) < 1000


@pytest.mark.parametrize(
    "told",
    ["", "7", "[]", "{}", '{"request": 3, "loading": {}}', "{" * 9999, '{"a"' * 9999],
)
def test_damaged_json_of_ours_falls_back_to_the_settings(told, tmp_path):
    settings = {**written(BASE), "Version": "mlx-sd 1", "MLXSD": json.dumps(told)}
    line = ", ".join(f"{key}: {value}" for key, value in settings.items())
    save(BLANK, tmp_path / "a.png", f"a house\nNegative prompt: rain\n{line}")
    found = read(tmp_path / "a.png").recipe
    assert found.program == "mlx-sd" and "damaged" in found.notes[0]
    fields, lost = to_request_fields(found)
    assert Request(**fields) == BASE and lost == list(found.notes)


def test_values_of_a_wrong_type_are_named(tmp_path):
    told = {"prompt": 5, "steps": "x", "seed": True, "width": 64, "colour": "red"}
    told["cfg_scale"] = False
    text = "Steps: 1, Seed: 2, Size: 8x8, MLXSD: "
    told = json.dumps(json.dumps({"request": told, "loading": {}}))
    save(BLANK, tmp_path / "a.png", text + told)
    fields, lost = to_request_fields(read(tmp_path / "a.png").recipe)
    assert fields == {"negative_prompt": "", "width": 64}
    assert sorted(lost) == [
        "cfg_scale: False",
        "colour: red",
        "prompt: 5",
        "seed: True",
        "steps: x",
    ]


def test_a_picture_of_no_program_has_no_recipe(tmp_path):
    save(BLANK, tmp_path / "a.webp")
    assert read(tmp_path / "a.webp").recipe is None
    comment = Image.new("RGB", (8, 8))
    comment.save(tmp_path / "b.jpg", comment=b"holiday, 2019: Rome")
    found = read(tmp_path / "b.jpg")
    assert found.recipe is None and found.texts[0].text == "holiday, 2019: Rome"


def test_prompt_alone_is_read_as_one(tmp_path):
    save(BLANK, tmp_path / "a.png", "only a prompt, with a colon: here")
    found = read(tmp_path / "a.png").recipe
    assert found.prompt == "only a prompt, with a colon: here"
    assert found.settings == {}


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(20))
    with pytest.raises(SDError, match=r"a\.gif: not a PNG, JPEG or WebP"):
        read(tmp_path / "a.gif")
    with pytest.raises(SDError, match="missing.png: no such file"):
        read(tmp_path / "missing.png")
    with pytest.raises(SDError, match="no such file"):
        read(tmp_path)


FULL = Request(
    prompt="a house",
    negative_prompt="rain",
    width=64,
    height=128,
    seed=7,
    cfg_scale=0.1 + 0.2,
    eta=0.3,
    sigmas=(14.6, 0.1 + 0.2, 0.0),
    clip_skip=2,
    sampler_rng="cpu",
)


def test_every_setting_is_written_by_its_label():
    _, _, settings = a1111.png_info(text_of(FULL))
    assert settings["Eta"] == "0.3" and settings["Clip skip"] == "2"
    assert settings["Custom Sigmas"] == "[14.6, 0.30000000000000004, 0]"
    assert settings["RNG"] == "NV" and settings["Sampler RNG"] == "CPU"
    lms = replace(BASE, sampling_method="lms", extra_sample_args="lms_max_order=2")
    _, _, settings = a1111.png_info(text_of(lms))
    assert settings["Extra sample args"] == "lms_max_order=2"


def test_every_setting_comes_back_exactly(tmp_path):
    save(BLANK, tmp_path / "a.png", text_of(FULL))
    assert repeated(read(tmp_path / "a.png").recipe) == FULL


def test_labels_alone_say_the_same():
    assert repeated(Recipe("A1111", "a house", "rain", written(FULL))) == FULL


def test_the_picture_that_one_started_from_is_not_in_the_file():
    settings = {**written(BASE), "Denoising strength": "0.7"}
    _, lost = to_request_fields(Recipe("A1111", "a house", "rain", settings))
    assert lost == ["Denoising strength: 0.7"]


def test_an_eta_that_was_not_given_is_none():
    fields, lost = to_request_fields(Recipe("A1111", "", "", {"Eta": "inf"}))
    assert "eta" not in fields and lost == []
