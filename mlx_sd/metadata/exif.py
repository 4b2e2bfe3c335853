"""The few EXIF tags that hold the settings of painted pictures."""

import struct
from collections.abc import Iterator

HEADER = b"Exif\0\0"

_EXIF_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286
# ComfyUI puts "workflow:{json}" and "prompt:{json}" into tags meant for cameras.
_TEXTS = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model"}
_BYTE, _ASCII, _LONG, _UNDEFINED = 1, 2, 4, 7


class Damaged(Exception):
    """What is wrong with a file, for an error that will name it."""


def texts(data: bytes) -> Iterator[tuple[str, str]]:
    """(tag name or ComfyUI's key, text) of each text tag.

    Source: EXIF 2.32 (CIPA DC-008), sections 4.6.2 and 4.6.5.
    """
    data = data.removeprefix(HEADER)
    order = {b"II\x2a\0": "<", b"MM\0\x2a": ">"}.get(data[:4])
    if order is None:
        raise Damaged("its EXIF block is damaged")
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        tags = _directory(data, order, start)
        if _EXIF_DIRECTORY in tags:
            (start,) = struct.unpack(order + "I", tags[_EXIF_DIRECTORY])
            tags |= _directory(data, order, start)
    except struct.error as error:
        raise Damaged("its EXIF block is damaged") from error
    for tag, name in _TEXTS.items():
        if tag in tags:
            text = tags[tag].rstrip(b"\0").decode("utf-8", "replace")
            key, found, rest = text.partition(":")
            comfy = found and key.lower() in ("prompt", "workflow")
            yield (key.lower(), rest) if comfy else (name, text)
    if _USER_COMMENT in tags:
        yield "UserComment", _user_comment(tags[_USER_COMMENT])


def _directory(data: bytes, order: str, start: int) -> dict[int, bytes]:
    """The tags that matter, of each the first, so that the work is bounded."""
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, bytes] = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, size, where = struct.unpack_from(order + "HHII", data, place)
        if tag in tags:
            continue
        if tag == _EXIF_DIRECTORY and kind == _LONG:
            tags[tag] = data[place + 8 : place + 12]
        elif tag in (*_TEXTS, _USER_COMMENT) and kind in (_BYTE, _ASCII, _UNDEFINED):
            where = place + 8 if size <= 4 else where
            if where + size > len(data):
                raise Damaged("its EXIF block is damaged")
            tags[tag] = data[where : where + size]
    return tags


def _user_comment(data: bytes) -> str:
    """Eight bytes name the encoding; "UNICODE" is UTF-16 of an order left unsaid."""
    encoding, text = data[:8], data[8:]
    if encoding == b"UNICODE\0":
        # Settings hold ASCII, whose high bytes are zero: A1111's come first.
        big = text[0::2].count(0) >= text[1::2].count(0)
        return text.decode("utf-16-be" if big else "utf-16-le", "replace")
    if encoding not in (b"ASCII\0\0\0", bytes(8)):
        text = data
    return text.rstrip(b"\0").decode("utf-8", "replace")
