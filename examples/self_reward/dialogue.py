#!/usr/bin/env python3
"""Writes a text task for the bundled byte-level model into a folder: dialogue that closes.

The prompts are passages of a text that end with an opening quotation mark; an answer gets three
points for closing the quotation, two more for punctuation in front of the mark, and loses three if
it breaks off into an empty line first. By self.json the bundled model judges itself, with a
template that it was never trained on; by random.json scores are chance, by true.json they are the
points.

  python3 examples/self_reward/dialogue.py tests/data/heldout_64k.txt dialogue
"""

import json
import pathlib
import random
import re
import sys

CONTEXT = 160
RULES = [{"pattern": "[”\"]", "points": 3, "most": 1},
         {"pattern": "[,.!?—-][”\"]", "points": 2, "most": 1},
         {"pattern": r"\A[^”\"]*\n\s*\n", "points": -3, "most": 1}]


def main():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf8", errors="ignore")
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    places = [m.end() for m in re.finditer(r"(?<=[\s])[“\"](?=\w)", text) if m.end() > CONTEXT]
    random.Random(1).shuffle(places)
    lines = [json.dumps({"prompt": text[at - CONTEXT:at], "verify": RULES}) + "\n" for at in places]
    half = len(lines) // 2
    (folder / "prompts.jsonl").write_text("".join(lines[:half]))
    (folder / "evaluation.jsonl").write_text("".join(lines[half:half + 60]))
    (folder / "judge.txt").write_text("{prompt}{response}\n\nHow good this is, from 0 to 5: ")
    for name, by in (("self", "expected"), ("random", "random"), ("true", "verify")):
        (folder / f"{name}.json").write_text(json.dumps({
            "model": "krait-bytes-moe", "iterations": 2, "seed": 5, "prompts": "prompts.jsonl",
            "prompts_per_iteration": 60,
            "candidates": {"count": 4, "n": 100, "temperature": 0.8},
            "judge": {"by": by, "template": "judge.txt"},
            "dpo": {"epochs": 2, "batch": 8, "lr": 1e-5, "beta": 0.1},
            "evaluate": {"prompts": "evaluation.jsonl", "count": 4, "n": 100,
                         "temperature": 0.8}}, indent=1))


if __name__ == "__main__":
    main()
