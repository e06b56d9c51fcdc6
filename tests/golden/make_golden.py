#!/usr/bin/env python3
"""Writes the tiny Mamba checkpoints and the logits that krait's tests compare against.

For every case there is a folder with a checkpoint in one of the layouts that exist in the wild, and

  golden.json   tokens, shape of the logits, greedy continuation, who computed them
  logits.bin    [n_token, vocab_padded] little-endian f32, the logits after each token

The logits are those of transformers' MambaForCausalLM in float32 on one CPU thread, read from the
files just written. Each case is also computed by the float64 numpy implementation below, which
shares no code with transformers; the script stops when the two disagree.

  python make_golden.py            writes all cases
  python make_golden.py --hashed   checks the framework-free golden vectors (weights from a hash)
"""

import argparse
import json
import math
import os
import shutil
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM

HERE = Path(__file__).resolve().parent
N_GREEDY = 64
MAX_DIFFERENCE = 4e-6  # float32 against float64, relative to the largest logit
MIN_GAP = 2e-3  # a greedy step counts as robust when the top two logits differ by this, relatively


@dataclass
class Case:
    """One checkpoint. Sizes carry the names of the state-spaces configuration."""

    name: str
    layout: str  # "hf" or "original"
    d_model: int
    n_layer: int
    vocab: int
    n_token: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int = 0  # 0: ceil(d_model / 16)
    pad_vocab: int = 1  # vocab is rounded up to a multiple of this
    tied: bool = True  # what the configuration says
    own_head: bool = False  # a lm_head that differs from the embedding is stored
    bias: bool = False  # in_proj and out_proj
    conv_bias: bool = True
    rms_norm: bool = True
    dtype: dict = field(default_factory=dict)  # name suffix -> torch dtype, "" for the others
    note: str = ""

    def __post_init__(self):
        self.dt_rank = self.dt_rank or math.ceil(self.d_model / 16)
        self.d_inner = self.expand * self.d_model
        self.vocab_padded = -(-self.vocab // self.pad_vocab) * self.pad_vocab


MATRICES = ("embedding.weight", "proj.weight", "lm_head.weight")

CASES = [
    Case("hf_f32", "hf", d_model=32, n_layer=3, vocab=64, n_token=33,
         note="Hugging Face layout as transformers writes it, f32, tied head"),
    Case("hf_dt_rank", "hf", d_model=24, n_layer=2, vocab=50, n_token=29, d_state=7, d_conv=3,
         expand=3, dt_rank=5, tied=False, own_head=True,
         note="no size is the usual one: time_step_rank, state_size, conv_kernel, expand; untied"),
    Case("hf_no_conv_bias_use_bias", "hf", d_model=20, n_layer=2, vocab=40, n_token=25, d_state=8,
         conv_bias=False, bias=True, note="use_bias true, use_conv_bias false"),
    Case("hf_bf16", "hf", d_model=32, n_layer=3, vocab=72, n_token=37,
         dtype={m: torch.bfloat16 for m in MATRICES},
         note="matrices bf16, A_log, D, norms, convolutions and biases f32"),
    Case("hf_f16", "hf", d_model=32, n_layer=2, vocab=72, n_token=31, d_state=12,
         dtype={m: torch.float16 for m in (*MATRICES, "conv1d.weight", "conv1d.bias")},
         note="matrices and convolutions f16, A_log, D, norms and dt_proj.bias f32"),
    Case("hf_sharded", "hf", d_model=24, n_layer=3, vocab=60, n_token=24, tied=False, own_head=True,
         note="several safetensors shards and model.safetensors.index.json"),
    Case("orig_bin", "original", d_model=24, n_layer=3, vocab=61, n_token=30, pad_vocab=8,
         note="state-spaces layout, vocabulary padded to 64, lm_head shares the embedding's storage"),
    Case("orig_layernorm", "original", d_model=20, n_layer=2, vocab=45, n_token=27, d_state=6,
         dt_rank=3, pad_vocab=4, tied=False, own_head=True, rms_norm=False,
         dtype={"": torch.float16, "A_log": torch.float32, ".D": torch.float32},
         note="LayerNorm with bias, f16 storages, views with strides and storage offsets"),
    Case("orig_mambabyte_names", "original", d_model=16, n_layer=2, vocab=256, n_token=40,
         pad_vocab=8, tied=False, own_head=True, rms_norm=False,
         note="names of the MambaByte authors' code, LayerNorm with bias, bytes as tokens"),
    Case("orig_two_heads", "original", d_model=16, n_layer=2, vocab=48, n_token=28, pad_vocab=8,
         tied=True, own_head=True,
         note="tie_embeddings is true, yet a different lm_head.weight is stored: lm_head wins"),
]


# --- Weights ---------------------------------------------------------------------------------

def random_weights(case, seed):
    """Float32 weights under the original names, large enough that the state decides the logits."""
    bits = np.random.PCG64(seed)  # random_raw is a fixed stream, unlike numpy's distributions

    def uniform(*shape):  # in [-1, 1)
        raw = bits.random_raw(math.prod(shape)) >> np.uint64(40)
        return (raw.astype(np.float64) / 2**23 - 1).reshape(shape)

    def matrix(rows, cols, gain):  # unit-variance input gives output of standard deviation `gain`
        return gain * math.sqrt(3 / cols) * uniform(rows, cols)

    d, di, n, r = case.d_model, case.d_inner, case.d_state, case.dt_rank
    w = OrderedDict()
    w["backbone.embedding.weight"] = 1.2 * uniform(case.vocab_padded, d)

    def norm(prefix):
        w[prefix + ".weight"] = 1 + 0.4 * uniform(d)
        if not case.rms_norm:
            w[prefix + ".bias"] = 0.4 * uniform(d)

    for i in range(case.n_layer):
        m = f"backbone.layers.{i}.mixer."
        w[m + "A_log"] = np.log(np.arange(1, n + 1)) - 1 + 0.5 * uniform(di, n)
        w[m + "D"] = 1 + 0.5 * uniform(di)
        w[m + "in_proj.weight"] = matrix(2 * di, d, 1.2)
        if case.bias:
            w[m + "in_proj.bias"] = 0.5 * uniform(2 * di)
        w[m + "conv1d.weight"] = uniform(di, 1, case.d_conv)
        if case.conv_bias:
            w[m + "conv1d.bias"] = 0.5 * uniform(di)
        w[m + "x_proj.weight"] = matrix(r + 2 * n, di, 1.2)
        w[m + "dt_proj.weight"] = matrix(di, r, 0.8)
        dt = np.exp(math.log(0.01) + (uniform(di) + 1) / 2 * math.log(2 / 0.01))
        w[m + "dt_proj.bias"] = dt + np.log(-np.expm1(-dt))  # softplus of it is dt: 0.01 .. 2
        w[m + "out_proj.weight"] = matrix(d, di, 1.2)
        if case.bias:
            w[m + "out_proj.bias"] = 0.5 * uniform(d)
        norm(f"backbone.layers.{i}.norm")
    norm("backbone.norm_f")
    if case.own_head:
        w["lm_head.weight"] = uniform(case.vocab_padded, d)
    for name in ("backbone.embedding.weight", "lm_head.weight"):
        if name in w:
            w[name][case.vocab:] *= 2.5  # so that sampling from the padding would be noticed
    return OrderedDict((name, torch.from_numpy(a.astype(np.float32))) for name, a in w.items())


def round_to_storage(case, weights):
    """The weights in the types they are stored in."""
    def dtype(name):
        for suffix, t in case.dtype.items():
            if suffix and name.endswith(suffix):
                return t
        return case.dtype.get("", torch.float32)

    return OrderedDict((name, t.to(dtype(name))) for name, t in weights.items())


# --- Float64 reference -----------------------------------------------------------------------

class Reference:
    """Mamba-1 one token at a time in float64 numpy (arXiv 2312.00752, sections 3.2 to 3.4).

    h[d,n] <- exp(dt[d] A[d,n]) h[d,n] + dt[d] B[n] u[d];  y[d] = sum_n C[n] h[d,n] + D[d] u[d]
    """

    def __init__(self, case, weights, eps=1e-5):
        self.case, self.eps = case, eps
        self.w = {k: v.to(torch.float64).numpy() if torch.is_tensor(v) else v
                  for k, v in weights.items()}
        self.reset()

    def reset(self):
        c = self.case
        self.conv_state = np.zeros((c.n_layer, c.d_inner, c.d_conv))
        self.ssm_state = np.zeros((c.n_layer, c.d_inner, c.d_state))

    def norm(self, prefix, x):
        weight, bias = self.w[prefix + ".weight"], self.w.get(prefix + ".bias")
        if bias is None:
            return x / np.sqrt(np.mean(x * x) + self.eps) * weight
        centred = x - x.mean()
        return centred / np.sqrt(np.mean(centred * centred) + self.eps) * weight + bias

    def mixer(self, i, x):
        c, p = self.case, f"backbone.layers.{i}.mixer."
        w = lambda name: self.w[p + name]
        optional = lambda name: self.w.get(p + name, 0.0)
        silu = lambda v: v / (1 + np.exp(-v))

        xz = w("in_proj.weight") @ x + optional("in_proj.bias")
        u, z = xz[: c.d_inner], xz[c.d_inner:]
        conv = self.conv_state[i]  # [d_inner, d_conv], newest input last
        conv[:, :-1] = conv[:, 1:]
        conv[:, -1] = u
        u = silu((conv * w("conv1d.weight")[:, 0, :]).sum(1) + optional("conv1d.bias"))
        dt_B_C = w("x_proj.weight") @ u
        dt_low, B, C = np.split(dt_B_C, [c.dt_rank, c.dt_rank + c.d_state])
        dt = np.logaddexp(0, w("dt_proj.weight") @ dt_low + w("dt_proj.bias"))
        A = -np.exp(w("A_log"))
        h = self.ssm_state[i]  # [d_inner, d_state]
        h[:] = np.exp(dt[:, None] * A) * h + (dt * u)[:, None] * B
        y = h @ C + w("D") * u
        return w("out_proj.weight") @ (y * silu(z)) + optional("out_proj.bias")

    def step(self, token):
        x = self.w["backbone.embedding.weight"][token]
        for i in range(self.case.n_layer):
            x = x + self.mixer(i, self.norm(f"backbone.layers.{i}.norm", x))
        x = self.norm("backbone.norm_f", x)
        return self.w.get("lm_head.weight", self.w["backbone.embedding.weight"]) @ x

    def run(self, tokens):
        self.reset()
        return np.stack([self.step(t) for t in tokens])

    def greedy(self, tokens, count):
        """Continues greedily over ids below `vocab`; padded rows can never win."""
        logits = self.run(tokens)[-1][: self.case.vocab]
        out, min_gap = [], math.inf
        for _ in range(count):
            low, high = np.partition(logits, -2)[-2:]
            min_gap = min(min_gap, high - low)
            out.append(int(logits.argmax()))
            logits = self.step(out[-1])[: self.case.vocab]
        return out, min_gap


# --- transformers ----------------------------------------------------------------------------

def hf_config(case):
    return MambaConfig(
        vocab_size=case.vocab_padded, hidden_size=case.d_model, state_size=case.d_state,
        num_hidden_layers=case.n_layer, expand=case.expand, conv_kernel=case.d_conv,
        use_bias=case.bias, use_conv_bias=case.conv_bias, time_step_rank=case.dt_rank,
        tie_word_embeddings=case.tied, architectures=["MambaForCausalLM"])


def hf_names(weights):
    return OrderedDict((k.replace("backbone.embedding.", "backbone.embeddings."), v)
                       for k, v in weights.items())


def model_from_weights(case, weights):
    """MambaForCausalLM around weights under the original names, LayerNorm put in where needed."""
    model = MambaForCausalLM(hf_config(replace(case, tied=False)))
    if not case.rms_norm:
        layer_norm = lambda: torch.nn.LayerNorm(case.d_model, eps=1e-5)
        for block in model.backbone.layers:
            block.norm = layer_norm()
        model.backbone.norm_f = layer_norm()
    weights = hf_names(weights)
    weights.setdefault("lm_head.weight", weights["backbone.embeddings.weight"])
    model.load_state_dict({k: v.float().contiguous() for k, v in weights.items()}, strict=True)
    return model.eval()


def model_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()


def model_greedy(model, tokens, count, vocab):
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(model_logits(model, tokens)[-1][:vocab].argmax()))
    return tokens[-count:]


