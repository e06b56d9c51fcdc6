#!/usr/bin/env python3
"""Writes the data and configurations of the letters task into a folder.

The prompt names a letter, the answer is eight letters, and its score is how often the letter is
among them, at most five times, less two where there are not eight. sft.jsonl has mediocre answers
("Qa>" to "cabhgfda") and judged ones ("JQa>cabhgfda?" to "2"), so that one model learns to answer
and to judge. The loops are the same but for where the scores come from: the model (self.json),
chance (random.json), the truth (true.json); fast.json has too high a learning rate, and in
replay.json judged answers (judged.jsonl) are trained on beside the pairs.

  python3 examples/self_reward/letters.py letters
"""

import json
import pathlib
import random
import sys

LETTERS = "abcdefgh"


def score(letter, answer):
    return max(0, min(5, answer.count(letter)) - (2 if len(answer) != 8 else 0))


def answer_to(r, letter, part, right_length):
    n = 8 if r.random() < right_length else r.choice([6, 7, 9, 10])
    return "".join(letter if r.random() < part else r.choice(LETTERS) for _ in range(n))


def rules(letter):
    return [{"pattern": letter, "points": 1, "most": 5},
            {"pattern": r"\A(?!.{8}\z)", "points": -2, "most": 1}]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    r = random.Random(1)
    examples = []
    for _ in range(8000):
        letter = r.choice(LETTERS)
        examples.append({"prompt": f"Q{letter}>", "response": answer_to(r, letter, .13, .93)})
    for _ in range(24000):
        letter = r.choice(LETTERS)
        answer = answer_to(r, letter, r.random() * .9, .8)
        examples.append({"prompt": f"JQ{letter}>{answer}?", "response": str(score(letter, answer))})
    write(folder / "sft.jsonl", examples)
    write(folder / "judged.jsonl", examples[8000:])
    letters = [r.choice(LETTERS) for _ in range(4000)]
    write(folder / "prompts.jsonl", [{"prompt": f"Q{c}>", "verify": rules(c)} for c in letters])
    write(folder / "evaluation.jsonl", [{"prompt": f"Q{c}>", "verify": rules(c)} for c in LETTERS])
    (folder / "judge.txt").write_text("J{prompt}{response}?")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "mamba", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2,
        "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": 4,
        "tie_word_embeddings": True, "intermediate_size": 128}))
    replay = {"replay": {"file": "judged.jsonl", "weight": 0.3}}
    for name, by, rate, more in (("self", "expected", 4e-5, {}), ("random", "random", 4e-5, {}),
                                 ("true", "verify", 4e-5, {}), ("fast", "expected", 4e-4, {}),
                                 ("replay", "expected", 4e-5, replay)):
        (folder / f"{name}.json").write_text(json.dumps({
            "model": "m1", "iterations": 4, "seed": 3, "prompts": "prompts.jsonl",
            "prompts_per_iteration": 400,
            "candidates": {"count": 4, "n": 12, "temperature": 1.0},
            "judge": {"by": by, "template": "judge.txt"},
            "dpo": {"epochs": 2, "batch": 16, "lr": rate, "beta": 0.1, **more},
            "evaluate": {"prompts": "evaluation.jsonl", "count": 50, "n": 12,
                         "temperature": 1.0}}, indent=1))


if __name__ == "__main__":
    main()
