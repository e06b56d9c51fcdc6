#!/bin/sh
# Trains the bundled models from nothing, as they were trained: krait-bytes-moe, the default one,
# krait-bytes-2m and krait-bytes-draft:
#
#   sh examples/models/train.sh BOOKS OUT
#
# BOOKS is a folder with the books of the list below as plain text, <number>-<title>.txt, from
# Project Gutenberg (https://www.gutenberg.org/ebooks/<number>) without its header and footer. What
# is done lies in OUT, a folder per stage, the models in folders of their names; killed at any moment
# and started again, the script goes on. Given the same bytes of books, the results have the same
# bytes for any number of threads. It takes some six hours of two cores.
set -eu

krait_root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
. "$krait_root/cmake/debian_packages.sh"

[ $# -eq 2 ] || {
  echo "usage: sh examples/models/train.sh BOOKS OUT" >&2
  exit 2
}
books=$1
out=$2

# In the order of their file names; Secret Garden (113) and Kim (2226) are held out.
numbers="1023 11 12 120 1228 1260 1342 1400 148 155 158 161 1661 174 203 205 215 219 244 2701 2852
33 345 35 36 43 45 46 514 521 55 74 76 768 829 84 98"

krait_build_program
mkdir -p "$out"
list=$out/books.txt
: >"$list"
for number in $numbers; do
  found=
  for file in "$books/$number"-*.txt; do
    [ -f "$file" ] && found=$file
  done
  [ -n "$found" ] || {
    echo "krait: book $number: expected $books/$number-<title>.txt, found none" >&2
    exit 1
  }
  printf '%s\n' "$found" >>"$list"
done

# stage NAME OPTION …: trains OUT/NAME on all books; nothing where that is done.
stage() {
  name=$1
  shift
  while IFS= read -r book; do
    set -- "$@" --data "$book"
  done <"$list"
  echo "$name" >&2
  "$krait_program" train "$@" --out "$out/$name" --log "$out/$name.jsonl" --batch 4 --length 1024 \
    --checkpoint-every 250 --resume
}

# At a constant rate, in stages that can be looked at; then the rate falls to a tenth, twice.
models=$krait_root/examples/models
stage moe-1 --config "$models/krait-bytes-moe/config.json" --seed 1 --steps 2833 --warmup 200 --lr 3e-3
stage moe-2 -m "$out/moe-1" --seed 2 --steps 2500 --warmup 50 --lr 3e-3
stage moe-3 -m "$out/moe-2" --seed 3 --steps 2500 --warmup 50 --lr 3e-3
stage moe-4 -m "$out/moe-3" --seed 4 --steps 2500 --warmup 50 --lr 3e-3
stage moe-5 -m "$out/moe-4" --seed 5 --steps 8500 --warmup 50 --lr 3e-3 --schedule linear \
  --dtype bf16
stage krait-bytes-moe -m "$out/moe-5" --seed 6 --steps 1800 --warmup 50 --lr 8e-4 \
  --schedule linear --dtype bf16

# The smaller ones learn from the larger one's predictions, most of all.
stage krait-bytes-2m --config "$models/krait-bytes-2m/config.json" --teacher "$out/krait-bytes-moe" \
  --distill 0.9 --seed 1 --steps 8000 --warmup 200 --lr 1e-2 --optimizer muon --schedule linear \
  --dtype bf16
stage krait-bytes-draft --config "$models/krait-bytes-draft/config.json" \
  --teacher "$out/krait-bytes-moe" --distill 0.9 --seed 1 --steps 16000 --warmup 200 --lr 2e-2 \
  --optimizer muon --schedule linear --dtype bf16