# --- Layouts ---------------------------------------------------------------------------------

def write_hf(case, weights, folder):
    config = hf_config(case)
    types = {t for t in case.dtype.values()}
    config.dtype = types.pop() if types else torch.float32
    if case.name == "hf_sharded":
        model_from_weights(case, weights).save_pretrained(folder, max_shard_size="20KB")
        (folder / "generation_config.json").unlink()
    else:
        save_file({k: v.contiguous() for k, v in hf_names(weights).items()},
                  folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    # `dtype=float32` widens what is stored; the loader ties the head as the configuration says.
    return MambaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def original_config(case):
    ssm_cfg = {"orig_bin": {},
               "orig_layernorm": {"layer": "Mamba1", "d_state": case.d_state,
                                  "dt_rank": case.dt_rank, "expand": 2},
               }.get(case.name, {"layer": "Mamba1"})
    config = {"d_model": case.d_model, "d_intermediate": 0, "n_layer": case.n_layer,
              "vocab_size": case.vocab, "ssm_cfg": ssm_cfg, "attn_layer_idx": [], "attn_cfg": {},
              "rms_norm": case.rms_norm, "residual_in_fp32": True, "fused_add_norm": True,
              "pad_vocab_size_multiple": case.pad_vocab, "tie_embeddings": case.tied}
    if case.name == "orig_mambabyte_names":
        config["model_type"] = "mambabyte"
    if case.name == "orig_bin":  # the first Mamba-1 files lack the keys that came with Mamba-2
        for key in ("d_intermediate", "attn_layer_idx", "attn_cfg"):
            del config[key]
    return config


def with_odd_storages(weights):
    """Equal tensors, but as views: transposed, offset, strided, several in one storage."""
    out = OrderedDict(weights)
    packed = {}
    for name, t in weights.items():
        if name.endswith(("in_proj.weight", "embedding.weight")):
            out[name] = t.t().contiguous().t()  # strides [1, rows]
        elif name.endswith("A_log"):
            wide = torch.full((t.shape[0], t.shape[1] + 3), 9.0, dtype=t.dtype)
            wide[:, 2:2 + t.shape[1]] = t
            out[name] = wide[:, 2:2 + t.shape[1]]  # offset 2, rows further apart than their length
        elif name.endswith("out_proj.weight"):
            double = torch.full((t.shape[0], 2 * t.shape[1]), -9.0, dtype=t.dtype)
            double[:, 1::2] = t
            out[name] = double[:, 1::2]  # offset 1, strides [.., 2]
        elif name.endswith(("norm.weight", "norm.bias", "dt_proj.bias", "conv1d.weight")):
            packed[name] = t
    pool = torch.cat([t.flatten() for t in packed.values()])  # many tensors, one storage
    at = 0
    for name, t in packed.items():
        out[name] = pool[at:at + t.numel()].view(t.shape)
        at += t.numel()
    for name, t in out.items():
        assert torch.equal(t, weights[name])
    return out


def write_original(case, weights, folder):
    (folder / "config.json").write_text(json.dumps(original_config(case)) + "\n")
    saved = OrderedDict(weights)
    if not case.own_head:
        saved["lm_head.weight"] = saved["backbone.embedding.weight"]  # one storage, two names
    if case.name == "orig_layernorm":
        saved = with_odd_storages(saved)
    elif case.name == "orig_two_heads":
        saved = OrderedDict((k, torch.nn.Parameter(v)) for k, v in saved.items())
    mambabyte = {"backbone.embedding.": "mambabyte.token_embedding.",
                 "backbone.layers.": "mambabyte.layers.", "backbone.norm_f.": "mambabyte.final_norm."}
    if case.name == "orig_mambabyte_names":
        saved = OrderedDict(
            (next((new + k[len(old):] for old, new in mambabyte.items() if k.startswith(old)), k), v)
            for k, v in saved.items())
    # nn.Module.state_dict() hangs version numbers on the dictionary; real files have them too.
    saved._metadata = OrderedDict([("", {"version": 1}), ("backbone", {"version": 1})])
    torch.save(saved, folder / "pytorch_model.bin")

    loaded = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for old, new in mambabyte.items():
        loaded = OrderedDict((old + k[len(new):] if k.startswith(new) else k, v)
                             for k, v in loaded.items())
    return model_from_weights(case, loaded)


# --- One case --------------------------------------------------------------------------------

def choose_tokens(case, reference, seed):
    """The prompt, of 24 drawn, whose greedy continuation is varied and has no near-ties."""
    bits = np.random.PCG64(seed)
    best = None
    for _ in range(24):
        tokens = [int(x % case.vocab) for x in bits.random_raw(case.n_token)]
        greedy, gap = reference.greedy(tokens, N_GREEDY)
        robust = gap >= MIN_GAP * np.abs(reference.run(tokens)).max()
        key = (robust, len(set(greedy)))
        if best is None or key > best[0]:
            best = (key, tokens, greedy, gap)
    if not best[0][0]:
        raise SystemExit(f"{case.name}: no prompt with a robust greedy continuation")
    return best[1:]


def make_case(case, seed):
    folder = HERE / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    weights = round_to_storage(case, random_weights(case, seed))
    reference = Reference(case, weights)
    tokens, greedy, gap = choose_tokens(case, reference, seed + 1000)
    exact = reference.run(tokens)

    model = (write_hf if case.layout == "hf" else write_original)(case, weights, folder)
    logits = model_logits(model, tokens)
    if model_greedy(model, tokens, N_GREEDY, case.vocab) != greedy:
        raise SystemExit(f"{case.name}: greedy continuations of float32 and float64 differ")
    max_abs = float(np.abs(logits).max())
    difference = float(np.abs(logits - exact).max())
    if difference > MAX_DIFFERENCE * max_abs:
        raise SystemExit(f"{case.name}: differs from the float64 reference by {difference}")

    # The first token reaches the last position only through ssm_state: convolutions see
    # n_layer * (d_conv - 1) tokens back at most.
    assert case.n_layer * (case.d_conv - 1) < case.n_token - 1
    other = [(tokens[0] + 1) % case.vocab] + tokens[1:]
    memory = float(np.abs(reference.run(other)[-1] - exact[-1]).max())
    padding_wins = sum(int(row.argmax() >= case.vocab) for row in logits)

    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "logits.bin").write_bytes(logits.astype("<f4").tobytes())
    golden = {
        "note": case.note,
        "tokens": tokens,
        "shape": list(logits.shape),
        "vocab": case.vocab,
        "max_abs": float(f"{max_abs:.9g}"),
        "greedy": greedy,
        "greedy_min_gap": float(f"{gap:.6g}"),
        "padding_wins": padding_wins,
        "first_token_effect": float(f"{memory:.3g}"),
        "float64_max_difference": float(f"{difference:.3g}"),
        "source": f"transformers {transformers.__version__} MambaForCausalLM"
                  f"{'' if case.rms_norm else ' with torch.nn.LayerNorm'}, "
                  f"torch {torch.__version__}, float32, CPU",
    }
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
    (folder / "golden.json").write_text("{\n" + lines + "\n}\n")
    print(f"{case.name:26} max|logit| {max_abs:7.3f}  float32-float64 {difference:.2e}  "
          f"gap {gap:.3f}  distinct {len(set(greedy)):2}  first token {memory:.2e}  "
          f"padding wins {padding_wins}")


