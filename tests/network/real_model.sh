#!/bin/sh
# The published model of examples/real_model.sh beside transformers:
#
#   sh tests/network/real_model.sh build/examples/krait/krait
#
# KRAIT_PYTHON is a Python with torch, transformers, tokenizers, gguf and numpy; KRAIT_WIKITEXT a file of
# wikitext-2, which is in no registry, for the perplexity of 32 KiB of it; without it, of 8 KiB of the
# text in tests/data.
# Exit code 77: it could not be run, for the reason that is printed.
set -u

krait_root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
. "$krait_root/examples/fetch_model.sh"
python=${KRAIT_PYTHON:-python3}

"$python" -c 'import torch, transformers, tokenizers, gguf, numpy' 2>/dev/null || {
  echo "skipped: $python has not all of torch, transformers, tokenizers, gguf and numpy"
  exit 77
}
krait_fetch_smollm2 || {
  echo "skipped: the model could not be fetched"
  exit 77
}
if [ -n "${KRAIT_WIKITEXT-}" ]; then
  set -- "$1" "$krait_model" --text "$KRAIT_WIKITEXT"
else
  echo "left out: the perplexity of wikitext-2, of which KRAIT_WIKITEXT names a file"
  set -- "$1" "$krait_model" --text "$krait_root/tests/data/heldout_64k.txt" --limit 8192
fi
exec "$python" "$krait_root/tests/network/transformers_model.py" "$@"
