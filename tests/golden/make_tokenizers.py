#!/usr/bin/env python3
"""Writes tokenizers/: small vocabularies of every kind and what the `tokenizers` and `sentencepiece`
packages make of texts with them.

`<base>.json` and `<name>.model` are tokenizer files, trained here. `cases.json` has `texts`, and for
each of `variants` a base, a JSON merge patch over it (but objects with a `type` replace), and for every text the ids and what they decode
to (null where that is the text); null in place of ids where the package fails. `sentencepiece` has the
same for the binary files, without patches; `tables` the contents of two of them. Some of the trainers
break ties by chance, so that another run writes other vocabularies.
"""

import base64
import json
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
OUT = HERE / "tokenizers"
MARK = "\u2581"

TEXTS = [
    "", " ", "  ", "   \n\t ", "a", " a", "a ", "  two  spaces  ", "The quick brown fox.",
    "I'm sure they've said: \"don't!\"", "UPPER lower MiXeD", "x=1234567, y=3.14e-10 100%",
    "Caf\u00e9 na\u00efve \u00c5ngstr\u00f6m", "Cafe\u0301 A\u030angstro\u0308m", "\u00e9\u0301\u0327x",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u3002", "\u543e\u8f29\u306f\u30ab\u30bf\u30ab\u30ca\u30fc\u732b abc",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0645\u0631\u062d\u0628\u0627 \u0661\u0662\u0663",
    "\ud55c\uae00 \u1112\u1161\u11ab", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 ok \U0001f1e9\U0001f1ea",
    "\ufb01ne \u2460\u00bd\u2122 \uff21\uff22", "a\u00a0b\u2003c\u3000d\u200be\u2028f\u0085g", "nul\0x \x01\x02\x7f\x1b[0m",
    "line\nline\r\n\r\n\tindent", "\u2581under \u2581\u2581", "a\u2581b", "<s>hello</s> <unk>", " <s> x </s>y",
    "<tag>in<tag>", "wordword word-word_word", "[CLS] the [MASK] of [SEP]", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<0x41><0x0A>", "##ing ing", "\u24d0\u24d1\u02b0x \u00aa", "unbelievably-unaffordable internationalization",
    "http://example.org/a_b?c=d&e=%20#f", "\ufffd\ue000\ufdd0", "\u0e01\u0e33 \u0928\u092e\u0938\u094d\u0924\u0947", "e" * 120 + " end",
]


def corpus():
    text = (HERE.parent / "data" / "heldout_64k.txt").read_text(encoding="utf-8", errors="ignore")
    lines = [line for line in text.splitlines() if line.strip()][:700]
    return lines + ["Caf\u00e9 na\u00efve \u4eca\u5929 \u041f\u0440\u0438\u0432\u0435\u0442 \u6211\u4eec 1234567 don't"] * 20


SPECIAL = [AddedToken("<unk>", special=True, normalized=False), AddedToken("<s>", special=True, normalized=False),
           AddedToken("</s>", special=True, normalized=False)]


