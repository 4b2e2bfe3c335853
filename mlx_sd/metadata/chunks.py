"""The texts in a PNG, JPEG or WebP file, found without decoding a pixel.

Files come from strangers: whatever they say, the work and the memory are bounded.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from ..errors import SDError
from . import exif
from .exif import Damaged

LIMIT = 8 << 20  # bytes of text in one file, decompressed
CHUNKS = 1 << 18  # 2 GB of the 8 kB that most PNG writers put in a chunk

_SDCPP_XMP = "{https://github.com/leejet/stable-diffusion.cpp/ns/1.0/}parameters"


@dataclass(frozen=True)
class Text:
    where: str  # "PNG tEXt", "JPEG COM", "EXIF" or "XMP"
    key: str
    text: str


def texts(path: Path) -> tuple[str, list[Text]]:
    """The format's name and all texts, in the file's order.

    Raises: SDError if the file cannot be read, is no PNG, JPEG or WebP, is broken, or
        holds more than 8 MB of text.
    """
    try:
        if not path.is_file():
            raise SDError(f"{path}: no such file")
        with path.open("rb") as file:
            name, read = _reader(file.read(12))
            return name, list(read(_Bounded(file)))
    except OSError as error:
        raise SDError(f"{path}: cannot be read: {error.strerror}") from error
    except Damaged as error:
        raise SDError(f"{path}: {error}") from error


class _Bounded:
    """A file that is never read past its end, nor for more than LIMIT in all."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._spent = 0
        self._steps = 0

    def read(self, count: int) -> bytes:
        self._check(count)
        self.spend(count)
        return self._file.read(count)

    def header(self, count: int) -> bytes:
        """The next few bytes of a chunk, of which there may be only so many."""
        self._steps += 1
        if self._steps > CHUNKS:
            raise Damaged(f"has more than {CHUNKS:,} chunks; not a picture to read")
        self._check(count)
        return self._file.read(count)

    def seek(self, position: int) -> None:
        self._file.seek(position)

    def skip(self, count: int) -> None:
        self._check(count)
        self._file.seek(count, os.SEEK_CUR)

    def spend(self, count: int) -> None:
        self._spent += count
        if self._spent > LIMIT:
            raise Damaged(f"holds more than {LIMIT >> 20} MB of text; none is read")

    def left(self) -> int:
        return self._size - self._file.tell()

    def _check(self, count: int) -> None:
        if count > self.left():
            raise Damaged("ends too early; the file is cut short or damaged")


def _reader(head: bytes) -> tuple[str, Callable[[_Bounded], Iterator[Text]]]:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", _png
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG", _jpeg
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WebP", _webp
    raise Damaged("not a PNG, JPEG or WebP file; no other pictures can be read")


def _png(file: _Bounded) -> Iterator[Text]:
    """Chunks of length, type, data and CRC: W3C PNG specification, section 5.3."""
    file.seek(8)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", file.header(8))
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.skip(length + 4)
            continue
        data, crc = file.read(length), file.read(4)
        name = kind.decode()
        if zlib.crc32(kind + data) != int.from_bytes(crc, "big"):
            raise Damaged(f"its {name} chunk is damaged: the checksum differs")
        key, _, rest = data.partition(b"\0")
        if kind == b"zTXt":
            rest = _inflated(rest[1:], file)
        elif kind == b"iTXt":
            packed, (_, _, rest) = rest[:1], _split(rest[2:])
            rest = _inflated(rest, file) if packed == b"\1" else rest
        yield Text(f"PNG {name}", key.decode("latin-1"), _decoded(rest))


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Language, translated key and text of an iTXt chunk."""
    language, _, rest = data.partition(b"\0")
    translated, _, text = rest.partition(b"\0")
    return language, translated, text


def _inflated(data: bytes, file: _Bounded) -> bytes:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, LIMIT + 1)
    except zlib.error as error:
        raise Damaged("a compressed text is damaged") from error
    file.spend(len(text))
    if not stream.eof:
        raise Damaged("a compressed text is damaged")
    return text


def _jpeg(file: _Bounded) -> Iterator[Text]:
    """Segments of marker, length and data: ITU-T T.81, annex B; up to the scan."""
    file.seek(2)
    while True:
        first, marker = file.header(2)
        if first != 0xFF:
            raise Damaged("its segments are damaged")
        if marker == 0xFF:  # one byte of padding
            file.skip(-1)
            continue
        if marker in (0xD9, 0xDA):  # the end, or the picture
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these have no data
            continue
        length = int.from_bytes(file.header(2), "big") - 2
        if length < 0:
            raise Damaged("its segments are damaged")
        if marker == 0xFE:
            key, found, rest = file.read(length).partition(b"\0")
            if not found:
                key, rest = b"comment", key
            yield Text("JPEG COM", key.decode("latin-1"), _decoded(rest))
        elif marker == 0xE1:
            data = file.read(length)
            if data.startswith(exif.HEADER):
                yield from (Text("EXIF", *pair) for pair in exif.texts(data))
        else:
            file.skip(length)


def _webp(file: _Bounded) -> Iterator[Text]:
    """RIFF chunks of type, length and data, padded to even lengths: RFC 9649."""
    file.seek(12)
    while file.left():
        kind, length = struct.unpack("<4sI", file.header(8))
        if kind == b"EXIF":
            yield from (Text("EXIF", *pair) for pair in exif.texts(file.read(length)))
        elif kind == b"XMP ":
            yield from _xmp(file.read(length))
        else:
            file.skip(length)
        file.skip(min(length % 2, file.left()))  # some leave the last padding out


def _xmp(data: bytes) -> Iterator[Text]:
    """stable-diffusion.cpp's property, as an element or an attribute."""
    if b"<!" in data:  # no XMP needs it, and entities may grow without end
        raise Damaged("its XMP declares a document type; it is not read")
    try:
        root = ElementTree.fromstring(data.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError) as error:
        raise Damaged("its XMP is damaged") from error
    for element in root.iter():
        text = element.text if element.tag == _SDCPP_XMP else element.get(_SDCPP_XMP)
        if text is not None:
            yield Text("XMP", "sdcpp:parameters", text)


def _decoded(data: bytes) -> str:
    """UTF-8, as stable-diffusion.cpp writes even in tEXt, or else tEXt's Latin-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
