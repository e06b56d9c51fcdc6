#!/usr/bin/env python3
"""Writes the losses of pairs of answers, and their gradients, that krait's tests compare against.

TRL's own loss of its DPOTrainer is run over the logits of transformers' slow path, float32, one
CPU thread: gradients/preferences.safetensors has the gradient of the first case, and its metadata
the pairs, and for every case the loss, what TRL logs, the length of the gradient and its product
with the first case's. The reference model is the same one with all its mixers' in_proj times 3/4.

  python make_golden_preferences.py
"""

import contextlib
import copy
import json
import pathlib
import types
from collections import defaultdict

import torch
import trl.trainer.dpo_trainer as dpo
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

CASE = "hf_f32"
HERE = pathlib.Path(__file__).resolve().parent
CASES = [
    {"loss": "sigmoid", "ld_alpha": 0.5, "sft": 0.3, "beta": 0.2},
    {"loss": "sigmoid"},
    {"loss": "ipo", "beta": 0.3},
    {"loss": "hinge", "beta": 0.5},
    {"loss": "robust", "label_smoothing": 0.2},
    {"loss": "sigmoid_norm", "beta": 2.0},
]
LOGGED = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
          "logps/chosen", "logps/rejected"]


def make_pairs(vocab):
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for prompt, chosen, rejected in ((4, 7, 5), (1, 3, 9), (6, 5, 5)):
        draw = lambda n: torch.randint(0, vocab, (n,), generator=generator).tolist()
        pairs.append({"prompt": draw(prompt), "chosen": draw(chosen), "rejected": draw(rejected)})
    return pairs


def batch_of(pairs):
    rows = [(p["prompt"], p[side]) for side in ("chosen", "rejected") for p in pairs]
    length = max(len(a) + len(b) for a, b in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    answers = torch.zeros_like(ids)
    present = torch.zeros_like(ids)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, :len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        answers[i, len(prompt):len(prompt) + len(answer)] = 1
        present[i, :len(prompt) + len(answer)] = 1
    return {"input_ids": ids, "attention_mask": present, "completion_mask": answers}


class WithLogProbs(torch.nn.Module):
    """What TRL makes of a model: it also returns the log-probability of each label."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels, **_):
        logits = self.model(input_ids).logits[:, :-1]
        labels = labels[:, 1:]
        log_probs = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        none = torch.zeros_like(log_probs)
        return types.SimpleNamespace(log_probs=log_probs.masked_fill(labels < 0, 0.0), entropy=none,
                                     mean_logits=none, is_top1=none.bool())


def trainer_of(model, reference, case):
    same = lambda x: x
    accelerator = types.SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same)
    losses = [case["loss"]] + (["sft"] if case.get("sft") else [])
    return types.SimpleNamespace(
        model=model, ref_model=reference, accelerator=accelerator, beta=case.get("beta", 0.1),
        label_smoothing=case.get("label_smoothing", 0.0), ld_alpha=case.get("ld_alpha"),
        loss_types=losses, loss_weights=[1.0, case.get("sft", 0.0)][:len(losses)],
        aux_loss_enabled=False, precompute_ref_logps=False, f_divergence_type="reverse_kl",
        use_weighting=False, _tp_size=1, _total_train_tokens=0,
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics={"train": defaultdict(list)})


def main():
    torch.set_num_threads(1)
    dpo.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()
    model = AutoModelForCausalLM.from_pretrained(HERE / CASE, dtype=torch.float32).train()
    reference = copy.deepcopy(model).eval()
    for name, p in reference.named_parameters():
        if name.endswith("in_proj.weight"):
            p.data *= 0.75
    pairs = make_pairs(model.config.vocab_size)
    found, first = [], None
    for case in CASES:
        model.zero_grad()
        trainer = trainer_of(WithLogProbs(model), WithLogProbs(reference), case)
        loss = dpo.DPOTrainer._compute_loss(trainer, trainer.model, batch_of(pairs), False)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        first = first or gradients
        dot = sum(float((g.double() * first[name].double()).sum())
                  for name, g in gradients.items())
        norm = sum(float((g.double() ** 2).sum()) for g in gradients.values()) ** 0.5
        logged = {key: trainer._metrics["train"][key][0] for key in LOGGED}
        found.append({**case, "value": float(loss), "norm": norm, "dot": dot, **logged})
        print(found[-1])
    save_file(first, HERE / "gradients" / "preferences.safetensors",
              metadata={"pairs": json.dumps(pairs), "cases": json.dumps(found)})


if __name__ == "__main__":
    main()
