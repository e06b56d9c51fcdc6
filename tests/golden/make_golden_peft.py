#!/usr/bin/env python3
"""Writes adapters as PEFT saves them, over the checkpoint hf_f32, and the logits of both together.

For every case there is a folder lora/NAME with

  adapter_model.safetensors, adapter_config.json   as PeftModel.save_pretrained writes them
  logits.bin   [n_token, vocab] little-endian f32, the logits after each token of hf_f32/golden.json

PEFT refuses out_proj and conv1d of Mamba models, and transformers reads dt_proj's weight without
calling the module; the cases have what both honour: in_proj, x_proj and the embedding.

  python make_golden_peft.py                 writes all cases
  python make_golden_peft.py --check KRAIT   trains an adapter with that program, and compares the
                                             logits of PEFT with it and of the program
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from golden_common import quiet

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import MambaForCausalLM

HERE = Path(__file__).parent
BASE = HERE / "hf_f32"

CASES = {
    "plain": dict(r=4, lora_alpha=8, target_modules=["in_proj", "x_proj"]),
    "patterns": dict(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["in_proj", "x_proj", "embeddings"],
        rank_pattern={r"layers\.1\.mixer\.in_proj": 3, "x_proj": 2},
        alpha_pattern={r".*\.2\.mixer\.in_proj": 10, "embeddings": 1}),
    "regex": dict(r=2, lora_alpha=3, target_modules=r".*\.[02]\.mixer\.(in|x)_proj"),
}


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


def base_model():
    return MambaForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def write(name, tokens):
    torch.manual_seed(sum(map(ord, name)))
    model = get_peft_model(base_model(), LoraConfig(task_type="CAUSAL_LM", **CASES[name])).eval()
    for key, value in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value, std=0.15)
    folder = HERE / "lora" / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "hf_f32"
    config["target_modules"] = (
        sorted(config["target_modules"])
        if isinstance(config["target_modules"], list) else config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    found = logits(model, tokens)
    reloaded = logits(PeftModel.from_pretrained(base_model(), folder).eval(), tokens)
    assert np.array_equal(found, reloaded)
    change = np.abs(found - logits(base_model(), tokens)).max()
    assert change > 0.5, change
    found.astype("<f4").tofile(folder / "logits.bin")
    print(f"{name}: logits differ from the base by up to {change:.2f}")


def check(krait, tokens):
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "logits.npy"
        options = "r=3,alpha=5,targets=in+x+emb"
        model = Path(folder) / "model"
        bytes_model(model)
        (Path(folder) / "text").write_bytes(bytes(tokens * 4))
        adapter = Path(folder) / "own"
        subprocess.run(
            [krait, "train", "-m", model, "--data", Path(folder) / "text", "--out", adapter,
             "--steps", "20", "--batch", "2", "--length", "30", "--lr", "0.05",
             "--lora", options], check=True, capture_output=True)
        subprocess.run(
            [krait, "logits", "-m", model, "--lora", adapter, "--tokens",
             ",".join(map(str, tokens)), "--all", "--out", text], check=True, capture_output=True)
        own = np.load(text)
        base = MambaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        before = logits(base, tokens)
        theirs = logits(PeftModel.from_pretrained(base, adapter).eval(), tokens)
        error = np.abs(own - theirs).max() / np.abs(theirs).max()
        print(f"krait's adapter in PEFT: largest difference {error:.2e} of the largest logit; "
              f"the adapter changes {np.abs(theirs - before).max():.2f}")
        assert error < 2e-5 and np.abs(theirs - before).max() > 0.1


def bytes_model(folder):
    """hf_f32 with 256 rows in the embedding, the new ones zero: its ids are bytes."""
    from safetensors.torch import load_file, save_file
    folder.mkdir()
    config = json.loads((BASE / "config.json").read_text())
    config["vocab_size"] = 256
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(BASE / "model.safetensors")
    name = "backbone.embeddings.weight"
    rows = torch.zeros(256, config["hidden_size"])
    rows[:64] = weights[name]
    weights[name] = rows
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", metavar="KRAIT")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    tokens = json.loads((BASE / "golden.json").read_text())["tokens"]
    if options.check:
        check(options.check, tokens)
    else:
        for name in options.names or CASES:
            write(name, tokens)


if __name__ == "__main__":
    main()
