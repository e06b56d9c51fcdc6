#!/usr/bin/env python3
"""Writes the gradients and the first steps of training that krait's tests compare against.

For some of the checkpoints that make_golden.py has written there is a file in gradients/ with the
gradient of the mean cross-entropy of each token given those before it (the tokens of golden.json),
by PyTorch's automatic differentiation of transformers' slow path, float32, one CPU thread. Its
metadata has the losses and gradient norms of five steps of torch.optim.AdamW (lr 0.01, betas 0.9
and 0.95, eps 1e-8, decay 0.1 of linear maps and the embedding, clipped at 1.0).

  python make_golden_gradients.py
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

CASES = ("hf_f32", "hf_mamba2_f32")
HERE = pathlib.Path(__file__).resolve().parent


def decays(name):
    linear = any(part in name for part in ("_proj.weight", "embeddings.weight", "lm_head.weight"))
    return linear


def loss_of(model, tokens):
    logits = model(tokens[None, :-1]).logits[0]
    return torch.nn.functional.cross_entropy(logits, tokens[1:])


def write(case):
    folder = HERE / case
    tokens = torch.tensor(json.loads((folder / "golden.json").read_text())["tokens"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    loss_of(model, tokens).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named if decays(n)], "weight_decay": 0.1},
         {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0}],
        lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        losses.append(float(loss))
        optimizer.step()
    (HERE / "gradients").mkdir(exist_ok=True)
    save_file(gradients, HERE / "gradients" / f"{case}.safetensors",
              metadata={"losses": json.dumps(losses), "norms": json.dumps(norms)})
    print(case, losses, norms)


def main():
    torch.set_num_threads(1)
    for case in CASES:
        write(case)


if __name__ == "__main__":
    main()
