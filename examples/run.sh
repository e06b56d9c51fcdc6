#!/bin/sh
# Builds krait and lets it write, from a bare Debian 12 or 13:
#
#   sh examples/run.sh                                 the bundled model continues a sentence
#   sh examples/run.sh "prompt"                        … or yours
#   sh examples/run.sh "prompt" -n 200 --temperature 0.7
#
# Arguments go to `krait generate`; `build/examples/krait/krait --help` has the other commands.
set -eu

krait_root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$krait_root/cmake/debian_packages.sh"

krait_build_program
if [ $# = 0 ]; then
  set -- "It was a dark and stormy night" -n 200
fi
exec "$krait_program" generate --echo "$@"
