"""What A1111 reads in prompts, good and broken ones.

Run: python tests/golden/make_prompts.py WEBUI/modules/prompt_parser.py (lark; 2 min).
The file is A1111's of 1.6 to 1.10; only its three parsing functions are called. Its
lark grammar has several readings where an edit touches a stray bracket or colon, and
lark picks one by Python's hash seed: each prompt is read under several seeds, and every
answer kept.
"""

import gzip
import json
import os
import random
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from provenance import FOLDER, record

SEEDS = 8
NOTES = """
Made with the grammar and the three functions alone of A1111's 1.10, written off into a
file of their own, as the module imports torch.
`prompts.json.gz`: a list of [prompt, steps, schedules, compositions, pieces]. Of the
schedules there are as many as A1111 gave under 8 hash seeds; pieces are null where its
parser of emphasis stops at a number such as "1.2.3".
"""
WRITTEN = r"""
a [b:3]
a [b: 3]
a [b:3 ]
a [[[b]]:2]
[(a:2):3]
a [b : c : 1] d
a[b:[c:d:2]:1]e
a [unbalanced
a [b:.5] c
((a][:b:c [d:3]
[a|(b:1.1)]
[fe|]male
[fe|||]male
[a|[b|c]]
[a|[b:c:2]|d]
[[a:1]:[b:2]:5]
[a::0.5]
[:b:0.5]
[::3]
[:]
[|]
[]
a|b [c:d:3]
[a|b:0.5]
(a|b)
[a:b:c:5]
[a\:b:3] \[c:d:3\]
a \ b [c:d:3]
[a:b:1.0] [c:d:1] [e:f:1.5] [g:h:99]
[a:b:0] [c:d:-1] [e:f:1e1] [g:h:1e-1] [i:j:+2] [k:l:2.]
fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]
normal text
an (important) word
(unbalanced
unbalanced] and) more:1.2)
\(literal\] \\ \[ \) \x \
(unnecessary)(parens)
a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).
(a [b) c] d
(a: 1.2 ) (b :1.3) (c:+.5) (d:-1.) (e:x) (f:)
a BREAK b, BREAKc dBREAK e BREAK BREAK f
(a BREAK b) [c BREAK d] (BREAK:1)
a cat :1.2 AND a dog AND a penguin :2.2
AND a AND  AND b : -0.5 AND
a:b:1.2 AND (c:1.3) AND d :.5 AND e :1.2.3 AND ANDy :2
[a AND b:c:3]
ratio 16:9
"""


def prompts() -> list[str]:
    """The written ones, and random ones of the grammar's own signs."""
    rng = random.Random(0)
    few = ["a", "b", " ", "[", "]", "(", ")", ":", "3", ".5", ":2]", "[a:b:", ", "]
    more = ["|", "\\", "\\(", "\\]", "-1", "1e1", "[x|y]", "é", "𝓯", "\n", "BREAK"]
    more += [" BREAK ", " AND ", "AND", ":1.2", ":1.2)", "0", "1.2.3"]
    made = []
    for index in range(700):
        signs = few if index % 2 else few + more
        made.append("".join(rng.choices(signs, k=rng.randrange(1, 14))))
    return list(dict.fromkeys([*WRITTEN.strip().split("\n"), *made]))


def load(path: str):
    spec = spec_from_file_location("prompt_parser", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schedules(path: str) -> list:
    """Under this process's hash seed: [steps, schedule] of each prompt."""
    theirs, answers = load(path), []
    for index, prompt in enumerate(prompts()):
        steps = (10, 5, 2, 1)[index % 4]
        answer = theirs.get_learned_conditioning_prompt_schedules([prompt], steps)[0]
        answers.append([steps, answer])
    return answers


def pieces(theirs, prompt: str) -> list | None:
    try:
        return theirs.parse_prompt_attention(prompt)
    except ValueError:
        return None


def compositions(theirs, prompt: str) -> list:
    (indexes,), texts, _ = theirs.get_multicond_prompt_list([prompt])
    return [[texts[index], weight] for index, weight in indexes]


def main(path: str):
    theirs, runs = load(path), []
    for seed in range(SEEDS):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, __file__, path, "schedules"]
        out = subprocess.run(command, env=environment, capture_output=True, check=True)
        runs.append(json.loads(out.stdout))
    rows = []
    for prompt, *answers in zip(prompts(), *runs, strict=True):
        different = {json.dumps(schedule): schedule for _, schedule in answers}
        found = compositions(theirs, prompt), pieces(theirs, prompt)
        rows.append([prompt, answers[0][0], list(different.values()), *found])
    packed = gzip.compress(json.dumps(rows).encode(), mtime=0)
    (FOLDER / "prompts.json.gz").write_bytes(packed)
    ambiguous = sum(len(row[2]) > 1 for row in rows)
    print(f"{len(rows)} prompts, {ambiguous} ambiguous, {len(packed) / 1000:.0f} kB")
    record("make_prompts.py", ("lark",), NOTES)


if __name__ == "__main__":
    if sys.argv[2:]:
        json.dump(schedules(sys.argv[1]), sys.stdout)
    else:
        main(sys.argv[1])
