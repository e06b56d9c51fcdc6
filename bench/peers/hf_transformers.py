#!/usr/bin/env python3
"""Measures a Mamba checkpoint with Hugging Face transformers on the CPU and prints one JSON object:

    python bench/peers/hf_transformers.py --checkpoint DIR --dtype f32 --threads 2

Needs torch and transformers; llama_cpp.sh makes an environment with both. (A file of the name
transformers.py would hide the package from itself.)
"""

import argparse
import json
import sys
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dtype", choices=("f32", "f16", "bf16"), default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--users", type=int, default=8)
    return parser.parse_args()


def measure(options, torch, transformers):
    torch.set_num_threads(options.threads)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    model = transformers.MambaForCausalLM.from_pretrained(options.checkpoint, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(1)

    def tokens(users, count):
        return torch.randint(model.config.vocab_size, (users, count), generator=generator)

    def prefill(ids):
        return model(input_ids=ids, use_cache=True, logits_to_keep=1)

    def decode(output, count):
        for _ in range(count):
            last = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            output = model(input_ids=last, cache=output.cache, use_cache=True)

    def timed(count, body, *arguments):
        begun = time.perf_counter()
        body(*arguments)
        return count / (time.perf_counter() - begun)

    with torch.inference_mode():
        prompt = tokens(1, options.prompt)
        decode(prefill(prompt), 2)  # warms caches and page tables
        return {
            "prefill": timed(options.prompt, prefill, prompt),
            "decode": timed(options.decode, decode, prefill(prompt), options.decode),
            "batch": timed(
                options.users * options.decode, decode, prefill(tokens(options.users, 16)), options.decode
            ),
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        }


def main():
    options = parse()
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"[peers] {error.name}: expected it in {sys.executable}, found none (pip install torch transformers)",
              file=sys.stderr)
        return 1
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(json.dumps(measure(options, torch, transformers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
