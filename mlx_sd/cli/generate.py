"""`mlx-sd generate`: a picture from a prompt."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from .. import backend
from ..errors import ConfigError, SDError
from ..image import check_writable
from ..metadata import Recipe, read, repeat
from ..pipeline import Picture, Pipeline, load
from ..request import PICTURES, Request, override
from .batch import Job, SettledJob, read_batch
from .options import LOADING, Choice, model_options, part_options
from .outputs import numbered
from .preview import WAYS, Preview
from .request_options import request_fields, request_options
from .tile_options import tile_options, tiling

log = logging.getLogger(__name__)

_PREVIEW = ("preview", "preview_path", "preview_interval", "preview_noisy")
# Flags of stable-diffusion.cpp that have nothing to do here, and why.
_MOOT = {
    "--fa": "attention is always computed in one piece",
    "--diffusion-fa": "attention is always computed in one piece",
    "--mmap": "files are always mapped into memory",
    "--color": "messages have no colours",
}


def _moot_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for flag in _MOOT:
        command = click.option(flag, is_flag=True, hidden=True)(command)
    return command


@click.command()
@model_options
@part_options
@click.option(
    "--taesd-preview-only",
    is_flag=True,
    help="Keep the VAE for finished pictures, beside --taesd.",
)
@tile_options
@request_options
@click.option(
    "--from-image",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Repeat the picture in this file; options given beside it take precedence.",
)
@click.option(
    "--batch-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make many pictures: a prompt on each line, or a .yaml or .json list. Those "
    "whose files are there already are skipped.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="output.png",
    show_default=True,
    help="Picture to write: .png, .jpg or .webp. Several are numbered: output_0.png "
    "…, or where the name has %d or %03d.",
)
@click.option(
    "--output-begin-idx",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of the first picture.",
)
@click.option(
    "--disable-image-metadata",
    is_flag=True,
    help="Do not write into the picture how it was made.",
)
@click.option(
    "--preview",
    type=Choice(WAYS),
    default="none",
    show_default=True,
    help="Show each step: proj is small, quick and rough, vae is exact and slow, "
    "tae is by --taesd.",
)
@click.option(
    "--preview-path",
    type=click.Path(path_type=Path),
    default="preview.png",
    show_default=True,
    help="File for that.",
)
@click.option(
    "--preview-interval",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Steps from one preview to the next.",
)
@click.option("--preview-noisy", is_flag=True, help="Show the noise that is left, too.")
@_moot_options
@click.option("-M", "--mode", default="img_gen", hidden=True)
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but paths and errors.")
def generate(
    model: str | None,
    from_image: Path | None,
    batch_file: Path | None,
    output: Path,
    output_begin_idx: int,
    mode: str,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Paint pictures from a prompt; their paths go to stdout.

    \b
    mlx-sd generate -p "a red house and a green tree under a night sky"
    mlx-sd generate -m dreamshaper_8.safetensors -p "a lighthouse, oil painting"
    """
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("mlx_sd").setLevel(level)
    start = time.perf_counter()
    _check_mode(mode)
    for flag, reason in _MOOT.items():
        if options.pop(flag.strip("-").replace("-", "_")):
            log.info("%s changes nothing: %s", flag, reason)
    way, shown_at, interval, noisy = (options.pop(name) for name in _PREVIEW)
    metadata = not options.pop("disable_image_metadata")
    loading = {name: options.pop(name) for name in LOADING}
    loading["vae_tiling"] = tiling(options)
    given = request_fields(options)
    recipe = None
    if from_image is not None:
        recipe, fields = _repeated(from_image, given)
        if loading["refiner"] is None:  # of which _compare_models tells
            fields.pop("refiner_switch", None)
        given = override(fields, given)
        told = {k: v for k, v in recipe.loading.items() if k in loading}
        loading = {**loading, **told, **{k: v for k, v in loading.items() if v}}
    if batch_file is not None:
        jobs = read_batch(batch_file, given, output, output_begin_idx)
    elif "prompt" in given:
        request = Request(**given)
        paths = numbered(output, request.batch_count, output_begin_idx)
        jobs = [Job(request, paths)]
    else:
        raise click.UsageError("Missing option '-p' / '--prompt'.")
    for path in (path for job in jobs for path in job.paths):
        check_writable(path)
    if way != "none":
        check_writable(shown_at)

    pipeline = load(model, **loading)
    if metadata:
        _ = pipeline.model_hash  # it is computed while we paint
        if pipeline.refiner is not None:
            _ = pipeline.refiner_hash
    if recipe is not None:
        _compare_models(recipe, pipeline)
    settled = [_settled(job, pipeline, quiet) for job in jobs]
    if batch_file is not None:
        settled = _unfinished(settled)
    preview = Preview(pipeline, way, shown_at, interval, noisy)
    preview.check()
    try:
        paint(pipeline, settled, preview, metadata, quiet)
    except KeyboardInterrupt:
        raise SDError("stopped; no picture was left half-written") from None
    if not quiet:
        seconds = time.perf_counter() - start
        click.echo(f"{seconds:.1f} s on {backend.device_name()}", err=True)


