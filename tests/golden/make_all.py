#!/usr/bin/env python3
"""Runs the scripts that write golden values, in the order in which they read each other's files.

    python tests/golden/make_all.py                  runs all of them
    python tests/golden/make_all.py --list           names them, and what is missing for each
    python tests/golden/make_all.py --only NAME ...  runs these

Nothing runs if a package that a selected script imports is missing, or a place that it is to be
told: then every such thing is named, one a line, and the exit code is 1. Needs no package itself.
"""

import argparse
import ast
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Packages that are not installed under the name that is imported.
PACKAGES = {"fontTools": "fonttools", "jinja2": "Jinja2"}

# With more than one thread the package aqlm's kernel gives wrong sums.
ENVIRONMENT = {"AQ_USE_JIT": "0", "NUMBA_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Maker:
    script: str  # below HERE
    writes: str
    option: str = ""  # of this script, for a place that the maker is told
    place: str = ""  # what is there, for messages
    modules: tuple = ()  # that come from that place
    besides: tuple = ()  # what those import in their turn

    @property
    def name(self):
        return Path(self.script).stem


MAKERS = (
    Maker("make_golden.py", "checkpoints of Mamba and Falcon Mamba"),
    Maker("make_golden_mamba2.py", "checkpoints of Mamba-2"),
    Maker("make_golden_experts.py", "checkpoints with mixtures of experts"),
    Maker("make_golden_families.py", "checkpoints of stacks of attention and hybrids"),
    Maker("make_golden_aqlm.py", "aqlm.safetensors"),
    Maker("make_golden_aqlm_models.py", "checkpoints with additively quantised matrices",
          besides=("numba",)),
    Maker("make_golden_gradients.py", "gradients/, from checkpoints above"),
    Maker("make_golden_preferences.py", "gradients/preferences.safetensors"),
    Maker("make_golden_muon.py", "muon.safetensors"),
    Maker("make_golden_peft.py", "lora/, over hf_f32"),
    Maker("gguf_blocks.py", "gguf_blocks.safetensors"),
    Maker("gguf_models.py", "gguf/mamba*.gguf, from checkpoints above"),
    Maker("gguf_hybrids.py", "gguf/, of hybrids above", "--llama-cpp",
          "the folder of llama.cpp's conversion/ and gguf-py/", ("conversion", "gguf"),
          ("numpy", "safetensors", "sentencepiece", "torch", "transformers")),
    Maker("make_label_bytes.py", "tests/data/label_bytes/", "--typeseg",
          "the wheel of typeseg 0.2.7", ("typeseg",)),
    Maker("bits_per_byte.py", "bits_per_byte.json"),
    Maker("greedy.py", "greedy.json"),
    Maker("samplers.py", "samplers.json"),
    Maker("make_unicode_tables.py", "tables in src/text/unicode/"),
    Maker("make_tokenizers.py", "tokenizers/, anew every time: trainers break ties by chance"),
    Maker("make_tokenizer_cases.py", "tokenizer_cases.json, post_processor_cases.json"),
    Maker("chat_templates/make_vectors.py", "chat_templates/*.json"),
)

# What a name that begins so may be besides a maker: parts of makers, and checks.
OTHERS = {"make_all.py"}


def unlisted():
    """Makers in the folder that MAKERS leaves out."""
    listed = {maker.script for maker in MAKERS} | OTHERS
    found = [path.relative_to(HERE).as_posix()
             for pattern in ("make_*.py", "gguf_*.py", "*/make_*.py")
             for path in HERE.glob(pattern)]
    return sorted(set(found) - listed)


def imported(path, seen):
    """Top-level modules that a script imports, and the scripts beside it that it imports."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        for name in (full.split(".")[0] for full in names):
            beside = path.parent / f"{name}.py"
            if not beside.exists():
                modules.add(name)
            elif beside not in seen:
                seen.add(beside)
                modules |= imported(beside, seen)
    return modules


def missing_packages(maker):
    path = HERE / maker.script
    modules = imported(path, {path}) - set(maker.modules) - set(sys.stdlib_module_names)
    return sorted(PACKAGES.get(name, name) for name in modules | set(maker.besides)
                  if importlib.util.find_spec(name) is None)


def problems(maker, place):
    """What keeps a maker from running, one line each."""
    lines = [f"{maker.script}: expected the Python package {name}, found none"
             for name in missing_packages(maker)]
    if maker.option and not place:
        lines.append(f"{maker.script}: expected {maker.option} with {maker.place}, found none")
    elif maker.option and not Path(place).exists():
        lines.append(f"{maker.script}: expected {maker.place}, found nothing ({place})")
    return lines


def run(maker, place):
    print(f"{maker.script}: {maker.writes}", flush=True)
    arguments = [str(Path(place).resolve())] if maker.option else []
    return subprocess.run([sys.executable, str(HERE / maker.script), *arguments],
                          env={**os.environ, **ENVIRONMENT}, check=False).returncode


def main():
    parser = argparse.ArgumentParser(
        description="Runs the scripts that write golden values, in their order.")
    parser.add_argument("--list", action="store_true",
                        help="name the scripts and what is missing for each; run none")
    parser.add_argument("--only", action="extend", nargs="+", metavar="NAME", default=[],
                        help="run these alone: names of the list, with or without .py")
    places = {}
    for maker in MAKERS:
        if maker.option:
            parser.add_argument(maker.option, metavar="PATH",
                                help=f"{maker.place}, for {maker.script}")
    options = parser.parse_args()
    for maker in MAKERS:
        if maker.option:
            places[maker] = getattr(options, maker.option.lstrip("-").replace("-", "_"))

    wanted = {Path(name).stem for name in options.only}
    known = {maker.name for maker in MAKERS}
    if wanted - known:
        parser.error(f"argument --only: expected names of --list, found "
                     f"{', '.join(sorted(wanted - known))}")
    selected = [maker for maker in MAKERS if not wanted or maker.name in wanted]

    forgotten = unlisted()
    for script in forgotten:
        print(f"make_all.py: expected {script} in its list, found it in the folder alone",
              file=sys.stderr)
    if options.list:
        for maker in selected:
            print(f"{maker.name:<26} {maker.writes}")
            for line in problems(maker, places.get(maker)):
                print(f"{'':<26}   {line.split(': ', 1)[1]}")
        return 1 if forgotten else 0

    lines = [line for maker in selected for line in problems(maker, places.get(maker))]
    for line in lines:
        print(line, file=sys.stderr)
    if lines or forgotten:
        return 1
    for maker in selected:
        if code := run(maker, places.get(maker)):
            print(f"{maker.script}: expected exit code 0, found {code}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
