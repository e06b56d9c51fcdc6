"""Writes seeds of fuzz_gguf: a small Mamba and a Mamba-2 with vocabularies, and matrices in blocks, and
one in two files, which lie one behind the other.

    pip install gguf numpy
    python tests/fuzz/make_gguf_seeds.py
"""

import pathlib
import tempfile

import gguf
import numpy as np

CORPUS = pathlib.Path(__file__).parent / "corpus" / "gguf"


def alphabet():
    """The characters that stand for bytes in the vocabularies of GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    codes, extra = [], 0
    for byte in range(256):
        codes.append(byte if byte in printable else 256 + extra)
        extra += byte not in printable
    return [chr(code) for code in codes]


def add_vocabulary(writer, pre):
    tokens = alphabet() + ["he", "<s>", "[PAD258]"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3, 5])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def write(path, arch, shapes, *, inner, rank, state, kind=None, split=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_ssm_conv_kernel(2)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_ssm_group_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    add_vocabulary(writer, "gpt-2" if arch == "mamba" else "llama-bpe")
    for tensor, shape in shapes.items():
        values = np.full(shape, -0.5, np.float32)
        if kind and len(shape) == 2 and tensor.endswith("weight") and "conv" not in tensor and "norm" not in tensor \
                and shape[1] % 32 == 0:
            values = gguf.quants.quantize(values, kind)
            writer.add_tensor(tensor, values, raw_dtype=kind)
        else:
            writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


AROUND = {"token_embd.weight": (259, 32), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,)}
MAMBA = AROUND | {"blk.0.ssm_in.weight": (64, 32), "blk.0.ssm_conv1d.weight": (32, 2),
                  "blk.0.ssm_conv1d.bias": (32,), "blk.0.ssm_x.weight": (5, 32),
                  "blk.0.ssm_dt.weight": (32, 1), "blk.0.ssm_dt.bias": (32,), "blk.0.ssm_a": (32, 2),
                  "blk.0.ssm_d": (32,), "blk.0.ssm_out.weight": (32, 32)}
MAMBA2 = AROUND | {"blk.0.ssm_in.weight": (70, 32), "blk.0.ssm_conv1d.weight": (36, 2),
                   "blk.0.ssm_conv1d.bias": (36,), "blk.0.ssm_dt.bias": (2,), "blk.0.ssm_a": (2, 1),
                   "blk.0.ssm_d": (2, 1), "blk.0.ssm_norm.weight": (1, 32),
                   "blk.0.ssm_out.weight": (32, 32)}
for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_1):
    write(CORPUS / f"mamba_{kind.name.lower()}", "mamba", MAMBA, inner=32, rank=1, state=2, kind=kind)
write(CORPUS / "mamba2_q4_1", "mamba2", MAMBA2, inner=32, rank=2, state=2,
      kind=gguf.GGMLQuantizationType.Q4_1)
with tempfile.TemporaryDirectory() as folder:
    write(pathlib.Path(folder) / "m.gguf", "mamba", MAMBA, inner=32, rank=1, state=2,
          kind=gguf.GGMLQuantizationType.Q8_0, split=8)
    parts = sorted(pathlib.Path(folder).glob("m-*.gguf"))
    assert len(parts) == 2
    (CORPUS / "mamba_split").write_bytes(b"".join(part.read_bytes() for part in parts))
