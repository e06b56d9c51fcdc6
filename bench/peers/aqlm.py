#!/usr/bin/env python3
"""Compares krait's additive quantisation with its authors', in turns, one thread each:

    git clone https://github.com/Vahe1994/AQLM
    python3 -m venv venv && venv/bin/pip install torch aqlm numba scipy safetensors tqdm
    venv/bin/python bench/peers/aqlm.py --aqlm AQLM --build build --out bench/results/aqlm.json

- The encoders, on the same matrices with the same second moments, at the same bits: krait's
  (krait_encode_matrix) and the authors' (AQEngine of the repository, by its README's recipe).
  The error tr(D H D') / tr(W H W') is computed here, in double, from codebooks and scales in f16;
  times are seconds of the processor.
- The products of one token and a matrix that is larger than the caches: krait_aqlm_bench and the
  layer of the `aqlm` package, which has a kernel for codebooks of 8 bits and decodes the whole
  matrix for others. With more than one thread its kernel gives wrong sums.

`--only encoders` or `--only kernels` measures one and keeps the other of the file.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["AQ_USE_JIT"] = "0"
# The package has this file's name: this folder comes last.
sys.path.append(sys.path.pop(0))

import compare  # noqa: E402
import results  # noqa: E402

ENCODED = ("2x8g8", "4x4g8")
MULTIPLIED = ("2x8g8", "1x8g8", "8x8g32", "4x4g8", "1x16g8")
EFFORT = ("--beam", "12", "--rounds", "12")  # about what `krait aqlm --preset default` does
ROWS, COLUMNS = 4096, 8192
CACHE_BYTES = 96 << 20  # codes that a round of calls reads, more than any cache here


def scheme_of(name):
    """Codebooks, bits, group."""
    books, rest = name.split("x")
    bits, group = rest.split("g")
    return int(books), int(bits), int(group)


# --- Encoders --------------------------------------------------------------------------------


def problems(np):
    """Names, weights and second moments: white Gaussian weights, with white inputs or with inputs of
    a 1/k spectrum in a random basis, log-normal sizes of channels and five channels 8 times as large."""
    for rows, columns, correlated in ((1024, 256, False), (1536, 384, False), (1024, 256, True)):
        random = np.random.default_rng(1)
        weights = random.standard_normal((rows, columns)).astype(np.float32)
        moments = np.eye(columns)
        if correlated:
            basis, _ = np.linalg.qr(random.standard_normal((columns, columns)))
            sizes = np.exp(0.5 * random.standard_normal(columns))
            sizes[random.choice(columns, 5, replace=False)] *= 8
            moments = (basis / np.arange(1, columns + 1)) @ basis.T * np.outer(sizes, sizes)
        yield f"{rows} x {columns}, {'correlated' if correlated else 'white'} inputs", weights, moments


def error_of(np, weights, moments, codes, codebooks, scales):
    decoded = sum(codebooks[m, codes[..., m], 0].astype(np.float64) for m in range(len(codebooks)))
    decoded = decoded.reshape(weights.shape) * scales.reshape(-1, 1).astype(np.float64)
    delta = decoded - weights
    return float(np.sum(delta @ moments * delta) / np.sum(weights @ moments * weights))


def encode_with_krait(options, weights, moments, scheme, np):
    from safetensors.numpy import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.safetensors", f"{folder}/out.safetensors"
        save_file({"W": weights, "H": moments.astype(np.float32)}, source)
        program = options.build / "bench/krait_encode_matrix"
        before = os.times()
        compare.run([program, source, target, "--scheme", scheme, "--threads", "1", *EFFORT])
        seconds = os.times().children_user - before.children_user
        parts = load_file(target)
    codes = parts["codes"].astype(np.int64) & 0xFFFF
    error = error_of(np, weights, moments, codes, parts["codebooks"], parts["scales"])
    return {"error": error, "seconds": seconds}


def encode_with_authors(options, weights, moments, scheme, beam, np):
    import torch
    from aq_engine import AQEngine

    torch.manual_seed(0)
    books, bits, group = scheme_of(scheme)
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(weights.copy())
    engine = AQEngine(layer)
    engine.XTX = torch.from_numpy(moments.astype(np.float64))
    engine.nsamples = 1
    # Defaults of their main.py, and their README's tolerance.
    args = SimpleNamespace(
        devices=[torch.device("cpu")], out_group_size=1, in_group_size=group, num_codebooks=books,
        nbits_per_codebook=bits, codebook_value_nbits=16, codebook_value_num_groups=1, scale_nbits=0,
        init_max_iter=100, init_max_points_per_centroid=None, lr=1e-4, max_epochs=1000,
        steps_per_epoch=100, relative_mse_tolerance=0.01, beam_size=beam, print_frequency=1,
    )
    begin = time.process_time()
    with open(os.devnull, "w") as nothing:
        stderr, sys.stderr = sys.stderr, nothing  # progress bars
        try:
            result = engine.quantize(args=args, verbose=False)
        finally:
            sys.stderr = stderr
    seconds = time.process_time() - begin
    codes = result.get_codes().numpy().astype(np.int64)
    codebooks = result.get_codebooks().detach().half().numpy()
    scales = result.get_scales().detach().half().numpy()
    return {"beam": beam, "error": error_of(np, weights, moments, codes, codebooks, scales), "seconds": seconds}


def measure_encoders(options):
    import numpy as np

    sys.path.insert(0, str(options.aqlm))
    rows = []
    for name, weights, moments in problems(np):
        for scheme in ENCODED:
            row = {"matrix": name, "scheme": scheme, "krait": encode_with_krait(options, weights, moments, scheme, np)}
            row["authors"] = [encode_with_authors(options, weights, moments, scheme, b, np) for b in options.beams]
            rows.append(row)
            own = row["krait"]
            others = "; ".join(f'beam {a["beam"]} {a["error"]:.4f} in {a["seconds"]:.1f} s' for a in row["authors"])
            print(f'{name}, {scheme}: krait {own["error"]:.4f} in {own["seconds"]:.1f} s; {others}', flush=True)
    return rows


# --- Kernels ---------------------------------------------------------------------------------


def package_layers(scheme):
    """Layers with codes of their own and common codebooks, and the name of the kernel they use."""
    import torch
    from aqlm import QuantizedLinear
    from aqlm.utils import get_int_dtype

    books, bits, group = scheme_of(scheme)
    generator = torch.Generator().manual_seed(1)
    dtype = get_int_dtype(bits)
    shape = (ROWS, COLUMNS // group, books)
    half = 2 ** (bits - 1)
    code_bytes = ROWS * (COLUMNS // group) * books * dtype.itemsize
    layers = []
    codebooks = torch.randn((books, 2**bits, 1, group), generator=generator)
    for _ in range(CACHE_BYTES // code_bytes + 1):
        layer = QuantizedLinear(COLUMNS, ROWS, group, 1, books, bits, bias=False)
        layer.codes.data = torch.randint(-half, half, shape, generator=generator, dtype=dtype)
        layer.codebooks.data = codebooks
        layer.scales.data = torch.ones((ROWS, 1, 1, 1))
        layers.append(layer)
    return layers, "numba" if bits == 8 else "decodes the matrix"


def hold_others_back(hold):
    """What `chrt -r 50` does, and back."""
    policy = os.SCHED_RR if hold else os.SCHED_OTHER
    os.sched_setscheduler(0, policy, os.sched_param(50 if hold else 0))


def time_package(layers, realtime):
    """Seconds a call, the median over at least 8 of them and a second."""
    import torch

    torch.set_num_threads(1)
    x = torch.randn(1, COLUMNS)
    with torch.no_grad():
        for layer in layers:
            layer(x)  # compiles, and turns the codes over
        if realtime:
            hold_others_back(True)
        seconds, begin = [], time.perf_counter()
        while len(seconds) < 8 or time.perf_counter() - begin < 1:
            start = time.perf_counter()
            layers[len(seconds) % len(layers)](x)
            seconds.append(time.perf_counter() - start)
        if realtime:
            hold_others_back(False)
    return statistics.median(seconds)


def krait_isa(program):
    """The best instruction set of the machine: the last one listed."""
    names = subprocess.run([program, "--benchmark_list_tests"], capture_output=True, text=True, check=True).stdout
    return names.split()[-1].split("/")[3]


def time_krait(options, scheme, isa):
    """By number of threads: seconds a call and percent of the read bandwidth."""
    program = options.build / "bench/krait_aqlm_bench"
    pattern = f"^aqlm/{ROWS}x{COLUMNS}/{scheme}/{isa}/tokens:1/beside:f32/threads:"
    output, _, _ = compare.run([program, f"--benchmark_filter={pattern}", "--benchmark_format=json"],
                               options.realtime)
    times = {}
    for benchmark in json.loads(output)["benchmarks"]:
        threads = benchmark["name"].split("threads:")[1].split("/")[0]
        times[threads] = {
            "seconds": 1e-9 * ROWS * COLUMNS / benchmark["Gweight/s"],
            "percent": benchmark["%"],
            "times_dense": benchmark["x_dense"],
        }
    return times


def measure_kernels(options):
    isa = krait_isa(options.build / "bench/krait_aqlm_bench")
    rows = []
    for scheme in MULTIPLIED:
        layers, kernel = package_layers(scheme)
        package, own = [], []
        for _ in range(options.rounds):
            package.append(time_package(layers, options.realtime))
            own.append(time_krait(options, scheme, isa))
        del layers
        row = {"scheme": scheme, "isa": isa, "package": kernel, "package_seconds": statistics.median(package)}
        row["krait"] = {
            threads: {key: statistics.median(o[threads][key] for o in own) for key in own[0][threads]}
            for threads in own[0]
        }
        row["ratio"] = {
            threads: statistics.median(p / o[threads]["seconds"] for p, o in zip(package, own)) for threads in own[0]
        }
        rows.append(row)
        ratios = ", ".join(f"{t} threads {r:.1f} times as fast" for t, r in row["ratio"].items())
        print(f'{scheme}: package {1e3 * row["package_seconds"]:.2f} ms ({kernel}); krait {ratios}', flush=True)
    return rows


def versions():
    names = ("aqlm", "torch", "numba", "numpy")
    root = Path(__file__).resolve().parent.parent.parent
    commit = compare.first_line(["git", "-C", root, "describe", "--always", "--dirty", "--exclude", "*"])
    return {"krait": commit, **{name: metadata.version(name) for name in names}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--aqlm", type=Path, help="a clone of https://github.com/Vahe1994/AQLM, for the encoders")
    parser.add_argument("--build", type=Path, default=Path("build"), help="krait's build folder")
    parser.add_argument("--out", type=Path, required=True, help="the file of results")
    parser.add_argument("--only", choices=("encoders", "kernels"))
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 8], help="of the authors' search")
    parser.add_argument("--realtime", action="store_true", help="hold other programs back while kernels run")
    parser.add_argument("--rounds", type=int, default=3, help="of the kernels, in turns")
    options = parser.parse_args()
    if options.only != "kernels" and (options.aqlm is None or not (options.aqlm / "aq_engine.py").is_file()):
        print("[aqlm] --aqlm: expected a clone of the authors' repository, found none", file=sys.stderr)
        return 2
    try:
        data = results.load(options.out, "krait-aqlm-1") if options.out.exists() else {"format": "krait-aqlm-1"}
        facts = {"date": datetime.date.today().isoformat(), "machine": compare.machine(), "versions": versions()}
        if options.only != "kernels":
            data["encoders"] = {**facts, "rows": measure_encoders(options)}
        if options.only != "encoders":
            data["kernels"] = {**facts, "shape": [ROWS, COLUMNS], "rounds": options.rounds}
            data["kernels"]["rows"] = measure_kernels(options)
    except (compare.Failed, results.BadFile) as error:
        print(error, file=sys.stderr)
        return 1
    part = options.out.with_name(options.out.name + ".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(part, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
