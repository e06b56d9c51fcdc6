#!/usr/bin/env python3
"""Whether llama.cpp loads the GGUF files that krait writes, with krait's logits for their sources.

    gguf_in_llama_cpp.py KRAIT

Checkpoints of tests/golden and examples/models become GGUF files in f32; llama.cpp, as the package
xllamacpp has it, runs a few tokens of each, in a process of its own since it aborts where it does not
agree. Its keys and values are in f32 and flash attention is off, which rounds queries to f16. Prints
what it finds and exits with 1 where a difference is too large; with 77 where a package is missing.
"""

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    import xllamacpp
except ImportError as error:
    print(f"skipped: {sys.executable} has no {error.name}")
    sys.exit(77)

DIFFERENCE = 1e-5  # most that logits may differ by, relative to the largest
TOKENS = [1, 5, 9, 2, 30, 7, 7, 12, 3, 25, 11, 4]
ROOT = Path(__file__).resolve().parents[2]
MODELS = [
    "hf_f32", "hf_bf16", "hf_sharded", "hf_falcon_bf16", "orig_bin",
    "hf_mamba2_f32", "hf_mamba2_bf16", "hf_mamba2_sharded", "orig_mamba2",
    "hf_jamba", "hf_jamba_dense", "hf_granite_dense", "hf_granite_experts", "hf_nemotron_h",
    "hf_nemotron_experts", "hf_falcon_h1", "hf_falcon_h1_no_norm",
    "hf_llama", "hf_llama3_scaled", "hf_yarn", "krait-bytes-2m", "krait-bytes-draft",
]  # fmt: skip
# Of what GGUF files cannot say.
CHANGES = {
    "hf_granite_experts": {"position_embedding_type": "nope"},
    "hf_falcon_bf16": {"mixer_rms_eps": 1e-5},
}


class Opaque(ctypes.Structure):
    """A structure of llama.cpp's that is passed by value, and no longer than this."""

    _fields_ = [("words", ctypes.c_int32 * 128)]


def load_library():
    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    pointer = ctypes.c_void_p
    for name, result, arguments in [
        ("llama_model_default_params", Opaque, []),
        ("llama_context_default_params", Opaque, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Opaque]),
        ("llama_init_from_model", pointer, [pointer, Opaque]),
        ("llama_batch_get_one", Opaque, [ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]),
        ("llama_decode", ctypes.c_int32, [pointer, Opaque]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def context_params(library):
    """llama.cpp's, but for what rounds. The package has no header: the fields are found by their
    defaults, the kind of flash attention at the end of four -1 (for the model to decide), the types
    of keys and values as the only 1, 1 (f16)."""
    params = library.llama_context_default_params()
    words = params.words
    pairs = [i for i in range(64) if words[i] == words[i + 1] == 1]
    decided = [i for i in range(64) if list(words[i : i + 4]) == [-1] * 4]
    if len(pairs) != 1 or len(decided) != 1:
        print("skipped: the parameters of this llama.cpp lie elsewhere")
        sys.exit(77)
    words[pairs[0]] = words[pairs[0] + 1] = 0
    words[decided[0] + 3] = 0
    return params


def run_in_llama_cpp(path, out):
    library = load_library()
    library.llama_backend_init()
    log_kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    quiet = log_kind(lambda level, text, _: level == 4 and sys.stderr.write(text.decode()) and None)
    library.llama_log_set(quiet, None)
    params = context_params(library)
    model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
    context = library.llama_init_from_model(model, params) if model else None
    if not context:
        sys.exit(1)
    vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    rows = []
    for token in TOKENS:
        batch = library.llama_batch_get_one((ctypes.c_int32 * 1)(token), 1)
        if library.llama_decode(context, batch) != 0:
            sys.exit(1)
        logits = library.llama_get_logits_ith(context, -1)
        rows.append(np.ctypeslib.as_array(logits, (vocab,)).copy())
    np.save(out, np.array(rows))


def changed(source, target, changes):
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def compare(krait, name, folder):
    """The largest difference, relative to the largest logit, or what went wrong."""
    source = ROOT / ("examples/models" if name.startswith("krait-") else "tests/golden") / name
    if name in CHANGES:
        source = changed(source, folder / name, CHANGES[name])
    file, theirs, ours = (str(folder / f"{name}.{end}") for end in ("gguf", "npy", "krait.npy"))
    logits = [krait, "logits", "-m", source, "--tokens", ",".join(map(str, TOKENS)), "--all"]
    for command in (
        [krait, "convert", source, file, "--to", "gguf", "--dtype", "f32"],
        [sys.executable, __file__, "--run", file, theirs],
        [*logits, "--out", ours],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 77:
            print(done.stdout.strip())
            sys.exit(77)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or ["aborted"])[0]
    ours, theirs = np.load(ours), np.load(theirs)
    ours = ours[:, : theirs.shape[1]]
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            found = compare(sys.argv[1], name, Path(folder))
            good = isinstance(found, float) and found <= DIFFERENCE
            failed += not good
            print(f"{name:22} {found if isinstance(found, str) else f'{found:.1e}'}", end="")
            print("" if good else f"  expected at most {DIFFERENCE:.0e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run_in_llama_cpp(*sys.argv[2:])
    else:
        main()
