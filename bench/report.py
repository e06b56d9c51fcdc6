#!/usr/bin/env python3
"""Writes the measured tables and charts into the documents, from bench/results/*.json:

    python3 bench/report.py            rewrites what has changed
    python3 bench/report.py --check    changes nothing; fails where a document is not up to date

A document holds a table between `<!-- bench:NAME -->` and `<!-- /bench -->`, on lines of their own.
"""

import argparse
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import chart  # noqa: E402
import compression  # noqa: E402
import results  # noqa: E402
import speculation  # noqa: E402

SECTION = re.compile(r"^<!-- bench:(\S+) -->\n(.*?)^<!-- /bench -->$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- /?bench\b")
DOCUMENTS = ("README.md", "docs/performance.md", "docs/compression.md", "docs/speculation.md")


class Failed(Exception):
    """One line for the user."""


def form_name(form):
    dtype, _, compute = form.partition("/")
    return f"{dtype}, `--compute {compute}`" if compute else dtype


def rows(header, body):
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body]) + "\n"


def headings(data):
    return [f'prefill, {data["prompt_tokens"]} tokens', "decode", f'decode, {data["users"]} sequences']


def summary(data):
    """krait beside llama.cpp's type of the same size, one row a form."""
    best = {}
    for krait, peer in results.pairs(data):
        best.setdefault(krait["form"], (krait, peer))
    body = []
    for form, (krait, peer) in best.items():
        cells = []
        for measure in results.MEASURES:
            own, other = results.median_of(krait, measure), results.median_of(peer, measure)
            cells.append(f"{results.speed(own)} ({own / other:.1f}×)" if own and other else "")
        body.append([form_name(form), *cells])
    return rows(["tokens per second (times llama.cpp's)", *headings(data)], body) + f"\n{results.heading(data)}.\n"


def peers(data):
    versions = data.get("versions", {})
    other = versions.get("llama.cpp", {})
    text = f'{data["model"]}; {results.heading(data)}; krait of commit {versions.get("krait", {}).get("commit", "?")}, '
    text += f'llama.cpp {other.get("version", "?")} (ggml {other.get("ggml", "?")}).\n\n'
    notes = "".join(f"\n{note}\n" for note in data["notes"])
    return text + results.table(data) + "\n" + notes


def whole(value):
    return f"{value:,}"


def own(data):
    machine = data["machine"]
    text = f'{data["date"]}, {machine["cpu"]}, {machine["cores"]} cores, {machine["isa"]}; commit {data["commit"]}; '
    text += f'`{data["command"]}`; {data["unit"]}.\n'
    for table in data["tables"]:
        by_form = "form" in table["results"][0]
        threads = f', {table["threads"]} threads' if "threads" in table else ""
        command = f', `{table["command"]}`' if "command" in table else ""
        text += f'\n{table["model"]}{threads}, {table["rounds"]} rounds{command}:\n\n'
        body = []
        for entry in table["results"]:
            name = form_name(entry["form"]) if by_form else f'{entry["model"]}, threads: {entry["threads"]}'
            body.append([name, *(whole(entry[measure]) for measure in results.MEASURES)])
        text += rows(["form" if by_form else "model", *headings(data)], body)
    return text


def quality(data):
    body = []
    for model in data["models"]:
        for entry in model["results"]:
            kl = f'{entry["kl"]:g}' if "kl" in entry else ""
            bits = f'{entry["bits_per_byte"]:.6f}'
            body.append([f'`{model["model"]}`', entry["form"], f'{entry["file_mb"]:.2f} MB', bits, kl])
    header = ["model", "form", "file", "bits per byte", "KL divergence, nats per byte"]
    commands = " and ".join(f"`{command}`" for command in data["commands"])
    return f'TEXT is `{data["text"]}`; {commands}.\n\n' + rows(header, body)


