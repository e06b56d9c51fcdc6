#!/usr/bin/env python3
"""Time per token of constrained output: krait beside xgrammar and llguidance, in turns.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install llguidance tokenizers numpy xgrammar
    /tmp/peers/bin/python bench/peers/grammar.py --bench build/bench/krait_grammar_bench

Each program gets the schemas and documents of bench/decoding/grammar_cases.json and the vocabulary
of GPT-NeoX, and for every token of a document fills a mask of the vocabulary and takes the token.
`first` is the first use of a schema that was just compiled, `later` the mean of uses after it. A
program that is not installed is left out, with a note.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests/data/gpt-neox-20b/tokenizer.json"
CASES = ROOT / "bench/decoding/grammar_cases.json"


class Llguidance:
    name = "llguidance"

    def __init__(self):
        import llguidance
        import llguidance.numpy
        self.module = llguidance
        self.tokenizer = llguidance.LLTokenizer(TOKENIZER.read_text())
        self.mask = llguidance.numpy.allocate_token_bitmask(1, self.tokenizer.vocab_size)
        self.fill = llguidance.numpy.fill_next_token_bitmask

    def compile(self, schema):
        grammar = self.module.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        matcher = self.module.LLMatcher(self.tokenizer, grammar)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, matcher):
        return matcher.deep_copy()

    def step(self, matcher, token):
        self.fill(matcher, self.mask, 0)
        return matcher.consume_token(token)


class Xgrammar:
    name = "xgrammar"

    def __init__(self):
        import tokenizers
        import xgrammar
        self.module = xgrammar
        tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
        vocab = [""] * tokenizer.get_vocab_size()
        for token, index in tokenizer.get_vocab().items():
            vocab[index] = token
        info = xgrammar.TokenizerInfo(vocab, vocab_type=xgrammar.VocabType.BYTE_LEVEL,
                                      stop_token_ids=[0])
        self.info = info
        self.mask = xgrammar.allocate_token_bitmask(1, info.vocab_size)

    def compile(self, schema):
        compiler = self.module.GrammarCompiler(self.info, max_threads=1, cache_enabled=False)
        return compiler.compile_json_schema(json.dumps(schema))

    def start(self, compiled):
        return self.module.GrammarMatcher(compiled)

    def step(self, matcher, token):
        matcher.fill_next_token_bitmask(self.mask, 0)
        return matcher.accept_token(token)


def measure_peer(peer, case, tokenizer, repeats):
    documents = [tokenizer.encode(json.dumps(d, ensure_ascii=False)).ids for d in case["documents"]]

    def follow(compiled):
        seconds = []
        for document in documents:
            matcher = peer.start(compiled)
            for token in document:
                begun = time.thread_time()
                accepted = peer.step(matcher, token)
                seconds.append(time.thread_time() - begun)
                if not accepted:
                    raise ValueError("a token was refused")
        return statistics.fmean(seconds) * 1e6

    compiling, first, later = [], [], []
    for _ in range(repeats):
        begun = time.thread_time()
        compiled = peer.compile(case["schema"])
        compiling.append((time.thread_time() - begun) * 1e3)
        first.append(follow(compiled))
        later.append(statistics.fmean(follow(compiled) for _ in range(5)))
    return {"compile_ms": statistics.median(compiling), "first_us": statistics.median(first),
            "later_us": statistics.median(later)}


def measure_krait(bench, name):
    output = subprocess.run([bench, f"--benchmark_filter=^grammar/{name}/", "--benchmark_format=json"],
                            check=True, capture_output=True, text=True).stdout
    rows = {row["name"].split("/")[2]: row for row in json.loads(output)["benchmarks"]}
    return {"compile_ms": rows["first"]["compile_ms"], "first_us": rows["first"]["us/token"],
            "later_us": rows["later"]["us/token"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default=str(ROOT / "build/bench/krait_grammar_bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    peers = []
    for kind in (Llguidance, Xgrammar):
        try:
            peers.append(kind())
        except Exception as error:  # whatever keeps a peer from running
            print(f"{kind.name} is left out: {error}")
    tokenizer = None
    if peers:
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    results = {}
    for case in json.loads(CASES.read_text()):
        rounds = {}
        for _ in range(arguments.rounds):
            rounds.setdefault("krait", []).append(measure_krait(arguments.bench, case["name"]))
            for peer in peers:
                try:
                    rounds.setdefault(peer.name, []).append(
                        measure_peer(peer, case, tokenizer, 5))
                except Exception as error:
                    rounds.setdefault(peer.name, []).append({"error": str(error)[:80]})
        results[case["name"]] = {
            name: {key: statistics.median(r[key] for r in found) for key in found[0]}
            if "error" not in found[0] else found[0] for name, found in rounds.items()}
    print("| schema | program | compile, ms | first use, µs per token | later, µs per token |")
    print("| --- | --- | ---: | ---: | ---: |")
    for case, programs in results.items():
        for name, row in programs.items():
            if "error" in row:
                print(f"| {case} | {name} | {row['error']} | | |")
            else:
                print(f"| {case} | {name} | {row['compile_ms']:.2f} | {row['first_us']:.1f} | "
                      f"{row['later_us']:.1f} |")
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
