#!/usr/bin/env python3
"""Writes samplers.json: what transformers' logits processors and its beam search do.

`steps`: logits of a small vocabulary and the text before them; of every processor the tokens that it
leaves, and for guidance its scores. `beams`: what `generate` with num_beams finds with the bundled
model krait-bytes-draft behind a prompt, in float32, with the scores of the sequences and the distance
between the last that is kept and the first that is not, at its smallest over all steps.
"""

import json
import math

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as lp

from bits_per_byte import HERE, load

VOCAB = 60
TEXT = [3, 17, 5, 9, 17, 5]
PROMPT = b"The captain looked at the sea, and the ship"


def rows():
    numbers = np.random.Generator(np.random.PCG64(15)).standard_normal((5, VOCAB))
    scale = np.array([1.0, 3.0, 6.0, 0.1, 2.0])[:, None]
    logits = (numbers * scale).round(4)
    logits[4, 10:14] = logits[4].max() + 1.0  # the best four alike
    return torch.tensor(logits, dtype=torch.float32)


def steps(logits):
    text = torch.tensor([TEXT])
    bad_words = [[7], [5, 9], [17, 5, 2], [3, 17, 5, 9, 17, 5, 4], [17, 9, 1], [9, 17, 5, 17]]
    processors = {
        **{f"epsilon_cutoff {e}": lp.EpsilonLogitsWarper(e) for e in (3e-4, 0.01, 0.05, 0.3, 0.9)},
        **{f"eta_cutoff {e}": lp.EtaLogitsWarper(e) for e in (3e-4, 0.01, 0.05, 0.3, 0.9)},
        "min_length 6": lp.MinLengthLogitsProcessor(6, [11, 12]),
        "min_length 7": lp.MinLengthLogitsProcessor(7, [11, 12]),
        "bad_words": lp.NoBadWordsLogitsProcessor(bad_words),
    }
    kept = {}
    for name, processor in processors.items():
        kept[name] = [[i for i, x in enumerate(processor(text, row[None])[0].tolist())
                       if x != -math.inf] for row in logits]
    guided = {}
    for scale in (0.5, 1.5, 3.0):
        class Model:
            def __call__(self, ids, **_):
                return transformers.modeling_outputs.CausalLMOutput(logits=logits[1][None, None])
        processor = lp.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, Model(), text)
        guided[str(scale)] = processor(text, logits[0][None])[0].tolist()
    return {"logits": [[float(f"{x:.4f}") for x in row] for row in logits.tolist()], "text": TEXT,
            "bad_words": bad_words, "eos": [11, 12], "kept": kept,
            "guided": {k: [float(f"{x:.7g}") for x in v] for k, v in guided.items()}}


def beams(model):
    cases = []
    gaps = []
    top = model._get_top_k_continuations

    def watched(accumulated_log_probs, beams_to_keep, num_beams, **kwargs):
        best = accumulated_log_probs.topk(beams_to_keep + 1).values[0]
        gaps.append(float((best[:-1] - best[1:]).min()))
        return top(accumulated_log_probs=accumulated_log_probs, beams_to_keep=beams_to_keep,
                   num_beams=num_beams, **kwargs)

    model._get_top_k_continuations = watched
    ids = torch.tensor([list(PROMPT)])
    for case in (
            {"num_beams": 4, "length_penalty": 1.0},
            {"num_beams": 4, "length_penalty": 1.0, "eos": [46, 44]},
            {"num_beams": 3, "length_penalty": 0.0, "eos": [32]},
            {"num_beams": 3, "length_penalty": 2.0, "eos": [32]},
            {"num_beams": 3, "length_penalty": -1.0, "eos": [32, 44]},
            {"num_beams": 5, "length_penalty": 1.5, "eos": [32], "early_stopping": True},
            {"num_beams": 5, "length_penalty": 1.5, "eos": [46], "early_stopping": "never"},
            {"num_beams": 4, "length_penalty": 1.0, "eos": [46], "repetition_penalty": 1.3},
            {"num_beams": 2, "length_penalty": 1.0, "eos": [44], "min_length": len(PROMPT) + 20},
            {"num_beams": 4, "length_penalty": 1.0, "bad_words_ids": [[101], list(b" a")]},
    ):
        gaps.clear()
        options = dict(case)
        eos = options.pop("eos", None)
        out = model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=eos,
                             pad_token_id=0, num_return_sequences=case["num_beams"],
                             return_dict_in_generate=True, output_scores=True, use_cache=False,
                             **options)
        sequences = []
        for tokens, score in zip(out.sequences.tolist(), out.sequences_scores.tolist()):
            tokens = tokens[len(PROMPT):]
            ends = [i for i, token in enumerate(tokens) if token in (eos or [])]
            if ends:  # what is behind it is padding
                tokens = tokens[:ends[0] + 1]
            sequences.append({"tokens": tokens, "score": float(f"{score:.7g}")})
        cases.append({**case, "sequences": sequences, "min_gap": float(f"{min(gaps):.3g}")})
        print(case, bytes(sequences[0]["tokens"]), sequences[0]["score"], min(gaps))
    return {"prompt": PROMPT.decode(), "max_new_tokens": 24, "cases": cases}


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    result = {"source": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU",
              "steps": steps(rows()), "beams": beams(load("krait-bytes-draft"))}
    (HERE / "samplers.json").write_text(json.dumps(result, indent=None) + "\n")


if __name__ == "__main__":
    main()
