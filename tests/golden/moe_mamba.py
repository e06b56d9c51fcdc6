"""MoE-Mamba in torch: transformers' MambaForCausalLM with a Switch feed-forward after each mixer.

Layer i: h += mixer(norm(h)); h += moe(norm2(h)). The router's softmax runs over all experts, the
best top_k stay with the probabilities they have, no token is dropped (arXiv 2401.04081 at inference).
"""

import json
from collections import OrderedDict

from golden_common import hf_names, load_float32, put_layer_norms

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba.modeling_mamba import MambaBlock


class Fused(torch.nn.Module):
    """The matrices of all experts in one tensor [n_expert, out, in]."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(shape))


class SwitchExperts(torch.nn.Module):
    def __init__(self, d_model, n_expert, d_expert, top_k):
        super().__init__()
        self.top_k = top_k
        self.router = torch.nn.Linear(d_model, n_expert, bias=False)
        self.up_proj = Fused(n_expert, d_expert, d_model)
        self.down_proj = Fused(n_expert, d_model, d_expert)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        gates, chosen = F.softmax(self.router(flat), dim=-1).topk(self.top_k)
        out = torch.zeros_like(flat)
        for e, (up, down) in enumerate(zip(self.up_proj.weight, self.down_proj.weight)):
            rows, place = (chosen == e).nonzero(as_tuple=True)
            h = F.linear(F.relu(F.linear(flat[rows], up)), down)
            out.index_add_(0, rows, gates[rows, place, None] * h)
        return out.view_as(x)


class ExpertBlock(MambaBlock):
    def __init__(self, config, layer_idx, moe_cfg, rms_norm):
        super().__init__(config, layer_idx)
        d = config.hidden_size
        self.norm2 = (torch.nn.RMSNorm if rms_norm else torch.nn.LayerNorm)(d, eps=1e-5)
        self.moe = SwitchExperts(d, moe_cfg["n_expert"], moe_cfg["d_expert"], moe_cfg["top_k"])

    def forward(self, hidden_states, *args, **kwargs):
        x = super().forward(hidden_states, *args, **kwargs)
        return x + self.moe(self.norm2(x))


def from_weights(config, weights):
    """A float32 model from a state-spaces configuration with "moe_cfg" and its weights."""
    moe_cfg, d = config["moe_cfg"], config["d_model"]
    assert moe_cfg["router"] == "switch" and moe_cfg["activation"] == "relu"
    shape = lambda name: weights[f"backbone.layers.0.mixer.{name}"].shape
    d_inner, d_state = shape("A_log")
    model = MambaForCausalLM(MambaConfig(
        vocab_size=len(weights["backbone.embedding.weight"]), hidden_size=d, state_size=d_state,
        num_hidden_layers=config["n_layer"], expand=d_inner // d,
        conv_kernel=shape("conv1d.weight")[2], time_step_rank=shape("dt_proj.weight")[1],
        tie_word_embeddings=False))
    for i in range(config["n_layer"]):
        model.backbone.layers[i] = ExpertBlock(model.config, i, moe_cfg, config["rms_norm"])
    if not config["rms_norm"]:
        put_layer_norms(model, d)
    weights = hf_names(OrderedDict(weights))
    weights.setdefault("lm_head.weight", weights["backbone.embeddings.weight"])
    return load_float32(model, weights)


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    return from_weights(config, load_file(folder / "model.safetensors"))