# --- Framework-free vectors ------------------------------------------------------------------

def hashed_weights(case):
    """Weights any program can make: FNV-1a of the name seeds a linear congruential generator."""
    table = {"embedding.weight": (1, 0), "conv1d.bias": (0.1, 0), "dt_proj.bias": (0.5, -2),
             "A_log": (0.5, 0.7), ".D": (0.2, 1), "norm.weight": (0.1, 1), "norm_f.weight": (0.1, 1)}
    out = OrderedDict()
    for name, tensor in random_weights(case, 0).items():
        scale, offset = next((v for k, v in table.items() if name.endswith(k)), (0.5, 0))
        s = 0x811C9DC5
        for byte in name.encode():
            s = ((s ^ byte) * 0x01000193) & 0xFFFFFFFF
        values = []
        for _ in range(tensor.numel()):
            s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
            values.append(offset + scale * (2 * (s >> 8) / 2**24 - 1))
        out[name] = torch.tensor(values, dtype=torch.float64).reshape(tensor.shape)
    return out


def check_hashed():
    case = Case("hashed", "original", d_model=8, n_layer=2, vocab=10, n_token=7, d_state=4,
                pad_vocab=16)
    tokens = [1, 5, 2, 9, 3, 0, 7]
    weights = hashed_weights(case)
    reference = Reference(case, weights)
    logits = reference.run(tokens)
    model = model_logits(model_from_weights(case, weights), tokens)
    last = [-0.370130, -1.418639, -0.682265, 0.393036]
    first = [0.681919, 5.069804, 0.649633, 2.059273]
    embedding = [-0.00139451, -0.54059494, 0.77794790]
    conv = [0.759133, -0.527494, -0.622708, 0.842326]
    ssm = [-0.001818, -0.005074, 0.008767, -0.002159]
    rows = [
        ("embedding", weights["backbone.embedding.weight"].flatten()[:3].numpy(), embedding, 1e-8),
        ("last position", logits[-1, :4], last, 1e-6),
        ("sum of 16", logits[-1].sum(), 4.825979, 1e-6),
        ("argmax", logits[-1].argmax(), 7, 0),
        ("position 0", logits[0, :4], first, 1e-6),
        ("conv_state", reference.conv_state[0, 0], conv, 1e-6),
        ("ssm_state", reference.ssm_state[0, 0], ssm, 1e-6),
        ("transformers, last position", model[-1, :4], last, 1e-5),
        ("transformers, position 0", model[0, :4], first, 1e-5),
        ("transformers, all logits", model, logits, 1e-5),
    ]
    failed = False
    for name, got, expected, tolerance in rows:
        difference = float(np.abs(np.asarray(got) - np.asarray(expected)).max())
        failed |= difference > tolerance
        print(f"{name:28} max difference {difference:.2e}  "
              f"{'holds' if difference <= tolerance else 'DIFFERS'}")
    raise SystemExit(1 if failed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hashed", action="store_true", help="check the framework-free vectors")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if parser.parse_args().hashed:
        check_hashed()
    for index, case in enumerate(CASES):
        make_case(case, seed=20240 + index)


if __name__ == "__main__":
    main()
