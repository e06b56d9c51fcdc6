#!/usr/bin/env python3
"""Writes the tiny Mamba checkpoints and the logits that krait's tests compare against.

For every case there is a folder with a checkpoint in one of the layouts that exist in the wild, and

  golden.json   tokens, shape of the logits, greedy continuation, who computed them
  logits.bin    [n_token, vocab_padded] little-endian f32, the logits after each token

The logits are those of transformers' MambaForCausalLM or FalconMambaForCausalLM in float32 on one
CPU thread, read from the files just written. Each case is also computed by the float64 numpy
implementation in reference.py, which shares no code with transformers; the script stops when the
two disagree. Mamba-2 and the mixtures of experts have scripts of their own beside this one.

  python make_golden.py            writes all cases
  python make_golden.py NAME ...   writes these cases
  python make_golden.py --hashed   checks the framework-free golden vectors (weights from a hash)
"""

import argparse
import json
import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from golden_common import (
    BF16_MATRICES, F16_MATRICES, FROM_MAMBABYTE, MAMBABYTE, Random, empty_folder, finish_case,
    hashed_weights, hf_names, load_float32, model_logits, put_layer_norms, quiet, renamed,
    round_to_storage, save_bin, to_torch)

import numpy as np
import reference
import torch
import transformers
from make_golden_experts import router_rows
from make_golden_mamba2 import hashed_rows as mamba2_hashed_rows
from safetensors.torch import save_file
from transformers import (
    FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM)


