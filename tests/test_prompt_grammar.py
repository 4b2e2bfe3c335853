"""Emphasis, editing and AND against A1111's own answers (golden/make_prompts.py)."""

import gzip
import json
import random
import re
import sys
from pathlib import Path

import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.tokenizers.editing import PromptPlan, compositions, schedule
from mlx_sd.tokenizers.emphasis import BREAK, Piece, parse

GOLDEN = json.loads(
    gzip.decompress((Path(__file__).parent / "golden/prompts.json.gz").read_bytes())
)


def random_texts(count: int, signs: str = "", seed: int = 0) -> list[str]:
    """Any characters of Unicode but surrogates, and the signs more often."""
    rng = random.Random(seed)

    def character() -> str:
        if signs and rng.random() < 0.6:
            return rng.choice(signs)
        code = rng.choice((0x80, 0x3000, 0x10000, sys.maxunicode + 1))
        code = rng.randrange(code)
        return chr(code if not 0xD800 <= code < 0xE000 else 0x20)

    return [
        "".join(character() for _ in range(rng.randrange(60))) for _ in range(count)
    ]


def test_emphasis_is_that_of_a1111():
    readable = [(row[0], row[4]) for row in GOLDEN if row[4] is not None]
    wrong = [prompt for prompt, p in readable if parse(prompt) != list(map(tuple, p))]
    assert len(readable) > 600 and wrong == []


def test_schedules_are_those_of_a1111():
    wrong = []
    for prompt, steps, answers, *_ in GOLDEN:
        found = [list(entry) for entry in schedule(prompt, steps)]
        if found not in answers:
            wrong.append((prompt, found, answers))
    changing = sum(len(answers[0]) > 1 for _, _, answers, *_ in GOLDEN)
    assert changing > 50 and wrong == []


def test_compositions_are_those_of_a1111():
    wrong = [
        row[0] for row in GOLDEN if compositions(row[0]) != list(map(tuple, row[3]))
    ]
    assert sum(len(row[3]) > 1 for row in GOLDEN) > 50 and wrong == []


@pytest.mark.parametrize(
    "prompt, expected",
    [  # the examples that A1111's source gives
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
    ],
)
def test_emphasis_of_documented_examples(prompt, expected):
    assert parse(prompt) == expected


def test_what_a1111_cannot_read_as_a_number_is_text():
    assert parse("(a:1.2.3)") == [("a:1.2.3", 1.1)]


def test_break_in_brackets_is_a_word_as_in_a1111():
    assert parse("a BREAK b") == [("a", 1.0), BREAK, ("b", 1.0)]
    assert Piece("BREAK", -1.1) in parse("(a BREAK b)")


def slow_weights(text: str) -> list[tuple[str, float]]:
    """Each letter and its weight, innermost brackets first; of balanced ones only."""
    letters = [(letter, 1.0) for letter in text]
    while closers := [i for i, (letter, _) in enumerate(letters) if letter in ")]"]:
        end = closers[0]
        start = max(i for i in range(end) if letters[i][0] in "([")
        inner = "".join(letter for letter, _ in letters[start + 1 : end])
        factor = 1.1 if letters[end][0] == ")" else 1 / 1.1
        kept = end
        if letters[end][0] == ")" and (number := re.search(r":([\d.]+)$", inner)):
            factor, kept = float(number[1]), start + 1 + number.start()
        scaled = [(letter, w * factor) for letter, w in letters[start + 1 : kept]]
        letters[start : end + 1] = scaled
    return letters


def balanced(rng: random.Random, depth: int = 4) -> str:
    parts = []
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(4) if depth else 0
        inner = (
            balanced(rng, depth - 1) if kind else rng.choice(["a", "b c", "d,", "é"])
        )
        weight = f":{rng.choice(['1.5', '0.25', '2', '.7'])}" if kind == 2 else ""
        opener, closer = {0: ("", ""), 3: ("[", "]")}.get(kind, ("(", ")"))
        parts.append(opener + inner + weight + closer)
    return "".join(parts)


