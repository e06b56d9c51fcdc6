#!/bin/sh
# Compares krait with llama.cpp (and, with --transformers, Hugging Face transformers) on one machine:
#
#   sh bench/peers/llama_cpp.sh --realtime --transformers
#
# Gets llama.cpp's source from the newest source package of llama-cpp-python on PyPI, builds its
# benchmarks for this machine, writes one random checkpoint of a published model's shape, lets krait
# convert it (tests/network/gguf_in_llama_cpp.py: llama.cpp has the same logits then) and
# bench/peers/compare.py run both in turns. What is there already is kept, so an interrupted run goes on
# where it stopped; delete the work folder to begin anew.
set -eu

usage() {
  cat <<'END'
usage: bench/peers/llama_cpp.sh [OPTION ...]
  --work DIR         everything downloaded and built; default ${XDG_CACHE_HOME:-$HOME/.cache}/krait-peers
  --krait DIR        krait's build folder; default the build/ of this source tree
  --shape NAME       mamba-130m (default), mamba2-130m, or a file of bench/shapes: granite-4-h-350m,
                     granite-4-h-1b; of their size and Jamba mini's attention alone, four layers:
                     granite-4-h-1b-attention, jamba-mini-attention
  --forms LIST       default f32,f16,bf16,bf16/bf16,q8,q4; A/B means --dtype A --compute B
  --threads N        default 2
  --prompt N         tokens of the prompt; default 256
  --decode N         tokens decoded; default 64
  --users N          sequences of the batched measurement; default 8
  --repeats N        rounds, of which the median counts; default 5
  --realtime         runs all programs alike under chrt -r 50
  --transformers     measures Hugging Face transformers too, in f32 and bf16
  --out FILE         results as JSON; default WORK/peers-SHAPE.json
  --setup            prepares everything and measures nothing
END
}

fail() {
  echo "[peers] $1" >&2
  exit 1
}

peers=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
krait_root=$(CDPATH='' cd -- "$peers/../.." && pwd -P)

work=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/krait-peers
krait=$krait_root/build
shape=mamba-130m
forms=f32,f16,bf16,bf16/bf16,q8,q4
threads=2 prompt=256 decode=64 users=8 repeats=5
realtime='' transformers='' out='' setup_only=''
while [ $# -gt 0 ]; do
  case $1 in
    --realtime) realtime=yes; shift; continue ;;
    --transformers) transformers=yes; shift; continue ;;
    --setup) setup_only=yes; shift; continue ;;
    -h | --help) usage; exit 0 ;;
  esac
  [ $# -ge 2 ] || { usage >&2; exit 2; }
  case $1 in
    --work) work=$2 ;;
    --krait) krait=$2 ;;
    --shape) shape=$2 ;;
    --forms) forms=$2 ;;
    --threads) threads=$2 ;;
    --prompt) prompt=$2 ;;
    --decode) decode=$2 ;;
    --users) users=$2 ;;
    --repeats) repeats=$2 ;;
    --out) out=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
for number in "$threads" "$prompt" "$decode" "$users" "$repeats"; do
  case $number in
    '' | 0* | *[!0-9]*) fail "options: expected a positive number, found '$number'" ;;
  esac
done

