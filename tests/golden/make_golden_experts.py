#!/usr/bin/env python3
"""Writes the tiny mixture-of-experts checkpoints and their logits, as make_golden.py does for Mamba.

MoE-Mamba is moe_mamba.py, BlackMamba is written out below after its authors' inference code
(github.com/Zyphra/BlackMamba, with SiLU as the gate of its experts, as the paper has it); the mixers
in both are transformers', all in float32 on one CPU thread. reference.py computes everything in
float64; the script stops when the two disagree. Prompts are chosen so that every expert of every
layer is used and no router comes closer to another choice than 1e-3 of a logit.

  python make_golden_experts.py            writes all cases
  python make_golden_experts.py NAME ...   writes these cases
"""

import json
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from types import SimpleNamespace

from golden_common import (
    BF16_MATRICES, FROM_MAMBABYTE, MAMBABYTE, MIN_MARGIN, Random, empty_folder, finish_case,
    load_float32, quiet, renamed, round_to_storage, save_bin, to_torch)

import moe_mamba
import reference
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer


@dataclass
class Case:
    name: str
    d_model: int
    vocab: int
    n_token: int
    d_expert: int
    n_layer: int = 0  # of MoE-Mamba: pairs of mixer and experts
    n_expert: int = 0
    top_k: int = 1
    pattern: list = None  # of BlackMamba: mamba_moe_layers
    d_state: int = 8
    d_conv: int = 4
    expand: int = 2
    pad_vocab: int = 1
    tied: bool = True
    rms_norm: bool = True
    bias: bool = False
    dtype: dict = field(default_factory=dict)
    note: str = ""

    def __post_init__(self):
        self.n_layer = self.n_layer or len(self.pattern)
        self.vocab_padded = -(-self.vocab // self.pad_vocab) * self.pad_vocab
        n_mixer = sum(kind[0] == "r" for kind in self.pattern) if self.pattern else self.n_layer
        self.n_conv = n_mixer * (self.d_conv - 1)
        self.mixer_sizes = {"d": self.d_model, "di": self.expand * self.d_model, "n": self.d_state,
                            "rank": math.ceil(self.d_model / 16), "d_conv": self.d_conv,
                            "bias": self.bias}


BF16 = BF16_MATRICES | {name: torch.bfloat16 for name in (
    "router.weight", "word_embeddings.weight", "linear_fc1.weight", "linear_fc2.weight")}

CASES = [
    Case("blackmamba", d_model=24, vocab=96, n_token=70, d_expert=28,
         pattern=["r", "4", "r", "1", "r1", "r4"],
         note="BlackMamba with every kind of layer: mixer, experts, one dense feed-forward, and the "
              "latter two beside a mixer"),
    Case("blackmamba_alternating", d_model=32, vocab=80, n_token=45, d_expert=36,
         pattern=["r", "4", "r", "4"], dtype=BF16,
         note="BlackMamba as released: mixers and experts alternate; bf16 matrices"),
    Case("blackmamba_bias", d_model=20, vocab=72, n_token=38, d_expert=24, d_conv=3,
         pattern=["r", "3", "r1"], bias=True,
         note="add_bias_linear true: in_proj, out_proj, both matrices of each expert and the head "
              "have a bias; conv_dimension 3"),
    Case("moe_mamba", d_model=20, vocab=61, n_token=72, d_expert=24, n_layer=3, n_expert=5,
         pad_vocab=8,
         note="MoE-Mamba: a Switch feed-forward of 5 ReLU experts after each mixer; RMSNorm, tied, "
              "f32, vocabulary padded to 64"),
    Case("moe_mamba_layernorm", d_model=24, vocab=50, n_token=40, d_expert=24, n_layer=2, n_expert=5,
         top_k=2, tied=False, rms_norm=False, dtype=BF16,
         note="MoE-Mamba with top_k 2, gates not renormalised; LayerNorm with bias, untied, bf16 "
              "matrices"),
    Case("moe_mamba_bytes", d_model=16, vocab=256, n_token=72, d_expert=20, n_layer=2, n_expert=4,
         pad_vocab=8, tied=False, dtype=BF16,
         note="MoE-Mamba over bytes under the names of the MambaByte authors' code"),
]


def choices_are_clear(model):
    return all(experts.margin >= MIN_MARGIN and len(experts.chosen) == len(experts.experts)
               for experts in model.mixers(reference.Experts))


# --- MoE-Mamba -------------------------------------------------------------------------------

def moe_weights(case, seed):
    random, w, d = Random(seed), OrderedDict(), case.d_model
    w["backbone.embedding.weight"] = 1.2 * random.uniform(case.vocab_padded, d)
    for i in range(case.n_layer):
        m = f"backbone.layers.{i}."
        random.norm(w, m + "norm", d, not case.rms_norm)
        random.mamba1(w, m + "mixer.", **case.mixer_sizes)
        random.norm(w, m + "norm2", d, not case.rms_norm)
        w[m + "moe.router.weight"] = random.matrix(case.n_expert, d, 1.5)
        for name, rows, cols in (("up", case.d_expert, d), ("down", d, case.d_expert)):
            matrices = random.matrix(case.n_expert * rows, cols, 1.8)
            w[f"{m}moe.{name}_proj.weight"] = matrices.reshape(case.n_expert, rows, cols)
    random.norm(w, "backbone.norm_f", d, not case.rms_norm)
    random.head(w, case.vocab, case.vocab_padded, d, own_head=not case.tied)
    return to_torch(w)


def moe_float64(case, weights):
    def experts(w):
        return reference.Experts(
            reference.Linear(w, "router"),
            [reference.FeedForward(up.__matmul__, down.__matmul__, lambda h: h.clip(0))
             for up, down in zip(w["up_proj.weight"], w["down_proj.weight"])],
            "softmax", case.top_k)

    return reference.backbone(weights, reference.Mamba1, experts)


def write_moe(case, weights, folder):
    config = {"d_model": case.d_model, "n_layer": case.n_layer, "vocab_size": case.vocab,
              "ssm_cfg": {"d_state": case.d_state}, "rms_norm": case.rms_norm,
              "residual_in_fp32": True, "fused_add_norm": True,
              "pad_vocab_size_multiple": case.pad_vocab, "tie_embeddings": case.tied,
              "moe_cfg": {"n_expert": case.n_expert, "top_k": case.top_k, "d_expert": case.d_expert,
                          "router": "switch", "activation": "relu"}}
    saved = weights
    if case.name == "moe_mamba_bytes":
        config["model_type"] = "mambabyte"
        saved = renamed(weights, MAMBABYTE)
    (folder / "config.json").write_text(json.dumps(config) + "\n")
    save_file(dict(saved), folder / "model.safetensors", metadata={"format": "pt"})
    loaded = renamed(load_file(folder / "model.safetensors"), FROM_MAMBABYTE)
    return moe_mamba.from_weights(config, loaded)


# --- BlackMamba ------------------------------------------------------------------------------

def megatron_weights(case, seed):
    random, w, d, ff = Random(seed), OrderedDict(), case.d_model, case.d_expert

    def linear(name, rows, cols, gain, bias):
        w[name + ".weight"] = random.matrix(rows, cols, gain)
        if bias:
            w[name + ".bias"] = 0.5 * random.uniform(rows)

    def mlp(m):
        linear(m + "linear_fc1", 2 * ff, d, 1.6, case.bias)
        linear(m + "linear_fc2", d, ff, 1.6, case.bias)

    def feed_forward(m, n_expert):
        if n_expert == 1:
            mlp(m)
        else:
            linear(m + "router", n_expert, d, 1.5, True)
            for e in range(n_expert):
                mlp(f"{m}local_experts.{e}.")

    w["embedding.word_embeddings.weight"] = 1.2 * random.uniform(case.vocab, d)
    for i, kind in enumerate(case.pattern):
        m = f"decoder.layers.{i}."
        if kind[0] == "r":
            random.mamba1(w, m + "mixer.", **case.mixer_sizes)
        else:
            feed_forward(m + "mixer.", int(kind))
        random.norm(w, m + "norm", d, bias=False)
        if len(kind) == 2:
            feed_forward(m + "moe.", int(kind[1]))
            random.norm(w, m + "norm_moe", d, bias=False)
    random.norm(w, "decoder.final_layernorm", d, bias=True)
    if case.bias:
        w["output_layer.bias"] = random.uniform(case.vocab)
    return to_torch(w)


def megatron_float64(case, weights):
    def mlp(w):
        return reference.FeedForward(reference.Linear(w, "linear_fc1"),
                                     reference.Linear(w, "linear_fc2"), reference.silu, gated=True)

    def feed_forward(w, n_expert):
        if n_expert == 1:
            return mlp(w)
        experts = [mlp(reference.scope(w, f"local_experts.{e}.")) for e in range(n_expert)]
        return reference.Experts(reference.Linear(w, "router"), experts, "sigmoid")

    blocks = []
    for i, kind in enumerate(case.pattern):
        part = lambda name: reference.scope(weights, f"decoder.layers.{i}.{name}.")
        mixer = (reference.Mamba1(part("mixer")) if kind[0] == "r"
                 else feed_forward(part("mixer"), int(kind)))
        blocks.append([(reference.Norm(part("norm")), mixer)])
        if len(kind) == 2:
            blocks[-1].append((reference.Norm(part("norm_moe")),
                               feed_forward(part("moe"), int(kind[1]))))
    top = reference.scope(weights, "")
    return reference.Model(top["embedding.word_embeddings.weight"], blocks,
                           reference.Norm(reference.scope(weights, "decoder.final_layernorm.")),
                           head_bias=top.get("output_layer.bias", 0.0))


class GatedMlp(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.linear_fc1 = torch.nn.Linear(case.d_model, 2 * case.d_expert, bias=case.bias)
        self.linear_fc2 = torch.nn.Linear(case.d_expert, case.d_model, bias=case.bias)

    def forward(self, x):
        gate, value = self.linear_fc1(x).chunk(2, dim=-1)
        return self.linear_fc2(F.silu(gate) * value)


class SigmoidExperts(torch.nn.Module):
    """The one expert with the largest sigmoid, times it. Balancing belongs to training only."""

    def __init__(self, case, n_expert):
        super().__init__()
        self.router = torch.nn.Linear(case.d_model, n_expert)
        self.local_experts = torch.nn.ModuleList(GatedMlp(case) for _ in range(n_expert))

    def forward(self, x):
        gates, chosen = torch.sigmoid(self.router(x)).max(dim=-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.local_experts):
            out[chosen == e] = expert(x[chosen == e])
        return out * gates[..., None]


class MegatronBlock(torch.nn.Module):
    """An entry of mamba_moe_layers: "r" a mixer, a digit so many experts, two side by side."""

    def __init__(self, case, kind, index):
        super().__init__()
        def feed_forward(digit):
            return GatedMlp(case) if digit == "1" else SigmoidExperts(case, int(digit))
        config = MambaConfig(hidden_size=case.d_model, state_size=case.d_state, expand=case.expand,
                             num_hidden_layers=case.n_layer, conv_kernel=case.d_conv,
                             use_bias=case.bias)
        self.norm = torch.nn.RMSNorm(case.d_model, eps=1e-5)
        self.mixer = MambaMixer(config, index) if kind[0] == "r" else feed_forward(kind)
        if len(kind) == 2:
            self.norm_moe = torch.nn.RMSNorm(case.d_model, eps=1e-5)
            self.moe = feed_forward(kind[1])

    def forward(self, x):
        y = x + self.mixer(self.norm(x))
        return y + self.moe(self.norm_moe(x)) if hasattr(self, "moe") else y


class Megatron(torch.nn.Module):
    """The model around the blocks; submodules carry the names that the checkpoint has."""

    def __init__(self, case):
        super().__init__()
        self.embedding = torch.nn.Module()
        self.embedding.word_embeddings = torch.nn.Embedding(case.vocab, case.d_model)
        self.decoder = torch.nn.Module()
        self.decoder.layers = torch.nn.ModuleList(
            MegatronBlock(case, kind, i) for i, kind in enumerate(case.pattern))
        self.decoder.final_layernorm = torch.nn.LayerNorm(case.d_model, eps=1e-5)
        self.output_layer = torch.nn.Module()
        self.output_layer.register_parameter(
            "bias", torch.nn.Parameter(torch.empty(case.vocab)) if case.bias else None)

    def forward(self, tokens, use_cache=False):
        x = self.embedding.word_embeddings(tokens)
        for block in self.decoder.layers:
            x = block(x)
        return SimpleNamespace(logits=F.linear(
            self.decoder.final_layernorm(x), self.embedding.word_embeddings.weight,
            self.output_layer.bias))


def write_megatron(case, weights, folder):
    config = {"num_layers": case.n_layer, "hidden_size": case.d_model, "state_size": case.d_state,
              "conv_dimension": case.d_conv, "vocab_size": case.vocab,
              "expansion_factor": case.expand, "mamba_moe_layers": case.pattern,
              "ffn_hidden_size": case.d_expert, "add_bias_linear": case.bias, "swiglu": True,
              "max_sequence_length": 2048}
    (folder / "config.json").write_text(json.dumps(config) + "\n")
    path = folder / "pytorch_model.bin"
    save_bin(weights, path, lambda state: {"model": state})
    return load_float32(Megatron(case), torch.load(path, weights_only=True)["model"])


def make_case(case, seed):
    folder = empty_folder(case.name)
    if case.pattern:
        make, write, float64 = megatron_weights, write_megatron, megatron_float64
        source = f"torch modules after BlackMamba's code, MambaMixer of transformers " \
                 f"{transformers.__version__}"
    else:
        make, write, float64 = moe_weights, write_moe, moe_float64
        source = f"transformers {transformers.__version__} MambaForCausalLM with torch experts"
    weights = round_to_storage(case.dtype, make(case, seed))
    model = write(case, weights, folder)
    finish_case(case, folder, model, float64(case, weights), source, seed + 1000, choices_are_clear)


# --- Routers ---------------------------------------------------------------------------------

def router_rows():
    """What make_golden.py --hashed checks: the gates of experts 1 and 0 for the same four logits."""
    logits = reference.np.array([1.0, 2.0, 0.5, -1.0])
    rows = []
    for name, rule, k, expected, more in (
            ("Switch", "softmax", 1, [0.609460], {}),
            ("BlackMamba", "sigmoid", 1, [0.880797], {}),
            ("Jamba", "softmax", 2, [0.609460, 0.224208], {}),
            ("Granite", "softmax_chosen", 2, [0.731059, 0.268941], {}),
            ("Nemotron-3", "sigmoid_corrected", 2, [1.366123, 1.133877], {"scale": 2.5})):
        chosen, gates = reference.route(rule, logits, k, **more)
        assert list(chosen) == [1, 0][:k]
        rows.append((f"router of {name}", gates, expected, 1e-6))
    return rows


def main():
    quiet()
    for index, case in enumerate(CASES):
        if len(sys.argv) == 1 or case.name in sys.argv[1:]:
            make_case(case, seed=40240 + index)


if __name__ == "__main__":
    main()
