#!/bin/sh
# Whether 64-bit Arm gives the bits of x86: cross-compiles the library and its kernel and model tests
# and runs them in QEMU. The stored digests (tests/golden/digests.txt) are compared there, and every
# NEON kernel with its scalar model. From a bare Debian 12 or 13 on x86-64:
#
#   sh tests/cross/aarch64.sh                    those tests
#   sh tests/cross/aarch64.sh -R StoredDigest    arguments go to ctest
#
# Arm's packages are unpacked below build-aarch64/, not installed.
set -eu

krait_root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
. "$krait_root/cmake/debian_packages.sh"

build=$krait_root/build-aarch64
system=$build/system  # the root of the unpacked packages
libraries=$system/usr/lib/aarch64-linux-gnu

# shellcheck disable=SC2086
krait_install_packages $krait_build_packages $krait_test_packages g++-aarch64-linux-gnu qemu-user

if [ ! -f "$system/complete" ]; then
  echo "Fetching the packages for arm64" >&2
  packages=$build/packages
  mkdir -p "$system" "$packages/lists/partial" "$packages/archives/partial"
  : >"$packages/status"
  cat >"$packages/apt.conf" <<EOF
APT { Architecture "arm64"; Architectures { "arm64"; }; Sandbox::User ""; };
Dir::State { Lists "$packages/lists"; Status "$packages/status"; };
Dir::Cache "$packages";
EOF
  export APT_CONFIG="$packages/apt.conf"
  apt-get -qq update
  for name in libhwy-dev libpcre2-dev libutf8proc-dev libfmt-dev libgtest-dev nlohmann-json3-dev; do
    # The package and the shared libraries beside it.
    apt-cache depends "$name" |
      sed -n 's/^ *Depends: \(lib\(hwy\|pcre2-8\|utf8proc\|fmt\)[-0-9t]*\)$/\1/p;$a'"$name"
  done | (cd "$packages" && xargs apt-get -qq download)
  for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$system"; done
  unset APT_CONFIG
  : >"$system/complete"
fi

export PKG_CONFIG_LIBDIR="$libraries/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$system"
krait_configure "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu;-E;LD_LIBRARY_PATH=$libraries" \
  "-DCMAKE_FIND_ROOT_PATH=$system" -DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER \
  -DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=ONLY "-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,$libraries" \
  -DCMAKE_BUILD_TYPE=Release -DKRAIT_DEPS=system -DKRAIT_BUILD_BENCH=OFF -DKRAIT_BUILD_EXAMPLES=OFF \
  -DKRAIT_INSTALL=OFF
for test in core_test kernels_test models_test; do krait_compile "$build" "$test"; done

left_out=_NOT_BUILT
if [ $# -eq 0 ]; then
  # 64 KiB of text through the bundled models take more than half an hour of QEMU.
  left_out="$left_out|BitsPerByteEqualTheReference"
  set -- -L '^(core|kernels|models)$'
fi
ctest=$(krait_cmake)
exec "${ctest%cmake}ctest" --test-dir "$build" -j "$(nproc)" --output-on-failure --no-tests=error \
  -E "$left_out" "$@"
