"""Writes GGUF files of the tiny checkpoints hf_f32 and hf_mamba2_f32 as llama.cpp's converter does:
A instead of A_log, flat convolutions, columns instead of vectors. gguf/mamba_types.gguf has one block
format after another.

    pip install gguf safetensors numpy
    python tests/golden/gguf_models.py
"""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
NAMES = {"norm.weight": "attn_norm.weight", "mixer.in_proj.weight": "ssm_in.weight",
         "mixer.conv1d.weight": "ssm_conv1d.weight", "mixer.conv1d.bias": "ssm_conv1d.bias",
         "mixer.x_proj.weight": "ssm_x.weight", "mixer.dt_proj.weight": "ssm_dt.weight",
         "mixer.dt_proj.bias": "ssm_dt.bias", "mixer.dt_bias": "ssm_dt.bias", "mixer.A_log": "ssm_a",
         "mixer.D": "ssm_d", "mixer.norm.weight": "ssm_norm.weight",
         "mixer.out_proj.weight": "ssm_out.weight"}
OUTSIDE = {"backbone.embeddings.weight": "token_embd.weight",
           "backbone.norm_f.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16"]


def renamed(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}"


def write(source, target, types):
    config = json.loads((HERE / source / "config.json").read_text())
    tensors = load_file(HERE / source / "model.safetensors")
    arch = config["model_type"]
    inner = config["hidden_size"] * config["expand"]
    (HERE / "gguf").mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(HERE / "gguf" / target, arch)
    writer.add_context_length(2**20)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(config["state_size"])
    writer.add_ssm_time_step_rank(config["num_heads"] if arch == "mamba2" else config["time_step_rank"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    if arch == "mamba2":
        writer.add_ssm_group_count(config["n_groups"])
    else:
        writer.add_ssm_dt_b_c_rms(False)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    next_type = 0
    for name, tensor in sorted(tensors.items()):
        new = renamed(name)
        tensor = tensor.astype(np.float32)
        if new.endswith("ssm_a"):
            tensor = -np.exp(tensor)
        if new.endswith("ssm_conv1d.weight"):
            tensor = tensor.squeeze(1)
        if arch == "mamba2" and new.endswith(("ssm_a", "ssm_d")):
            tensor = tensor.reshape(-1, 1)
        if new.endswith("ssm_norm.weight"):
            tensor = tensor.reshape(config["n_groups"], -1)
        is_matrix = new.endswith("weight") and tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        if types and is_matrix and not new.endswith("ssm_conv1d.weight"):
            kind = gguf.GGMLQuantizationType[types[next_type % len(types)]]
            next_type += 1
            writer.add_tensor(new, quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(new, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write("hf_f32", "mamba.gguf", None)
write("hf_mamba2_f32", "mamba2.gguf", None)
write("hf_f32", "mamba_types.gguf", TYPES)
