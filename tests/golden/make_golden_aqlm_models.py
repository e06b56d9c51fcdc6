#!/usr/bin/env python3
"""Writes tiny checkpoints with additively quantised matrices, and the logits that transformers with
the `aqlm` package computes from the written files; as make_golden.py does for dense ones.

  NUMBA_NUM_THREADS=1 AQ_USE_JIT=0 python make_golden_aqlm_models.py [NAME ...]

Matrices are random codes for random codebooks. reference.py computes the model with the decoded
weights in float64; the script stops when the two disagree.

Made with transformers 5.24.0, aqlm 1.1.7, torch 2.14.1 (CPU), numba 0.68.1, numpy 2.4.6.
"""

import json
import os
import sys
from collections import OrderedDict
from dataclasses import dataclass
from importlib.metadata import version

# With more than one thread the package's kernel gives wrong sums.
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["AQ_USE_JIT"] = "0"

from golden_common import Random, empty_folder, finish_case, hf_names, quiet

import make_golden
import make_golden_mamba2
import numpy as np
import torch
import transformers
from aqlm import QuantizedLinear
from aqlm.utils import _dequantize_weight, pack_int_data, unpack_int_data
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaPreTrainedModel
from transformers.models.mamba.modeling_mamba import MambaPreTrainedModel
from transformers.models.mamba2.modeling_mamba2 import Mamba2PreTrainedModel


@dataclass
class Scheme:
    codebooks: int
    bits: int
    in_group: int
    out_group: int = 1

    def config(self, dense):
        return {"quant_method": "aqlm", "nbits_per_codebook": self.bits,
                "num_codebooks": self.codebooks, "in_group_size": self.in_group,
                "out_group_size": self.out_group, "linear_weights_not_to_quantize": dense}


# A checkpoint, its scheme, and what the names of quantised matrices end with.
CASES = {
    "hf_aqlm_2x8g8": (
        make_golden.Case("hf_aqlm_2x8g8", "hf", d_model=32, n_layer=2, vocab=64, n_token=33,
                         note="Mamba, 2x8g8: in_proj, x_proj and out_proj"),
        Scheme(2, 8, 8), ("in_proj", "x_proj", "out_proj")),
    "hf_aqlm_4x4g8": (
        make_golden.Case("hf_aqlm_4x4g8", "hf", d_model=40, n_layer=3, vocab=60, n_token=35,
                         bias=True, tied=False, own_head=True,
                         note="Mamba, 4x4g8: in_proj and out_proj with biases; untied"),
        Scheme(4, 4, 8), ("in_proj", "out_proj")),
    "hf_aqlm_falcon_1x12g8": (
        make_golden.Case("hf_aqlm_falcon_1x12g8", "falcon", d_model=24, n_layer=2, vocab=56,
                         n_token=40, d_inner=40, dt_rank=5, inner_eps=1e-3,
                         note="Falcon Mamba, 1x12g8, codes of 12 bits in 16: layer 1 alone"),
        Scheme(1, 12, 8), ("1.mixer.in_proj", "1.mixer.out_proj")),
    "hf_aqlm_mamba2_2x6g8h2": (
        make_golden_mamba2.Case("hf_aqlm_mamba2_2x6g8h2", "hf", d_model=32, n_layer=2, vocab=64,
                                n_token=45, headdim=8, d_state=16, ngroups=2,
                                note="Mamba-2, 2x6g8 with out_group_size 2"),
        Scheme(2, 6, 8, 2), ("in_proj", "out_proj")),
    "hf_aqlm_mamba2_8x4g16": (
        make_golden_mamba2.Case("hf_aqlm_mamba2_8x4g16", "hf", d_model=48, n_layer=2, vocab=60,
                                n_token=37, headdim=16, d_state=12,
                                note="Mamba-2, 8x4g16"),
        Scheme(8, 4, 16), ("in_proj", "out_proj")),
}


