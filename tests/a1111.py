"""A1111's reading of its own text, as its documented behaviour says, for tests.

Written from modules/infotext_utils.py of AUTOMATIC1111/stable-diffusion-webui: split
off the last line if it holds three pairs, send what follows "Negative prompt:" to the
negative prompt, and read quoted values as JSON.
"""

import json
import re

# A1111's own pattern of a setting.
_SETTING = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'


def png_info(text: str) -> tuple[str, str, dict[str, str]]:
    """What A1111 would show: prompt, negative prompt, settings."""
    rows = text.strip().split("\n")
    pairs = re.findall(_SETTING, rows[-1])
    body = rows[:-1] if len(pairs) > 2 else rows
    body = [row.strip() for row in body]
    starts = [i for i, row in enumerate(body) if row.startswith("Negative prompt:")]
    split = starts[0] if starts else len(body)
    negative = [
        row[16:].strip() if split + i in starts else row
        for i, row in enumerate(body[split:])
    ]
    settings = {}
    for key, value in pairs if len(pairs) > 2 else []:
        if value[:1] == value[-1:] == '"':
            value = json.loads(value)
        settings[key] = value
    # A1111 adds no line break to a prompt that is empty so far.
    prompts = ["\n".join(part).lstrip("\n") for part in (body[:split], negative)]
    return prompts[0], prompts[1], settings