def compressed(data):
    """Every form of the bundled models; bytes beside those of the model in bf16."""
    text = f'{compression.heading(data)}; commit {data["commit"]}; text `{data["text"]}`; `python3 bench/compression.py`.\n'
    header = ["form of the weights", "bytes in memory", "bytes per weight", "bits per byte", "KL, nats per byte", "tokens/s"]
    for entry in data["models"]:
        body = []
        for row in entry["rows"]:
            size = row["bytes"] / entry["parameters"]
            kl = f'{row["kl"]:.2g}' if row["kl"] > 1e-12 else "0"
            speed = whole(row["tokens_per_second"])
            body.append([row["variant"], whole(row["bytes"]), f"{size:.2f}", f'{row["bits_per_byte"]:.4f}', kl, speed])
        text += f'\n`{entry["model"]}`, {whole(entry["parameters"])} parameters:\n\n' + rows(header, body)
    return text


def compression_summary(data):
    """The first model's forms, each a column."""
    forms = data["models"][0]["rows"]
    names = [row["variant"].replace(", rest q8", "") for row in forms]
    body = [
        ["MB in memory", *(f'{row["bytes"] / 1e6:.2f}' for row in forms)],
        ["bits per byte", *(f'{row["bits_per_byte"]:.4f}' for row in forms)],
        ["tokens/s", *(whole(row["tokens_per_second"]) for row in forms)],
    ]
    return rows([f'`{data["models"][0]["model"]}`', *names], body)


def speculated(data):
    """Of each model a row for each kind of text; in a cell the ratio and tokens per pass."""
    machine = data["machine"]
    text = f'{data["date"]}, {machine["cpu"]}, one thread of {machine["cores"]} cores; commit {data["commit"]}; '
    text += f'{data["tokens"]} tokens, medians of runs in turns; `python3 bench/speculation.py --realtime`.\n'
    for model in data["models"]:
        names = list(model["rows"][0]["drafters"])
        body = []
        for row in model["rows"]:
            drafters = row["drafters"]
            cells = [f'{d["ratio"]:.2f}× ({d["tokens_per_pass"]:.1f})' for d in drafters.values()]
            over = drafters["cascade"]["ratio"] / drafters["model, 4 tokens"]["ratio"]
            body.append([row["text"], results.speed(row["plain"]), *cells, f"{over:.2f}"])
        text += f'\n{model["model"]}, {model["rounds"]} runs:\n\n' + rows(["text", "plain, tokens/s", *names, "cascade over model, 4"], body)
    return text


def speculation_summary(data):
    """Of the models as they are and of the widened dense one: the share of guesses accepted, and how fast a cascade is."""
    models = {entry["model"]: entry["rows"] for entry in data["models"]}
    kinds = [row["text"] for row in data["models"][0]["rows"]]
    body = []
    for name in ("krait-bytes-moe", "krait-bytes-2m", "krait-bytes-2m widened"):
        drafters = [row["drafters"] for row in models[name]]
        cells = (f'{(d["model, 4 tokens"]["tokens_per_pass"] - 1) / 4:.0%}, {d["cascade"]["ratio"]:.2f}×'.replace("%", " %") for d in drafters)
        model, _, wide = name.partition(" ")
        body.append([f"`{model}` {wide}".rstrip(), *cells])
    return rows(["drafts for", *kinds], body)


