#!/usr/bin/env python3
"""Measures bits per byte of the bundled byte-level models on tests/data/heldout_64k.txt.

The text is read once, the state is carried from its first byte to its last, and bytes 1 .. N-1 are
scored: the result is the sum of -log2 p(byte | all bytes before it) over them, divided by N - 1.
Logits are float32, log_softmax and the sum are double. transformers cannot continue from a state
with more than one token at a time, so the recurrence is written out here; on the first 512 bytes it
is compared with MambaForCausalLM, for the mixture of experts with its layers put in (moe_mamba.py).

  python bits_per_byte.py            writes bits_per_byte.json
"""

import json
import math
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.nn.functional as F
import moe_mamba
import transformers
from transformers import MambaForCausalLM

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODELS = ("krait-bytes-2m", "krait-bytes-draft", "krait-bytes-moe")
CHUNK = 512
N_COMPARED = 512
MAX_DIFFERENCE = 1e-5  # relative to the largest logit


def load(name):
    folder = ROOT / "examples" / "models" / name
    if "moe_cfg" in json.loads((folder / "config.json").read_text()):
        return moe_mamba.load(folder)
    return MambaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Carried:
    """The weights of a MambaForCausalLM, run in chunks that continue where the last one stopped."""

    def __init__(self, model):
        self.model = model
        mixers = [block.mixer for block in model.backbone.layers]
        self.conv_state = [torch.zeros(m.intermediate_size, m.conv_kernel_size - 1) for m in mixers]
        self.ssm_state = [torch.zeros(m.intermediate_size, m.ssm_state_size) for m in mixers]

    def mixer(self, i, m, x):  # x [t, d_model]
        u, z = m.in_proj(x).chunk(2, dim=-1)  # [t, d_inner] each
        history = torch.cat([self.conv_state[i], u.t()], dim=1)  # [d_inner, d_conv-1 + t]
        self.conv_state[i] = history[:, -(m.conv_kernel_size - 1):].clone()
        u = F.silu(F.conv1d(history[None], m.conv1d.weight, m.conv1d.bias,
                            groups=m.intermediate_size)[0].t())
        dt, B, C = m.x_proj(u).split([m.time_step_rank, m.ssm_state_size, m.ssm_state_size], dim=-1)
        dt = F.softplus(m.dt_proj(dt))  # [t, d_inner]
        A = -torch.exp(m.A_log)  # [d_inner, d_state]
        h = torch.exp(dt[:, :, None] * A)  # [t, d_inner, d_state], each row replaced by its state
        dBu = (dt * u)[:, :, None] * B[:, None, :]
        state = self.ssm_state[i]
        for t in range(len(x)):
            state = torch.addcmul(dBu[t], h[t], state, out=h[t])
        self.ssm_state[i] = state.clone()
        y = torch.einsum("tdn,tn->td", h, C) + m.D * u
        return m.out_proj(y * F.silu(z))

    @torch.no_grad()
    def logits(self, tokens):  # [t] -> [t, vocab]
        backbone = self.model.backbone
        x = backbone.embeddings(tokens)
        for i, block in enumerate(backbone.layers):
            x = x + self.mixer(i, block.mixer, block.norm(x))
            if isinstance(block, moe_mamba.ExpertBlock):
                x = x + block.moe(block.norm2(x))
        return self.model.lm_head(backbone.norm_f(x))


def difference_to_transformers(model, tokens):
    carried = Carried(model)
    pieces = [carried.logits(piece) for piece in tokens.split([1, 2, 3, 100, len(tokens) - 106])]
    with torch.no_grad():
        expected = model(tokens[None], use_cache=False).logits[0]
    return float((torch.cat(pieces) - expected).abs().max() / expected.abs().max())


def bits_per_byte(model, tokens):
    carried = Carried(model)
    bits = 0.0
    for begin in range(0, len(tokens) - 1, CHUNK):
        inputs = tokens[begin:min(begin + CHUNK, len(tokens) - 1)]
        targets = tokens[begin + 1:begin + 1 + len(inputs)]
        log_p = F.log_softmax(carried.logits(inputs).double(), dim=-1)
        bits -= float(log_p.gather(1, targets[:, None]).sum()) / math.log(2)
    return bits / (len(tokens) - 1)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    text = (ROOT / "tests" / "data" / "heldout_64k.txt").read_bytes()
    tokens = torch.tensor(list(text))
    result = {"text": "tests/data/heldout_64k.txt", "n_byte": len(text), "n_scored": len(text) - 1,
              "source": f"torch {torch.__version__}, float32, CPU; recurrence compared with "
                        f"transformers {transformers.__version__}", "bits_per_byte": {}}
    for name in MODELS:
        model = load(name)
        difference = difference_to_transformers(model, tokens[:N_COMPARED])
        if difference > MAX_DIFFERENCE:
            raise SystemExit(f"{name}: differs from transformers by {difference} of the largest logit")
        value = bits_per_byte(model, tokens)
        result["bits_per_byte"][name] = round(value, 8)
        print(f"{name}: {value:.8f} bits per byte, relative difference to transformers on the first "
              f"{N_COMPARED} bytes {difference:.1e}")
    (HERE / "bits_per_byte.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
