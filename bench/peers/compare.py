#!/usr/bin/env python3
"""Runs krait and its peers in turns and writes results.py's file. Called by llama_cpp.sh."""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import results

HERE = Path(__file__).resolve().parent
SECONDS_PER_RUN = 900


class Failed(Exception):
    """A program that did not do what was asked; one line."""


def run(command, realtime=False):
    """Standard output, standard error and peak memory in bytes of a command that succeeds."""
    if realtime:
        command = ["chrt", "-r", "50", *command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            ["timeout", str(SECONDS_PER_RUN), *map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        output = out.read().decode("utf-8", "replace")
        errors = err.read().decode("utf-8", "replace")
    if process.returncode != 0:
        lines = [line for line in errors.splitlines() if line.strip()] or ["no message"]
        raise Failed(f"exit code {process.returncode}: {lines[0]}")
    return output, errors, usage.ru_maxrss * 1024


class Krait:
    program = "krait"

    def __init__(self, options, form):
        self.options = options
        self.form = form
        dtype, _, compute = form.partition("/")
        # A quantised form is made from the f32 file; the others lie in a file as they are.
        stored = dtype if dtype in ("f32", "f16", "bf16") else "f32"
        self.command = [options.krait / "examples/krait/krait", "bench", "--json"]
        self.command += ["-m", options.work / f"{options.shape}-{stored}", "--dtype", dtype, "--threads", options.threads]
        if compute:
            self.command += ["--compute", compute]

    def refusal(self):
        """Why this build of krait cannot run the form, or None."""
        probe = ["--prompt", "1", "--tokens", "1", "--users", "1", "--repeat", "1", "--no-roofline"]
        try:
            run(self.command + probe)
        except Failed as failure:
            return str(failure)
        return None

    def measure(self):
        o = self.options
        size = ["--prompt", o.prompt, "--tokens", o.decode, "--users", o.users, "--repeat", "1"]
        output, _, _ = run(self.command + size, o.realtime)
        report = json.loads(output)
        return {
            "prefill": report["prefill"]["tokens_per_second"],
            "decode": report["decode"]["tokens_per_second"],
            "batch": report["batch"][0]["tokens_per_second"],
            # krait's own figure: its process goes on to measure the machine with large buffers.
            "peak_rss_bytes": report["peak_rss_bytes"],
            "limits": report["roofline"],
            "facts": {name: report[name] for name in ("isa", "weights_bytes", "state_bytes", "flop_per_token")},
        }


class LlamaCpp:
    program = "llama.cpp"

    def __init__(self, options, form):
        self.options = options
        self.form = form
        self.model = options.work / f"{options.shape}-{form}.gguf"
        self.bin = options.work / "llama.cpp-build/bin"

    def measure(self):
        o = self.options
        bench = [self.bin / "llama-bench", "-m", self.model, "-t", o.threads, "-r", "1", "-o", "json"]
        prefill, _, memory = run([*bench, "-p", o.prompt, "-n", "0"], o.realtime)
        # Behind the prompt, as krait's.
        decode, _, _ = run([*bench, "-p", "0", "-n", o.decode, "-d", o.prompt], o.realtime)
        (prefill,), (decode,) = json.loads(prefill), json.loads(decode)
        # A short prompt of each sequence, since only their decoding is read off.
        prompt = 16
        # Three times, since a thread of its own prints the results and loses the last ones.
        output, errors, _ = run(
            [self.bin / "llama-batched-bench", "-m", self.model, "-t", o.threads]
            + ["-c", o.users * (prompt + o.decode + 256), "-npp", prompt, "-ntg", o.decode]
            + ["-npl", f"{o.users},{o.users},{o.users}", "--output-format", "jsonl"],
            o.realtime,
        )
        lines = [line for line in (output + errors).splitlines() if line.startswith("{") and "speed_tg" in line]
        if not lines:
            raise Failed("no result of llama-batched-bench")
        return {
            "prefill": prefill["avg_ts"],
            "decode": decode["avg_ts"],
            "batch": json.loads(lines[0])["speed_tg"],
            "peak_rss_bytes": memory,
            "facts": {"model_bytes": prefill["model_size"], "build_commit": prefill["build_commit"]},
        }


class Transformers:
    program = "transformers"

    def __init__(self, options, form):
        self.options = options
        self.form = form

    def measure(self):
        o = self.options
        output, _, memory = run(
            [o.work / "venv/bin/python", HERE / "hf_transformers.py", "--checkpoint", o.work / f"{o.shape}-{self.form}"]
            + ["--dtype", self.form, "--threads", o.threads, "--prompt", o.prompt]
            + ["--decode", o.decode, "--users", o.users],
            o.realtime,
        )
        report = json.loads(output)
        return {**{m: report[m] for m in results.MEASURES}, "peak_rss_bytes": memory, "facts": report["versions"]}


def machine():
    info = {"cpu": platform.processor() or "unknown", "os": platform.platform(), "flags": []}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    fields = dict(re.findall(r"^([^\t:]+)\t*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
    if "model name" in fields:
        info["cpu"] = fields["model name"].strip()
        info["cpu_family"] = f'{fields.get("cpu family")}/{fields.get("model")}/{fields.get("stepping")}'
        wanted = {"avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}
        info["flags"] = sorted(wanted & set(fields.get("flags", "").split()))
    info["cores"] = len(os.sched_getaffinity(0))
    info["caches"] = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        info["caches"].append(f"L{level} {kind} {size}")
    info["load_average"] = os.getloadavg()[0]
    return info


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def version_in(path, prefix):
    text = path.read_text()
    return ".".join(re.search(rf"set\({prefix}_{part} +(\d+)\)", text)[1] for part in ("MAJOR", "MINOR", "PATCH"))


def versions(options):
    source = options.work / "llama.cpp"
    build = options.work / "llama.cpp-build"
    package, commit = (source / ".complete").read_text().split()
    cache = dict(re.findall(r"^(\w+):\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.MULTILINE))
    root = HERE.parent.parent
    return {
        "krait": {
            "version": first_line([options.krait / "examples/krait/krait", "--version"]),
            "commit": first_line(["git", "-C", root, "describe", "--always", "--dirty", "--exclude", "*"]),
        },
        "llama.cpp": {
            "version": version_in(source / "CMakeLists.txt", "LLAMA_VERSION"),
            "ggml": version_in(source / "ggml/CMakeLists.txt", "GGML_VERSION"),
            "commit": commit,
            "package": package,
            "build": (build / ".complete").read_text().strip(),
            "openmp": cache.get("GGML_OPENMP", "unknown") + " " + cache.get("OpenMP_CXX_FLAGS", ""),
            "compiler": first_line([cache.get("CMAKE_CXX_COMPILER", "c++"), "--version"]),
        },
    }


def programs(options, notes):
    """The programs in the order of a round: each krait form is followed by its peers."""
    chosen, seen = [], set()
    by_dtype = {}
    for form in options.forms.split(","):
        by_dtype.setdefault(form.partition("/")[0], []).append(form)
    for forms in by_dtype.values():
        peers = []
        for form in forms:
            krait = Krait(options, form)
            refusal = krait.refusal()
            if refusal:
                notes.append(f"krait {form} left out: {refusal}")
                continue
            chosen.append(krait)
            peers += results.peers_of(form)
        for program, form in peers:
            if (program, form) in seen or (program == "transformers" and not options.transformers):
                continue
            seen.add((program, form))
            chosen.append((LlamaCpp if program == "llama.cpp" else Transformers)(options, form))
    return chosen


def summary(values):
    return {name: statistics.median(v) for name, v in values.items()}


def write(path, data):
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def compare(options):
    data = {
        "format": "krait-peers-1",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": f"{options.shape} shape, random weights",
        "machine": machine(),
        "versions": versions(options),
        "threads": options.threads,
        "prompt_tokens": options.prompt,
        "decode_tokens": options.decode,
        "users": options.users,
        "realtime": options.realtime,
        "notes": [],
    }
    chosen = programs(options, data["notes"])
    if not any(isinstance(program, Krait) for program in chosen):
        raise Failed(f"no form of {options.forms} runs: " + "; ".join(data["notes"]))
    entries = [{"program": p.program, "form": p.form, "runs": {m: [] for m in results.MEASURES}} for p in chosen]
    limits = {"read_gb_s": [], "gflop_s": []}
    for turn in range(options.repeats):
        for program, entry in zip(chosen, entries):
            print(f"{turn + 1} of {options.repeats}: {program.program} {program.form}", file=sys.stderr, flush=True)
            try:
                measured = program.measure()
            except Failed as failure:
                raise Failed(f"{program.program} {program.form}: expected it to run, found {failure}")
            for name, values in entry["runs"].items():
                values.append(measured[name])
            entry["median"] = summary(entry["runs"])
            entry["peak_rss_bytes"] = max(measured["peak_rss_bytes"], entry.get("peak_rss_bytes", 0))
            entry["facts"] = measured["facts"]
            for name, value in measured.get("limits", {}).items():
                limits[name].append(value)
        # After each round, so that an interruption leaves the rounds before it.
        data["repeats"] = turn + 1
        data["limits"] = {"median": summary(limits), "runs": limits}
        data["results"] = entries
        write(options.out, data)
    return data


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--work", "--krait", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--shape", "--forms"):
        parser.add_argument(name, required=True)
    for name in ("--threads", "--prompt", "--decode", "--users", "--repeats"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--transformers", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    if not shutil.which("timeout"):
        print("[peers] tools: expected timeout on the PATH, found none", file=sys.stderr)
        return 1
    try:
        data = compare(options)
    except (Failed, OSError, ValueError, KeyError) as error:
        print(f"[peers] {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(results.report(data), end="")
    print(f"results: {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
