#!/usr/bin/env python3
"""Writes tiny checkpoints of hybrid families and Llama-shaped stacks, with transformers' logits.

Weights are drawn as in make_golden.py, in float32; the logits are those of full forward passes in
float32 on one CPU thread, compared with the same model in float64. Odd head counts, groups, partial
rotary embeddings, prompts longer than windows and chunks. `orig_mamba2attn` is Mamba2ForCausalLM with
the authors' attention layer (state-spaces modules/mha.py) and MLP (modules/mlp.py) written out here.

  python make_golden_families.py            writes all cases
  python make_golden_families.py NAME ...   writes these cases
"""

import json
import sys

from golden_common import Random, empty_folder, model_logits, quiet, save_bin

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import (
    BambaConfig, BambaForCausalLM, FalconH1Config, FalconH1ForCausalLM, GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM, JambaConfig, JambaForCausalLM, LlamaConfig, LlamaForCausalLM,
    Mamba2Config, Mamba2ForCausalLM, MistralConfig, MistralForCausalLM, NemotronHConfig,
    NemotronHForCausalLM, Zamba2Config, Zamba2ForCausalLM)

N_GREEDY = 12
MIN_GAP = 2e-3

GRANITE = dict(hidden_size=24, vocab_size=45, num_attention_heads=3, num_key_value_heads=1,
               intermediate_size=10, shared_intermediate_size=14, mamba_n_heads=6, mamba_d_head=8,
               mamba_d_state=7, mamba_chunk_size=16, attention_multiplier=0.3,
               embedding_multiplier=3.0, residual_multiplier=0.7, logits_scaling=0.6,
               rms_norm_eps=1e-5)
NEMOTRON = dict(hidden_size=24, vocab_size=44, num_attention_heads=3, num_key_value_heads=1,
                head_dim=6, intermediate_size=19, mamba_num_heads=6, mamba_head_dim=7, n_groups=3,
                ssm_state_size=5, chunk_size=16, time_step_min=1e-9, moe_intermediate_size=9,
                moe_shared_expert_intermediate_size=11, n_routed_experts=5, num_experts_per_tok=2,
                routed_scaling_factor=2.5)

