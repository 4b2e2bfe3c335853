"""What a diffusers folder says of its model: settings, tokenizer, scheduler."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import checkpoints
import mlx.core as mx
import names
import pytest
import seeded

from mlx_sd.convert import convert
from mlx_sd.convert.plan import Planner
from mlx_sd.convert.readers import read_file
from mlx_sd.convert.rules import MARKERS
from mlx_sd.convert.single import single_file
from mlx_sd.convert.type_rules import TypeRules
from mlx_sd.convert.writers.settings import settings
from mlx_sd.opening import DEMO, open_model
from mlx_sd.sampling.levels import EdmLevels
from mlx_sd.source import Source


def test_settings_and_tokenizer_of_a_folder_are_carried_over(tmp_path, caplog):
    model = tmp_path / "model"
    convert(DEMO, model)
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (model / "model_index.json").write_text(json.dumps(index))
    with caplog.at_level(logging.INFO):
        convert(model, tmp_path / "again")
    assert "left out: safety_checker" in caplog.text
    files = {p.relative_to(DEMO) for p in DEMO.rglob("*") if p.parent != DEMO}
    for path in files | {Path("model_index.json")}:
        if path.suffix in (".json", ".txt"):
            ours, theirs = (tmp_path / "again" / path), DEMO / path
            if path.suffix == ".txt":
                assert ours.read_text() == theirs.read_text()
            else:
                assert json.loads(ours.read_text()) == json.loads(theirs.read_text())
    assert open_model(tmp_path / "again").tokenizer.vocab_size == 4096


def test_settings_made_from_weights_are_those_that_diffusers_wrote(tmp_path):
    shapes = {n: e.shape for n, e in read_file(_as_file(tmp_path)).items()}
    shapes[seeded.TEXT + "embeddings.token_embedding.weight"] = (49408, 192)
    source = checkpoints.hollow(tmp_path / "hollow.safetensors", shapes)
    convert(source, tmp_path / "made")
    own = {"sample_size", "_diffusers_version", "vocab_size", "scheduler"}
    tokens = {"bos_token_id", "eos_token_id", "pad_token_id"}
    for part in ("unet", "vae", "text_encoder", "."):
        name = "model_index.json" if part == "." else "config.json"
        ours = json.loads((tmp_path / "made" / part / name).read_text())
        theirs = json.loads((DEMO / part / name).read_text())
        for key in ours.keys() - own - tokens:
            assert ours[key] == theirs[key], key
    assert open_model(tmp_path / "made").tokenizer.vocab_size == 49408


def scheduler(kind: str, *markers: str) -> dict:
    contents = replace(names.contents(kind, "ldm"), markers=dict.fromkeys(markers))
    made = settings(Source(Path("x"), "x", contents))
    return made["scheduler/scheduler_config.json"]


def test_the_scheduler_says_what_markers_say(caplog):
    assert scheduler("SDXL")["prediction_type"] == "epsilon" and not caplog.records
    told = scheduler("SDXL", "v_pred", "ztsnr")
    assert told["prediction_type"] == "v_prediction"
    assert told["rescale_betas_zero_snr"] and told["timestep_spacing"] == "trailing"
    scheduler("SD 2.x")
    assert "does not say whether it predicts noise" in caplog.text


def test_noise_levels_of_edm_are_kept_both_ways(tmp_path):
    bounds = {"sigma_min": 0.25, "sigma_max": 80.0}
    path = tmp_path / "x.safetensors"
    mx.save_safetensors(
        str(path), {f"edm_vpred.{name}": mx.array([at]) for name, at in bounds.items()}
    )
    contents = replace(names.contents("SDXL", "ldm"), markers=read_file(path))
    made = settings(Source(path, "x", contents))
    told = made["scheduler/scheduler_config.json"]
    assert told["_class_name"] == "EDMEulerScheduler" and told["sigma_data"] == 1
    assert made["model_index.json"]["scheduler"] == ("diffusers", "EDMEulerScheduler")
    assert {name: told[name] for name in bounds} == bounds

    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(told))
    source = Source(tmp_path, "x", names.contents("SDXL", "diffusers"), tmp_path)
    assert source.levels() == EdmLevels(**bounds)
    tensors = single_file(source, None, Planner(TypeRules(), ["F16", "F32"]))
    assert {"edm_vpred.sigma_min", "edm_vpred.sigma_max"} <= {t.name for t in tensors}


@pytest.mark.parametrize("kind, expected", [("SDXL", {"v_pred"}), ("SD 2.x", set())])
def test_a_single_file_says_what_the_scheduler_says(kind, expected, tmp_path, caplog):
    (tmp_path / "scheduler").mkdir()
    text = json.dumps({"prediction_type": "v_prediction"})
    (tmp_path / "scheduler/scheduler_config.json").write_text(text)
    source = Source(tmp_path, "x", names.contents(kind, "diffusers"), tmp_path)
    tensors = single_file(source, None, Planner(TypeRules(), ["F16", "F32"]))
    found = {tensor.name for tensor in tensors if tensor.name in MARKERS}
    assert found == expected
    assert ("predicts v_prediction, says its scheduler" in caplog.text) != bool(found)


def _as_file(tmp_path: Path) -> Path:
    convert(DEMO, tmp_path / "demo.safetensors")
    return tmp_path / "demo.safetensors"
