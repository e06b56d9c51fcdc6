#!/usr/bin/env python3
"""Compares training with PyTorch's on the same model, data and number of threads, in turns:

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors numpy
    venv/bin/python bench/peers/pytorch_train.py --build build --out bench/results/train.json

- `pytorch`: eager PyTorch with the selective scan, forwards and backwards, as a kernel in C
  (compiled here with OpenMP and the machine's instructions), AdamW, clipping.
- `transformers`: MambaForCausalLM as it is, whose scan is a loop over tokens; two steps of one
  row of 128 tokens: with more its tokens become slower still.
- `krait`: `krait train` from the same weights.

All take the same rows in the same order. The losses of the first step must agree to 1e-4, those
after the last to 1e-2; tokens per second are those of the median step, the first left out.
"""

import argparse
import ctypes
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent

SCAN = r"""
#include <math.h>
#include <stdlib.h>
#include <string.h>
// Rows are [batch, tokens, channels] and [batch, tokens, N]; h is a state of N numbers.
// The states of one channel are kept for the backward pass, which computes them again.
static void states(int T, int E, const float* u, const float* dt, const float* A,
                   const float* B, float* h, float* a) {
  float s[N];
  memset(s, 0, sizeof s);
  for (int t = 0; t < T; ++t) {
    const float d = dt[(long)t * E], du = d * u[(long)t * E];
#pragma omp simd
    for (int n = 0; n < N; ++n) {
      a[t * N + n] = expf(d * A[n]);
      s[n] = a[t * N + n] * s[n] + du * B[t * N + n];
      h[t * N + n] = s[n];
    }
  }
}
void forward(int batch, int T, int E, const float* u, const float* dt, const float* A,
             const float* B, const float* C, const float* D, float* y) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int b = 0; b < batch; ++b)
    for (int e = 0; e < E; ++e) {
      const long at = (long)b * T * E + e;
      float s[N];
      memset(s, 0, sizeof s);
      for (int t = 0; t < T; ++t) {
        const float d = dt[at + (long)t * E], x = u[at + (long)t * E], du = d * x;
        const float *Bt = B + ((long)b * T + t) * N, *Ct = C + ((long)b * T + t) * N;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int n = 0; n < N; ++n) {
          s[n] = expf(d * A[e * N + n]) * s[n] + du * Bt[n];
          sum += s[n] * Ct[n];
        }
        y[at + (long)t * E] = sum + D[e] * x;
      }
    }
}
void backward(int batch, int T, int E, const float* u, const float* dt, const float* A,
              const float* B, const float* C, const float* D, const float* dy, float* du,
              float* ddt, float* dA, float* dB, float* dC, float* dD) {
#pragma omp parallel
  {
    float* h = malloc(sizeof(float) * 2 * T * N);
    float* a = h + T * N;
    float* own = calloc(2L * batch * T * N, sizeof(float));
#pragma omp for schedule(static)
    for (int e = 0; e < E; ++e)
      for (int b = 0; b < batch; ++b) {
        const long at = (long)b * T * E + e;
        const float *Bb = B + (long)b * T * N, *Cb = C + (long)b * T * N;
        float *dBb = own + (long)b * T * N, *dCb = own + ((long)batch + b) * T * N;
        states(T, E, u + at, dt + at, A + e * N, Bb, h, a);
        float G[N];
        memset(G, 0, sizeof G);
        for (int t = T - 1; t >= 0; --t) {
          const float g = dy[at + (long)t * E], d = dt[at + (long)t * E],
                      x = u[at + (long)t * E];
          float q = 0, r = 0;
          const float* before = h + (t - 1) * N;
#pragma omp simd reduction(+ : q, r)
          for (int n = 0; n < N; ++n) {
            const float gn = G[n] + g * Cb[t * N + n];
            dCb[t * N + n] += g * h[t * N + n];
            dBb[t * N + n] += gn * d * x;
            q += gn * Bb[t * N + n];
            G[n] = gn * a[t * N + n];
            const float m = t > 0 ? G[n] * before[n] : 0;
            r += m * A[e * N + n];
            dA[e * N + n] += d * m;
          }
          du[at + (long)t * E] = d * q + D[e] * g;
          ddt[at + (long)t * E] = x * q + r;
          dD[e] += g * x;
        }
      }
#pragma omp critical
    for (long i = 0; i < (long)batch * T * N; ++i) {
      dB[i] += own[i];
      dC[i] += own[(long)batch * T * N + i];
    }
    free(h);
    free(own);
  }
}
"""


def scan_function(torch, n_state, folder):
    """The selective scan of (u, dt, A, B, C, D) as a function with a gradient."""
    source, library = folder / "scan.c", folder / "scan.so"
    source.write_text(f"#define N {n_state}\n" + SCAN)
    subprocess.run(["gcc", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC",
                    source, "-o", library, "-lm"], check=True)
    kernel = ctypes.CDLL(str(library))

    def call(function, batch, tokens, channels, *arrays):
        function(batch, tokens, channels, *(ctypes.c_void_p(a.data_ptr()) for a in arrays))

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            inputs = [x.contiguous() for x in inputs]
            y = torch.empty_like(inputs[0])
            call(kernel.forward, *y.shape, *inputs, y)
            ctx.save_for_backward(*inputs)
            return y

        @staticmethod
        def backward(ctx, dy):
            inputs = ctx.saved_tensors
            gradients = [torch.zeros_like(x) for x in inputs]
            call(kernel.backward, *dy.shape, *inputs, dy.contiguous(), *gradients)
            return tuple(gradients)

    return Scan.apply