def quantised(random, shape, gain, scheme):
    """Codes, codebooks and scales of a random matrix, and its weights as the package decodes them."""
    out, blocks = shape[0], shape[0] // scheme.out_group
    codewords = 2 ** scheme.bits
    raw = random.bits.random_raw(blocks * shape[1] // scheme.in_group * scheme.codebooks)
    codes = torch.from_numpy((raw % np.uint64(codewords)).astype(np.int64)).reshape(
        blocks, shape[1] // scheme.in_group, scheme.codebooks)
    # The sum of codewords has unit variance.
    codebooks = torch.from_numpy(np.sqrt(3 / scheme.codebooks) * random.uniform(
        scheme.codebooks, codewords, scheme.out_group, scheme.in_group)).half()
    scales = gain / np.sqrt(shape[1]) * (1 + 0.3 * random.uniform(blocks, 1, 1, 1))
    parts = {"codes": pack_int_data(codes, scheme.bits), "codebooks": codebooks,
             "scales": torch.from_numpy(scales).half()}
    # pack_int_data changes its argument.
    weight = _dequantize_weight(unpack_int_data(parts["codes"], scheme.bits), codebooks.float(),
                                parts["scales"].float())
    assert weight.shape == (out, shape[1])
    return {name: part.contiguous() for name, part in parts.items()}, weight.contiguous()


def load(folder):
    """The model of a folder, in float32, by transformers and the package, with what keeps them from
    loading such a Mamba repaired: initialisation reads `out_proj.weight`, which is not there, and
    the package's kernel takes whole tensors only."""
    for base in (MambaPreTrainedModel, FalconMambaPreTrainedModel, Mamba2PreTrainedModel):
        base._init_weights = lambda self, module: None
    forward = QuantizedLinear.__dict__.get("plain_forward", QuantizedLinear.forward)
    QuantizedLinear.plain_forward = forward
    QuantizedLinear.forward = lambda self, x: forward(self, x.contiguous())
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_case(name, seed):
    case, scheme, ends = CASES[name]
    module = make_golden_mamba2 if isinstance(case, make_golden_mamba2.Case) else make_golden
    folder = empty_folder(name)
    weights = module.random_weights(case, seed)
    random = Random(seed + 500)
    stored = OrderedDict()
    decoded = OrderedDict()
    for tensor, value in weights.items():
        matrix = tensor.removesuffix(".weight")
        if not matrix.endswith(ends):
            stored[tensor] = decoded[tensor] = value
            continue
        parts, decoded[tensor] = quantised(random, value.shape, 1.2, scheme)
        stored.update((f"{matrix}.{part}", data) for part, data in parts.items())
    stored = hf_names(stored)
    save_file({k: v.contiguous() for k, v in stored.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    # As published lists have them, and without ".weight", as transformers 5 reads them.
    dense = [k for k in stored if not k.endswith((".codes", ".codebooks", ".scales"))]
    dense += [k.removesuffix(".weight") for k in dense if k.endswith(".weight")]
    dense += ["lm_head.weight", "lm_head"] if case.tied else []
    config = module.hf_config(case)
    config.dtype = torch.float16
    config.save_pretrained(folder)
    path = folder / "config.json"
    text = json.loads(path.read_text()) | {"quantization_config": scheme.config(dense)}
    path.write_text(json.dumps(text, indent=2) + "\n")
    model = load(folder)
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert len(layers) == sum(k.endswith(".codes") for k in stored)
    source = (f"transformers {transformers.__version__} {type(model).__name__}, "
              f"aqlm {version('aqlm')}")
    finish_case(case, folder, model, module.float64_model(case, decoded), source, seed + 1000)


def main():
    quiet()
    names = sys.argv[1:] or list(CASES)
    for name in names:
        if name not in CASES:
            raise SystemExit(f"no case {name}; there are {', '.join(CASES)}")
        make_case(name, 3000 + list(CASES).index(name))


if __name__ == "__main__":
    main()
