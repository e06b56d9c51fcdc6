#!/usr/bin/env python3
"""Measures the bundled models in every compressed form, for docs/compression.md:

    python3 bench/compression.py                       everything; about an hour on 2 cores
    python3 bench/compression.py --variants q4 2x8g8   these, and what the file has of others
    python3 bench/report.py                            writes the document and its pictures

A variant is made from the bundled model by krait's commands, in `--work`, where what is finished
stays for the next call. Of each: bytes of weights as held in memory, bits per byte of
tests/data/heldout_64k.txt, KL divergence from the f32 model there, and decoded tokens per second on
one thread, in turns.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import chart  # noqa: E402
import compare  # noqa: E402
import results  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
compare.SECONDS_PER_RUN = 4 * 3600  # fitting codebooks takes longer than a benchmark
FORMAT = "krait-compression-1"
MODELS = ("krait-bytes-2m", "krait-bytes-moe")
TEXT = ROOT / "tests/data/heldout_64k.txt"
CALIBRATION = ROOT / "tests/data/calibration_16k.txt"


@dataclass
class Variant:
    """One row of the table."""

    name: str
    kind: str  # "dense", "aqlm" or "laser": its mark in the picture
    steps: tuple = ()  # krait's commands from {source} to {result}, {calibration} a text
    dtype: str = "file"  # --dtype when it runs
    models: tuple = MODELS


def aqlm(scheme, dtype, preset="default"):
    steps = (f"aqlm {{source}} {{result}} --scheme {scheme} --preset {preset} --calibration {{calibration}}",)
    suffix = "" if preset == "default" else f", {preset}"
    return Variant(f"AQLM {scheme}{suffix}, rest {dtype}", "aqlm", steps, "file" if dtype == "bf16" else dtype)


LASER = ("laser {source} {result} --search --data {calibration} --mode shrink --loss 0.02",)

# In the order of the table.
VARIANTS = (
    Variant("f32", "dense", dtype="f32"),
    Variant("bf16", "dense"),
    Variant("q8", "dense", ("quantize {source} {result} --to q8",)),
    Variant("q4", "dense", ("quantize {source} {result} --to q4",)),
    aqlm("3x8g8", "q8"),
    aqlm("2x8g8", "q8"),
    aqlm("4x4g8", "q8"),
    Variant("LASER, shrunk", "laser", LASER),
    Variant("LASER, shrunk, q8", "laser", LASER, "q8"),
)


def load(path):
    return results.load(path, FORMAT)


class Krait:
    def __init__(self, options):
        self.program = options.build / "examples/krait/krait"
        self.realtime = options.realtime

    def json(self, *arguments, realtime=False):
        output, _, _ = compare.run([self.program, *arguments, "--json"], realtime and self.realtime)
        return json.loads(output)


def make(krait, options, model, variant):
    """The checkpoint of a variant, made by its steps unless it is there; and the seconds they took."""
    path, seconds = model, None
    for number, step in enumerate(variant.steps):
        words = step.format(source="{source}", result="{result}", calibration=options.calibration).split()
        name = f"{model}-{number}-" + "_".join(w for w in words if w[0] not in "{/").replace("-", "")
        result = options.work / name
        log = options.work / (name + ".json")
        if not log.is_file():
            # A folder without its report is one of an interrupted call.
            shutil.rmtree(result, ignore_errors=True)
            arguments = [w.format(source=path, result=result) for w in words]
            threads = ["--threads", options.threads] if words[0] != "quantize" else []
            report = krait.json(*arguments, *threads)
            log.write_text(json.dumps(report))
        report = json.loads(log.read_text())
        seconds = report.get("seconds", seconds)
        path = result
    return path, seconds


def measure(krait, options, model, variant):
    path, seconds = make(krait, options, model, variant)
    run = ["-m", path, "--dtype", variant.dtype, "--threads", options.threads]
    row = {"variant": variant.name, "kind": variant.kind}
    if seconds is not None:
        row["made_in_seconds"] = round(seconds, 1)
    row["bytes"] = krait.json("inspect", *run[:4])["weights_bytes"]
    row["bits_per_byte"] = krait.json("perplexity", TEXT, *run)["bits_per_byte"]
    row["kl"] = krait.json("evaluate", "--kl", model, "--file", TEXT, *run)["kl"]
    return row, path


def decode(krait, path, variant):
    size = ["--prompt", "16", "--tokens", "500", "--users", "", "--verify", "", "--repeat", "5", "--no-roofline"]
    run = ["-m", path, "--dtype", variant.dtype, "--threads", "1"]
    return krait.json("bench", *run, *size, realtime=True)["decode"]["tokens_per_second"]


def measure_model(krait, options, model, known):
    rows, paths = {row["variant"]: row for row in known}, {}
    parameters = krait.json("inspect", "-m", model)["parameters"]
    chosen = [v for v in VARIANTS if model in v.models and (not options.variants or any(o in v.name.split(", rest")[0] for o in options.variants))]
    for variant in chosen:
        rows[variant.name], paths[variant.name] = measure(krait, options, model, variant)
        row = rows[variant.name]
        print(f'{model} {variant.name}: {row["bits_per_byte"]:.4f} bits per byte, {row["bytes"]} bytes', flush=True)
    speeds = {variant.name: [] for variant in chosen}
    for _ in range(options.rounds):
        for variant in chosen:
            speeds[variant.name].append(decode(krait, paths[variant.name], variant))
    for name, values in speeds.items():
        rows[name]["tokens_per_second"] = round(statistics.median(values))
    order = [v.name for v in VARIANTS]
    listed = sorted((rows[name] for name in rows if name in order), key=lambda row: order.index(row["variant"]))
    return {"model": model, "parameters": parameters, "rows": listed}


# --- Picture ---------------------------------------------------------------------------------

WIDTH, HEIGHT, TOP, BOTTOM, LEFT, GAP = 900, 420, 92, 70, 58, 70
STYLE = """
.dense { fill: #8c959f; }
.aqlm { fill: #0969da; }
.laser { fill: #bc6a1b; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  .dense { fill: #7d8590; }
  .aqlm { fill: #58a6ff; }
  .laser { fill: #e09b50; }
  .grid { stroke: #3d444d; }
}
"""
KINDS = {"dense": "rounded", "aqlm": "additive codebooks (AQLM)", "laser": "low rank (LASER)"}


def grid_line(x1, y1, x2, y2):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="grid"/>'


def panel(entry, x, width):
    """Bits per byte over bytes per weight, of all variants below 2.2 bytes per weight."""
    rows = [row for row in entry["rows"] if row["bytes"] < 2.2 * entry["parameters"]]
    bits = [row["bits_per_byte"] for row in rows]
    low, high = min(bits), max(bits)
    low, high = low - 0.08 * (high - low), high + 0.08 * (high - low)

    def place(row):
        return (
            x + width * row["bytes"] / entry["parameters"] / 2.2,
            TOP + (HEIGHT - TOP - BOTTOM) * (high - row["bits_per_byte"]) / (high - low),
        )

    bottom = HEIGHT - BOTTOM
    out = [chart.text(x, TOP - 16, entry["model"], "measure")]
    for tick in (0, 0.5, 1, 1.5, 2):
        at = x + width * tick / 2.2
        out += [grid_line(at, TOP, at, bottom), chart.text(at, bottom + 16, f"{tick:g}", "quiet", "middle")]
    step = 0.01 if high - low < 0.06 else 0.02
    for k in range(int(low / step) + 1, int(high / step) + 1):
        at = TOP + (bottom - TOP) * (high - k * step) / (high - low)
        out += [grid_line(x, at, x + width, at), chart.text(x - 8, at + 4, f"{k * step:.2f}", "quiet", "end")]
    out.append(chart.text(x + width / 2, bottom + 34, "bytes of weights in memory, per weight", "quiet", "middle"))
    taken = []
    for row in sorted(rows, key=lambda row: row["bytes"]):
        px, py = place(row)
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" class="{row["kind"]}"/>')
        ly = py + 4
        while any(abs(ly - y) < 13 and abs(px - tx) < 150 for tx, y in taken):
            ly -= 13
        taken.append((px, ly))
        label = row["variant"].split(", rest")[0].removeprefix("AQLM ")
        near = px > x + width - 60
        out.append(chart.text(px - 9 if near else px + 9, ly, label, "own", "end" if near else "start"))
    return out


def draw(data):
    width = (WIDTH - 2 * chart.MARGIN - LEFT * len(data["models"]) - GAP * (len(data["models"]) - 1)) / len(data["models"])
    body, x = [], chart.MARGIN
    for entry in data["models"]:
        body += panel(entry, x + LEFT, width)
        x += LEFT + width + GAP
    legend, at = [], chart.MARGIN
    for kind, name in KINDS.items():
        if not any(row["kind"] == kind for entry in data["models"] for row in entry["rows"]):
            continue
        legend += [f'<circle cx="{at + 6}" cy="52" r="5" class="{kind}"/>', chart.text(at + 18, 56, name)]
        at += 44 + 7 * len(name)
    title = "Bits per byte of held-out text over bytes per weight: lower left is better"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{title}">\n<style>{chart.STYLE}{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" class="page"/>\n'
        + "\n".join([chart.text(chart.MARGIN, 28, title, "title"), *legend, *body])
        + "\n"
        + chart.text(chart.MARGIN, HEIGHT - 12, heading(data), "quiet")
        + "\n</svg>\n"
    )


def heading(data):
    machine = data["machine"]
    return f'{data["date"]}, {machine["cpu"]}, {machine["cores"]} cores; decoding on one thread'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="krait's build folder")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/krait-compression", help="for what is made")
    parser.add_argument("--calibration", type=Path, default=CALIBRATION, help="text that tells which errors matter")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--variants", nargs="+", help="parts of names; the rest of the file stays")
    parser.add_argument("--threads", default="0", help="for everything but decoding; 0: all")
    parser.add_argument("--rounds", type=int, default=3, help="of decoding, in turns")
    parser.add_argument("--realtime", action="store_true", help="hold other programs back while decoding is measured")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/compression.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        data = load(options.out) if options.out.exists() else {"models": []}
        known = {entry["model"]: entry for entry in data["models"]}
        krait = Krait(options)
        for model in options.models:
            old = known.get(model, {}).get("rows", [])
            known[model] = measure_model(krait, options, model, old)
        commit = compare.first_line(["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude", "*"])
        data = {"format": FORMAT, "date": datetime.date.today().isoformat(), "machine": compare.machine(), "commit": commit}
        data |= {"text": str(TEXT.relative_to(ROOT)), "models": [known[model] for model in MODELS if model in known]}
        part = options.out.with_name(options.out.name + ".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(part, options.out)
    except (compare.Failed, results.BadFile) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"[compression] {error.filename}: expected to use it, found {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
