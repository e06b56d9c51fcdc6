#!/usr/bin/env python3
"""Measures decoding with drafts beside decoding without, for docs/speculation.md:

    python3 bench/speculation.py --realtime   about a quarter of an hour on one of 2 cores
    python3 bench/report.py                   writes the document

krait-bytes-2m and krait-bytes-moe as they are and widened (bench/widen.py: the same function with the
bytes of a model of 130 M parameters), the dense one also with `--compute bf16`, drafted for by
krait-bytes-draft, behind 600 bytes of each kind of text: greedily, on one thread, all drafters in turns. Each run decodes with and without drafts, and
the median of their ratio counts. `--work` keeps the widened models; with `--models` the file keeps
what it has of others.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import compare  # noqa: E402
import results  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FORMAT = "krait-speculation-1"
BYTES = 1200  # the first half is the prompt
# A kind of text: the file, and behind which words of it.
TEXTS = {
    "prose": ("tests/data/heldout_64k.txt", ""),
    "dialogue": ("tests/data/heldout_64k.txt", "“"),
    "manual": ("docs/usage.md", "## "),
    "json": ("bench/results/aqlm.json", ""),
    "list": ("docs/CHANGELOG.md", "## "),
    "code": ("src/core/cache_pages.cpp", "namespace krait"),
    "summary": ("tests/data/heldout_64k.txt", ""),
}
DRAFT = "krait-bytes-draft"
SPECS = {
    "ngram": ("ngram", ()),
    "model, 4 tokens": (f"model:{DRAFT}", ("--draft-length", "4")),
    "model, auto": (f"model:{DRAFT}", ()),
    "cascade": (f"cascade:{DRAFT},ngram", ()),
}
# In the order of the document: the layers of the widened ones, and options of the run.
MODELS = {
    "krait-bytes-2m widened": (35, ()),
    "krait-bytes-2m widened, products in bf16": (35, ("--compute", "bf16")),
    "krait-bytes-moe widened": (10, ()),
    "krait-bytes-2m": (0, ()),
    "krait-bytes-moe": (0, ()),
}


def load(path):
    return results.load(path, FORMAT)


def text_of(kind):
    file, words = TEXTS[kind]
    text = (ROOT / file).read_text(encoding="utf-8")
    begin = text.find(words) if words else len(text) // 3
    if kind == "dialogue":  # where most is spoken; behind the list of chapters
        begin = max(range(4000, len(text) - BYTES, 400), key=lambda at: text[at : at + BYTES].count(words))
    data = text[begin:].encode()
    if kind == "summary":  # what was told, and once more from its beginning, which the prompt still has
        told = data[: BYTES // 2 - 60]
        data = told + b"\n\nTo say it once more:\n\n" + data
    return data[:BYTES]


def measure(krait, options, model, spec, extra, text):
    size = ["--text", text, "--tokens", str(options.tokens), "--repeat", "1", "--json"]
    command = [krait, "bench", "-m", model, "--threads", "1", "--draft", spec, *extra, *size]
    output, _, _ = compare.run(command, options.realtime)
    report = json.loads(output)
    plain, drafted = (report[name]["tokens_per_second"] for name in ("plain", "drafted"))
    return {
        "plain": plain,
        "ratio": drafted / plain,
        "tokens_per_pass": report["decode_tokens"] / report["target_passes"],
    }


def rows_of(krait, options, name):
    model, extra = path_of(options, name), MODELS[name][1]
    runs = {(kind, spec): [] for kind in TEXTS for spec in SPECS}
    with tempfile.TemporaryDirectory() as folder:
        for kind in TEXTS:
            (Path(folder) / kind).write_bytes(text_of(kind))
        for turn in range(options.rounds):
            for kind, drafter in runs:
                spec, length = SPECS[drafter]
                runs[kind, drafter].append(measure(krait, options, model, spec, (*length, *extra), Path(folder) / kind))
            print(f"{name}: round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    rows = []
    for kind in TEXTS:
        plain = statistics.median(run["plain"] for drafter in SPECS for run in runs[kind, drafter])
        row = {"text": kind, "plain": round(plain, 1), "drafters": {}}
        for drafter in SPECS:
            medians = {
                key: statistics.median(run[key] for run in runs[kind, drafter])
                for key in ("ratio", "tokens_per_pass")
            }
            row["drafters"][drafter] = {key: round(value, 3) for key, value in medians.items()}
        rows.append(row)
    return rows


def path_of(options, name):
    """A bundled model's name, or the folder of its widened copy, which is made unless it is there."""
    model, _, is_wide = name.partition(" ")
    layers = MODELS[name][0]
    if not is_wide:
        return model
    path = options.work / f"{model}-wide"
    if not (path / "model.safetensors").is_file():
        command = [sys.executable, ROOT / "bench/widen.py", ROOT / "examples/models" / model, path]
        subprocess.run([*command, "--layers", str(layers)], check=True, stdout=subprocess.DEVNULL)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="krait's build folder")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krait-speculation")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--realtime", action="store_true", help="run under chrt -r 50")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/speculation.json")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    options = parser.parse_args()
    krait = options.build / "examples/krait/krait"
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        known = {entry["model"]: entry for entry in load(options.out)["models"]} if options.out.is_file() else {}
        for name in options.models:
            rows = rows_of(krait, options, name)
            known[name] = {"model": name, "rounds": options.rounds, "rows": rows}
    except (compare.Failed, results.BadFile, subprocess.CalledProcessError, OSError) as error:
        print(f"[speculation] {error}", file=sys.stderr)
        return 1
    data = {
        "format": FORMAT,
        "date": datetime.date.today().isoformat(),
        "commit": compare.first_line(["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude", "*"]),
        "machine": compare.machine(),
        "tokens": options.tokens,
        "models": [known[name] for name in MODELS if name in known],
    }
    compare.write(options.out, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
