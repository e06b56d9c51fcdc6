#!/usr/bin/env python3
"""Times krait and the `tokenizers` (or `sentencepiece`) package on the same files, in turns, on one
thread, by the processor's time, and compares the ids. The package encodes the text as a whole and in
lines; the faster way counts:

    python bench/peers/tokenizer_speed.py build/bench/krait_tokenizer_bench TEXT TOKENIZER...
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROUNDS = 3


def time_package(path, text):
    is_json = path.suffix == ".json"
    package = importlib.import_module("tokenizers" if is_json else "sentencepiece")
    load, encode, decode = [], [], []
    lines = text.splitlines(keepends=True)
    for _ in range(ROUNDS):
        begin = time.process_time()
        tokenizer = package.Tokenizer.from_file(str(path)) if is_json else package.SentencePieceProcessor(model_file=str(path))
        load.append(time.process_time() - begin)
        begin = time.process_time()
        ids = tokenizer.encode(text, add_special_tokens=False).ids if is_json else tokenizer.encode(text)
        whole = time.process_time() - begin
        if is_json:
            begin = time.process_time()
            tokenizer.encode_batch_fast(lines, add_special_tokens=False)
            whole = min(whole, time.process_time() - begin)
        else:
            begin = time.process_time()
            tokenizer.encode(lines)
            whole = min(whole, time.process_time() - begin)
        encode.append(whole)
        begin = time.process_time()
        tokenizer.decode(ids)
        decode.append(time.process_time() - begin)
    size = len(text.encode()) / 1e6
    return {"load_seconds": statistics.median(load), "encode_mb_per_second": size / statistics.median(encode),
            "decode_mb_per_second": size / statistics.median(decode)}, ids


def main():
    program, text_file, *files = sys.argv[1:]
    text = Path(text_file).read_bytes().decode()
    for file in map(Path, files):
        theirs, ids = time_package(file, text)
        with tempfile.NamedTemporaryFile() as out:
            line = subprocess.run([program, file, text_file, str(ROUNDS), out.name], check=True, capture_output=True).stdout
            own = json.loads(line)
            same = [int(i) for i in Path(out.name).read_text().split()] == ids
        print(f"{file}: {len(ids)} ids, {'the same' if same else 'OTHERS'}")
        for key in theirs:
            print(f"  {key:22} krait {own[key]:9.4f}  package {theirs[key]:9.4f}  ratio {own[key] / theirs[key]:.2f}")


main()
