#!/usr/bin/env python3
"""The results file that compare.py writes, and its table: python3 bench/peers/results.py FILE"""

import json
import sys

# Measures, in the order of the table.
MEASURES = ("prefill", "decode", "batch")


class BadFile(Exception):
    """One line for the user."""


def load(path, format_="krait-peers-1"):
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        raise BadFile(f"[results] {path}: expected to read it, found {error.strerror}")
    except ValueError as error:
        raise BadFile(f"[results] {path}: expected JSON, found {error}")
    found = data.get("format") if isinstance(data, dict) else None
    if found != format_:
        raise BadFile(f'[results] {path}: expected "format": "{format_}", found {found or "none"}')
    return data


def entry_of(data, program, form):
    for entry in data["results"]:
        if entry["program"] == program and entry["form"] == form:
            return entry
    return None


def median_of(entry, measure):
    """Tokens per second, or None where that was not measured."""
    return entry["median"].get(measure) if entry else None


def peers_of(form):
    """The (program, form) pairs that a krait form is compared with."""
    dtype = form.partition("/")[0]
    types = {"q8": ("q8_0",), "q4": ("q4_0", "q4_k_m")}.get(dtype, (dtype,))
    peers = [("llama.cpp", type_) for type_ in types]
    if form in ("f32", "bf16"):
        peers.append(("transformers", form))
    return peers


def pairs(data):
    """(krait's entry, peer's entry) for everything that both were measured in."""
    for entry in data["results"]:
        if entry["program"] != "krait":
            continue
        for program, form in peers_of(entry["form"]):
            peer = entry_of(data, program, form)
            if peer:
                yield entry, peer


def heading(data):
    machine = data["machine"]
    limits = data["limits"]["median"]
    return (
        f'{data["date"][:10]}, {machine["cpu"]}, {data["threads"]} threads on {machine["cores"]} cores, '
        f'{limits["read_gb_s"]:.1f} GB/s read, {limits["gflop_s"]:.0f} GFLOP/s; '
        f'medians of {data["repeats"]} runs in turns'
    )


def speed(value):
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}"


def cell(krait, peer):
    if krait is None or peer is None:
        return ""
    return f"{speed(krait)} / {speed(peer)} = **{krait / peer:.2f}**"


def table(data):
    """Markdown: tokens per second of krait / peer = ratio."""
    lines = [
        f'| krait | against | prefill, {data["prompt_tokens"]} tokens | decode '
        f'| decode, {data["users"]} users | peak memory, MB |',
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for krait, peer in pairs(data):
        cells = [cell(median_of(krait, m), median_of(peer, m)) for m in MEASURES]
        memory = f'{krait["peak_rss_bytes"] / 1e6:.0f} / {peer["peak_rss_bytes"] / 1e6:.0f}'
        lines.append(
            "| " + " | ".join([krait["form"], f'{peer["program"]} {peer["form"]}', *cells, memory]) + " |"
        )
    return "\n".join(lines)


def report(data):
    return f'{data["model"]}\n{heading(data)}\n\n{table(data)}\n\n{notes(data)}'


def notes(data):
    return "".join(f"note: {note}\n" for note in data["notes"])


def main():
    if len(sys.argv) != 2:
        print("usage: results.py FILE", file=sys.stderr)
        return 2
    try:
        data = load(sys.argv[1])
    except BadFile as error:
        print(error, file=sys.stderr)
        return 1
    print(report(data), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
