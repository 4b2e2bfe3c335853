"""Golden token ids from transformers' CLIPTokenizer.

Run: python tests/golden/make_tokens.py (transformers; seconds). The vocabulary is
CLIP's own file, unpacked here without mlx_sd.
"""

import gzip
import json
import random
import sys
import unicodedata
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

sys.path.insert(0, str(Path(__file__).parent))
from provenance import FOLDER, record

DATA = FOLDER.parents[1] / "mlx_sd/tokenizers/data/bpe_simple_vocab_16e6.txt.gz"
NOTES = """
`tokens.json.gz`: pairs of a prompt and its ids without BOS and EOS.
"""
WRITTEN = r"""
a photo of a cat
A Photo Of A CAT
a red house and a green tree under a night sky
blurry
masterpiece, best quality, ultra-detailed, 8k uhd, (sharp focus:1.3), [bokeh]
portrait of an old man, oil on canvas, Rembrandt, chiaroscuro --ar 3:2
it's, don't, we're, I've, I'm, she'll, they'd, rock'n'roll, 'quoted', O'Neill
IT'S DON'T WE'RE I'VE I'M SHE'LL THEY'D
it’s “curly” ‘quotes’ – and — dashes… ‹›«»
1 12 123 1234567890 3.14 -42 1,000,000 0x1F 1e-5 50% $9.99 #1
²³¹ ½ ¼ Ⅷ ⅸ ① ⑩ ٣٤٥ १२३ 四五六 𝟘𝟙𝟚
café naïve façade Ångström über Straße STRASSE Øresund Łódź
cafe\u0301 nai\u0308ve A\u030angstro\u0308m e\u0301\u0323 a\u0323\u0302
İstanbul ISTANBUL ısı ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ ǅ Ǆ ﬁ ﬂ ẞ
Привет, мир! Ёлка и ёж
Ελληνικά γλώσσα
עִבְרִית שלום עולם
العَرَبِيَّة مرحبا بالعالم
हिन्दी नमस्ते दुनिया क्षत्रिय
ไทย สวัสดีชาวโลก
日本語のプロンプト、猫の写真。
中文提示词，一只猫的照片
한국어 프롬프트 고양이 사진
\u1112\u1161\u11ab\u1100\u1173\u11af
ｆｕｌｌｗｉｄｔｈ　ＴＥＸＴ　１２３
😀 😃😄 🎨🖌️ a 🐱 on a 🛋️
👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇯🇵 ❤️‍🔥
𝓯𝓪𝓷𝓬𝔂 𝕥𝕖𝕩𝕥 𐍈 𒀀 🜁
<|endoftext|>
<|startoftext|>
a <|endoftext|> b <|startoftext|> c
x<|endoftext|>y
<|ENDOFTEXT|> <|StartOfText|>
<|endoftext|><|endoftext|>
<|endoftext <|endoftext|
< | endoftext | >
<|im_start|> </w> cat</w> </w></w>
&amp; &lt;b&gt; &quot;html&quot; <b>bold</b> &amp;amp;
!!!!!!!!!! ?????? ......... ,,,,, ---- ____ ==== ~~~~ ``` ^^^ |||
!@#$%^&*()_+-=[]{};':",./<>?\|`~
a,b;c:d.e!f?g/h\i|j
hello_world snake_case camelCase kebab-case dotted.name
C++ C# F# .NET Node.js x86_64 4k 8K 16:9 24mm f/1.8 iso100
https://example.com/path?query=1&other=two#frag user@example.com
#hashtag @mention $dollar €euro £pound ¥yen ₿
:) :-( ;-P xD <3 ¯\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻
(a:1.2) ((b)) [c] {d|e} <lora:name:0.8> \(escaped\)
BREAK AND break and
the the the the The THE tHe
antidisestablishmentarianism supercalifragilisticexpialidocious
Donaudampfschifffahrtsgesellschaftskapitän
llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
zxqjkvbp wkrtzx mlxsd qqqq
trending on artstation, by greg rutkowski and alphonse mucha
an astronaut riding a horse on mars, cinematic lighting, volumetric fog
'
's
' s
''s
a's'b
'S 'T 'RE
n't
.
,
a
Z
9
é
猫
😀
\ufffd
\x00
a\x00b
\x01\x02\x03 \x1b[31mred\x1b[0m \x7f
tab\tand\nnewline\r\nand\vvertical\fform
a\u00a0b\u2003c\u3000d\u202fe\u205ff
a\u0085b\u2028c\u2029d
a\u200bb\u200cc\u200dd\ufeffe\u2060f
a\u00adb soft\u00adhyphen
a\u180eb \u1680ogham
\ue000\uf8ff \U0010ffff \U000e0041
\u0301 \u0301a a\u0301\u0301 \u20dd
a   b\t\tc  \n  d
"""


