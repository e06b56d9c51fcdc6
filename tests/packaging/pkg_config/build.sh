#!/bin/sh
# Builds a consumer with nothing but pkg-config, and runs it if the model is there:
#   build.sh COMPILER MAIN PREFIX LIBDIR MODEL
set -eu
compiler=$1 main=$2 libdir=$3/$4 model=$5
PKG_CONFIG_PATH=$libdir/pkgconfig
export PKG_CONFIG_PATH
flags=$(pkg-config --cflags krait) libs=$(pkg-config --libs krait)
# pkg-config escapes what a shell would split.
eval "\"\$compiler\" -std=c++20 $flags \"\$main\" -o consumer $libs"
if [ -e "$model" ]; then
  LD_LIBRARY_PATH=$libdir ./consumer "$model"
fi
test "$(pkg-config --static --libs krait | grep -c -- -lkrait)" = 1