def paint(
    pipeline: Pipeline,
    jobs: list[SettledJob],
    preview: Preview,
    metadata: bool,
    quiet: bool,
) -> None:
    """Run the requests under one progress bar, saving each picture as it comes."""
    total = sum(pipeline.steps(job.request) * len(job.paths) for job in jobs)
    # The delay keeps the bar from the screen until there is a step to show.
    with tqdm(total=total, unit="it", disable=quiet, delay=1e-3) as bar:
        for job in jobs:
            remaining = iter(job.paths)
            last = job is jobs[-1]
            for event in pipeline.stream(job.request, keep=not last):
                if isinstance(event, Picture):
                    if last:
                        bar.close()
                    path = next(remaining)
                    event.save(path, metadata)
                    click.echo(bytes(path))  # also a name that is no UTF-8
                else:
                    bar.update()
                    preview.show(event)


def _check_mode(mode: str) -> None:
    """stable-diffusion.cpp's -M; what it does beside painting are commands here."""
    if mode in ("convert", "metadata"):
        raise ConfigError(f"--mode {mode}: is a command; see: mlx-sd {mode} --help")
    if mode != "img_gen":
        raise ConfigError(f"--mode {mode}: not known here; img_gen is")


def _repeated(path: Path, given: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """A file's recipe and its fields of a Request; says what cannot be repeated.

    Args:
        given: fields from the command line.
    """
    pictures = given.keys() & set(PICTURES)
    fields, lost = repeat(path, pictures)
    for entry in lost:
        log.warning("%s: cannot be repeated: %s", path, entry)
    recipe = read(path).recipe
    assert recipe is not None, "repeat() raises then"
    missing = [name for name in recipe.pictures if name not in pictures]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')} FILE" for name in missing)
        log.warning("%s: was made from pictures; give them again: %s", path, flags)
    return recipe, fields


def _compare_models(recipe: Recipe, pipeline: Pipeline) -> None:
    """Say so if the picture was painted by another model than this one."""
    name, digest = (recipe.settings.get(key) for key in ("Model", "Model hash"))
    ours, our_digest = pipeline.source.name, pipeline.model_hash.result()
    same = name in (None, ours)
    if digest and our_digest:
        same = digest == our_digest
    if not same:
        log.warning(
            "the picture was painted by model %s (%s), this is %s (%s)",
            *(name, digest or "no hash", ours, our_digest or "no hash"),
        )
    if (names := recipe.loading.get("embeddings")) and pipeline.embeddings is None:
        log.warning("the picture was painted with embeddings (--embd-dir): %s", names)
    theirs = recipe.settings.get("Refiner", "").split(" [")[0]
    used = pipeline.refiner.source.name if pipeline.refiner is not None else ""
    if theirs != used:
        log.warning(
            "the picture was painted with refiner %s, this is with %s (--refiner)",
            *(theirs or "none", used or "none"),
        )
    if not recipe.exact:
        return  # what is known of the parts is among what cannot be repeated
    for label in ("Unet", "VAE", "TE", "TAESD"):
        told, own = recipe.settings.get(label), pipeline.source.replaced.get(label)
        if told != own:
            log.warning(
                "the picture was painted with %s %s, this is with %s",
                *(label, told or "the model's own", own or "the model's own"),
            )


def _settled(job: Job, pipeline: Pipeline, quiet: bool) -> SettledJob:
    request = pipeline.resolve(job.request)
    if job.request.seed < 0 and not quiet:
        click.echo(f"seed {request.seed}", err=True)
    return SettledJob(request, job.paths)


def _unfinished(jobs: list[SettledJob]) -> list[SettledJob]:
    """A job for each picture whose file is not there yet."""
    single = []
    for job in jobs:
        for i, path in enumerate(job.paths):
            request = replace(job.request, seed=job.request.seed + i, batch_count=1)
            single.append(SettledJob(request, [path]))
    missing = [job for job in single if not job.paths[0].exists()]
    if len(missing) < len(single):
        log.info(
            "%d of %d pictures are there already and are skipped",
            *(len(single) - len(missing), len(single)),
        )
    return missing