def prompts() -> list[str]:
    written = [
        line.encode("raw_unicode_escape").decode("unicode_escape")
        if "\\u" in line or "\\x" in line or "\\U" in line or "\\t" in line
        else line
        for line in WRITTEN.strip("\n").split("\n")
    ]
    blank = ["", " ", "   ", "\t", "\n\n", "\u00a0", "\u3000 ", " a ", "  a  b  "]
    long = [
        ", ".join(f"thing {n} of many" for n in range(40)),
        "cat " * 74,
        "cat " * 75,
        "cat " * 76,
        "cat " * 150,
        "cat " * 151,
        "word" * 200,
        "猫" * 90,
        "😀" * 60,
        "1" * 160,
        " ".join(line for line in written if line.isascii()),
    ]
    return [*written, *blank, *long, *_mixed(150), *_each_block()]


def _mixed(count: int) -> list[str]:
    """Random runs of letters, signs, digits, spaces and other scripts."""
    pick = random.Random(5)
    pools = [
        "abcdefghijklmnopqrstuvwxyz",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "0123456789",
        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        "      \t\n\u00a0",
        "áéíóúàèìòùäëïöüñçåøæœßÁÉÍÑÇÅØÆ",
        "абвгдежзийклмнопАБВГДЕ",
        "日月火水木金土猫犬鳥山川",
        "あいうえおアイウエオー、。",
        "가나다라마바사",
        "😀🎨🐱👍🏽❤️\u200d",
        "\u0300\u0301\u0308\u0327\u0345",
        "'",
    ]
    made = []
    for _ in range(count):
        runs = [
            "".join(pick.choice(pool) for _ in range(pick.randint(1, 6)))
            for pool in pick.choices(pools, k=pick.randint(3, 14))
        ]
        made.append("".join(runs))
    return made


def _each_block() -> list[str]:
    """24 assigned characters from every 1024 code points that have some."""
    pick = random.Random(6)
    made = []
    for start in range(0, 0x20000, 1024):
        codes = [
            chr(code)
            for code in range(start, start + 1024)
            if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
        ]
        if codes:
            made.append("".join(pick.choice(codes) for _ in range(24)))
    return made


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary as vocab.json and merges.txt have it."""
    lines = gzip.decompress(DATA.read_bytes()).decode().split("\n")[1:48895]
    merges = [(first, second) for first, second in map(str.split, lines)]
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    tokens += ["".join(merge) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def main():
    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    cat = tokenizer("a photo of a cat").input_ids
    assert cat == [49406, 320, 1125, 539, 320, 2368, 49407], cat
    pairs = [(t, tokenizer.encode(t, add_special_tokens=False)) for t in prompts()]
    packed = json.dumps(pairs, ensure_ascii=True, separators=(",", ":")).encode()
    path = FOLDER / "tokens.json.gz"
    path.write_bytes(gzip.compress(packed, mtime=0))
    print(f"{len(pairs)} prompts, {path.stat().st_size / 1000:.0f} kB")
    record("make_tokens.py", ("transformers", "tokenizers"), NOTES)


if __name__ == "__main__":
    main()
