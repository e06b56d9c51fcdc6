#!/usr/bin/env python3
"""Writes greedy.json: what the bundled models say greedily after a fixed prompt.

Every step is a full forward pass of transformers' MambaForCausalLM in float32 over all bytes so far
(moe_mamba.py puts the experts in where a model has them).
The smallest distance between the two best logits is kept beside the text: as long as an
implementation is closer to PyTorch than half of it, the bytes must be the same.
"""

import json
import math

import torch
import transformers

from bits_per_byte import HERE, MODELS, load

PROMPT = b"It was a dark and stormy night"
N_GREEDY = 64


@torch.no_grad()
def greedy(model, prompt, count):
    tokens, min_gap, max_abs = list(prompt), math.inf, 0.0
    for _ in range(count):
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        min_gap = min(min_gap, float(best.values[0] - best.values[1]))
        max_abs = max(max_abs, float(logits.abs().max()))
        tokens.append(int(best.indices[0]))
    return bytes(tokens[len(prompt):]), min_gap, max_abs


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    result = {"prompt": PROMPT.decode(),
              "source": f"transformers {transformers.__version__} MambaForCausalLM, "
                        f"torch {torch.__version__}, float32, CPU", "models": {}}
    for name in MODELS:
        text, min_gap, max_abs = greedy(load(name), PROMPT, N_GREEDY)
        result["models"][name] = {"text": text.decode(), "bytes": list(text),
                                  "min_gap": float(f"{min_gap:.6g}"),
                                  "max_abs": float(f"{max_abs:.6g}")}
        print(f"{name}: {text!r}, smallest gap {min_gap:.4g}, largest logit {max_abs:.4g}")
    models = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in result.pop("models").items())
    head = "".join(f" {json.dumps(k)}: {json.dumps(v)},\n" for k, v in result.items())
    (HERE / "greedy.json").write_text("{\n" + head + ' "models": {\n' + models + "\n }\n}\n")


if __name__ == "__main__":
    main()