# name: (class of the model, configuration, tokens, what is particular)
CASES = {
    "hf_llama": (LlamaForCausalLM, LlamaConfig(
        hidden_size=24, vocab_size=47, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=6, intermediate_size=34, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True), 70, "6 heads over 2, head_dim 6, biases, tied"),
    "hf_llama3_scaled": (LlamaForCausalLM, LlamaConfig(
        hidden_size=20, vocab_size=43, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=30, max_position_embeddings=256,
        rope_parameters={"rope_type": "llama3", "rope_theta": 300.0, "factor": 8.0,
                         "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 32}), 90,
        "Llama 3's scaling of the rotary embedding, with pairs in all its three ranges; untied"),
    "hf_yarn": (LlamaForCausalLM, LlamaConfig(
        hidden_size=20, vocab_size=43, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=30, max_position_embeddings=256,
        rope_parameters={"rope_type": "yarn", "rope_theta": 300.0, "factor": 8.0,
                         "beta_fast": 4.0, "beta_slow": 1.0,
                         "original_max_position_embeddings": 32}), 90,
        "YaRN's scaling of the rotary embedding, with pairs in all its three ranges; untied"),
    "hf_yarn_mscale": (LlamaForCausalLM, LlamaConfig(
        hidden_size=20, vocab_size=43, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=30, max_position_embeddings=256,
        rope_parameters={"rope_type": "yarn", "rope_theta": 5000.0, "factor": None,
                         "mscale": 1.0, "mscale_all_dim": 0.4, "truncate": False,
                         "original_max_position_embeddings": 64}), 90,
        "YaRN's ranges that are no whole pairs, with two factors of scores and no factor"),
    "hf_mistral": (MistralForCausalLM, MistralConfig(
        hidden_size=20, vocab_size=41, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=1, head_dim=4, intermediate_size=26, sliding_window=9), 80,
        "a window of 9 keys, 5 heads over one"),
    "hf_bamba": (BambaForCausalLM, BambaConfig(
        hidden_size=24, vocab_size=46, num_hidden_layers=3, attn_layer_indices=[1],
        num_attention_heads=3, num_key_value_heads=1, intermediate_size=21, mamba_n_heads=6,
        mamba_d_head=8, mamba_d_state=9, mamba_chunk_size=16), 75,
        "attention in layer 1 of 3, half of each head rotated, untied"),
    "hf_granite_dense": (GraniteMoeHybridForCausalLM, GraniteMoeHybridConfig(
        num_hidden_layers=3, num_local_experts=0, num_experts_per_tok=0, tie_word_embeddings=True,
        layer_types=["linear_attention", "full_attention", "linear_attention"], **GRANITE), 75,
        "Granite 4 without experts and positions; all four factors, tied"),
    "hf_granite_experts": (GraniteMoeHybridForCausalLM, GraniteMoeHybridConfig(
        num_hidden_layers=2, num_local_experts=5, num_experts_per_tok=2,
        layer_types=["full_attention", "linear_attention"], position_embedding_type="rope",
        **GRANITE), 60, "Granite 4 with 2 of 5 experts beside the shared network, with positions"),
    "hf_jamba": (JambaForCausalLM, JambaConfig(
        hidden_size=20, vocab_size=42, num_hidden_layers=4, attn_layer_period=3,
        attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, num_experts=3,
        num_experts_per_tok=2, num_attention_heads=5, num_key_value_heads=1, intermediate_size=11,
        mamba_d_state=5, mamba_dt_rank=3), 70,
        "attention in layer 1, experts in layers 1 and 3, weights of dt, B and C's norms"),
    "hf_jamba_dense": (JambaForCausalLM, JambaConfig(
        hidden_size=16, vocab_size=40, num_hidden_layers=2, attn_layer_period=2,
        attn_layer_offset=1, num_experts=1, num_experts_per_tok=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=13, mamba_d_state=6, mamba_d_conv=3,
        tie_word_embeddings=True), 50, "no experts; tied"),
    "hf_nemotron_h": (NemotronHForCausalLM, NemotronHConfig(
        layers_block_type=["linear_attention", "mlp", "full_attention", "mlp", "linear_attention"],
        **NEMOTRON), 75, "squared ReLU, 3 groups, 42 channels with hidden_size 24"),
    "hf_nemotron_experts": (NemotronHForCausalLM, NemotronHConfig(
        layers_block_type=["linear_attention", "moe", "full_attention"], **NEMOTRON), 60,
        "2 of 5 experts by sigmoid with a bias for choosing, scaled by 2.5; a shared expert"),
    "hf_falcon_h1": (FalconH1ForCausalLM, FalconH1Config(
        hidden_size=20, vocab_size=44, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=6, intermediate_size=23, mamba_d_ssm=28, mamba_n_heads=4,
        mamba_d_head=7, mamba_n_groups=2, mamba_d_state=6, mamba_chunk_size=16,
        mamba_rms_norm=True, mamba_norm_before_gate=False, rope_parameters={
            "rope_type": "default", "rope_theta": 1e11},
        embedding_multiplier=2.5, lm_head_multiplier=0.4, mlp_multipliers=[0.7, 1.3],
        key_multiplier=0.8, attention_in_multiplier=1.2, attention_out_multiplier=0.9,
        ssm_in_multiplier=1.1, ssm_out_multiplier=0.6,
        ssm_multipliers=[0.9, 1.2, 0.7, 1.4, 0.5]), 70,
        "all factors other than 1, 28 channels in 2 groups, a norm behind the gate, theta 1e11"),
    "hf_falcon_h1_no_norm": (FalconH1ForCausalLM, FalconH1Config(
        hidden_size=16, vocab_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=17, mamba_d_ssm=24, mamba_n_heads=3,
        mamba_d_head=8, mamba_d_state=5, mamba_chunk_size=16, mlp_bias=True,
        tie_word_embeddings=True), 50, "a mixer without norm, biases of the MLP, tied"),
    "orig_mamba2attn": (None, None, 70, "state-spaces layout: attention in layer 1 with a fused "
                        "projection, a convolution of 4 taps and half of each head rotated; MLPs of "
                        "d_intermediate 40, made 128, with the gate last"),
    "hf_zamba2": (Zamba2ForCausalLM, Zamba2Config(
        hidden_size=12, vocab_size=44, num_hidden_layers=5, layers_block_type=[
            "linear_attention", "hybrid", "linear_attention", "hybrid", "hybrid"],
        num_mem_blocks=2, adapter_rank=3, use_shared_attention_adapter=True, use_mem_rope=True,
        num_attention_heads=3, intermediate_size=11, n_mamba_heads=4, mamba_ngroups=2,
        mamba_d_state=5, chunk_size=16, time_step_min=1e-9), 75,
        "two blocks in three layers, adapters everywhere, a rotary embedding, 2 groups, tied"),
    "hf_zamba2_plain": (Zamba2ForCausalLM, Zamba2Config(
        hidden_size=12, vocab_size=41, num_hidden_layers=3, layers_block_type=[
            "hybrid", "linear_attention", "hybrid"], adapter_rank=5, num_attention_heads=4,
        intermediate_size=13, add_bias_linear=True, n_mamba_heads=4, mamba_d_state=5,
        mamba_d_conv=3, chunk_size=16, time_step_min=1e-9, tie_word_embeddings=False), 60,
        "untied, and so a block of each layer's own; no positions, adapters of the network alone, "
        "biases"),
}


def draw(model, seed):
    """Weights large enough that states and attention decide the logits."""
    random = Random(seed)
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith(("inv_freq", "mup_vector")):  # not in the file
                continue
            shape = tuple(p.shape)
            if name.endswith("A_log"):
                v = 1.5 * random.uniform(*shape) - 0.5
            elif name.endswith(".D"):
                v = 1 + 0.5 * random.uniform(*shape)
            elif name.endswith("dt_bias") or name.endswith("dt_proj.bias"):
                v = random.step_bias(shape[0], 0.01, 2)
            elif "norm" in name and name.endswith("weight"):
                v = 1 + 0.4 * random.uniform(*shape)
            elif name.endswith("bias"):
                v = 0.4 * random.uniform(*shape)
            elif "adapter" in name or ".linear." in name:  # of Zamba2: no layer outweighs others
                v = 0.3 * np.sqrt(3 / shape[-1]) * random.uniform(*shape)
            elif "embed" in name:
                v = 1.2 * random.uniform(*shape)
            elif "conv1d" in name:
                v = random.uniform(*shape)
            else:
                v = 1.2 * np.sqrt(3 / shape[-1]) * random.uniform(*shape)
            p.copy_(torch.from_numpy(np.ascontiguousarray(v)).float())
    return model.eval()


# --- state-spaces' attention ------------------------------------------------------------------

class Attention(torch.nn.Module):
    """modules/mha.py: 3 heads of 8, 4 channels of each rotated, over one head of keys."""

    heads, kv, width, rotated = 3, 1, 8, 4

    def __init__(self, d):
        super().__init__()
        rows = (self.heads + 2 * self.kv) * self.width
        self.in_proj = torch.nn.Linear(d, rows, bias=False)
        self.conv1d = torch.nn.Conv1d(rows, rows, 4, groups=rows, bias=True)
        self.out_proj = torch.nn.Linear(self.heads * self.width, d, bias=False)

    def rotate(self, x):  # [t, heads, width]
        t = torch.arange(len(x), dtype=torch.float64)
        f = 10000.0 ** (-torch.arange(0, self.rotated, 2, dtype=torch.float64) / self.rotated)
        a = (t[:, None] * f)[:, None].to(torch.float64)
        c, s = a.cos().to(x.dtype), a.sin().to(x.dtype)
        x0, x1, rest = x.split([self.rotated // 2, self.rotated // 2, self.width - self.rotated], -1)
        return torch.cat([x0 * c - x1 * s, x1 * c + x0 * s, rest], -1)

    def forward(self, hidden_states, **_):
        qkv = self.in_proj(hidden_states)
        qkv = self.conv1d(F.pad(qkv.transpose(1, 2), (3, 0))).transpose(1, 2)[0]
        q, k, v = qkv.unflatten(-1, (-1, self.width)).split([self.heads, self.kv, self.kv], 1)
        q, k = self.rotate(q), self.rotate(k)
        scores = torch.einsum("thd,sd->hts", q, k[:, 0]) / self.width**0.5
        t = len(q)
        scores = scores.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf"))
        y = torch.einsum("hts,sd->thd", scores.softmax(-1), v[:, 0])
        return self.out_proj(y.flatten(1))[None]


class WithMlp(torch.nn.Module):
    """A layer with modules/mlp.py behind it: value first, gate last."""

    def __init__(self, block, d):
        super().__init__()
        self.norm, self.mixer = block.norm, block.mixer
        self.norm2 = torch.nn.RMSNorm(d, eps=1e-5)
        self.mlp = torch.nn.Module()
        self.mlp.fc1 = torch.nn.Linear(d, 2 * 128, bias=False)
        self.mlp.fc2 = torch.nn.Linear(128, d, bias=False)

    def forward(self, hidden_states, **_):
        h = hidden_states + self.mixer(self.norm(hidden_states))
        value, gate = self.mlp.fc1(self.norm2(h)).chunk(2, -1)
        return h + self.mlp.fc2(value * F.silu(gate))


def mamba2attn():
    d, vocab = 16, 48
    model = Mamba2ForCausalLM(Mamba2Config(
        hidden_size=d, vocab_size=vocab, num_hidden_layers=2, num_heads=4, head_dim=8, n_groups=1,
        state_size=6, chunk_size=16, tie_word_embeddings=True))
    model.backbone.layers[1].mixer = Attention(d)
    for i in range(2):
        model.backbone.layers[i] = WithMlp(model.backbone.layers[i], d)
    return model


def save_mamba2attn(model, folder):
    state = {k.replace("embeddings", "embedding"): v.clone() for k, v in model.state_dict().items()}
    save_bin(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({
        "d_model": 16, "d_intermediate": 40, "n_layer": 2, "vocab_size": 45,
        "ssm_cfg": {"layer": "Mamba2", "headdim": 8, "d_state": 6}, "attn_layer_idx": [1],
        "attn_cfg": {"causal": True, "d_conv": 4, "head_dim": 8, "num_heads": 3, "num_heads_kv": 1,
                     "out_proj_bias": False, "qkv_proj_bias": False, "rotary_emb_dim": 4},
        "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
        "pad_vocab_size_multiple": 16, "tie_embeddings": True}, indent=1) + "\n")


# --- One case ---------------------------------------------------------------------------------

def greedy(model, tokens, vocab):
    tokens, gap = list(tokens), np.inf
    for _ in range(N_GREEDY):
        row = model_logits(model, tokens)[-1]
        best = np.sort(row[:vocab])[-2:]
        gap = min(gap, float(best[1] - best[0]) / float(np.abs(row).max()))
        tokens.append(int(row[:vocab].argmax()))
    return tokens[-N_GREEDY:], gap


def write(name, seed):
    kind, config, n_token, note = CASES[name]
    if kind is None:
        model, vocab = mamba2attn(), 45
    else:
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        model, vocab = kind(config), config.vocab_size
    draw(model, seed)
    bits = np.random.PCG64(seed)
    for _ in range(12):
        tokens = [int(x % vocab) for x in bits.random_raw(n_token)]
        continuation, gap = greedy(model, tokens, vocab)
        if gap >= MIN_GAP:
            break
    else:
        raise SystemExit(f"{name}: no prompt with a robust greedy continuation")
    folder = empty_folder(name)
    if kind is None:
        save_mamba2attn(model, folder)
    else:
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    logits = model_logits(model, tokens)
    exact = model_logits(model.double(), tokens)
    largest = float(np.abs(logits).max())
    difference = float(np.abs(logits - exact).max())
    if difference > 2e-5 * largest:
        raise SystemExit(f"{name}: float32 and float64 differ by {difference}")
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "logits.bin").write_bytes(logits.astype("<f4").tobytes())
    golden = {"note": note, "tokens": tokens, "shape": list(logits.shape), "vocab": vocab,
              "max_abs": float(f"{largest:.9g}"), "greedy": continuation,
              "greedy_min_gap": float(f"{gap:.6g}"),
              "float64_max_difference": float(f"{difference:.3g}"),
              "source": f"transformers {transformers.__version__}, torch {torch.__version__}, "
                        "float32, CPU"}
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
    (folder / "golden.json").write_text("{\n" + lines + "\n}\n")
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name:24} max|logit| {largest:7.3f}  float32-float64 {difference:.2e}  gap {gap:.3f}  "
          f"{size // 1024} KiB", flush=True)


if __name__ == "__main__":
    quiet()
    for index, case in enumerate(CASES):
        if len(sys.argv) < 2 or case in sys.argv[1:]:
            write(case, 700 + index)
