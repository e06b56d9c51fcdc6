#!/bin/sh
# Builds a consumer with nothing but pkg-config, and runs it if the model is there:
#   build.sh COMPILER MODULE MAIN PREFIX LIBDIR MODEL
set -eu
compiler=$1 module=$2 main=$3 libdir=$4/$5 model=$6
PKG_CONFIG_PATH=$libdir/pkgconfig
export PKG_CONFIG_PATH
flags=$(pkg-config --cflags "$module") libs=$(pkg-config --libs "$module")
# pkg-config escapes what a shell would split.
eval "\"\$compiler\" -std=c++20 $flags \"\$main\" -o consumer $libs"
if [ -e "$model" ]; then
  LD_LIBRARY_PATH=$libdir ./consumer "$model"
fi
test "$(pkg-config --static --libs "$module" | grep -c -- -lkrait)" = 1
