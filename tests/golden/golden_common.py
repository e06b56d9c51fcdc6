"""What the scripts that write golden checkpoints share: weights, prompts, files."""

import json
import math
import os
import shutil
from collections import OrderedDict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
N_GREEDY = 64
MAX_DIFFERENCE = 4e-6  # float32 against float64, relative to the largest logit
MIN_GAP = 2e-3  # a greedy step counts as robust when the top two logits differ by this, relatively
MIN_MARGIN = 1e-3  # and a choice of experts, when the last chosen router logit leads by this

MATRICES = ("embedding.weight", "proj.weight", "lm_head.weight")
BF16_MATRICES = {m: torch.bfloat16 for m in MATRICES}
F16_MATRICES = {m: torch.float16 for m in MATRICES}


def quiet():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


# --- Weights ---------------------------------------------------------------------------------

class Random:
    """Uniform numbers of a fixed stream, unlike numpy's distributions."""

    def __init__(self, seed):
        self.bits = np.random.PCG64(seed)

    def uniform(self, *shape):  # in [-1, 1)
        raw = self.bits.random_raw(math.prod(shape)) >> np.uint64(40)
        return (raw.astype(np.float64) / 2**23 - 1).reshape(shape)

    def matrix(self, rows, cols, gain):
        """Input of unit variance gives output of standard deviation `gain`."""
        return gain * math.sqrt(3 / cols) * self.uniform(rows, cols)

    def step_bias(self, n, low, high):
        """softplus of it is spread over low .. high, evenly in the logarithm."""
        dt = np.exp(math.log(low) + (self.uniform(n) + 1) / 2 * math.log(high / low))
        return dt + np.log(-np.expm1(-dt))

    def norm(self, w, prefix, d, bias):
        w[prefix + ".weight"] = 1 + 0.4 * self.uniform(d)
        if bias:
            w[prefix + ".bias"] = 0.4 * self.uniform(d)

    def mamba1(self, w, m, *, d, di, n, rank, d_conv=4, bias=False, conv_bias=True, x_gain=1.2):
        """A Mamba-1 mixer under the prefix m, large enough that the state decides the logits."""
        w[m + "A_log"] = np.log(np.arange(1, n + 1)) - 1 + 0.5 * self.uniform(di, n)
        w[m + "D"] = 1 + 0.5 * self.uniform(di)
        w[m + "in_proj.weight"] = self.matrix(2 * di, d, 1.2)
        if bias:
            w[m + "in_proj.bias"] = 0.5 * self.uniform(2 * di)
        w[m + "conv1d.weight"] = self.uniform(di, 1, d_conv)
        if conv_bias:
            w[m + "conv1d.bias"] = 0.5 * self.uniform(di)
        w[m + "x_proj.weight"] = self.matrix(rank + 2 * n, di, x_gain)
        w[m + "dt_proj.weight"] = self.matrix(di, rank, 0.8)
        w[m + "dt_proj.bias"] = self.step_bias(di, 0.01, 2)
        w[m + "out_proj.weight"] = self.matrix(d, di, 1.2)
        if bias:
            w[m + "out_proj.bias"] = 0.5 * self.uniform(d)

    def head(self, w, vocab, vocab_padded, d, own_head):
        """Rows of the padding are larger, so that sampling from it would be noticed."""
        if own_head:
            w["lm_head.weight"] = self.uniform(vocab_padded, d)
        for name in ("backbone.embedding.weight", "lm_head.weight"):
            if name in w:
                w[name][vocab:] *= 2.5


def to_torch(weights):
    return OrderedDict((name, torch.from_numpy(a.astype(np.float32))) for name, a in weights.items())


def round_to_storage(dtype, weights):
    """The weights in the types they are stored in: `dtype` maps a name's end, "" all the others."""
    def of(name):
        for suffix, t in dtype.items():
            if suffix and name.endswith(suffix):
                return t
        return dtype.get("", torch.float32)

    return OrderedDict((name, t.to(of(name))) for name, t in weights.items())


def hashed_weights(shapes):
    """Weights any program can make: FNV-1a of the name seeds a linear congruential generator."""
    table = {"embedding.weight": (1, 0), "conv1d.bias": (0.1, 0), "dt_proj.bias": (0.5, -2),
             "dt_bias": (0.5, -2), "A_log": (0.5, 0.7), ".D": (0.2, 1),
             "norm.weight": (0.1, 1), "norm_f.weight": (0.1, 1)}
    out = OrderedDict()
    for name, shape in shapes.items():
        scale, offset = next((v for k, v in table.items() if name.endswith(k)), (0.5, 0))
        s = 0x811C9DC5
        for byte in name.encode():
            s = ((s ^ byte) * 0x01000193) & 0xFFFFFFFF
        values = []
        for _ in range(math.prod(shape)):
            s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
            values.append(offset + scale * (2 * (s >> 8) / 2**24 - 1))
        out[name] = torch.tensor(values, dtype=torch.float64).reshape(shape)
    return out


