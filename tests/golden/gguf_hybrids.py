#!/usr/bin/env python3
"""Lets llama.cpp's converter write GGUF files of tiny hybrids: gguf/{jamba,granite,granite_moe,
nemotron_h,nemotron_h_moe,falcon_h1}.gguf, matrices in f16 but for Falcon-H1, whose factors it folds.

    pip install torch transformers gguf safetensors sentencepiece
    python tests/golden/gguf_hybrids.py LLAMA_CPP     the folder with its conversion/ and gguf-py/

Configurations are put into the words of published ones first, as the converter expects them; of a
Granite model, which has positions in hf_granite_experts, it drops these.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [sys.argv[1] + "/gguf-py", sys.argv[1]]

import gguf  # noqa: E402
from conversion import ModelBase, ModelType, get_model_class  # noqa: E402

WORDS = {"linear_attention": "mamba", "full_attention": "attention"}
LETTERS = {"linear_attention": "M", "mlp": "-", "full_attention": "*", "moe": "E"}


def published(config):
    """The configuration as its authors write it."""
    if "layer_types" in config:
        config["layer_types"] = [WORDS[kind] for kind in config["layer_types"]]
    if "layers_block_type" in config:
        kinds = config.pop("layers_block_type")
        config["hybrid_override_pattern"] = "".join(LETTERS[kind] for kind in kinds)
        config["num_hidden_layers"] = len(kinds)
        config["rms_norm_eps"] = config["layer_norm_epsilon"]
        config["mamba_d_head"] = config["mamba_head_dim"]  # for a check of the converter's
        if "moe" not in kinds:
            del config["num_experts_per_tok"]
    return config


def write(source, target, kind):
    config = published(json.loads((HERE / source / "config.json").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").symlink_to(HERE / source / "model.safetensors")
        model_class = get_model_class(config["architectures"][0])
        model_class.set_vocab = lambda self: self.gguf_writer.add_tokenizer_model("no_vocab")
        (HERE / "gguf").mkdir(exist_ok=True)
        out = HERE / "gguf" / target
        model_class(folder, kind, out, model_name=target, hparams=config).write()
        print(f"{target:20} {out.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    half, full = gguf.LlamaFileType.MOSTLY_F16, gguf.LlamaFileType.ALL_F32
    write("hf_jamba", "jamba.gguf", half)
    write("hf_granite_dense", "granite.gguf", half)
    write("hf_granite_experts", "granite_moe.gguf", half)
    write("hf_nemotron_h", "nemotron_h.gguf", half)
    write("hf_nemotron_experts", "nemotron_h_moe.gguf", half)
    write("hf_falcon_h1", "falcon_h1.gguf", full)
