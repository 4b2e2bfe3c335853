"""A1111's text of a picture: prompts, then one line of settings.

The rules are those of A1111's own reader, so that either program reads the other's.
"""

import json
import re
from dataclasses import dataclass, field

NEGATIVE = "Negative prompt:"
_TEMPLATES = ("Template:", "Negative Template:")  # of the dynamic-prompts extension

# stable-diffusion.cpp's JSON comes last and is not quoted. Keys are bounded, and a list
# ends at the next bracket, so that no text takes long.
_PAIR = re.compile(
    r"(\w[\w \-/]{1,60}):\s*"
    r'((?<=SDCPP: )\{.*|"(?:\\.|[^\\"])*"|\[[^\[\]]*\]|[^,]*)(?:,|$)'
)


@dataclass(frozen=True)
class Infotext:
    prompt: str
    negative_prompt: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Infotext:
    """Take a text apart; one without a line of settings is all prompt.

    The line of settings is the last that holds three "key: value" pairs or more, but
    for the templates that an extension of A1111 adds below.
    """
    lines = text.strip().split("\n")
    end = _settings_end(lines)
    settings = {}
    if _is_settings(lines[end - 1]):
        settings = _settings(lines[end - 1])
    else:
        end += 1
    prompts: list[list[str]] = [[], []]
    side = 0
    for line in lines[: end - 1]:
        line = line.strip()
        if line.startswith(NEGATIVE):
            side, line = 1, line[len(NEGATIVE) :].strip()
        prompts[side].append(line)
    for line in lines[end:]:
        if line.startswith(_TEMPLATES):
            key, _, line = line.partition(":")
            settings[key] = line.strip()
        else:
            settings[key] += f"\n{line}"
    positive, negative = ("\n".join(side).lstrip("\n") for side in prompts)
    return Infotext(positive, negative, settings)


def write(info: Infotext) -> str:
    """The text of these prompts and settings, which A1111 parses."""
    lines = [info.prompt]
    if info.negative_prompt:
        lines.append(f"{NEGATIVE} {info.negative_prompt}")
    pairs = (f"{key}: {quote(value)}" for key, value in info.settings.items())
    return "\n".join([*lines, ", ".join(pairs)])


def quote(value: str) -> str:
    """A value as JSON text, where it would not be read whole without."""
    if value[:1] not in ('"', "[") and not re.search(r"[,:\n]", value):
        return value
    return json.dumps(value, ensure_ascii=False)


def unquote(value: str) -> str:
    if not (len(value) > 1 and value[0] == value[-1] == '"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _settings_end(lines: list[str]) -> int:
    """One past the line of settings, if there is one."""
    if _is_settings(lines[-1]):
        return len(lines)
    for i in range(len(lines) - 1, 0, -1):
        if lines[i].startswith(_TEMPLATES) and _is_settings(lines[i - 1]):
            return i
    return len(lines)


def _is_settings(line: str) -> bool:
    return not line.startswith(_TEMPLATES) and len(_PAIR.findall(line)) >= 3


def _settings(line: str) -> dict[str, str]:
    return {key: unquote(value.strip()) for key, value in _PAIR.findall(line)}
