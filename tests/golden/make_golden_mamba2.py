#!/usr/bin/env python3
"""Writes the tiny Mamba-2 checkpoints and their logits, as make_golden.py does for Mamba.

The logits are those of transformers' Mamba2ForCausalLM in float32 on one CPU thread, by full forward
passes: its cached step does not apply time_step_limit. Layers that transformers cannot express
(norm before the gate or absent, D per channel, a gated MLP beside the heads) are put in as
OriginalMixer, which keeps transformers' chunked scan. reference.py computes the step recurrence in
float64 instead; the script stops when the two disagree.

  python make_golden_mamba2.py            writes all cases
  python make_golden_mamba2.py NAME ...   writes these cases
"""

import json
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass, field

from golden_common import (
    BF16_MATRICES, F16_MATRICES, Random, empty_folder, finish_case, hashed_weights, hf_names,
    load_float32, put_layer_norms, quiet, renamed, round_to_storage, save_bin, to_torch)

import reference
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config, Mamba2ForCausalLM
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

NO_LIMIT = (0.0, math.inf)


@dataclass
class Case:
    """One checkpoint. Sizes carry the names of the state-spaces configuration."""

    name: str
    layout: str  # "hf", "original" or "mistral"
    d_model: int
    n_layer: int
    vocab: int
    n_token: int
    headdim: int
    d_state: int
    ngroups: int = 1
    d_conv: int = 4
    expand: int = 2
    d_ssm: int = 0  # 0: expand * d_model; the remaining channels are a gated MLP
    chunk_size: int = 256
    dt_limit: tuple = NO_LIMIT
    pad_vocab: int = 1  # vocab is rounded up to a multiple of this
    tied: bool = True
    bias: bool = False  # in_proj and out_proj
    conv_bias: bool = True
    rms_norm: bool = True  # of the blocks; LayerNorm otherwise
    gated_norm: bool = True  # the mixer has a norm
    norm_before_gate: bool = False
    D_has_hdim: bool = False
    dtype: dict = field(default_factory=dict)  # name suffix -> torch dtype, "" for the others
    note: str = ""

    def __post_init__(self):
        self.d_inner = self.expand * self.d_model
        self.d_ssm = self.d_ssm or self.d_inner
        self.n_head = self.d_ssm // self.headdim
        self.conv_dim = self.d_ssm + 2 * self.ngroups * self.d_state
        self.vocab_padded = -(-self.vocab // self.pad_vocab) * self.pad_vocab
        self.n_conv = self.n_layer * (self.d_conv - 1)

    def is_standard(self):
        """Whether transformers' own mixer computes it."""
        return (self.gated_norm and not self.norm_before_gate and not self.D_has_hdim
                and self.d_ssm == self.d_inner)


CASES = [
    Case("hf_mamba2_f32", "hf", d_model=24, n_layer=3, vocab=64, n_token=75, headdim=12, d_state=20,
         note="Mamba-2 as transformers writes it, f32, tied head; time_step_limit holds the object "
              "{\"__float__\": \"Infinity\"}"),
    Case("hf_mamba2_bf16", "hf", d_model=32, n_layer=3, vocab=72, n_token=41, headdim=8, d_state=16,
         ngroups=2, dtype=BF16_MATRICES | {"A_log": torch.bfloat16},
         note="matrices and A_log bf16, everything else f32; 2 groups of 4 heads"),
    Case("hf_mamba2_f16_alog", "hf", d_model=24, n_layer=2, vocab=60, n_token=36, headdim=16,
         d_state=8, ngroups=3, tied=False, bias=True, dtype=F16_MATRICES | {"A_log": torch.float16},
         note="matrices and A_log f16, use_bias true, untied; every head has its own group"),
    Case("hf_mamba2_limits", "hf", d_model=20, n_layer=2, vocab=50, n_token=80, headdim=10,
         d_state=6, ngroups=2, d_conv=3, chunk_size=32, tied=False, dt_limit=(0.05, 0.4),
         note="time_step_limit clamps at both ends; conv_kernel 3, chunk_size 32"),
    Case("hf_mamba2_infinity", "hf", d_model=20, n_layer=2, vocab=48, n_token=33, headdim=8,
         d_state=10, d_conv=2, conv_bias=False, dt_limit=(0.03, math.inf),
         note="time_step_limit ends with the bare token Infinity; no conv1d.bias, conv_kernel 2"),
    Case("hf_mamba2_sharded", "hf", d_model=24, n_layer=3, vocab=60, n_token=30, headdim=6,
         d_state=9, ngroups=4, tied=False,
         note="several safetensors shards and model.safetensors.index.json, untied"),
    Case("orig_mamba2", "original", d_model=24, n_layer=3, vocab=61, n_token=72, headdim=8,
         d_state=12, ngroups=2, chunk_size=32, pad_vocab=16,
         note="state-spaces layout, 2 groups of 3 heads, vocabulary padded to 64, lm_head shares "
              "the embedding's storage"),
    Case("orig_mamba2_norm_before_gate", "original", d_model=20, n_layer=2, vocab=45, n_token=38,
         headdim=10, d_state=7, ngroups=2, pad_vocab=16, tied=False, norm_before_gate=True,
         D_has_hdim=True, dtype={"": torch.float16, "dt_bias": torch.float32, ".D": torch.float32},
         note="norm_before_gate, D per channel, f16 storages, untied"),
    Case("orig_mamba2_mlp", "original", d_model=24, n_layer=2, vocab=58, n_token=70, headdim=8,
         d_state=10, ngroups=2, d_ssm=32, chunk_size=16, pad_vocab=8, bias=True,
         dtype=BF16_MATRICES,
         note="d_ssm 32 of d_inner 48: the other 16 channels are a gated MLP; biases; bf16 matrices"),
    Case("orig_mamba2_no_norm", "original", d_model=20, n_layer=2, vocab=50, n_token=37, headdim=8,
         d_state=6, d_conv=3, pad_vocab=16, tied=False, conv_bias=False, rms_norm=False,
         gated_norm=False, dt_limit=(0.05, 0.4),
         note="rmsnorm false: the mixer has no norm; dt_limit clamps at both ends; LayerNorm "
              "blocks, no conv1d.bias"),
    Case("codestral", "mistral", d_model=64, n_layer=2, vocab=100, n_token=70, headdim=64,
         d_state=128, ngroups=2, tied=False, dtype=BF16_MATRICES,
         note="params.json and consolidated.safetensors; d_state 128 and headdim 64 are the layer's "
              "defaults and stand nowhere; names begin with model."),
]


# --- Weights and float64 ---------------------------------------------------------------------

def random_weights(case, seed):
    """Float32 weights under the original names, large enough that the state decides the logits."""
    random = Random(seed)
    d, di, h = case.d_model, case.d_inner, case.n_head
    w = OrderedDict()
    w["backbone.embedding.weight"] = 1.2 * random.uniform(case.vocab_padded, d)
    for i in range(case.n_layer):
        m = f"backbone.layers.{i}.mixer."
        w[m + "dt_bias"] = random.step_bias(h, 0.01, 2)
        w[m + "A_log"] = 1.5 * random.uniform(h) - 0.5
        w[m + "D"] = 1 + 0.5 * random.uniform(case.d_ssm if case.D_has_hdim else h)
        w[m + "in_proj.weight"] = random.matrix(2 * di + 2 * case.ngroups * case.d_state + h, d, 1.2)
        if case.bias:
            w[m + "in_proj.bias"] = 0.5 * random.uniform(len(w[m + "in_proj.weight"]))
        w[m + "conv1d.weight"] = random.uniform(case.conv_dim, 1, case.d_conv)
        if case.conv_bias:
            w[m + "conv1d.bias"] = 0.5 * random.uniform(case.conv_dim)
        if case.gated_norm:
            w[m + "norm.weight"] = 1 + 0.4 * random.uniform(case.d_ssm)
        w[m + "out_proj.weight"] = random.matrix(d, di, 1.2)
        if case.bias:
            w[m + "out_proj.bias"] = 0.5 * random.uniform(d)
        random.norm(w, f"backbone.layers.{i}.norm", d, not case.rms_norm)
    random.norm(w, "backbone.norm_f", d, not case.rms_norm)
    random.head(w, case.vocab, case.vocab_padded, d, own_head=not case.tied)
    return to_torch(w)


def float64_model(case, weights, flat_norm=False):
    return reference.backbone(weights, lambda w: reference.Mamba2(
        w, case.d_state, case.headdim, case.ngroups, case.dt_limit, case.norm_before_gate,
        flat_norm))


# --- transformers ----------------------------------------------------------------------------

def hf_config(case):
    return Mamba2Config(
        vocab_size=case.vocab_padded, hidden_size=case.d_model, state_size=case.d_state,
        num_hidden_layers=case.n_layer, num_heads=case.d_inner // case.headdim,
        head_dim=case.headdim, n_groups=case.ngroups, expand=case.expand, conv_kernel=case.d_conv,
        use_bias=case.bias, use_conv_bias=case.conv_bias, chunk_size=case.chunk_size,
        time_step_limit=list(case.dt_limit), tie_word_embeddings=case.tied,
        architectures=["Mamba2ForCausalLM"])


class OriginalMixer(torch.nn.Module):
    """state-spaces' Mamba2 layer with all its options, around transformers' chunked scan."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        rows = 2 * case.d_inner + 2 * case.ngroups * case.d_state + case.n_head
        self.in_proj = torch.nn.Linear(case.d_model, rows, bias=case.bias)
        self.conv1d = torch.nn.Conv1d(case.conv_dim, case.conv_dim, case.d_conv,
                                      groups=case.conv_dim, bias=case.conv_bias)
        self.dt_bias = torch.nn.Parameter(torch.empty(case.n_head))
        self.A_log = torch.nn.Parameter(torch.empty(case.n_head))
        self.D = torch.nn.Parameter(torch.empty(case.d_ssm if case.D_has_hdim else case.n_head))
        if case.gated_norm:
            self.norm = torch.nn.Module()
            self.norm.weight = torch.nn.Parameter(torch.empty(case.d_ssm))
        self.out_proj = torch.nn.Linear(case.d_inner, case.d_model, bias=case.bias)

    def normed(self, y):  # [1, t, d_ssm]
        grouped = y.unflatten(-1, (self.case.ngroups, -1))
        return F.rms_norm(grouped, grouped.shape[-1:], eps=1e-5).flatten(-2) * self.norm.weight

    def forward(self, hidden_states, cache=None, attention_mask=None, **_):
        c = self.case
        d_mlp, width = c.d_inner - c.d_ssm, c.ngroups * c.d_state
        gate, value, z, xBC, dt = self.in_proj(hidden_states).split(
            [d_mlp, d_mlp, c.d_ssm, c.conv_dim, c.n_head], dim=-1)
        xBC = F.pad(xBC.transpose(1, 2), (c.d_conv - 1, 0))
        xBC = F.silu(self.conv1d(xBC)).transpose(1, 2)
        x, B, C = xBC.split([c.d_ssm, width, width], dim=-1)
        x = x.unflatten(-1, (c.n_head, c.headdim))
        y = mamba2_chunk_scan(
            x, dt, -torch.exp(self.A_log), B.unflatten(-1, (c.ngroups, c.d_state)),
            C.unflatten(-1, (c.ngroups, c.d_state)), chunk_size=c.chunk_size, dt_bias=self.dt_bias,
            dt_softplus=True, dt_limit=c.dt_limit)
        y = (y + x * self.D.view(c.n_head, -1)).flatten(-2)
        if not c.gated_norm:
            y = y * F.silu(z)
        elif c.norm_before_gate:
            y = self.normed(y) * F.silu(z)
        else:
            y = self.normed(y * F.silu(z))
        return self.out_proj(torch.cat([F.silu(gate) * value, y], dim=-1))


def model_from_weights(case, weights):
    """Mamba2ForCausalLM around weights under the original names."""
    config = hf_config(case)
    config.tie_word_embeddings = False
    model = Mamba2ForCausalLM(config)
    if not case.is_standard():
        for block in model.backbone.layers:
            block.mixer = OriginalMixer(case)
    if not case.rms_norm:
        put_layer_norms(model, case.d_model)
    weights = hf_names(weights)
    weights.setdefault("lm_head.weight", weights["backbone.embeddings.weight"])
    return load_float32(model, weights)


# --- Layouts ---------------------------------------------------------------------------------

def write_hf(case, weights, folder):
    config = hf_config(case)
    config.dtype = next(iter(case.dtype.values()), torch.float32)
    if case.name == "hf_mamba2_sharded":
        model_from_weights(case, weights).save_pretrained(folder, max_shard_size="20KB")
        (folder / "generation_config.json").unlink()
    else:
        save_file({k: v.contiguous() for k, v in hf_names(weights).items()},
                  folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    path = folder / "config.json"
    if case.name == "hf_mamba2_infinity":  # as older versions of transformers write it
        text = json.loads(path.read_text()) | {"time_step_limit": list(case.dt_limit)}
        path.write_text(json.dumps(text, indent=2) + "\n")
        assert "Infinity\n" in path.read_text()
    # `dtype=float32` widens what is stored; the loader ties the head as the configuration says.
    model = Mamba2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert tuple(model.config.time_step_limit) == case.dt_limit
    return model


def original_config(case):
    ssm_cfg = {"layer": "Mamba2", "d_state": case.d_state, "headdim": case.headdim}
    optional = {"ngroups": (case.ngroups, 1), "d_conv": (case.d_conv, 4),
                "d_ssm": (case.d_ssm, case.d_inner),
                "norm_before_gate": (case.norm_before_gate, False),
                "D_has_hdim": (case.D_has_hdim, False), "rmsnorm": (case.gated_norm, True),
                "dt_limit": (case.dt_limit, NO_LIMIT), "bias": (case.bias, False),
                "conv_bias": (case.conv_bias, True)}
    ssm_cfg |= {key: value for key, (value, default) in optional.items() if value != default}
    return {"d_model": case.d_model, "d_intermediate": 0, "n_layer": case.n_layer,
            "vocab_size": case.vocab, "ssm_cfg": ssm_cfg, "attn_layer_idx": [], "attn_cfg": {},
            "rms_norm": case.rms_norm, "residual_in_fp32": True, "fused_add_norm": True,
            "pad_vocab_size_multiple": case.pad_vocab, "tie_embeddings": case.tied}


def write_original(case, weights, folder):
    (folder / "config.json").write_text(json.dumps(original_config(case)) + "\n")
    saved = OrderedDict(weights)
    if case.tied:
        saved["lm_head.weight"] = saved["backbone.embedding.weight"]  # one storage, two names
    save_bin(saved, folder / "pytorch_model.bin")
    return model_from_weights(case, torch.load(folder / "pytorch_model.bin", weights_only=True))


def write_mistral(case, weights, folder):
    params = {"dim": case.d_model, "n_layers": case.n_layer, "vocab_size": case.vocab,
              "n_groups": case.ngroups, "rms_norm": case.rms_norm, "residual_in_fp32": True,
              "fused_add_norm": True, "pad_vocab_size_multiple": case.pad_vocab,
              "tie_embeddings": case.tied, "model_type": "mamba"}
    (folder / "params.json").write_text(json.dumps(params, indent=4) + "\n")
    path = folder / "consolidated.safetensors"
    save_file({"model." + k: v.contiguous() for k, v in weights.items()}, path,
              metadata={"format": "pt"})
    return model_from_weights(case, renamed(load_file(path), {"model.": ""}))


def make_case(case, seed):
    folder = empty_folder(case.name)
    weights = round_to_storage(case.dtype, random_weights(case, seed))
    write = {"hf": write_hf, "original": write_original, "mistral": write_mistral}[case.layout]
    model = write(case, weights, folder)
    changed = [text for text, is_so in (
        ("the mixer written out around its chunked scan", not case.is_standard()),
        ("torch.nn.LayerNorm", not case.rms_norm)) if is_so]
    source = f"transformers {transformers.__version__} Mamba2ForCausalLM" + (
        " with " + " and ".join(changed) if changed else "")

    def limits_act(model):
        """Of both limits that are not the default, at least a twentieth of the steps meets each."""
        for mixer in model.mixers(reference.Mamba2):
            low, high = mixer.n_clamped / mixer.n_dt
            if ((case.dt_limit[0] > 0 and low < 0.05)
                    or (case.dt_limit[1] < math.inf and high < 0.05)):
                return False
        return True

    finish_case(case, folder, model, float64_model(case, weights), source, seed + 1000, limits_act)


# --- Framework-free vectors ------------------------------------------------------------------

def hashed_rows(tokens):
    """What make_golden.py --hashed checks: name, value, expected value, tolerance."""
    def case(**more):
        return Case("hashed", "original", d_model=8, n_layer=2, vocab=10, n_token=7, headdim=4,
                    d_state=4, ngroups=2, pad_vocab=16, **more)

    weights = hashed_weights({name: w.shape for name, w in random_weights(case(), 0).items()})
    grouped = float64_model(case(), weights)
    limited = float64_model(case(dt_limit=(0.0, 0.12)), weights).run(tokens)[-1]
    first_four = [
        ("grouped", grouped.run(tokens)[-1], [-0.889976, 0.248608, 0.103995, 1.443711], 8.822275),
        ("flat norm", float64_model(case(), weights, flat_norm=True).run(tokens)[-1],
         [0.108222, 0.358214, 0.007016, 1.453735], 7.534537),
        ("norm before gate", float64_model(case(norm_before_gate=True), weights).run(tokens)[-1],
         [-0.273667, -0.516692, -0.339386, 0.886423], 6.369899),
    ]
    state = grouped.mixers(reference.Mamba2)[0].state[0, 0]
    rows = [("Mamba-2, dt_limit (0, 0.12)", limited[:4],
             [-0.856601, 0.317552, 0.094019, 1.384313], 1e-6),
            ("Mamba-2, ssm_state", state, [-0.019950, 0.005953, -0.001894, -0.001693], 1e-6)]
    for name, logits, expected, total in first_four:
        rows += [(f"Mamba-2, {name}", logits[:4], expected, 1e-6),
                 (f"Mamba-2, {name}, sum of 16", logits.sum(), total, 1e-6),
                 (f"Mamba-2, {name}, argmax", logits[:10].argmax(), 7, 0)]
    with torch.no_grad():
        for name, options in (("grouped", {}), ("norm before gate", {"norm_before_gate": True}),
                              ("dt_limit", {"dt_limit": (0.0, 0.12)})):
            model = model_from_weights(case(**options), weights)
            got = model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
            rows.append((f"transformers, Mamba-2, {name}", got,
                         float64_model(case(**options), weights).run(tokens), 1e-5))
    return rows


def main():
    quiet()
    for index, case in enumerate(CASES):
        if len(sys.argv) == 1 or case.name in sys.argv[1:]:
            make_case(case, seed=30240 + index)


if __name__ == "__main__":
    main()
