"""Prompts that change from step to step, `[a:b:0.5]` and `[a|b]`, and `AND`.

The grammar is that of A1111 (modules/prompt_parser.py, 1.6 to 1.10); docs/prompts.md
describes it.
"""

import logging
import re
from dataclasses import dataclass, field
from math import inf, isfinite

from ..errors import ConfigError

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"[\[\]():|]|(?:[^\\\[\]():|]|\\.)+|\\")
_STEP = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([+-]?(?:\d+\.?|\d*\.\d+))")

_OPENERS = {")": "(", "]": "["}
_MOST_PARTS = {"(:": 2, "[:": 3, "[|": inf}  # by bracket and separator


def schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """The texts that a prompt becomes in turn, each with the step at which it ends.

    `[a:b:WHEN]` is a, and b after WHEN; `[b:WHEN]` adds b, `[a::WHEN]` removes a. WHEN
    is a step, or with a point in it a part of all steps. `[a|b|c]` takes turns. What
    does not follow the grammar stays as it is; emphasis always does.

    Args:
        steps: of sampling, at least 1.

    Returns: (last step, text), steps rising to `steps`; see PromptPlan.at.
    """
    try:
        ends = sorted(_Reading(prompt, 1, steps).ends)
        return [(end, _Reading(prompt, end, steps).text) for end in ends]
    except _Unreadable:
        return [(steps, prompt)]


def compositions(prompt: str) -> list[tuple[str, float]]:
    """The texts that AND joins, each with its weight: `a AND b :0.7`.

    Source: Liu et al. 2022 (arXiv 2206.01714): noise predictions are added, each as far
    as it differs from the unconditional one, times its weight and the cfg scale.
    """
    composed = []
    for part in _AND.split(prompt):
        text, colon, end = part.rstrip().rpartition(":")
        weight = _WEIGHT.fullmatch(end) if colon else None
        if weight:
            composed.append((text.rstrip(), float(weight[1])))
        else:
            composed.append((part.rstrip(), 1.0))
    return composed


@dataclass(frozen=True)
class PromptPlan:
    """What a prompt asks for at each step."""

    parts: tuple[tuple[float, tuple[tuple[int, str], ...]], ...]  # weight, schedule

    @staticmethod
    def positive(prompt: str, steps: int) -> "PromptPlan":
        """Divided at AND, then each part scheduled.

        Raises: ConfigError for a weight that is no finite number.
        """
        parts = compositions(prompt)
        for text, weight in parts:
            if not isfinite(weight):
                raise ConfigError(f"prompt: {text!r:.100} has an infinite weight")
        if len(parts) == 1 and parts[0][1] != 1:
            log.warning(
                "the prompt ends in a weight: all of it counts %g times, as in A1111; "
                "where none is meant, end it in a comma",
                parts[0][1],
            )
        return PromptPlan(tuple((w, tuple(schedule(t, steps))) for t, w in parts))

    @staticmethod
    def negative(prompt: str, steps: int) -> "PromptPlan":
        """Scheduled; AND is a word in it."""
        return PromptPlan(((1.0, tuple(schedule(prompt, steps))),))

    def at(self, index: int) -> list[tuple[str, float]]:
        """The texts and their weights in the step of this index, from 0 to steps - 1.

        A1111 compares this index, which begins at 0, with steps that begin at 1: what
        ends at step n is shown in the first n + 1. So do we, for the same picture.
        """
        return [
            (next(text for end, text in texts if index <= end), weight)
            for weight, texts in self.parts
        ]

    def texts(self) -> list[str]:
        """Every text of the plan, once."""
        found = [text for _, texts in self.parts for _, text in texts]
        return list(dict.fromkeys(found))


class _Unreadable(Exception):
    """A sign where the grammar has none; A1111 then edits nothing in the prompt."""


@dataclass
class _Group:
    """An open bracket and its parts so far, in which all edits are made."""

    opener: str = ""  # "": none, the whole prompt
    start: int = 0  # where in the prompt the last part begins
    separator: str = ""  # once there are two parts
    parts: list[str] = field(default_factory=lambda: [""])

    def __str__(self) -> str:
        return self.opener + self.separator.join(self.parts)


class _Reading:
    """`text`, the prompt at one step, and `ends`, the steps at which it may change.

    Brackets are edits only if all between them is well-formed. As soon as something is
    not, all brackets that are open are plain signs.
    """

    def __init__(self, prompt: str, step: int, steps: int):
        self.step, self.steps = step, steps
        self.ends = {steps}
        self._open = [_Group()]
        for token in _TOKEN.finditer(prompt):
            sign = token[0]
            if sign in "([":
                self._open.append(_Group(sign, token.end()))
            elif sign in ")]":
                last = prompt[self._open[-1].start : token.start()]
                self._close(sign, last)
            elif sign in ":|":
                self._separate(sign, token.end())
            elif sign == "\\":  # which escapes nothing
                raise _Unreadable
            else:
                self._add(sign)
        self._give_up()
        self.text = str(self._open[0])

    def _add(self, text: str) -> None:
        self._open[-1].parts[-1] += text

    def _give_up(self) -> None:
        """Make plain text of the groups that are open."""
        if any(group.separator == "|" for group in self._open):
            raise _Unreadable
        if len(self._open) > 1:
            self._open = [_Group(parts=["".join(map(str, self._open))])]

    def _separate(self, sign: str, start: int) -> None:
        group = self._open[-1]
        most = _MOST_PARTS.get(group.opener + sign, 0)
        if group.separator in ("", sign) and len(group.parts) < most:
            group.separator, group.start = sign, start
            group.parts.append("")
        elif sign == "|":
            raise _Unreadable
        else:
            self._give_up()
            self._add(sign)

    def _close(self, sign: str, last: str) -> None:
        group = self._open[-1]
        text = None
        if group.opener == _OPENERS[sign]:
            text = self._edited(group, sign, last)
        if text is None:
            self._give_up()
        else:
            self._open.pop()
        self._add(sign if text is None else text)

    def _edited(self, group: _Group, sign: str, last: str) -> str | None:
        """What a group is at this step; None if its last part should be a step."""
        if group.opener == "(" or not group.separator:
            return str(group) + sign
        if group.separator == "|":
            self.ends.update(range(1, self.steps + 1))
            return group.parts[(self.step - 1) % len(group.parts)]
        if (when := _STEP.fullmatch(last)) is None:
            return None
        number = float(when[1]) * (self.steps if "." in when[1] else 1)
        end = int(max(0, min(number, self.steps)))
        if end:
            self.ends.add(end)
        *before, after, _ = group.parts
        return "".join(before) if self.step <= end else after