config=$krait_root/bench/shapes/$shape.json
case $shape in
  mamba-130m | mamba2-130m) set -- --shape "$shape" ;;
  */* | '') fail "--shape: expected a name, found '$shape'" ;;
  *)
    [ -f "$config" ] ||
      fail "--shape: expected mamba-130m, mamba2-130m or a file of bench/shapes, found '$shape'"
    set -- --config "$config"
    ;;
esac
[ -z "$transformers" ] || [ "$shape" = mamba-130m ] ||
  fail "--transformers: expected --shape mamba-130m, found $shape"

mkdir -p "$work" 2>/dev/null || fail "work folder: expected to create it, found no way ($work)"
work=$(CDPATH='' cd -- "$work" && pwd -P)
[ -n "$out" ] || out=$work/peers-$shape.json
log=$work/setup.log
source=$work/llama.cpp
build=$work/llama.cpp-build
python=$work/venv/bin/python

# run WHAT COMMAND …: its output goes to the log; on failure, one line says where to look.
run() {
  run_what=$1
  shift
  echo "$run_what" >&2
  "$@" >>"$log" 2>&1 && return 0
  if grep -q 'No space left on device' "$log"; then
    fail "$run_what: expected room on the disk, found none ($work)"
  fi
  fail "$run_what: expected it to succeed, found an error ($log)"
}

check_tools() {
  for tool in python3 cmake c++ tar; do
    command -v "$tool" >/dev/null 2>&1 || fail "tools: expected $tool on the PATH, found none"
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null ||
    fail "tools: expected Python's venv, found none (Debian: apt-get install python3-venv)"
  for program in examples/krait/krait bench/krait_make_random_checkpoint; do
    [ -x "$krait/$program" ] || fail "krait: expected $program, found none ($krait; see --krait)"
  done
  if [ -n "$realtime" ] && ! chrt -r 50 true 2>/dev/null; then
    fail "--realtime: expected the right to run chrt -r 50, found none (root or CAP_SYS_NICE has it)"
  fi
}

check_space() {
  [ ! -f "$work/.complete-$shape" ] || return 0
  free=$(df -Pk "$work" | awk 'NR == 2 { print int($4 / 1048576) }')
  used=$(du -sk "$work" | awk '{ print int($1 / 1048576) }')
  needed=6
  [ "$shape" != granite-4-h-1b ] || needed=28
  [ $((free + used)) -ge $needed ] || fail "disk: expected $needed GiB for $work, found $free GiB"
}

# With --transformers one version of torch, so that figures can be compared. pip's own settings say where
# it comes from: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu has it without a GPU's libraries.
make_venv() {
  [ -f "$work/venv/.made" ] || run "Making a Python environment" python3 -m venv "$work/venv"
  touch "$work/venv/.made"
  [ -n "$transformers" ] && [ ! -f "$work/venv/.complete" ] || return 0
  run "Installing torch and transformers" "$python" -m pip install torch==2.13.0 transformers numpy
  touch "$work/venv/.complete"
}

# pip looks at the package's metadata, but builds nothing.
get_source() {
  [ ! -f "$source/.complete" ] || return 0
  mkdir -p "$work/download"
  if ! ls "$work"/download/llama_cpp_python-*.tar.gz >/dev/null 2>&1; then
    run "Downloading llama.cpp's source" "$python" -m pip download --no-deps \
      --no-binary llama-cpp-python --dest "$work/download" llama-cpp-python
  fi
  for archive in "$work"/download/llama_cpp_python-*.tar.gz; do :; done
  name=$(basename "$archive" .tar.gz)
  rm -rf "$work/unpack" "$source"
  mkdir "$work/unpack"
  run "Unpacking $name" tar -xzf "$archive" -C "$work/unpack" \
    "$name/vendor/llama.cpp" "$name/CHANGELOG.md"
  commit=$(sed -n 's/.*ggml-org\/llama\.cpp@\([0-9a-f]*\).*/\1/p' "$work/unpack/$name/CHANGELOG.md" | head -n 1)
  mv "$work/unpack/$name/vendor/llama.cpp" "$source"
  rm -rf "$work/unpack"
  printf '%s\n%s\n' "$name" "${commit:-unknown}" >"$source/.complete"
}

build_llama() {
  [ ! -f "$build/.complete" ] || return 0
  commit=$(sed -n 2p "$source/.complete")
  flags="-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF"
  command -v ninja >/dev/null 2>&1 && export CMAKE_GENERATOR=Ninja
  # The flags are words on purpose.
  # shellcheck disable=SC2086
  run "Configuring llama.cpp" cmake -S "$source" -B "$build" $flags \
    -DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=$commit"
  run "Building llama.cpp (minutes)" cmake --build "$build" --parallel "$(nproc)" \
    --target llama-bench llama-batched-bench llama-quantize
  # shellcheck disable=SC2086
  echo $flags >"$build/.complete"
}

# krait's files: each float type stored as such, so that both programs map their weights.
make_checkpoints() {
  for dtype in f32 f16 bf16; do
    folder=$work/$shape-$dtype
    [ ! -f "$folder/model.safetensors" ] || continue
    run "Writing the random checkpoint in $dtype" \
      "$krait/bench/krait_make_random_checkpoint" "$folder" "$@" --dtype "$dtype"
  done
}

# make_gguf TYPE: a file that is written under a temporary name.
make_gguf() {
  gguf=$work/$shape-$1.gguf
  [ ! -f "$gguf" ] || return 0
  rm -f "$gguf.tmp"
  case $1 in
    q*) run "Converting to GGUF $1" "$build/bin/llama-quantize" "$work/$shape-f32.gguf" \
      "$gguf.tmp" "$1" ;;
    *) run "Converting to GGUF $1" "$krait/examples/krait/krait" convert "$work/$shape-$1" \
      "$gguf.tmp" --to gguf ;;
  esac
  mv "$gguf.tmp" "$gguf"
}

check_tools
check_space
: >"$log"
make_venv
get_source
build_llama
make_checkpoints "$@"
for type in f32 f16 bf16 q8_0 q4_0 q4_k_m; do make_gguf "$type"; done
touch "$work/.complete-$shape"
[ -z "$setup_only" ] || exit 0

set -- --work "$work" --krait "$krait" --shape "$shape" --forms "$forms" --threads "$threads" --prompt "$prompt" \
  --decode "$decode" --users "$users" --repeats "$repeats" --out "$out"
[ -z "$realtime" ] || set -- "$@" --realtime
[ -z "$transformers" ] || set -- "$@" --transformers
exec python3 "$peers/compare.py" "$@"
