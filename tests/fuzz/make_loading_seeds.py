"""Writes seeds of fuzz_chain, fuzz_config, fuzz_pickle and fuzz_safetensors: what checkpoints of the
world hold beside plain tensors. Needs Python alone.
"""

import io
import json
import pathlib
import struct
import zipfile

corpus = pathlib.Path(__file__).parent / "corpus"


def put(folder, name, data):
    (corpus / folder).mkdir(exist_ok=True)
    (corpus / folder / name).write_bytes(data)


# A model of one layer.
MAMBA = {"model_type": "mamba", "hidden_size": 2, "state_size": 2, "conv_kernel": 2, "expand": 1,
         "time_step_rank": 1, "num_hidden_layers": 1, "vocab_size": 4}
MAMBA2 = {"model_type": "mamba2", "hidden_size": 2, "state_size": 2, "conv_kernel": 2, "expand": 1,
          "head_dim": 1, "num_heads": 2, "n_groups": 1, "num_hidden_layers": 1, "vocab_size": 4,
          "tie_word_embeddings": True, "rms_norm": False}
AROUND = {"backbone.embeddings.weight": [4, 2], "backbone.layers.0.norm.weight": [2],
          "backbone.norm_f.weight": [2]}
MIXER = {"A_log": [2, 2], "D": [2], "conv1d.weight": [2, 1, 2], "conv1d.bias": [2],
         "dt_proj.weight": [2, 1], "dt_proj.bias": [2], "in_proj.weight": [4, 2],
         "out_proj.weight": [2, 2], "x_proj.weight": [5, 2]}
MIXER2 = {"A_log": [2], "D": [2], "dt_bias": [2], "conv1d.weight": [6, 1, 2], "conv1d.bias": [6],
          "in_proj.weight": [10, 2], "out_proj.weight": [2, 2], "norm.weight": [2]}


def names(mixer):
    return AROUND | {"backbone.layers.0.mixer." + name: shape for name, shape in mixer.items()}


def count(shape):
    size = 1
    for extent in shape:
        size *= extent
    return size


def numbers_of(shape, code):
    return struct.pack(f"<{count(shape)}{code}", *[(i % 7 - 3) / 4 for i in range(count(shape))])


def safetensors(tensors):
    """Of (name, dtype, shape, bytes)."""
    header, data = {}, b""
    for name, dtype, shape, values in tensors:
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def floats(shapes, dtype="F32", code="f"):
    return [(name, dtype, shape, numbers_of(shape, code)) for name, shape in shapes.items()]


def renamed(shapes, change):
    return {change(name): shape for name, shape in shapes.items()}


def chain(config, weights, tokenizer=b""):
    return json.dumps(config).encode() + b"\n%%\n" + tokenizer + b"\n%%\n" + weights


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tuple_of(values):
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


def strides(shape):
    return [count(shape[axis + 1:]) for axis in range(len(shape))]


def tensor(key, shape):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n"
        + text(key) + text("cpu") + b"K" + bytes([count(shape)]) + b"tQK\0" + tuple_of(shape)
        + tuple_of(strides(shape)) + b"\x89ccollections\nOrderedDict\n)RtR")


def untyped(key, kind, shape):
    return (
        b"ctorch._utils\n_rebuild_tensor_v3\n((" + text("storage")
        + b"ctorch.storage\nUntypedStorage\n" + text(key) + text("cpu") + b"K\x40tQK\0"
        + tuple_of(shape) + tuple_of(strides(shape)) + b"\x89ccollections\nOrderedDict\n)Rctorch\n"
        + kind.encode() + b"\ntR")


def with_state(value):
    return (b"ctorch._utils\n_rebuild_parameter_with_state\n(" + value
            + b"\x88ccollections\nOrderedDict\n)R}" + text("_no_weight_decay") + b"\x88stR")


def dictionary(*items):
    return b"}(" + b"".join(text(name) + value for name, value in items) + b"u"


def archive(shapes):
    """A training checkpoint."""
    keys = {name: str(i) for i, name in enumerate(shapes)}
    model = dictionary(*[(name, with_state(tensor(keys[name], shape)))
                         for name, shape in shapes.items()])
    pickle = b"\x80\x02" + dictionary(
        ("state_dict", dictionary(("module", model))), ("epoch", b"K\x03"),
        ("args", b"cargparse\nNamespace\n)\x81}" + text("lr") + b"K\x01sb")) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("m/data.pkl", pickle)
        for name, shape in shapes.items():
            file.writestr("m/data/" + keys[name], numbers_of(shape, "f"))
    return buffer.getvalue()


