#!/usr/bin/env python3
"""Diversity against quality: noise inside the model (DRuGS) beside temperature, top-p and min-p.

    bench/drugs_quality.py build/examples/krait/krait --text FILE [--model M] [--judge M2] \
        [--prompts 24] [--samples 6] [--tokens 160] [--out RESULT.json]

Prompts are pieces of FILE. Every setting continues each of them several times. Diversity: self-BLEU-4
(each sample against its siblings, words; lower is more diverse) and distinct-2. Quality: bits per byte
of the continuations under the sober model and under a judge, repeated 3-grams of words within a sample,
and, where --words names a text, the part of the words that occur in it. Along each method's settings
the quality is interpolated (against ln self-BLEU) at the same self-BLEU; intervals are 95 % bootstrap
intervals over prompts, of the whole procedure. Methods that never reach a self-BLEU have no number.
"""
import argparse
import concurrent.futures
import json
import math
import os
import random
import re
import subprocess
import tempfile

METHODS = {
    "temperature": [f"--temperature {t}" for t in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)],
    "top-p": [f"--temperature 1 --top-p {p}" for p in (0.15, 0.3, 0.5, 0.7, 0.9)],
    "min-p": [f"--temperature 1 --min-p {p}" for p in (0.8, 0.6, 0.4, 0.2, 0.1)],
    "drugs A": [f"--greedy --drugs A:theta={t}" for t in (0.2, 0.35, 0.6, 0.9, 1.2)],
    "drugs H": [f"--greedy --drugs H:theta={t}" for t in (0.2, 0.35, 0.6, 0.9, 1.2)],
    "drugs H middle": [f"--greedy --drugs H:theta={t},shape=rect(0.4,0.156),mode=ceil"
                       for t in (0.5, 0.8, 1.2, 1.6)],
    "drugs S": [f"--greedy --drugs S:theta={t}" for t in (0.6, 1.0, 1.5)],
    "drugs A carry": [f"--greedy --drugs A:theta={t} --drugs-state carry" for t in (0.2, 0.35, 0.6, 0.9)],
}
TARGETS = (0.3, 0.15, 0.08)


def words(text):
    return re.findall(r"[A-Za-z']+|[^\sA-Za-z']", text)


def ngrams(tokens, n):
    return [tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]


def bleu(candidate, references):
    logs = 0.0
    for n in range(1, 5):
        have = {}
        for g in ngrams(candidate, n):
            have[g] = have.get(g, 0) + 1
        best = {}
        for reference in references:
            count = {}
            for g in ngrams(reference, n):
                count[g] = count.get(g, 0) + 1
            for g, c in count.items():
                best[g] = max(best.get(g, 0), c)
        hits = sum(min(c, best.get(g, 0)) for g, c in have.items())
        # Smoothed as by Chen and Cherry 2014, method 1.
        logs += math.log(max(hits, 0.1) / max(1, sum(have.values()))) / 4
    closest = min(references, key=lambda r: (abs(len(r) - len(candidate)), len(r)))
    penalty = min(0.0, 1.0 - len(closest) / max(1, len(candidate)))
    return math.exp(logs + penalty)