@pytest.mark.parametrize("seed", range(100))
def test_each_letter_has_the_product_of_the_brackets_around_it(seed):
    text = balanced(random.Random(seed))
    expected = slow_weights(text)
    found = [(letter, piece.weight) for piece in parse(text) for letter in piece.text]
    assert "".join(c for c, _ in found) == "".join(c for c, _ in expected)
    assert [w for _, w in found] == pytest.approx([w for _, w in expected], rel=1e-12)


def test_text_without_markup_is_one_piece():
    texts = [re.sub(r"[\\()\[\]]|BREAK", "", text) for text in random_texts(300)]
    assert [parse(text) for text in texts] == [[(text, 1.0)] for text in texts]


def test_escaped_text_reassembles_whatever_is_in_it():
    for text in random_texts(300, signs="()[]\\:|12. ab"):
        escaped = re.sub(r"([\\()\[\]])", r"\\\1", text)
        assert parse(escaped) == [(text, 1.0)]


def test_any_text_parses_and_only_markup_is_lost():
    for text in random_texts(500, signs="()[]\\:|12. ab", seed=1):
        pieces = "".join(piece.text for piece in parse(text))
        letters = re.sub(r"[\\()\[\]:|.\d\s+-]", "", text)
        assert re.sub(r"[\\()\[\]:|.\d\s+-]", "", pieces) == letters
        ends = [end for end, _ in schedule(text, 7)]
        assert ends == sorted(set(ends)) and ends[-1] == 7 and ends[0] >= 1
        assert PromptPlan.positive(text, 7).at(6)


def test_text_without_brackets_has_one_schedule():
    for text in random_texts(300, seed=2):
        text = re.sub(r"[\[\]]", "", text)
        assert schedule(text, 5) == [(5, text)]


@pytest.mark.parametrize("sign", ["(", "[", ")", "[a:", "[a|", ":", "\\"])
def test_deep_nesting_is_read(sign):
    assert schedule(sign * 3000, 2)[-1][0] == 2 and parse(sign * 3000)


def test_deep_edits_are_read():
    assert schedule("[" * 3000 + "a" + ":1]" * 3000, 2) == [(1, ""), (2, "a")]


def shown(plan: PromptPlan, steps: int) -> list[str]:
    return [plan.at(index)[0][0] for index in range(steps)]


def test_a_change_after_step_n_shows_from_the_second_step_behind_it():
    # github.com/AUTOMATIC1111/stable-diffusion-webui/issues/7279: "[a:b:5] starts
    # including b only at the 7th step".
    plan = PromptPlan.positive("[a:b:5]", 10)
    assert shown(plan, 10) == ["a"] * 6 + ["b"] * 4
    assert shown(PromptPlan.positive("[a|b]", 5), 5) == ["a", "a", "b", "a", "b"]


def test_a_plan_composes_schedules():
    plan = PromptPlan.positive("a [b:c:2] AND d :0.5 AND a [b:c:2]", 4)
    assert plan.at(0) == [("a b", 1.0), (" d", 0.5), (" a b", 1.0)]
    assert plan.at(3) == [("a c", 1.0), (" d", 0.5), (" a c", 1.0)]
    assert plan.texts() == ["a b", "a c", " d", " a b", " a c"]


def test_a_negative_plan_does_not_compose():
    plan = PromptPlan.negative("a AND [b:c:1] :2", 4)
    assert plan.at(0) == [("a AND b :2", 1.0)] and plan.at(3) == [("a AND c :2", 1.0)]


def test_a_weight_of_the_whole_prompt_is_warned_of(caplog):
    assert PromptPlan.positive("a cat AND a dog :2", 4) and not caplog.text
    assert PromptPlan.positive("ratio 16:9", 4).at(0) == [("ratio 16", 9.0)]
    assert "counts 9 times" in caplog.text
    assert PromptPlan.positive("ratio 16:9,", 4).at(0) == [("ratio 16:9,", 1.0)]


def test_an_infinite_weight_is_an_error():
    with pytest.raises(ConfigError, match="' b' has an infinite weight"):
        PromptPlan.positive(f"a AND b:{'9' * 400}", 4)