def bases():
    lines = corpus()
    result = {}

    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=520, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=SPECIAL, show_progress=False))
    result["bytes"] = bytes_

    chars = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    chars.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    # Cut while training only, as SentencePiece does it.
    chars.pre_tokenizer = pre_tokenizers.Split(MARK, "merged_with_next")
    chars.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, limit_alphabet=90, show_progress=False))
    chars.pre_tokenizer = None
    chars.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    file = json.loads(chars.to_str())
    for i in range(256):
        file["model"]["vocab"][f"<0x{i:02X}>"] = len(file["model"]["vocab"])
    file["model"]["byte_fallback"] = True
    result["chars"] = Tokenizer.from_str(json.dumps(file))

    words = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.BPEDecoder("</w>")
    words.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, limit_alphabet=60, continuing_subword_prefix="##", end_of_word_suffix="</w>", show_progress=False))
    result["affixes"] = words

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=420, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False))
    result["unigram"] = unigram

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.train_from_iterator(lines, trainers.WordPieceTrainer(
        vocab_size=420, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    result["pieces"] = pieces

    level = Tokenizer(models.WordLevel(unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    level.train_from_iterator(lines, trainers.WordLevelTrainer(vocab_size=250, special_tokens=SPECIAL, show_progress=False))
    result["level"] = level
    return result


def added(content, id_, **flags):
    token = {"id": id_, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    token.update(flags)
    return token


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(key, *steps):
    return {"type": "Sequence", key: list(steps)}


CHARSMAP_RULES = [("\u00e9", "e"), ("e\u0301", "e"), ("\ufb01", "fi"), ("\u2460", "1"), ("\u00bd", "1/2"),
                  ("\u3000", " "), ("\u00a0", " "), ("\t", " "), ("\n", " "), ("\uff21", "A"), ("\u2122", "TM"),
                  ("A\u030a", "\u00c5"), ("\u00ad", ""), ("\u200b", " "), ("\x01", "")]


def variants(charsmap, next_id):
    """(name, base, patch)"""
    yield "bytes", "bytes", {}
    yield "chars", "chars", {}
    yield "affixes", "affixes", {}
    yield "unigram", "unigram", {}
    yield "pieces", "pieces", {}
    yield "level", "level", {}

    # Models
    yield "bytes, prefix space", "bytes", {"pre_tokenizer": {"add_prefix_space": True}}
    yield "bytes, no regex", "bytes", {"pre_tokenizer": {"use_regex": False}}
    yield "bytes, ignored merges", "bytes", {"model": {"ignore_merges": True}}
    yield "bytes by normalizer", "bytes", {"normalizer": {"type": "ByteLevel"}, "pre_tokenizer": None}
    yield "chars, unknown fused", "chars", {"model": {"byte_fallback": False}}
    yield "chars, unknown apart", "chars", {"model": {"byte_fallback": False, "fuse_unk": False}}
    yield "chars, nothing for unknown", "chars", {"model": {"byte_fallback": False, "unk_token": None}}
    yield "chars, ignored merges", "chars", {"model": {"ignore_merges": True}}
    yield "chars, one byte missing", "chars", {"model": {"vocab": {"<0xE4>": None}}}
    yield "chars, cut", "chars", {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": False}}
    yield "unigram, never", "unigram", {"pre_tokenizer": {"prepend_scheme": "never"}, "decoder": {"prepend_scheme": "never"}}
    yield "unigram, first", "unigram", {"pre_tokenizer": {"prepend_scheme": "first"}, "added_tokens": None}
    yield "unigram, not cut", "unigram", {"pre_tokenizer": {"split": False}}
    yield "unigram, no unknown", "unigram", {"model": {"unk_id": None}}
    yield "pieces, short words", "pieces", {"model": {"max_input_chars_per_word": 8}}
    yield "pieces, other prefix", "pieces", {"model": {"continuing_subword_prefix": "@"}}
    yield "level, no decoder", "level", {"decoder": None}

    # Normalizers
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        yield form, "bytes", {"normalizer": {"type": form}}
    yield "Strip", "bytes", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}
    yield "Strip left", "bytes", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}}
    yield "NFD and StripAccents", "bytes", {"normalizer": sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"})}
    yield "Replace", "bytes", {"normalizer": sequence(
        "normalizers", {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}, {"type": "Prepend", "prepend": ">"})}
    for name, clean, han, accents, lower in (("all", True, True, None, True), ("cased", True, True, None, False),
                                             ("accents kept", True, False, False, True), ("not clean", False, True, True, False)):
        yield f"BertNormalizer, {name}", "bytes", {"normalizer": {
            "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": han, "strip_accents": accents, "lowercase": lower}}
    yield "Precompiled", "bytes", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}}

    # Pre-tokenizers, on words so that the cuts show
    for name, step in (
        ("Whitespace", {"type": "Whitespace"}), ("WhitespaceSplit", {"type": "WhitespaceSplit"}),
        ("BertPreTokenizer", {"type": "BertPreTokenizer"}), ("UnicodeScripts", {"type": "UnicodeScripts"}),
        ("CharDelimiterSplit", {"type": "CharDelimiterSplit", "delimiter": "e"}),
        ("FixedLength", {"type": "FixedLength", "length": 3}),
        ("Digits", {"type": "Digits", "individual_digits": False}), ("single Digits", {"type": "Digits", "individual_digits": True}),
        ("Metaspace", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}),
        ("Metaspace in words", sequence("pretokenizers", {"type": "Whitespace"}, {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": True}))):
        yield name, "bytes", {"pre_tokenizer": sequence("pretokenizers", step, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})
                              if step["type"] != "Sequence" else sequence("pretokenizers", *step["pretokenizers"], {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield f"Punctuation {behavior}", "pieces", {"pre_tokenizer": {"type": "Punctuation", "behavior": behavior}}
        yield f"Split {behavior}", "pieces", {"pre_tokenizer": split({"Regex": "[aeiou ]"}, behavior)}
        yield f"Split inverted {behavior}", "pieces", {"pre_tokenizer": split({"Regex": "\\w+"}, behavior, True)}
    yield "Split string", "pieces", {"pre_tokenizer": split({"String": "th"}, "Isolated")}

    # Added tokens and post-processors
    tag = added("<tag>", next_id["bytes"])
    yield "tokens strip", "bytes", {"added_tokens": [
        added("<tag>", next_id["bytes"], lstrip=True, rstrip=True), added("word", next_id["bytes"] + 1, single_word=True),
        added("LOWER", next_id["bytes"] + 2, normalized=True)], "normalizer": {"type": "Lowercase"}}
    yield "tokens normalized", "bytes", {"added_tokens": [added("Caf\u00e9", next_id["bytes"], normalized=True), added("\u00e9", next_id["bytes"] + 1), tag | {"id": next_id["bytes"] + 1}],
                                         "normalizer": {"type": "NFD"}}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                        {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2, 2], "tokens": ["</s>", "</s>"]}}}
    yield "TemplateProcessing", "chars", {"post_processor": template}
    yield "BertProcessing", "pieces", {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}}
    yield "RobertaProcessing", "bytes", {"post_processor": sequence(
        "processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": True})}

    # Decoders
    yield "decoder WordPiece, not clean", "pieces", {"decoder": {"cleanup": False}}
    yield "decoder CTC", "bytes", {"decoder": {"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "\u0120", "cleanup": True}}
    yield "decoder Replace", "chars", {"decoder": sequence(
        "decoders", {"type": "Replace", "pattern": {"Regex": "[aeiou]+"}, "content": "*"}, {"type": "Strip", "content": MARK, "start": 1, "stop": 0})}
    yield "decoder Metaspace", "chars", {"decoder": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": True}}
    yield "decoder ByteLevel", "chars", {"decoder": sequence("decoders", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, {"type": "Strip", "content": "e", "start": 2, "stop": 0})}


def merge_patch(target, patch):
    if not isinstance(patch, dict) or "type" in patch:
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def results(encode, decode):
    ids, texts = [], []
    for text in TEXTS:
        try:
            ids.append(encode(text))
            texts.append("")
        except BaseException:  # the package panics in places
            ids.append(None)
            texts.append("")
            continue
        if ids[-1]:
            texts[-1] = decode(ids[-1])
    return {"ids": ids, "decoded": [None if t == s else t for t, s in zip(texts, TEXTS)]}


def train(name, kind, rules=None, **options):
    if rules is not None:
        tsv = OUT / "rules.tsv"
        tsv.write_text("".join(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in rules))
        options["normalization_rule_tsv"] = str(tsv)
    path = OUT / name
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_prefix=str(path), model_type=kind, num_threads=1,
                                   minloglevel=2, **options)
    Path(f"{path}.vocab").unlink()
    if rules is not None:
        (OUT / "rules.tsv").unlink()
    model = proto.ModelProto()
    model.ParseFromString(Path(f"{path}.model").read_bytes())
    model.trainer_spec.model_prefix = name
    model.normalizer_spec.normalization_rule_tsv = ""
    return model


def sentencepieces():
    """name -> ModelProto"""
    common = dict(normalization_rule_name="identity", character_coverage=0.98)
    bpe = train("bpe", "bpe", vocab_size=600, byte_fallback=True, user_defined_symbols=["<tag>", "word-word", "ab"],
                control_symbols=["[CLS]"], remove_extra_whitespaces=False, **common)
    yield "bpe", bpe
    rules = train("bpe_rules", "bpe", rules=CHARSMAP_RULES, vocab_size=330, character_coverage=0.98)
    for piece in list(rules.pieces)[40:200:7]:
        if piece.type == proto.ModelProto.SentencePiece.NORMAL and len(piece.piece) < 5:
            piece.type = proto.ModelProto.SentencePiece.UNUSED
    yield "bpe_rules", rules
    unigram = train("unigram", "unigram", rules=CHARSMAP_RULES, vocab_size=400, character_coverage=0.98,
                    user_defined_symbols=["<tag>", "aaa"], pad_id=3)
    yield "unigram", unigram
    suffix = train("unigram_suffix", "unigram", vocab_size=520, byte_fallback=True, treat_whitespace_as_suffix=True, **common)
    yield "unigram_suffix", suffix


def table(model):
    """What a GGUF file has of the model."""
    return {"tokens": [piece.piece for piece in model.pieces], "scores": [piece.score for piece in model.pieces],
            "types": [piece.type for piece in model.pieces], "charsmap": list(model.normalizer_spec.precompiled_charsmap),
            "user_defined": [piece.piece for piece in model.pieces if piece.type == proto.ModelProto.SentencePiece.USER_DEFINED]}


def write_fuzz_seed(name, model):
    """The first pieces of the model, which are enough to begin with."""
    seed = proto.ModelProto()
    seed.CopyFrom(model)
    del seed.pieces[330 if model.trainer_spec.byte_fallback else 60:]
    folder = HERE.parent / "fuzz" / "corpus" / "sentencepiece"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.model").write_bytes(seed.SerializeToString())


def dump(value, path):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    OUT.mkdir(exist_ok=True)
    pieces, charsmap, tables = {}, b"", {}
    for name, model in sentencepieces():
        path = OUT / f"{name}.model"
        path.write_bytes(model.SerializeToString())
        processor = spm.SentencePieceProcessor(model_file=str(path))
        pieces[name] = results(processor.encode, processor.decode)
        tables[name] = table(model)
        write_fuzz_seed(name, model)
        if model.normalizer_spec.precompiled_charsmap:
            charsmap = model.normalizer_spec.precompiled_charsmap
    files, next_id = {}, {}
    for name, tokenizer in bases().items():
        files[name] = json.loads(tokenizer.to_str())
        next_id[name] = tokenizer.get_vocab_size()
        dump(files[name], OUT / f"{name}.json")
    cases = []
    for name, base, patch in variants(charsmap, next_id):
        try:
            tokenizer = Tokenizer.from_str(json.dumps(merge_patch(files[base], patch)))
        except Exception as error:
            raise SystemExit(f"{name}: {error}")
        case = {"name": name, "base": base, "patch": patch}
        case.update(results(lambda text: tokenizer.encode(text).ids, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)))
        if name.startswith("tokens"):
            # The package gives added tokens back in their normalized form, krait as the file has them.
            del case["decoded"]
        cases.append(case)
    dump({"texts": TEXTS, "variants": cases, "sentencepiece": pieces,
          "tables": {name: tables[name] for name in ("bpe", "unigram")}}, OUT / "cases.json")


main()
