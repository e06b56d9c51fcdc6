#!/usr/bin/env python3
"""Writes tokenizer_cases.json: strings, their GPT-NeoX ids and what these decode to; and
post_processor_cases.json: what post-processors put around texts.

The ids are those of the `tokenizers` package reading tests/data/gpt-neox-20b/tokenizer.json, without
any token added at the ends. The script first checks itself against the 47 vectors that come with
the tokenizer.
"""

import json
from pathlib import Path

import numpy as np
import tokenizers

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data" / "gpt-neox-20b"


class Draw:
    """Random choices from a fixed stream (numpy's distributions may change, random_raw does not)."""

    def __init__(self, seed):
        self.bits = np.random.PCG64(seed)

    def below(self, n):
        return int(self.bits.random_raw() >> 32) % n

    def of(self, items):
        return items[self.below(len(items))]


def cases():
    """Pairs (name, text)."""
    for n in range(1, 61):
        yield f"spaces {n}", " " * n
    for n in (1, 2, 3, 23, 24, 25, 26, 47, 48, 49, 50):
        yield f"spaces {n} before a word", " " * n + "word"
        yield f"spaces {n} after a word", "word" + " " * n
        yield f"spaces {n} between", "a" + " " * n + "b"
    for name, text in (
        ("tabs", "\t\t\ta\tb\t"), ("newlines", "\n\n\n"), ("newlines around", "\na\n\nb\n\n\n"),
        ("tab and spaces", " \t  \t   \t"), ("space newline space", " \n  \n   \n    x"),
        ("CRLF", "one\r\ntwo\r\n\r\nthree\r\n"), ("CR only", "one\rtwo\r\rthree"),
        ("indented code", "def f(x):\n    if x:\n        return 1\n\treturn  2\n"),
        ("trailing blanks", "line   \n  next \t\n"), ("form feed and vertical tab", "a\fb\vc\f\v"),
        ("only white space", " \n\t\r\n  \u00a0\u2003 \n"), ("empty", "")):
        yield name, text

    for code in (0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2002, 0x2003, 0x2009, 0x200A, 0x200B, 0x200C,
                 0x200D, 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF, 0x1C, 0x1F):
        c = chr(code)
        yield f"blank U+{code:04X}", f"a{c}b {c}c{c}{c}d {c} "
    yield "control characters", "".join(chr(i) for i in range(32)) + "\x7f" + "\x80\x9f"
    yield "NUL inside", "a\0b\0\0c"

    contractions = "I'm you're he's she'd we'll they've it'd don't 'tis o'clock '' 's't're've'm'll'd"
    yield "contractions lower", contractions
    yield "contractions upper", contractions.upper()
    yield "contractions mixed", "I'M You'Re He'S We'lL They'vE DON'T 'Ll 'D"
    yield "contractions curly", "I\u2019m you\u2019re don\u2019t \u2018tis"
    yield "contraction prefixes", "'sun 'tall 'remain 'very 'many 'llama 'dog 'r 'v 'l"
    yield "apostrophes", "'a ''b '''c a' b'' c''' 's''t 1's 2'll"

    for name, text in (
        ("digits", "1 12 123 1234 12345 123456 1234567890 3.14159 1,000,000 -5 +7 1e-10 0x1F 007"),
        ("digits and letters", "a1b22c333 4th 5GB x86_64 v1.2.3-rc4"),
        ("Arabic-Indic digits", "\u0660\u0661\u0662\u0663 \u06f4\u06f5\u06f6 7\u0668"),
        ("Devanagari digits", "\u0966\u0967\u0968 \u096f\u096f"),
        ("Thai and Lao digits", "\u0e50\u0e51\u0e52 \u0ed0\u0ed9"),
        ("Bengali, Tamil, Khmer digits", "\u09e7\u09e8 \u0be7\u0be8 \u17e1\u17e2"),
        ("full-width digits", "\uff11\uff12\uff13 \uff0b\uff14"),
        ("Roman, circled, fractions", "\u2167 \u2460\u2461 \u00bd \u2153 \u00b2\u00b3 x\u2082 \u3007\u3021"),
        ("mathematical digits", "\U0001d7ce\U0001d7cf\U0001d7e0 \U0001d7ff"),
        ("Chinese numerals", "\u4e00\u4e8c\u4e09 \u5341\u767e\u5343"),
        ("Cuneiform and Ethiopic numbers", "\U00012400 \u1369\u136a\u1372")):
        yield name, text

    for name, text in (
        ("Chinese", "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\u3002"),
        ("Chinese rare", "\U00020000\U0002a6d6 \u9f98\u9750"),
        ("Japanese", "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002\u540d\u524d\u306f\u307e\u3060\u7121\u3044\u3002"),
        ("Japanese half-width", "\uff76\uff9e\uff77\uff9e \uff8a\uff9f \u30ab\u3099 \u306f\u309a"),
        ("Korean", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4"),
        ("Arabic", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f"),
        ("Arabic with marks", "\u0628\u0650\u0633\u0652\u0645\u0650 \u0671\u0644\u0644\u0651\u064e\u0647\u0650"),
        ("Hebrew", "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd"),
        ("Hindi", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\u0964 \u0915\u094d\u0937\u0947\u0924\u094d\u0930"),
        ("Tamil", "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0b89\u0bb2\u0b95\u0bae\u0bcd"),
        ("Thai", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 \u0e01\u0e33\u0e25\u0e31\u0e07"),
        ("Greek", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5 \u1f04\u03bd\u03b8\u03c1\u03c9\u03c0\u03bf\u03c2"),
        ("Russian", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430 \u0439\u043e\u0434"),
        ("Vietnamese", "Ti\u1ebfng Vi\u1ec7t \u0111\u01b0\u1ee3c vi\u1ebft b\u1eb1ng ch\u1eef Latinh"),
        ("Turkish", "\u0130stanbul \u0131\u011fd\u0131r \u015feker i\u0307"),
        ("German", "Gr\u00f6\u00dfe \u00fcber Stra\u00dfe \u1e9e"), ("Georgian, Armenian", "\u10d2\u10d0\u10db\u10d0\u10e0 \u0532\u0561\u0580\u0587"),
        ("Ethiopic, Cherokee", "\u1230\u120b\u121d \u13a3\u13b3\u13a9"), ("Tibetan", "\u0f56\u0f7c\u0f51\u0f0b\u0f66\u0f90\u0f51\u0f0b"),
        ("Myanmar, Khmer", "\u1019\u103c\u1014\u103a\u1019\u102c \u1781\u17d2\u1798\u17c2\u179a"),
        ("Gothic, Linear B", "\U00010330\U00010331 \U00010000\U00010001"),
        ("private use", "\ue000 \uf8ff \U000f0000 \U0010fffd"), ("noncharacters", "\ufdd0 \uffff \U0001ffff"),
        ("replacement character", "\ufffd a\ufffdb"),
        ("ligatures", "\ufb01\ufb02\ufb03 \u01c4 \u0149"), ("punctuation", "!!! ... --- ,,, ;;; ??? \u00bfqu\u00e9? \u00a1S\u00ed! \u2014\u2026\u201cx\u201d"),
        ("mathematics", "\u2200x\u2208\u211d: \u2211\u222b\u221a \u2260 \u2264 \u2265 \U0001d4d0\U0001d4d1 \u03b1\u03b2\u03b3"),
        ("currency and symbols", "\u20ac\u00a3\u00a5\u20b9 \u00a9\u00ae\u2122 \u00a7\u00b6 \u2190\u2192 \u2588\u2591")):
        yield name, text

    # Strings that NFC changes, and some that look as if it would.
    for name, text in (
        ("decomposed accents", "Cafe\u0301 nai\u0308ve A\u030angstro\u0308m n\u0303"),
        ("composed accents", "Caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \u00f1"),
        ("decomposed Vietnamese", "Tie\u0302\u0301ng Vie\u0323\u0302t Vie\u0302\u0323t"),
        ("marks out of order", "a\u0302\u0323 a\u0323\u0302 q\u0307\u0323 q\u0323\u0307 d\u0307\u0323"),
        ("blocked composition", "a\u0305\u0301 e\u0334\u0301 c\u0338\u0327"),
        ("mark after a space", " \u0301 a \u0301\u0308"), ("mark at the start", "\u0301abc"),
        ("many marks", "Z" + "\u0351\u0323\u0302\u034f\u0315\u0489" * 8 + "!"),
        ("Hangul jamo LV", "\u1100\u1161 \u1102\u1165"), ("Hangul jamo LVT", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
        ("Hangul LV plus T", "\uac00\u11a8 \ud558\u11ab"), ("Hangul with T base", "\uac00\u11a7"),
        ("Hangul lone jamo", "\u1100 \u1161 \u11a8 \u1100\u1100\u1161"),
        ("Hangul old jamo", "\u115f\u1161\u11a8 \ua960\ud7b0"),
        ("Hangul compatibility jamo", "\u314e\u314f\u3134"),
        ("singletons", "\u212b \u2126 \u212a \u1f71 \u0374 \u037e \u0387 \u2000 \u2001 \u2329"),
        ("composition exclusions", "\u0958\u0959 \u0915\u093c \u09dc \u0a59 \u0f43 \ufb1d\ufb2a \u2adc"),
        ("non-starter decompositions", "a\u0344 a\u0343 a\u0340 \u0f73 \u0f75 \u0f81"),
        ("Greek with marks", "\u03b1\u0301 \u03b1\u0313\u0300\u0345 \u1f02\u0345 \u1f80 \u03b9\u0308\u0301"),
        ("long s with dots", "\u1e9b\u0323 \u017f\u0323\u0307"),
        ("Cyrillic with marks", "\u0438\u0306 \u0415\u0308 \u0456\u0308"),
        ("Arabic hamza", "\u0627\u0653 \u0627\u0654 \u0648\u0654 \u064a\u0654"),
        ("Indic vowels", "\u09c7\u09be \u0bc6\u0bbe \u0bc7\u0bbe \u0cc6\u0cc2 \u0cbf\u0cd5 \u0dd9\u0dcf \u0dd9\u0dca"),
        ("Kaithi, Chakma, Grantha", "\U00011099\U000110ba \U00011131\U00011127 \U00011347\U0001133e"),
        ("musical symbols", "\U0001d15e \U0001d157\U0001d165 \U0001d1bb"),
        ("CJK compatibility", "\uf900\uf9d0 \ufa10 \U0002f800 \U0002fa1d"),
        ("Kana with marks", "\u304b\u3099 \u3046\u3099 \u309d\u3099 \u30db\u309a"),
        ("ASCII with marks", "<\u0338 =\u0338 >\u0338"), ("Balinese", "\u1b05\u1b35 \u1b3a\u1b35"),
        ("compatibility is kept", "\ufb01 \u2460 \uff21 \u00b2 \u3392")):
        yield "NFC: " + name, text

    for name, text in (
        ("emoji", "\U0001f600\U0001f680 \u2764\ufe0f \U0001f44d\U0001f3fd \u263a"),
        ("emoji ZWJ", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f9d1\U0001f3fe\u200d\U0001f4bb"),
        ("emoji flags and keycaps", "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5 1\ufe0f\u20e3 #\ufe0f\u20e3"),
        ("emoji tags", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"),
        ("zero width", "zero\u200bwidth\u200cnon\u200djoin\u2060er\ufeff"),
        ("direction marks", "abc\u200e\u200f\u202a\u202edef\u202c\u2066x\u2069"),
        ("soft hyphen", "co\u00adop\u00ad er"), ("variation selectors", "\u2601\ufe0e \u2601\ufe0f \u845b\U000e0100")):
        yield name, text

    for name, text in (
        ("between", "a<|endoftext|>b"), ("alone", "<|endoftext|>"), ("twice", "<|endoftext|><|endoftext|>"),
        ("with blanks", "  <|endoftext|>   x <|endoftext|> \n"), ("padding", "x<|padding|>y <|padding|>"),
        ("broken", "<|endoftext| > <|endoftext <|endof<|endoftext|>text|> <|ENDOFTEXT|>"),
        ("nested", "<|<|padding|>endoftext|>"), ("before a mark", "e<|endoftext|>\u0301 e\u0301<|endoftext|>"),
        ("with marks inside", "<|endofte\u0301xt|> <|endoftext|\u0338>"),
        ("space runs around", " " * 24 + "<|endoftext|>" + " " * 25 + "<|padding|>" + " " * 2)):
        yield "special token " + name, text

    for name, text in (
        ("sentence", "The quick brown fox jumps over the lazy dog."),
        ("URL", "https://example.org/a/b?c=d&e=%20f#g user@example.com"),
        ("JSON", '{"a": [1, 2.5, null, true], "b": {"c": "\\u00e9\\n"}}'),
        ("C++", "template <typename T>\nauto f(T&& x) -> decltype(x) { return x++ >> 2; }  // ok\n"),
        ("LaTeX", "\\frac{\\partial h}{\\partial t} = A h(t) + B x(t) \\\\ y = C^\\top h"),
        ("markdown", "# Title\n\n* item **bold** _it_\n  * nested\n\n```py\nx = 1\n```\n| a | b |\n|---|---|"),
        ("underscores", "snake_case __init__ ____ _a_ a__b"), ("camel case", "camelCaseStringHTTPServerXMLParser"),
        ("upper case", "THIS IS SHOUTING, ISN'T IT?"), ("repeated letters", "aaaaaaaaaaaaaaaa bbbbbbb hhhmmmmm nooooooo"),
        ("repeated symbols", "=" * 70 + "\n" + "-" * 33 + "*" * 17 + "#" * 9 + "." * 41),
        ("one letter", "a"), ("one byte token", "\u00ff"), ("long word of one letter", "a" * 5000),
        ("long word", "".join("abcdefghijklmnopqrstuvwxyz"[(i * i + 7 * i // 3) % 26] for i in range(5000))),
        ("long run of symbols", "".join("!?.,;:-_()[]"[(i * i + i // 5) % 12] for i in range(600))),
        ("long run of digits", "".join(str((i * i + i // 7) % 10) for i in range(600))),
        ("long run of newlines", "\n" * 300), ("long run of tabs", "\t" * 100), ("long run of spaces", " " * 1000),
        ("long Chinese", "".join(chr(0x4e00 + (i * 37) % 5000) for i in range(200)))):
        yield name, text

    pieces = [" ", "  ", "   ", "\t", "\n", "\r\n", "a", "The", "ing", "'s", "'LL", "'", "7", "42", ".", "...",
              "_", "-", "e\u0301", "\u00e9", "\u0301", "\u1100", "\u1161", "\u11a8", "\uac00", "\u4e2d", "\u0928\u094d",
              "\u0661", "\U0001f600", "\u200d", "\u00a0", "\u3000", "\u2028", "<|endoftext|>", "<|padding|>", "<|",
              "\u0410", "\u05d0", "\0", "\u007f", "\u2126", "\u0958", "$", "\u00bd", "Hello", "zebra"]
    draw = Draw(50254)
    for i in range(60):
        yield f"mixture {i}", "".join(draw.of(pieces) for _ in range(6 + draw.below(30)))


def post_processors():
    """Post-processors in the kinds of files, for a tokenizer with "<s>" = 256 and "</s>" = 257."""
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    text = lambda: {"Sequence": {"id": "A", "type_id": 0}}
    pair = [text(), {"Sequence": {"id": "B", "type_id": 1}}]
    tokens = {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]},
              "</s>": {"id": "</s>", "ids": [257], "tokens": ["</s>"]},
              "two": {"id": "two", "ids": [257, 7], "tokens": ["</s>", "x"]}}
    template = lambda *single: {"type": "TemplateProcessing", "single": list(single), "pair": pair,
                                "special_tokens": tokens}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                  "use_regex": True}
    ends = {"sep": ["</s>", 257], "cls": ["<s>", 256]}
    roberta = {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": False}
    yield None
    yield bytes_only
    yield template(special("<s>"), text())
    yield template(text(), special("</s>"))
    yield template(special("<s>"), special("two"), text(), special("two"))
    yield template(text())
    yield {"type": "BertProcessing", **ends}
    yield roberta
    yield {"type": "Sequence", "processors": [bytes_only, template(special("two"), text())]}
    yield {"type": "Sequence", "processors": []}


def byte_file(post_processor):
    """A tokenizer file whose first 256 ids are the bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    vocab = {chr(b if b in plain else 0x100 + others.index(b)): b for b in range(256)}
    added = [{"id": 256 + i, "content": c, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, c in enumerate(("<s>", "</s>"))]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None, "post_processor": post_processor,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                              "use_regex": True}, "decoder": None,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def write_post_processor_cases():
    rows = []
    for post_processor in post_processors():
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(byte_file(post_processor)))
        ids = {text: tokenizer.encode(text, add_special_tokens=True).ids for text in ("", "hi", "<s>a")}
        rows.append(json.dumps({"post_processor": post_processor, "ids": ids}))
    (HERE / "post_processor_cases.json").write_text(
        '{"source": ' + json.dumps(f"tokenizers {tokenizers.__version__}") + ',\n "cases": [\n' +
        ",\n".join(rows) + "\n]}\n")


def main():
    write_post_processor_cases()
    tokenizer = tokenizers.Tokenizer.from_file(str(DATA / "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    texts = (DATA / "vectors.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = (DATA / "vectors.out").read_text().split("\n")
    for text, ids in zip(texts, expected, strict=True):
        if encode(text) != [int(i) for i in ids.split()]:
            raise SystemExit(f"differs from vectors.out: {text!r}")

    rows, names, changed = [], set(), 0
    for name, text in cases():
        assert name not in names, name
        names.add(name)
        ids = encode(text)
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        changed += decoded != text
        rows.append(json.dumps({"name": name, "text": text, "ids": ids, "decoded": decoded}))
    header = json.dumps(f"tokenizers {tokenizers.__version__}, tests/data/gpt-neox-20b/tokenizer.json")
    (HERE / "tokenizer_cases.json").write_text(
        '{"source": ' + header + ',\n "cases": [\n' + ",\n".join(rows) + "\n]}\n")
    print(f"{len(texts)} vectors hold; {len(rows)} cases written, {changed} changed by decoding")


if __name__ == "__main__":
    main()
