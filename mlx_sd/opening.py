"""From a path or a Hugging Face id to a model whose every weight is accounted for."""

import logging
from pathlib import Path

from .convert.detect import Contents, as_part, combined, identify
from .convert.readers import read_file, read_metadata
from .errors import CheckpointError, unknown
from .folder import FOLDERS, choose_weights
from .sampling.prediction import PREDICTIONS
from .source import OPTION_OF, Source

log = logging.getLogger(__name__)

DEMO = Path(__file__).parent / "demo" / "picture-book"


# The options that give a part of its own → that part; clip_l is the first encoder.
OPTIONS = {
    "diffusion_model": "unet",
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "vae": "vae",
    "taesd": "tae",
}
_IN_FOLDERS = ("unet", "clip_l", "clip_g", "vae")  # a tiny autoencoder is in the last
# Part → A1111's word for it, but for the last.
_LABELS = {"unet": "Unet", "vae": "VAE", "clip_l": "TE", "clip_g": "TE", "tae": "TAESD"}


def open_source(
    path_or_id: str | Path | None = None,
    *,
    prediction: str | None = None,
    taesd_preview_only: bool = False,
    **parts: str | Path | None,
) -> Source:
    """Find a model's files and place their tensors, without reading any.

    Args:
        path_or_id: a weight file, a diffusers folder, or a Hugging Face id, whose
            needed files are downloaded or taken from the cache; None if the parts are
            the whole model.
        prediction: what the UNet predicts, a key of PREDICTIONS; None: see Source.
        taesd_preview_only: whether a tiny autoencoder, `taesd`, leaves the VAE in its
            place.
        parts: for names in OPTIONS, a file or a part's diffusers folder; each takes
            the place of the model's own part. Beside one half of a tiny autoencoder,
            …_decoder, the other, …_encoder, is found.

    Raises: CheckpointError if something is missing, broken or not understood.
    """
    if prediction not in (None, *PREDICTIONS):
        raise unknown("prediction", prediction, PREDICTIONS)
    given = {option: Path(path) for option, path in parts.items() if path is not None}
    asked = next(iter(given.values())) if path_or_id is None else Path(path_or_id)
    path = asked
    try:
        if path_or_id is None:
            contents, folder = Contents.empty(), None
        else:
            if not path.exists():
                path = _fetched(str(path_or_id))
            contents, folder = _open(path)
        for option, file in given.items():
            beside = option == "taesd" and taesd_preview_only
            contents = combined(contents, _part(file, OPTIONS[option]), beside)
    except OSError as error:
        where = error.filename or path
        raise CheckpointError(
            f"{where}: cannot be read ({error.strerror}); check the path and who may "
            "read it"
        ) from error
    if taesd_preview_only and not {"vae", "tae"} <= contents.parts.keys():
        which = "tae" if "vae" in contents.parts else "vae"
        raise CheckpointError(
            f"{path}: holds no {which} beside what is for previews; give one with "
            f"{OPTION_OF[which]}"
        )
    replaced = {
        _LABELS[OPTIONS[option]]: file.name
        for option, file in given.items()
        if path_or_id is not None or file != asked
        if option != "taesd" or not taesd_preview_only
    }
    metadata = read_metadata(given.get("diffusion_model", path))
    return Source(path, _name(asked), contents, folder, prediction, metadata, replaced)


def open_refiner(path_or_id: str | Path, base: Source) -> Source:
    """A model for the last steps of another's pictures, sure to run.

    The other's VAE is used, so that it needs none of its own.

    Raises: CheckpointError as open_model does, and if it has other latents.
    """
    source = open_source(path_or_id)
    if source.codec not in source.contents.parts:
        source.contents.parts[base.codec] = base.contents.parts[base.codec]
    _check(source)
    fits = source.family.latent == base.family.latent and not source.kind.task
    if not fits or source.prediction.flow != base.prediction.flow:
        raise CheckpointError(
            f"{source.path}: {source.kind.name} cannot refine what {base.kind.name} "
            "paints, as their latents differ; leave out --refiner"
        )
    return source


def open_model(
    path_or_id: str | Path | None = None,
    *,
    prediction: str | None = None,
    taesd_preview_only: bool = False,
    **parts: str | Path | None,
) -> Source:
    """As open_source, and sure to run: every part is there and every weight fits."""
    source = open_source(
        path_or_id,
        prediction=prediction,
        taesd_preview_only=taesd_preview_only,
        **parts,
    )
    _check(source)
    return source


def _check(source: Source) -> None:
    try:
        source.check()
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; see what it holds with: mlx-sd inspect {source.path}"
        ) from error
    if unknown := source.contents.unknown:
        log.warning(
            "%s: %d tensors are not used, first %r; list them with: mlx-sd inspect %s",
            source.path,
            len(unknown),
            next(iter(unknown)),
            source.path,
        )


def _name(path: Path) -> str:
    asked = path.resolve()
    return asked.stem if asked.is_file() else asked.name


def _open(path: Path) -> tuple[Contents, Path | None]:
    if not path.is_dir():
        return identify(read_file(path)), None
    if not (path / "unet").is_dir():
        raise CheckpointError(
            f"{path}: not a diffusers folder, which would have a unet folder in it; "
            "give that folder or a weight file"
        )
    contents = Contents.empty()
    for part in _IN_FOLDERS:
        folder = path / FOLDERS[part]
        if folder.is_dir():
            found = _part(folder, part)
            contents = combined(contents, found.under(folder.name))
    return contents, path


def _part(path: Path, part: str) -> Contents:
    """A part of a file, or of its own folder; of both halves' files, if there are."""
    if path.is_dir():
        path /= choose_weights([child.name for child in path.iterdir()], str(path))
    found = as_part(read_file(path), part)
    halves = {name.split(".")[0] for name in found.parts.get("tae", ())}
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        beside = path.with_name(path.name.replace(half, other))
        if halves == {half} and beside != path and beside.exists():
            log.info("%s is used too, as the other half", beside)
            found = combined(found, as_part(read_file(beside), "tae"))
    return found


def _fetched(name: str) -> Path:
    """A Hugging Face id's files; what is no such id stays a path that is missing."""
    from .hub import fetch, is_repo_id  # 60 ms, which few commands need

    return fetch(name) if is_repo_id(name) else Path(name)