def mamba(torch, config, weights, scan):
    """The model as plain functions of its parameters."""
    F = torch.nn.functional
    parameters = {k: torch.nn.Parameter(v.float().clone()) for k, v in weights.items()
                  if k != "lm_head.weight"}
    rank, state = config["time_step_rank"], config["state_size"]
    eps = config["layer_norm_epsilon"]

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    def layer(h, i):
        at = {k.removeprefix(f"backbone.layers.{i}."): v for k, v in parameters.items()
              if k.startswith(f"backbone.layers.{i}.")}
        x = F.linear(norm(h, at["norm.weight"]), at["mixer.in_proj.weight"])
        x, z = x.chunk(2, dim=-1)
        width = at["mixer.conv1d.weight"].shape[-1]
        x = F.conv1d(x.transpose(1, 2), at["mixer.conv1d.weight"], at["mixer.conv1d.bias"],
                     padding=width - 1, groups=x.shape[-1])[..., :h.shape[1]]
        x = F.silu(x).transpose(1, 2)
        dt, B, C = F.linear(x, at["mixer.x_proj.weight"]).split([rank, state, state], dim=-1)
        dt = F.softplus(F.linear(dt, at["mixer.dt_proj.weight"], at["mixer.dt_proj.bias"]))
        y = scan(x, dt, -torch.exp(at["mixer.A_log"]), B, C, at["mixer.D"])
        return h + F.linear(y * F.silu(z), at["mixer.out_proj.weight"])

    def loss(rows):
        h = F.embedding(rows[:, :-1], parameters["backbone.embeddings.weight"])
        for i in range(config["num_hidden_layers"]):
            h = layer(h, i)
        logits = F.linear(norm(h, parameters["backbone.norm_f.weight"]),
                          parameters["backbone.embeddings.weight"])
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    return parameters, loss


def train(torch, parameters, loss, rows, lr):
    """Losses and seconds of the steps over rows [steps, batch, length + 1]."""
    exempt = ("norm", "A_log", ".D", "bias", "conv1d")
    groups = [{"params": [v for k, v in parameters if not any(e in k for e in exempt)],
               "weight_decay": 0.1},
              {"params": [v for k, v in parameters if any(e in k for e in exempt)],
               "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    losses, seconds = [], []
    for batch in rows:
        begun = time.perf_counter()
        found = loss(batch)
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_([v for _, v in parameters], 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
        losses.append(found.item())
    return losses, seconds


def rate(tokens, seconds):
    return tokens / statistics.median(seconds[1:] or seconds)


def train_krait(options, model, data, folder):
    log = folder / "log.jsonl"
    arguments = {
        "-m": model, "--data": data, "--out": folder / f"out{time.time_ns()}",
        "--steps": options.steps, "--batch": options.batch, "--length": options.length,
        "--lr": options.lr, "--order": "sequential", "--threads": options.threads, "--log": log}
    command = [str(options.build / "examples/krait/krait"), "train"]
    for key, value in arguments.items():
        command += [key, str(value)]
    subprocess.run(command, check=True, capture_output=True)
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    tokens = options.batch * options.length
    return [s["loss"] for s in steps], [tokens / s["tokens_per_second"] for s in steps]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--model", type=Path, default=HERE.parents[1] / "examples/models/krait-bytes-2m")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "tests/data/heldout_64k.txt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--transformers", action="store_true", help="measure it too: slow")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import numpy as np
    import torch
    from safetensors.torch import load_file
    torch.set_num_threads(options.threads)

    config = json.loads((options.model / "config.json").read_text())
    weights = load_file(options.model / "model.safetensors")
    text = np.frombuffer(options.data.read_bytes(), dtype=np.uint8).astype(np.int64)
    at = np.arange(options.steps * options.batch)[:, None] * options.length
    index = (at + np.arange(options.length + 1)[None, :]) % len(text)
    rows = torch.tensor(text[index]).view(options.steps, options.batch, -1)
    tokens = options.batch * options.length

    rates = {"krait": [], "pytorch": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = scan_function(torch, config["state_size"], folder)
        for _ in range(options.rounds):
            parameters, loss = mamba(torch, config, weights, scan)
            theirs, seconds = train(torch, list(parameters.items()), loss, rows, options.lr)
            rates["pytorch"].append(rate(tokens, seconds))
            ours, seconds = train_krait(options, options.model, options.data, folder)
            rates["krait"].append(rate(tokens, seconds))
            assert abs(ours[0] - theirs[0]) < 1e-4, (ours[0], theirs[0])
            assert abs(ours[-1] - theirs[-1]) < 1e-2, (ours[-1], theirs[-1])
        if options.transformers:
            rates["transformers"] = [train_transformers(torch, options, rows)]
    result = {
        "date": datetime.date.today().isoformat(),
        "model": options.model.name, "threads": options.threads, "batch": options.batch,
        "length": options.length, "torch": torch.__version__,
        "first_loss": {"krait": ours[0], "pytorch": theirs[0]},
        "last_loss": {"krait": ours[-1], "pytorch": theirs[-1]},
        "tokens_per_second": {k: {"best": max(v), "median": statistics.median(v)}
                              for k, v in rates.items()},
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def train_transformers(torch, options, rows):
    """Tokens per second of transformers' own model, the better of two short steps."""
    from transformers import MambaForCausalLM
    model = MambaForCausalLM.from_pretrained(options.model, dtype=torch.float32).train()
    few = rows[:2, :1, :129]

    def loss(batch):
        logits = model(batch[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    _, seconds = train(torch, list(model.named_parameters()), loss, few, options.lr)
    return 128 / min(seconds)


if __name__ == "__main__":
    sys.exit(main())
