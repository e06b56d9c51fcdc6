# The Debian packages that krait is built with, and how to get them. Sourced by examples/run.sh,
# examples/real_model.sh, tests/run.sh and .ci/run; Debian 12 and 13 have all of them.

# The library and the program. ccache is here because it pays for itself.
krait_build_packages="g++ cmake ninja-build pkg-config ccache libhwy-dev libfmt-dev
  nlohmann-json3-dev libpcre2-dev libutf8proc-dev libcli11-dev libeigen3-dev"
# What the tests and benchmarks need on top; dpkg-dev makes a Debian package right.
krait_test_packages="libgtest-dev libgmock-dev libbenchmark-dev dpkg-dev file"

# krait_missing_packages NAME …: those that are not installed.
krait_missing_packages() {
  for krait_package in "$@"; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$krait_package" 2>/dev/null) in
      installed*) ;;
      *) printf ' %s' "$krait_package" ;;
    esac
  done
}

# krait_install_packages NAME …: installs what is missing, as root or through sudo. Without
# either, says on one line what to run, and fails.
krait_install_packages() {
  command -v dpkg-query >/dev/null 2>&1 || return 0  # not Debian: CMake will name what it lacks
  krait_missing=$(krait_missing_packages "$@")
  [ -n "$krait_missing" ] || return 0
  if [ "$(id -u)" = 0 ]; then
    krait_sudo=
  elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    krait_sudo=sudo
  else
    echo "krait needs packages; run as root: apt-get install$krait_missing" >&2
    return 1
  fi
  echo "Installing$krait_missing" >&2
  # The lists of names are words on purpose.
  # shellcheck disable=SC2086
  {
    $krait_sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
      $krait_sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 install $krait_missing
  } >&2 || { echo "krait: the installation of$krait_missing failed" >&2; return 1; }
}

# krait_install_formatter: the one whose taste the sources follow, where the distribution has it
# (Debian 12 does, 13 does not) and it may be installed. One test is skipped without it.
krait_install_formatter() {
  if ! krait_has_formatter && [ "$(id -u)" = 0 ] &&
    apt-cache show clang-format-14 >/dev/null 2>&1; then
    krait_install_packages clang-format-14 || :
  fi
}
krait_has_formatter() {
  for krait_format in clang-format-14 clang-format; do
    if "$krait_format" --version 2>/dev/null | grep -q 'version 14\.'; then
      return 0
    fi
  done
  return 1
}

# krait_cmake: the distribution's CMake if it is new enough, else the one on the PATH.
krait_cmake() {
  if [ -x /usr/bin/cmake ] && krait_new_enough /usr/bin/cmake; then
    echo /usr/bin/cmake
  else
    echo cmake
  fi
}
krait_new_enough() {
  "$1" --version | {
    read -r _ _ krait_version
    krait_major=${krait_version%%.*}
    krait_minor=${krait_version#*.}
    krait_minor=${krait_minor%%.*}
    [ "$krait_major" -gt 3 ] || { [ "$krait_major" = 3 ] && [ "$krait_minor" -ge 24 ]; }
  }
}

# krait_configured FOLDER: whether it is configured for the tree at $krait_root, by anybody.
krait_configured() {
  { [ -f "$1/build.ninja" ] || [ -f "$1/Makefile" ]; } &&
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$krait_root" "$1/CMakeCache.txt"
}

# krait_configure FOLDER OPTION …: configures the tree at $krait_root in FOLDER, unless that was
# done with the same options already.
krait_configure() {
  krait_build=$1
  shift
  krait_options=$*
  if krait_configured "$krait_build"; then
    if [ "$(cat "$krait_build/.configured" 2>/dev/null)" = "$krait_options" ]; then
      return 0
    fi
  else
    # Nothing there, or a tree that has moved since: that cannot be configured in place.
    rm -rf "$krait_build/CMakeCache.txt" "$krait_build/CMakeFiles"
    set -- -G Ninja "$@"
  fi
  if command -v ccache >/dev/null 2>&1; then
    set -- -DCMAKE_CXX_COMPILER_LAUNCHER=ccache "$@"
  fi
  echo "Configuring $krait_build" >&2
  mkdir -p "$krait_build"
  "$(krait_cmake)" -S "$krait_root" -B "$krait_build" "$@" >"$krait_build/.configure.log" 2>&1 || {
    cat "$krait_build/.configure.log" >&2
    return 1
  }
  printf '%s\n' "$krait_options" >"$krait_build/.configured"
}

# krait_compile FOLDER TARGET: builds with every core this process may use; says nothing when there
# is nothing to do.
krait_compile() {
  if [ -f "$1/build.ninja" ] && ninja -C "$1" -n "$2" 2>/dev/null | grep -q 'no work to do'; then
    return 0
  fi
  echo "Building with $(nproc) cores" >&2
  "$(krait_cmake)" --build "$1" --target "$2" --parallel "$(nproc)" >&2
}

# krait_build_program: the command line program of the tree at $krait_root, built where it is not,
# as $krait_program.
krait_build_program() {
  # shellcheck disable=SC2086
  krait_install_packages $krait_build_packages
  # Any build folder will do: one that tests/run.sh made has the program too.
  if ! krait_configured "$krait_root/build"; then
    krait_configure "$krait_root/build" -DKRAIT_BUILD_TESTS=OFF -DKRAIT_BUILD_BENCH=OFF \
      -DKRAIT_UNITY=ON -DKRAIT_NATIVE=ON
  fi
  krait_compile "$krait_root/build" krait_cli
  krait_program=$krait_root/build/examples/krait/krait
}