# --- Names and files -------------------------------------------------------------------------

def renamed(weights, prefixes):
    """The weights with the first matching prefix of each name replaced."""
    def new_name(name):
        return next((new + name[len(old):] for old, new in prefixes.items()
                     if name.startswith(old)), name)

    return OrderedDict((new_name(name), w) for name, w in weights.items())


def hf_names(weights):
    return renamed(weights, {"backbone.embedding.": "backbone.embeddings."})


MAMBABYTE = {"backbone.embedding.": "mambabyte.token_embedding.",
             "backbone.layers.": "mambabyte.layers.", "backbone.norm_f.": "mambabyte.final_norm."}
FROM_MAMBABYTE = {new: old for old, new in MAMBABYTE.items()}


def save_bin(weights, path, wrap=lambda state: state):
    saved = OrderedDict(weights)
    # nn.Module.state_dict() hangs version numbers on the dictionary; real files have them too.
    saved._metadata = OrderedDict([("", {"version": 1}), ("backbone", {"version": 1})])
    torch.save(wrap(saved), path)


def load_float32(model, weights):
    """Loads weights that must be all the model has; 16-bit ones are widened."""
    model.load_state_dict({k: v.float().contiguous() for k, v in weights.items()}, strict=True)
    return model.eval()


def put_layer_norms(model, d_model):
    """LayerNorm with bias in place of the block norms and the final norm."""
    for block in model.backbone.layers:
        block.norm = torch.nn.LayerNorm(d_model, eps=1e-5)
    model.backbone.norm_f = torch.nn.LayerNorm(d_model, eps=1e-5)


# --- One case --------------------------------------------------------------------------------

def model_logits(model, tokens):
    """A full forward pass; no cache, because cached steps of transformers may compute otherwise."""
    with torch.no_grad():
        out = model(torch.tensor([tokens]), use_cache=False)
    return out.logits[0].float().numpy()


def model_greedy(model, tokens, count, vocab):
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(model_logits(model, tokens)[-1][:vocab].argmax()))
    return tokens[-count:]


def empty_folder(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def choose_tokens(case, reference, seed, is_robust):
    """The prompt, of 24 drawn, whose greedy continuation is varied and has no near-ties."""
    bits = np.random.PCG64(seed)
    best = None
    for _ in range(24):
        tokens = [int(x % case.vocab) for x in bits.random_raw(case.n_token)]
        greedy, gap = reference.greedy(tokens, N_GREEDY, case.vocab)
        robust = is_robust(reference)  # over prompt and continuation
        robust &= gap >= MIN_GAP * np.abs(reference.run(tokens)).max()
        robust &= is_robust(reference)  # over the prompt alone
        key = (bool(robust), len(set(greedy)))
        if best is None or key > best[0]:
            best = (key, tokens, greedy, gap)
    if not best[0][0]:
        raise SystemExit(f"{case.name}: no prompt with a robust greedy continuation")
    return best[1:]


def finish_case(case, folder, model, reference, source, seed, is_robust=lambda reference: True):
    """Chooses the prompt, compares float32 with float64 and writes the expected values.

    `case` needs name, vocab, n_token, n_conv (tokens back that convolutions see) and note;
    `is_robust` may refuse a prompt by what the reference kept of a run.
    """
    tokens, greedy, gap = choose_tokens(case, reference, seed, is_robust)
    exact = reference.run(tokens)
    logits = model_logits(model, tokens)
    if model_greedy(model, tokens, N_GREEDY, case.vocab) != greedy:
        raise SystemExit(f"{case.name}: greedy continuations of float32 and float64 differ")
    max_abs = float(np.abs(logits).max())
    difference = float(np.abs(logits - exact).max())
    if difference > MAX_DIFFERENCE * max_abs:
        raise SystemExit(f"{case.name}: differs from the float64 reference by {difference}")

    # The first token reaches the last position only through the recurrent states.
    assert case.n_conv < case.n_token - 1
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
        "source": f"{source}, torch {torch.__version__}, float32, CPU",
    }
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
    (folder / "golden.json").write_text("{\n" + lines + "\n}\n")
    print(f"{case.name:28} max|logit| {max_abs:7.3f}  float32-float64 {difference:.2e}  "
          f"gap {gap:.3f}  distinct {len(set(greedy)):2}  first token {memory:.2e}  "
          f"padding wins {padding_wins}  "
          f"{sum(p.stat().st_size for p in folder.iterdir()) // 1024} KiB")