def main():
    plain = names(MIXER)
    gpt2 = (corpus / "tokenizer" / "gpt2.json").read_bytes()
    put("chain", "plain", chain(MAMBA, safetensors(floats(plain))))
    put("chain", "tokenizer", chain(MAMBA | {"vocab_size": 300}, safetensors(
        floats(plain | {"backbone.embeddings.weight": [300, 2]})), gpt2))
    put("chain", "f64", chain(MAMBA, safetensors(floats(plain, "F64", "d"))))
    put("chain", "f16", chain(MAMBA, safetensors(floats(plain, "F16", "e"))))
    put("chain", "module", chain(MAMBA, safetensors(
        floats(renamed(plain, lambda name: "module." + name)))))
    put("chain", "head_only", chain(MAMBA, safetensors(floats(renamed(
        plain, lambda name: name.replace("backbone.embeddings", "lm_head"))))))
    put("chain", "extra_types", chain(MAMBA, safetensors(
        floats(plain) + [("steps", "U16", [4], bytes(8)), ("nine", "F32", [1] * 9, bytes(4))])))
    put("chain", "infinite", chain(MAMBA, safetensors(floats(plain)[:-1] + [
        ("backbone.layers.0.mixer.x_proj.weight", "F32", [5, 2], struct.pack("<10f", *[1e30] * 10))])))
    put("chain", "mamba2", chain(MAMBA2, safetensors(floats(names(MIXER2)))))
    put("chain", "archive", chain(MAMBA, archive(plain)))

    put("safetensors", "other_types", safetensors(
        [("a", "U16", [2], bytes(4)), ("b", "F8_E4M3", [4], bytes(4)), ("c", "C64", [1], bytes(8)),
         ("d", "F4", [8], bytes(4)), ("e", "I4", [3], bytes(4)), ("f", "F32", [1] * 9, bytes(4))]))
    put("pickle", "pickle_untyped", b"\x80\x02" + dictionary(
        ("a", untyped("0", "float32", [4, 4])), ("b", untyped("1", "uint16", [8]))) + b".")
    put("pickle", "pickle_state", b"\x80\x02" + dictionary(
        ("a", with_state(tensor("0", [4, 4]))), ("size", b"ctorch\nSize\n(K\x01K\x02t\x85R"),
        ("type", b"ctorch\nbfloat16\n"), ("set", b"c__builtin__\nset\n](K\x01K\x02e\x85R"),
        ("bytes", b"c_codecs\nencode\n" + text("a") + text("latin1") + b"\x86R")) + b".")
    put("pickle", "pickle_training", b"\x80\x02" + dictionary(
        ("model", dictionary(("a", tensor("0", [4, 4])))),
        ("optimizer", dictionary(("state", b"}K\x00" + dictionary(("step", b"K\x01")) + b"s"),
                                 ("groups", b"]" + dictionary(("betas", b"K\x01K\x02\x86"))
                                  + b"a")))) + b".")
    put("pickle", "pickle_circle",
        b"\x80\x02}q\x01" + text("model") + b"}q\x02" + text("module") + b"h\x01ss.")
    put("pickle", "pickle_pairs", b"\x80\x02ccollections\nOrderedDict\n]](" + text("a")
        + tensor("0", [4]) + b"ea\x85R.")

    put("config", "escapes.json", json.dumps(
        MAMBA | {"hidden_act": "\x1b[31m\u0007\u009b\u202e", "\x1b]0;x": 1}).encode())
    put("config", "escapes_in_layer.json", json.dumps(
        {"d_model": 2, "n_layer": 1, "ssm_cfg": {"layer": "\u001b\n\u2028"}}).encode())
    put("config", "escapes_in_type.json", json.dumps({"model_type": "\u0000\u007f\r\n"}).encode())
    put("config", "escapes_twice.json", b'{"\\u001b\\u009b":1,"\\u001b\\u009b":2}')
    put("config", "mamba2_no_norm.json", json.dumps(MAMBA2).encode())


if __name__ == "__main__":
    main()