class Runner:
    def __init__(self, options):
        self.o = options

    def call(self, *arguments):
        done = subprocess.run([self.o.krait, *arguments, "--threads", "1", "--json"], capture_output=True,
                              text=True, check=True)
        return json.loads(done.stdout)

    def nats(self, model, text):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            found = self.call("perplexity", file.name, "-m", model)
        return found["nats_per_token"] * found["scored_tokens"]

    def samples(self, prompt, setting):
        found = self.call("generate", prompt, "-m", self.o.model, "-n", str(self.o.tokens), "--seed", "7",
                          "--count", str(1 if setting == "--greedy" else self.o.samples), "--ignore-eos",
                          *setting.split())
        found = found["samples"] if "samples" in found else [found]
        texts = [one["text"] for one in found]
        return texts * self.o.samples if len(texts) == 1 else texts

    def measure(self, prompt, setting, known):
        texts = self.samples(prompt, setting)
        split = [words(t) for t in texts]
        judged = []
        for model in (self.o.model, self.o.judge):
            base = self.nats(model, prompt)
            total = 0.0
            for text in texts:
                total += (self.nats(model, prompt + text) - base) / max(1, len(text.encode())) / math.log(2)
            judged.append(total / len(texts))
        pairs = [g for s in split for g in ngrams(s, 2)]
        triples = [ngrams(s, 3) for s in split]
        return {
            "self_bleu": sum(bleu(s, split[:i] + split[i + 1:]) for i, s in enumerate(split)) / len(split),
            "distinct_2": len(set(pairs)) / max(1, len(pairs)),
            "bits_per_byte": judged[0],
            "judge_bits_per_byte": judged[1],
            "rep_3": sum(1 - len(set(t)) / max(1, len(t)) for t in triples) / len(triples),
            "words": sum(w.lower() in known for s in split for w in s) / max(1, sum(map(len, split))),
        }


def mean(rows, key):
    return sum(r[key] for r in rows) / len(rows)


def at_target(curve, target, key):
    """Quality at a self-BLEU, between the two settings that enclose it."""
    points = sorted((math.log(max(1e-9, b)), q) for b, q in curve)
    x = math.log(target)
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("krait")
    parser.add_argument("--text", required=True)
    parser.add_argument("--words")
    parser.add_argument("--model", default="krait-bytes-moe")
    parser.add_argument("--judge", default="krait-bytes-moe")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out")
    o = parser.parse_args()
    text = open(o.text, encoding="utf-8", errors="ignore").read()
    known = set(w.lower() for w in words(open(o.words or o.text, encoding="utf-8", errors="ignore").read()))
    rng = random.Random(1)
    prompts = []
    while len(prompts) < o.prompts:
        at = rng.randrange(len(text) - 400)
        at = text.find(" ", at) + 1
        prompts.append(text[at:at + 120].rsplit(" ", 1)[0])
    runner = Runner(o)
    results = {}
    with concurrent.futures.ThreadPoolExecutor(o.jobs) as pool:
        settings = ["--greedy"] + [s for group in METHODS.values() for s in group]
        for setting in settings:
            rows = list(pool.map(lambda p: runner.measure(p, setting, known), prompts))
            results[setting] = rows
            keys = ("self_bleu", "distinct_2", "bits_per_byte", "judge_bits_per_byte", "rep_3", "words")
            print("| `" + setting + "` | " + " | ".join(f"{mean(rows, k):.3f}" for k in keys) + " |", flush=True)

    def matched(indices, method, target, key):
        curve = [(sum(results[s][i]["self_bleu"] for i in indices) / len(indices),
                  sum(results[s][i][key] for i in indices) / len(indices)) for s in METHODS[method]]
        return at_target(curve, target, key)

    table = []
    for target in TARGETS:
        for method in METHODS:
            line = {"self_bleu": target, "method": method}
            for key in ("bits_per_byte", "judge_bits_per_byte", "words"):
                value = matched(range(len(prompts)), method, target, key)
                draws = []
                for _ in range(1000):
                    found = matched([rng.randrange(len(prompts)) for _ in prompts], method, target, key)
                    if found is not None:
                        draws.append(found)
                draws.sort()
                line[key] = None if value is None or len(draws) < 500 else {
                    "value": value, "low": draws[int(0.025 * len(draws))], "high": draws[int(0.975 * len(draws))]}
            table.append(line)
            show = lambda v: "–" if v is None else f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})"
            print(f"| {target} | {method} | {show(line['bits_per_byte'])} | {show(line['judge_bits_per_byte'])} | "
                  f"{show(line['words'])} |", flush=True)
    if o.out:
        settings = {s: {k: mean(r, k) for k in r[0]} for s, r in results.items()}
        with open(o.out, "w", encoding="utf-8") as file:
            json.dump({"settings": settings, "matched": table}, file, indent=1)


if __name__ == "__main__":
    main()
