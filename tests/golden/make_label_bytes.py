"""Writes tests/data/label_bytes: the weights of a published model that labels bytes, its licence,
and what the package itself computes with them.

    pip download --no-deps typeseg==0.2.7
    python tests/golden/make_label_bytes.py typeseg-0.2.7-py3-none-any.whl

Needs numpy and safetensors. The weights are those of the package's mamba_al.npz, number for number;
golden.safetensors has NAME.bytes (u8) and NAME.logits (f32 [bytes, 35]) of its numpy path.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "data" / "label_bytes"

MIXED = (
    "<div class='a'>hi</div>\n.btn { color: red; }\nalert('x');\nSELECT id FROM users WHERE a=1;\n"
    "#include <stdio.h>\nint main(void){return 0;}\n"
)
CASES = {
    "mixed": (MIXED * 8).encode()[:1024],
    "accents": "# Žluťoučký kůň\nprint('naïve café')\n".encode(),  # bytes from 128 on
    "one": b"{",  # shorter than the convolution looks
    "two": b"a\xff",
    "three": b"\x00\x7f\x80",
}


def main():
    wheel = sys.argv[1]
    sys.path.insert(0, wheel)
    from typeseg._numpy_backend import Weights, mamba_forward

    OUT.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        stored = np.load(io.BytesIO(archive.read("typeseg/data/mamba_al.npz")))
        weights = {name: np.ascontiguousarray(stored[name], np.float32) for name in stored.files}
        (OUT / "LICENSE").write_bytes(archive.read("typeseg-0.2.7.dist-info/licenses/LICENSE"))
    save_file(weights, OUT / "model.safetensors")

    model = Weights({name.replace("__", "/"): values for name, values in weights.items()})
    golden = {}
    for name, text in CASES.items():
        tokens = np.frombuffer(text, np.uint8)
        logits = mamba_forward(model, tokens.astype(np.int32))
        golden[name + ".bytes"] = tokens.copy()
        golden[name + ".logits"] = np.ascontiguousarray(logits, np.float32)
    save_file(golden, OUT / "golden.safetensors")


if __name__ == "__main__":
    main()
