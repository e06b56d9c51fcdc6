#!/usr/bin/env python3
"""Checks that transformers and the `aqlm` package read what `krait aqlm` writes:

  python aqlm_transformers.py KRAIT     KRAIT is the program, build/examples/krait/krait

Writes the golden checkpoints of three families in several schemes, and krait-bytes-2m with second
moments of a text, and compares all logits of `--dtype aqlm-exact` with those of transformers. The largest difference may be 1e-4 of the largest logit; transformers
5.24.0 with aqlm 1.1.7, torch 2.14.1 and numba 0.68.1 is within 3e-6.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import make_golden_aqlm_models  # sets what numba and aqlm read from the environment
import numpy as np
from golden_common import HERE, model_logits, quiet

TOLERANCE = 1e-4
CASES = (("hf_f32", "2x8g8"), ("hf_f32", "4x4g8"), ("hf_falcon_bf16", "1x12g8"),
         ("hf_mamba2_f32", "2x8g8"), ("hf_mamba2_bf16", "8x4g16"), ("hf_mamba2_f16_alog", "4x4g8"))
TEXT = (HERE.parent / "data" / "heldout_64k.txt").read_bytes()


def run(krait, *arguments):
    result = subprocess.run([krait, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"krait {' '.join(map(str, arguments))}: {result.stderr.splitlines()[-1]}")


def compare(krait, name, source, scheme, tokens, *options):
    with tempfile.TemporaryDirectory() as folder:
        written, logits = f"{folder}/aqlm", f"{folder}/logits.npy"
        run(krait, "aqlm", source, written, "--scheme", scheme, "--preset", "fast", *options)
        run(krait, "logits", "-m", written, "--dtype", "aqlm-exact", "--all", "--out", logits,
            "--tokens", ",".join(map(str, tokens)))
        own = np.load(logits)
        theirs = model_logits(make_golden_aqlm_models.load(written), tokens)
    difference = np.abs(own - theirs).max() / np.abs(theirs).max()
    print(f"{name:20} {scheme:8} {difference:.1e} of the largest logit")
    return difference <= TOLERANCE


def main():
    if len(sys.argv) != 2:
        print("usage: aqlm_transformers.py KRAIT", file=sys.stderr)
        return 2
    quiet()
    krait = sys.argv[1]
    good = True
    for name, scheme in CASES:
        tokens = json.loads((HERE / name / "golden.json").read_text())["tokens"]
        good &= compare(krait, name, HERE / name, scheme, tokens)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        text.write_bytes(TEXT[:16384])
        for scheme in ("2x8g8", "4x4g8"):
            good &= compare(krait, "krait-bytes-2m", "krait-bytes-2m", scheme, list(TEXT[20000:20300]),
                            "--calibration", text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
