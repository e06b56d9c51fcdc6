#!/bin/sh
# Builds everything and runs the tests, from a bare Debian 12 or 13:
#
#   sh tests/run.sh                       all tests
#   sh tests/run.sh -L kernels            arguments go to ctest: here, one label
#   sh tests/run.sh -LE packaging         … or all but one
#
# KRAIT_CMAKE_OPTIONS holds further options for CMake, separated by spaces.
set -eu

krait_root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$krait_root/cmake/debian_packages.sh"

# shellcheck disable=SC2086
krait_install_packages $krait_build_packages $krait_test_packages
krait_install_formatter
# Packaging tests build krait in folders of their own, and with them the units that CMake makes of its
# folders. Counted from there, their paths are those of this build, which the compiler's cache knows.
export CCACHE_BASEDIR="$krait_root/build"
# shellcheck disable=SC2086
krait_configure "$krait_root/build" -DKRAIT_BUILD_TESTS=ON -DKRAIT_BUILD_BENCH=ON -DKRAIT_UNITY=ON \
  -DKRAIT_NATIVE=OFF ${KRAIT_CMAKE_OPTIONS-}
krait_compile "$krait_root/build" all

ctest=$(krait_cmake)
ctest=${ctest%cmake}ctest
code=0
"$ctest" --test-dir "$krait_root/build" -j "$(nproc)" --output-on-failure "$@" || code=$?
echo
"$krait_root/build/tests/krait_list_isas"
if ! krait_has_formatter; then
  echo "Not checked, since there is no clang-format 14 here: the format of the sources"
fi
exit "$code"