@dataclass
class Case:
    """One checkpoint. Sizes carry the names of the state-spaces configuration."""

    name: str
    layout: str  # "hf", "falcon" or "original"
    d_model: int
    n_layer: int
    vocab: int
    n_token: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    d_inner: int = 0  # 0: expand * d_model
    dt_rank: int = 0  # 0: ceil(d_model / 16)
    pad_vocab: int = 1  # vocab is rounded up to a multiple of this
    tied: bool = True  # what the configuration says
    own_head: bool = False  # a lm_head that differs from the embedding is stored
    bias: bool = False  # in_proj and out_proj
    conv_bias: bool = True
    rms_norm: bool = True
    inner_eps: float | None = None  # Falcon: of the norms of dt, B and C
    dtype: dict = field(default_factory=dict)  # name suffix -> torch dtype, "" for the others
    note: str = ""

    def __post_init__(self):
        self.dt_rank = self.dt_rank or math.ceil(self.d_model / 16)
        self.d_inner = self.d_inner or self.expand * self.d_model
        self.vocab_padded = -(-self.vocab // self.pad_vocab) * self.pad_vocab
        self.n_conv = self.n_layer * (self.d_conv - 1)


CASES = [
    Case("hf_f32", "hf", d_model=32, n_layer=3, vocab=64, n_token=33,
         note="Hugging Face layout as transformers writes it, f32, tied head"),
    Case("hf_dt_rank", "hf", d_model=24, n_layer=2, vocab=50, n_token=29, d_state=7, d_conv=3,
         expand=3, dt_rank=5, tied=False, own_head=True,
         note="no size is the usual one: time_step_rank, state_size, conv_kernel, expand; untied"),
    Case("hf_no_conv_bias_use_bias", "hf", d_model=20, n_layer=2, vocab=40, n_token=25, d_state=8,
         conv_bias=False, bias=True, note="use_bias true, use_conv_bias false"),
    Case("hf_bf16", "hf", d_model=32, n_layer=3, vocab=72, n_token=37,
         dtype=BF16_MATRICES,
         note="matrices bf16, A_log, D, norms, convolutions and biases f32"),
    Case("hf_f16", "hf", d_model=32, n_layer=2, vocab=72, n_token=31, d_state=12,
         dtype=F16_MATRICES | {c: torch.float16 for c in ("conv1d.weight", "conv1d.bias")},
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
    Case("hf_falcon_f32", "falcon", d_model=24, n_layer=3, vocab=56, n_token=75, expand=16,
         d_inner=40, dt_rank=5, tied=False, own_head=True, inner_eps=1e-6,
         note="Falcon Mamba: intermediate_size decides, expand misleads; mixer_rms_eps is absent"),
    Case("hf_falcon_bf16", "falcon", d_model=32, n_layer=2, vocab=72, n_token=36, d_state=12,
         inner_eps=1e-3, dtype=BF16_MATRICES,
         note="Falcon Mamba: matrices bf16, tied head, an unusual mixer_rms_eps"),
]


# --- Weights ---------------------------------------------------------------------------------

def random_weights(case, seed):
    """Float32 weights under the original names."""
    random = Random(seed)
    w = OrderedDict()
    w["backbone.embedding.weight"] = 1.2 * random.uniform(case.vocab_padded, case.d_model)
    for i in range(case.n_layer):
        random.mamba1(w, f"backbone.layers.{i}.mixer.", d=case.d_model, di=case.d_inner,
                      n=case.d_state, rank=case.dt_rank, d_conv=case.d_conv, bias=case.bias,
                      conv_bias=case.conv_bias,
                      # what Falcon's norms divide is small, so that their eps matters
                      x_gain=1.2 if case.inner_eps is None else 2 * math.sqrt(case.inner_eps))
        random.norm(w, f"backbone.layers.{i}.norm", case.d_model, not case.rms_norm)
    random.norm(w, "backbone.norm_f", case.d_model, not case.rms_norm)
    random.head(w, case.vocab, case.vocab_padded, case.d_model, case.own_head)
    return to_torch(w)


def float64_model(case, weights):
    return reference.backbone(weights, lambda w: reference.Mamba1(w, case.inner_eps))


# --- transformers ----------------------------------------------------------------------------

def hf_config(case):
    if case.layout == "falcon":
        return FalconMambaConfig(
            vocab_size=case.vocab_padded, hidden_size=case.d_model, state_size=case.d_state,
            num_hidden_layers=case.n_layer, expand=case.expand, intermediate_size=case.d_inner,
            conv_kernel=case.d_conv, time_step_rank=case.dt_rank, mixer_rms_eps=case.inner_eps,
            tie_word_embeddings=case.tied, architectures=["FalconMambaForCausalLM"])
    return MambaConfig(
        vocab_size=case.vocab_padded, hidden_size=case.d_model, state_size=case.d_state,
        num_hidden_layers=case.n_layer, expand=case.expand, conv_kernel=case.d_conv,
        use_bias=case.bias, use_conv_bias=case.conv_bias, time_step_rank=case.dt_rank,
        tie_word_embeddings=case.tied, architectures=["MambaForCausalLM"])


def model_from_weights(case, weights):
    """MambaForCausalLM around weights under the original names, LayerNorm put in where needed."""
    model = MambaForCausalLM(hf_config(replace(case, tied=False)))
    if not case.rms_norm:
        put_layer_norms(model, case.d_model)
    weights = hf_names(weights)
    weights.setdefault("lm_head.weight", weights["backbone.embeddings.weight"])
    return load_float32(model, weights)


def causal_lm(case):
    return FalconMambaForCausalLM if case.layout == "falcon" else MambaForCausalLM


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
    if case.name == "hf_falcon_f32":
        text = json.loads((folder / "config.json").read_text())
        del text["mixer_rms_eps"]
        (folder / "config.json").write_text(json.dumps(text, indent=2) + "\n")
    # `dtype=float32` widens what is stored; the loader ties the head as the configuration says.
    return causal_lm(case).from_pretrained(folder, dtype=torch.float32).eval()


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
    if case.name == "orig_mambabyte_names":
        saved = renamed(saved, MAMBABYTE)
    save_bin(saved, folder / "pytorch_model.bin")

    loaded = torch.load(folder / "pytorch_model.bin", weights_only=True)
    return model_from_weights(case, renamed(loaded, FROM_MAMBABYTE))


def make_case(case, seed):
    folder = empty_folder(case.name)
    weights = round_to_storage(case.dtype, random_weights(case, seed))
    model = (write_original if case.layout == "original" else write_hf)(case, weights, folder)
    source = f"transformers {transformers.__version__} {causal_lm(case).__name__}" + (
        "" if case.rms_norm else " with torch.nn.LayerNorm")
    finish_case(case, folder, model, float64_model(case, weights), source, seed + 1000)


# --- Framework-free vectors ------------------------------------------------------------------

def check_hashed():
    case = Case("hashed", "original", d_model=8, n_layer=2, vocab=10, n_token=7, d_state=4,
                pad_vocab=16)
    tokens = [1, 5, 2, 9, 3, 0, 7]
    weights = hashed_weights({name: w.shape for name, w in random_weights(case, 0).items()})
    mamba = float64_model(case, weights)
    logits = mamba.run(tokens)
    mixer = mamba.mixers(reference.Mamba1)[0]
    falcon = float64_model(replace(case, inner_eps=1e-6), weights).run(tokens)[-1]
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
        ("conv_state", mixer.conv.state[0], conv, 1e-6),
        ("ssm_state", mixer.state[0], ssm, 1e-6),
        ("Falcon, last position", falcon[:4], [-0.389321, -1.610333, -0.697532, 0.260885], 1e-6),
        ("Falcon, sum of 16", falcon.sum(), 4.031274, 1e-6),
        ("Falcon, argmax", falcon.argmax(), 7, 0),
        ("transformers, last position", model[-1, :4], last, 1e-5),
        ("transformers, position 0", model[0, :4], first, 1e-5),
        ("transformers, all logits", model, logits, 1e-5),
        *mamba2_hashed_rows(tokens),
        *router_rows(),
    ]
    failed = False
    for name, got, expected, tolerance in rows:
        difference = float(np.abs(np.asarray(got) - np.asarray(expected)).max())
        failed |= difference > tolerance
        print(f"{name:40} max difference {difference:.2e}  "
              f"{'holds' if difference <= tolerance else 'DIFFERS'}")
    raise SystemExit(1 if failed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hashed", action="store_true", help="check the framework-free vectors")
    parser.add_argument("names", nargs="*", metavar="NAME", help="write only these cases")
    arguments = parser.parse_args()
    quiet()
    if arguments.hashed:
        check_hashed()
    for index, case in enumerate(CASES):
        if not arguments.names or case.name in arguments.names:
            make_case(case, seed=20240 + index)


if __name__ == "__main__":
    main()
