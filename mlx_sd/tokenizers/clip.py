"""CLIP's byte-pair tokenizer, and a prompt's chunks for the text encoder.

Splits as the original and transformers do: Unicode text in NFC, lower case, runs of
letters, single digits, runs of other signs. (stable-diffusion.cpp splits bytes in the
C locale, which breaks words at accents: "café" becomes "caf" and "é".)
"""

import gzip
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from math import isfinite
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
)

from ..errors import CheckpointError, ConfigError
from .chunks import SLICE, Chunk, Word, fill
from .emphasis import BREAK, parse

log = logging.getLogger(__name__)

# A text → its parts in order, some of them replaced by ids of their own.
Names = Callable[[str], Iterable[str | Sequence[int]]]

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
COMMA = ",</w>"

_MERGES = 49_152 - 256 - 2  # CLIP uses the first 48 894 of the 262 144 in its file
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipTokenizer:
    """Prompt → token ids."""

    def __init__(self, tokenizer: Tokenizer):
        """
        Args:
            tokenizer: knows both special tokens, neither pads nor truncates.
        """
        self._tokenizer = tokenizer
        self.bos = _special(tokenizer, BOS)
        self.eos = _special(tokenizer, EOS)
        self.vocab_size: int = tokenizer.get_vocab_size()

    @staticmethod
    @lru_cache(maxsize=1)
    def standard() -> "ClipTokenizer":
        """CLIP's own vocabulary of 49 408 tokens; built once, in under 0.1 s."""
        merges = _standard_merges()
        symbols = _byte_symbols()
        tokens = [
            *symbols,
            *(symbol + "</w>" for symbol in symbols),
            *(first + second for first, second in merges),
            BOS,
            EOS,
        ]
        vocab = {token: index for index, token in enumerate(tokens)}
        return ClipTokenizer(_build(vocab, merges))

    @staticmethod
    def from_folder(path: Path | str) -> "ClipTokenizer":
        """The `tokenizer` folder of a diffusers model.

        Reads vocab.json and merges.txt, or tokenizer.json where they are absent.

        Raises: CheckpointError if the files are missing, broken or lack BOS or EOS.
        """
        folder = Path(path)
        merges, single = folder / "merges.txt", folder / "tokenizer.json"
        file = merges if merges.is_file() else single
        if not file.is_file():
            raise CheckpointError(
                f"{folder}: no tokenizer here; needs vocab.json and merges.txt, "
                "or tokenizer.json"
            )
        try:
            read = _read_pair if file is merges else _read_single
            return ClipTokenizer(read(file))
        except Exception as error:  # the tokenizers library raises bare Exception
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{file}: broken tokenizer: {reason}") from error

    def encode(self, text: str) -> list[int]:
        """Ids without BOS and EOS; the literal special tokens keep their own ids.

        Raises: ConfigError if the text is not valid Unicode.
        """
        _check_unicode(text)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def files(self) -> dict[str, str]:
        """The text of vocab.json and merges.txt, which from_folder reads."""
        model = json.loads(self._tokenizer.to_str())["model"]
        merges = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
        return {
            "vocab.json": json.dumps(model["vocab"], ensure_ascii=False) + "\n",
            "merges.txt": "\n".join(merges) + "\n",
        }

    def chunks(
        self,
        prompt: str,
        pad: int | None = None,
        *,
        names: Names | None = None,
        comma_padding_backtrack: int = 0,
    ) -> list[Chunk]:
        """A prompt, its emphasis and its breaks, in as many chunks as it needs.

        Each chunk is BOS, up to 75 tokens, EOS, padding. It ends early only at BREAK,
        at a comma if asked to, and before an embedding that it cannot hold whole.

        Args:
            pad: id of the padding, EOS if not given (SD 1.x; SD 2.x has 0).
            names: finds the words that stand for embeddings, at most 75 ids each.
            comma_padding_backtrack: 0, or up to 74: a phrase that begins after a comma
                this near to a chunk's end moves to the next as a whole (A1111: 20).

        Returns: at least one chunk; weights of BOS, EOS and padding are 1.
        Raises: ConfigError if the prompt is not valid Unicode, or a weight or the
            number of tokens is out of range.
        """
        if not 0 <= comma_padding_backtrack < SLICE:
            raise ConfigError(
                f"comma_padding_backtrack {comma_padding_backtrack}: must be from 0 to "
                f"{SLICE - 1} tokens"
            )
        _check_unicode(prompt)
        comma = self._tokenizer.token_to_id(COMMA)
        words = self._words(prompt, names or (lambda text: (text,)))
        fill_id = self.eos if pad is None else pad
        slices = fill(words, comma, comma_padding_backtrack)
        return [self._chunk(words, fill_id) for words in slices]

    def _words(self, prompt: str, names: Names) -> Iterator[Word | None]:
        """What chunks are filled with; None is a break."""
        for piece in parse(prompt):
            if piece == BREAK:
                yield None
                continue
            if piece.text == BREAK.text:
                log.warning(
                    "BREAK inside brackets is read as a word, of weight %g, as A1111 "
                    "does; put it outside of them",
                    piece.weight,
                )
            if not isfinite(piece.weight):
                raise ConfigError(f"prompt: {piece.text!r:.100} has an infinite weight")
            for part in names(piece.text):
                if isinstance(part, str):
                    yield from (Word([i], piece.weight) for i in self.encode(part))
                else:
                    yield Word(part, piece.weight)

    def _chunk(self, words: list[Word], pad: int) -> Chunk:
        ids = [index for word in words for index in word.ids]
        weights = [word.weight for word in words for _ in word.ids]
        missing = SLICE - len(ids)
        return Chunk(
            [self.bos, *ids, self.eos, *[pad] * missing],
            [1.0, *weights, 1.0, *[1.0] * missing],
        )


def _check_unicode(text: str) -> None:
    try:
        text.encode()  # arguments of another encoding arrive as lone surrogates
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"prompt: character {error.start + 1} is not valid Unicode; "
            "retype it or set a UTF-8 locale"
        ) from error


def _special(tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise CheckpointError(f"not CLIP's, it lacks {token}")
    return index


def _build(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The pipeline of transformers' CLIPTokenizer."""
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=EOS)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # A special token that the vocabulary lacks would get a new id: leave it out.
    special = [AddedToken(t, normalized=False) for t in (BOS, EOS) if t in vocab]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _read_pair(merges_file: Path) -> Tokenizer:
    vocab = json.loads(merges_file.with_name("vocab.json").read_text("utf-8"))
    lines = merges_file.read_text("utf-8").split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    return _build(vocab, [_pair(line) for line in lines if line.strip()])


def _read_single(file: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_str(file.read_text("utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _standard_merges() -> list[tuple[str, str]]:
    packed = files(__package__) / "data/bpe_simple_vocab_16e6.txt.gz"
    with packed.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as file:
        next(file)  # a version line
        return [_pair(line) for _, line in zip(range(_MERGES), file, strict=False)]


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split()
    return first, second


def _byte_symbols() -> list[str]:
    """CLIP's 256 byte symbols: printable bytes as they are, then U+0100 onwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(256, 256 + others)]]