def dated(part):
    machine, versions = part["machine"], part["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "krait")
    return f'{part["date"]}, {machine["cpu"]}, {machine["cores"]} cores; krait of commit {versions["krait"]}; {named}.\n\n'


def aqlm_encoders(data):
    part = data["encoders"]
    body = []
    for row in part["rows"]:
        own, other = row["krait"], row["authors"][0]
        less = f'{100 * (1 - own["error"] / other["error"]):.0f} % less'
        faster = f'{other["seconds"] / own["seconds"]:.1f} times as fast'
        errors = f'{own["error"]:.4f} / {other["error"]:.4f}, {less}'
        times = f'{own["seconds"]:.1f} / {other["seconds"]:.1f}, {faster}'
        body.append([row["matrix"], row["scheme"], errors, times])
    return dated(part) + rows(["matrix", "scheme", "relative error, krait / authors'", "seconds of a core, krait / authors'"], body)


def aqlm_kernels(data):
    part = data["kernels"]
    body = []
    for row in part["rows"]:
        cells = [row["scheme"], f'{1e3 * row["package_seconds"]:.2f}, {row["package"]}']
        for threads, own in row["krait"].items():
            percent = f'{own["percent"]:.0f} % of read bandwidth'
            cells.append(f'{1e3 * own["seconds"]:.2f} (**{row["ratio"][threads]:.1f}×**), {percent}')
        body.append(cells)
    threads = [f"krait, threads: {count}, ms" for count in part["rows"][0]["krait"]]
    return dated(part) + rows(["scheme", "`aqlm` package, one thread, ms", *threads], body)


def load_aqlm(path):
    return results.load(path, "krait-aqlm-1")


def load_own(path):
    return results.load(path, "krait-own-1")


def load_quality(path):
    return results.load(path, "krait-quality-1")


# What a section holds: the file of results, how it is read, and how it is written.
SECTIONS = {
    "summary": ("peers.json", results.load, summary),
    "peers": ("peers.json", results.load, peers),
    "peers_mamba2": ("peers_mamba2.json", results.load, peers),
    "peers_zen4": ("peers_zen4.json", results.load, peers),
    "peers_mamba2_zen4": ("peers_mamba2_zen4.json", results.load, peers),
    "peers_amx": ("peers_amx.json", results.load, peers),
    "peers_granite": ("peers_granite.json", results.load, peers),
    "peers_granite_1b": ("peers_granite_1b.json", results.load, peers),
    "own_zen4": ("own_zen4.json", load_own, own),
    "quality": ("quality.json", load_quality, quality),
    "compression_summary": ("compression.json", compression.load, compression_summary),
    "compression": ("compression.json", compression.load, compressed),
    "speculation_summary": ("speculation.json", speculation.load, speculation_summary),
    "speculation": ("speculation.json", speculation.load, speculated),
    "aqlm_encoders": ("aqlm.json", load_aqlm, aqlm_encoders),
    "aqlm_kernels": ("aqlm.json", load_aqlm, aqlm_kernels),
}
# Of each chart the file of results, how it is read, and how it is drawn.
CHARTS = {
    "peers.svg": ("peers.json", results.load, chart.draw),
    "peers_mamba2.svg": ("peers_mamba2.json", results.load, chart.draw),
    "compression.svg": ("compression.json", compression.load, compression.draw),
}


def fill(text, name, folder):
    """The document with its tables as the results say."""

    def section(match):
        if match[1] not in SECTIONS:
            raise Failed(f'[report] {name}: expected one of {", ".join(SECTIONS)} behind bench:, found {match[1]}')
        file, load, write = SECTIONS[match[1]]
        return f"<!-- bench:{match[1]} -->\n{write(load(folder / file))}<!-- /bench -->"

    found = SECTION.findall(text)
    if len(MARK.findall(text)) != 2 * len(found):
        raise Failed(f"[report] {name}: expected every <!-- bench:… --> to have its <!-- /bench -->, found one without")
    return SECTION.sub(section, text)


def outputs(root):
    """(path, what it has to hold) of every document and chart."""
    folder = root / "bench" / "results"
    for name in DOCUMENTS:
        yield root / name, fill((root / name).read_text(encoding="utf-8"), name, folder)
    for name, (source, load, draw) in CHARTS.items():
        yield folder / name, draw(load(folder / source))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something would change")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the source tree")
    options = parser.parse_args()
    stale = []
    try:
        for path, text in outputs(options.root):
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                continue
            stale.append(str(path.relative_to(options.root)))
            if not options.check:
                path.write_text(text, encoding="utf-8")
    except (Failed, results.BadFile) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"[report] {error.filename}: expected a file, found {error.strerror}", file=sys.stderr)
        return 1
    if options.check and stale:
        print(
            f'[report] expected documents with the stored results, found others in {", ".join(stale)} '
            "(python3 bench/report.py rewrites them)",
            file=sys.stderr,
        )
        return 1
    for name in stale:
        print(f"{name}: rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
