#!/bin/sh
# The published model of examples/real_model.sh beside transformers:
#
#   sh tests/network/real_model.sh build/examples/krait/krait
#
# KRAIT_PYTHON is a Python with torch, transformers, tokenizers, gguf and numpy; KRAIT_WIKITEXT a text
# whose perplexity is compared beside that of the text in tests/data (wikitext-2 is in no registry).
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
set -- "$1" "$krait_model" --text "$krait_root/tests/data/heldout_64k.txt"
if [ -n "${KRAIT_WIKITEXT-}" ]; then
  set -- "$@" --text "$KRAIT_WIKITEXT"
else
  echo "left out: the perplexity of wikitext-2, of which KRAIT_WIKITEXT names a file"
fi
exec "$python" "$krait_root/tests/network/transformers_model.py" "$@"
