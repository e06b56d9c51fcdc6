#!/usr/bin/env python3
"""Compares krait with Hugging Face transformers on a Llama-shaped GGUF file.

    transformers_model.py KRAIT MODEL.gguf [--text FILE]

The reference is transformers' model on the weights as the gguf package decodes them, in float32. Per
prompt: the ids of the tokenizers package, log-probabilities of all tokens at all positions, and a
greedy continuation; then the perplexity of the beginning of a text. Prints what it finds and exits
with 1 where a difference is too large. Needs torch, transformers, tokenizers, gguf and numpy; says so
and exits with 77 where one is missing.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    import torch
    from gguf import GGUFReader, dequantize
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as error:
    print(f"skipped: {sys.executable} has no {error.name}")
    sys.exit(77)

LOG_PROB = 0.01  # most that a log-probability may differ by
PERPLEXITY = 0.001  # … and a perplexity, relative to itself
N_GREEDY = 40

USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = [
    "It was a dark and stormy night",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "In 1969, Apollo 11 landed on the Moon; 3.14159 is",
    "Le chat s'assoit sur le tapis. Žluťoučký kůň. 你好，世界",
    "<html>\n<body>\n\t<p>it's we'll don't</p>\n\n\n   ",
    '{"name": "krait", "length_m": 1.5, "venomous": true, ',
    USER.format("What is the capital of France?"),
    USER.format("Write a haiku about the sea."),
    USER.format("List three prime numbers above 100."),
]


# --- The reference --------------------------------------------------------------------------------

class Reference:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        get = lambda name: self.fields["llama." + name]
        heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
        self.config = LlamaConfig(
            hidden_size=get("embedding_length"),
            intermediate_size=get("feed_forward_length"),
            num_hidden_layers=get("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=get("context_length"),
            rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
            rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
            rope_theta=get("rope.freq_base"),
            vocab_size=get("vocab_size"),
            tie_word_embeddings=True,
        )
        self.model = LlamaForCausalLM(self.config).eval()
        weights = {}
        for tensor in reader.tensors:
            values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
            if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
                # llama.cpp rotates neighbours, transformers halves.
                n = heads if "attn_q" in tensor.name else kv_heads
                values = values.reshape(n, -1, 2, values.shape[-1]).transpose(1, 2).reshape(values.shape)
            weights[self.hugging_face_name(tensor.name)] = values.contiguous()
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        if unexpected or set(missing) - {"lm_head.weight"}:
            sys.exit(f"tensors: missing {missing}, unexpected {unexpected}")
        self.model.tie_weights()
        self.tokenizer = self.make_tokenizer()

    @staticmethod
    def hugging_face_name(name):
        for ours, theirs in (
            ("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("blk.", "model.layers."), ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"),
            ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"), ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ):
            name = name.replace(ours, theirs)
        return name

    def make_tokenizer(self):
        """The one of the model's tokenizer.json, from the vocabulary in the file."""
        if self.fields["tokenizer.ggml.pre"] != "smollm":
            sys.exit(f"tokenizer: expected pre 'smollm', found '{self.fields['tokenizer.ggml.pre']}'")
        tokens = self.fields["tokenizer.ggml.tokens"]
        merges = [tuple(merge.split(" ")) for merge in self.fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = [token for token, kind in zip(tokens, self.fields["tokenizer.ggml.token_type"]) if kind == 3]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
        return tokenizer

    def log_probs(self, ids):
        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()

    @staticmethod
    def after(output):
        """How a run goes on behind this one; the name of the argument depends on the version."""
        name = "cache" if "cache" in output else "past_key_values"
        return {name: output[name]}

    def greedy(self, ids, count):
        """At most `count` ids, without the end of the text, and the smallest gap between best and next."""
        ends = {self.fields["tokenizer.ggml.eos_token_id"], 0}
        written, gap = [], math.inf
        with torch.inference_mode():
            output = self.model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
            while len(written) < count:
                best = output.logits[0, -1].topk(2)
                gap = min(gap, float(best.values[0] - best.values[1]))
                token = int(best.indices[0])
                if token in ends:
                    break
                written.append(token)
                output = self.model(torch.tensor([[token]]), use_cache=True, **self.after(output))
        return written, gap

    def perplexity(self, ids, chunk=512):
        """Of ids[1 …], each given all ids before it."""
        total, before = 0.0, {}
        with torch.inference_mode():
            for first in range(0, len(ids) - 1, chunk):
                part = torch.tensor([ids[first : min(first + chunk, len(ids) - 1)]])
                output = self.model(part, use_cache=True, **before)
                before = self.after(output)
                targets = torch.tensor(ids[first + 1 : first + 1 + part.shape[1]])
                log_probs = output.logits[0].double().log_softmax(-1)
                total -= float(log_probs.gather(1, targets[:, None]).sum())
        return math.exp(total / (len(ids) - 1))


# --- krait ----------------------------------------------------------------------------------------

class Krait:
    def __init__(self, program, model, folder):
        self.program, self.model, self.folder = program, model, Path(folder)

    def run(self, command, *arguments):
        done = subprocess.run(
            [self.program, command, *arguments, "-m", self.model], capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"krait {command}: exit code {done.returncode}, {done.stderr.strip()}")
        return done.stdout

    def written(self, text):
        path = self.folder / "prompt.txt"
        path.write_bytes(text.encode())
        return str(path)

    def ids(self, text):
        return json.loads(self.run("tokenize", "--file", self.written(text), "--json"))

    def log_probs(self, text):
        out = str(self.folder / "logits.npy")
        self.run("logits", "--file", self.written(text), "--all", "--out", out)
        return torch.from_numpy(np.load(out)).double().log_softmax(-1).numpy()

    def greedy(self, text, count):
        arguments = ["--prompt-file", self.written(text), "-n", str(count), "--greedy", "--json"]
        return json.loads(self.run("generate", *arguments))

    def perplexity(self, path):
        return json.loads(self.run("perplexity", path, "--json"))["perplexity"]


def compare_prompt(reference, krait, prompt):
    """What is wrong; and the largest difference of a log-probability."""
    ids = reference.tokenizer.encode(prompt).ids
    found = krait.ids(prompt)
    if found != ids:
        return [f"ids: expected {ids}, found {found}"], math.inf
    wrong = []
    difference = np.abs(krait.log_probs(prompt) - reference.log_probs(ids))
    if not difference.max() <= LOG_PROB:
        wrong.append(f"log-probability: expected within {LOG_PROB}, found {difference.max():.3g} away")
    written, gap = reference.greedy(ids, N_GREEDY)
    expected = reference.tokenizer.decode(written, skip_special_tokens=False)
    text = krait.greedy(prompt, N_GREEDY)["text"]
    # A tie within the rounding of both can go either way.
    if text != expected and gap > 2 * difference.max():
        wrong.append(f"greedy text: expected {expected!r}, found {text!r} (smallest gap {gap:.3g})")
    return wrong, float(difference.max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("krait")
    parser.add_argument("model")
    parser.add_argument("--text", help="a text for the perplexity")
    parser.add_argument("--limit", type=int, default=32768, help="bytes of it")
    options = parser.parse_args()
    reference = Reference(options.model)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        krait = Krait(options.krait, options.model, folder)
        for prompt in PROMPTS:
            wrong, difference = compare_prompt(reference, krait, prompt)
            print(f"{prompt[-40:]!r}: log-probabilities within {difference:.2g}", flush=True)
            for line in wrong:
                print("  " + line, flush=True)
            failed = failed or bool(wrong)
        if options.text:
            text = Path(options.text).read_bytes()[: options.limit].decode(errors="ignore")
            ids = reference.tokenizer.encode(text).ids
            same = krait.ids(text) == ids
            expected = reference.perplexity(ids)
            found = krait.perplexity(krait.written(text))
            away = abs(found / expected - 1)
            print(f"{options.text}: {len(ids)} tokens, perplexity {expected:.6f}, krait {found:.6f} ({away:.2%} away)")
            if not same:
                print("  ids: expected those of the reference, found others")
            failed = failed or not same or away > PERPLEXITY
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
