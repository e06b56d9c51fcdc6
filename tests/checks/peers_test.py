"""Tests of bench/peers/*.py and bench/report.py on a small stored file: python3 tests/checks/peers_test.py"""

import importlib
import json
import stat
import subprocess
import sys
import tempfile
import types
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent.parent / "bench" / "peers"
STORED = HERE / "peers" / "results.json"

sys.dont_write_bytecode = True
sys.path[:0] = [str(PEERS), str(PEERS.parent)]
results = importlib.import_module("results")
chart = importlib.import_module("chart")
compare = importlib.import_module("compare")
report = importlib.import_module("report")

SVG = "{http://www.w3.org/2000/svg}"


def script(name, *arguments):
    return subprocess.run([sys.executable, PEERS / name, *arguments], capture_output=True, text=True, check=False)


class Table(unittest.TestCase):
    def test_ratios_of_every_pair(self):
        rows = results.table(results.load(STORED)).splitlines()
        self.assertEqual(len(rows), 2 + 7)
        self.assertEqual(
            rows[2],
            "| f32 | llama.cpp f32 | 800 / 200 = **4.00** | 60.0 / 50.0 = **1.20** | 240 / 80.0 = **3.00** | 561 / 600 |",
        )
        against = [tuple(row.split(" | ")[:2]) for row in rows[2:]]
        self.assertIn(("| bf16/bf16", "llama.cpp bf16"), against)
        self.assertIn(("| q4", "llama.cpp q4_k_m"), against)
        self.assertNotIn(("| bf16/bf16", "transformers bf16"), against)

    def test_a_measure_that_is_missing_leaves_its_cell_empty(self):
        data = results.load(STORED)
        results.entry_of(data, "llama.cpp", "f32")["median"].pop("batch")
        self.assertIn("| f32 | llama.cpp f32 | 800 / 200 = **4.00** | 60.0 / 50.0 = **1.20** |  | 561", results.table(data))

    def test_program(self):
        done = script("results.py", STORED)
        self.assertEqual(done.returncode, 0)
        self.assertIn("40.0 GB/s read, 200 GFLOP/s", done.stdout)
        self.assertIn("note: krait q8/bf16 left out", done.stdout)

    def test_bad_files_give_one_line(self):
        with tempfile.TemporaryDirectory() as folder:
            for content in (None, "{", "[]", '{"format": "other"}'):
                path = Path(folder) / "r.json"
                path.unlink(missing_ok=True)
                if content is not None:
                    path.write_text(content)
                done = script("results.py", path)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, r"^\[results\] .*: expected .*\n$")


class Chart(unittest.TestCase):
    def test_bars_are_in_proportion(self):
        root = ET.fromstring(chart.draw(results.load(STORED)))
        bars = [bar for bar in root.iter(SVG + "rect") if float(bar.get("height")) == chart.BAR]
        self.assertEqual(len(bars), 3 * 11)
        # The first panel begins with f32: krait 800, llama.cpp 200, transformers 100.
        self.assertEqual([bar.get("class") for bar in bars[:3]], ["krait", "llama", "transformers"])
        widths = [float(bar.get("width")) for bar in bars[:3]]
        self.assertAlmostEqual(widths[0] / widths[1], 4.0, delta=0.05)
        self.assertAlmostEqual(widths[0] / widths[2], 8.0, delta=0.1)

    def test_everything_lies_inside(self):
        root = ET.fromstring(chart.draw(results.load(STORED)))
        width, height = float(root.get("width")), float(root.get("height"))
        for bar in root.iter(SVG + "rect"):
            right = float(bar.get("x", 0)) + float(bar.get("width"))
            self.assertLessEqual(right, width)
            self.assertLessEqual(float(bar.get("y", 0)) + float(bar.get("height")), height)
        for label in root.iter(SVG + "text"):
            self.assertLess(float(label.get("x")) + 7 * len(label.text), width + 20, label.text)

    def test_names_are_escaped(self):
        self.assertIn("Example CPU &lt;1&gt;", chart.draw(results.load(STORED)))

    def test_program(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c.svg"
            self.assertEqual(script("chart.py", STORED, path).returncode, 0)
            self.assertEqual(path.read_text(encoding="utf-8"), chart.draw(results.load(STORED)))
            done = script("chart.py", STORED, Path(folder) / "none" / "c.svg")
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr.count("\n"), 1)


OWN = """{"format": "krait-own-1", "date": "2026-01-02", "commit": "abc", "command": "krait bench", "unit": "tokens",
 "machine": {"cpu": "CPU", "cores": 2, "isa": "avx2"}, "prompt_tokens": 256, "users": 8, "tables": [
 {"model": "shape", "threads": 2, "rounds": 5,
  "results": [{"form": "bf16/bf16", "prefill": 1595, "decode": 10, "batch": 20}]}]}"""

QUALITY = """{"format": "krait-quality-1", "text": "t.txt", "commands": ["a", "b"], "models": [
 {"model": "m", "results": [{"form": "q4", "file_mb": 1.5, "bits_per_byte": 1.5, "kl": 6e-14},
                            {"form": "q8", "file_mb": 2.5, "bits_per_byte": 1.25}]}]}"""
COMPRESSION = """{"format": "krait-compression-1", "date": "2026-01-02", "commit": "abc", "text": "t.txt",
 "machine": {"cpu": "CPU", "cores": 2}, "models": [{"model": "m", "parameters": 1000, "rows": [
 {"variant": "f32", "kind": "dense", "bytes": 4000, "bits_per_byte": 1.5, "kl": 0.0, "tokens_per_second": 10},
 {"variant": "q8", "kind": "dense", "bytes": 1062, "bits_per_byte": 1.51, "kl": 0.001, "tokens_per_second": 20},
 {"variant": "AQLM 4x4g8, rest q8", "kind": "aqlm", "bytes": 500, "bits_per_byte": 1.6, "kl": 0.0234,
  "tokens_per_second": 12345}]}]}"""

AQLM = """{"format": "krait-aqlm-1",
 "encoders": {"date": "2026-01-02", "machine": {"cpu": "CPU", "cores": 2}, "versions": {"krait": "abc", "aqlm": "1"},
  "rows": [{"matrix": "8 x 8", "scheme": "4x4g8", "krait": {"error": 0.09, "seconds": 2.0},
            "authors": [{"beam": 1, "error": 0.12, "seconds": 20.0}]}]},
 "kernels": {"date": "2026-01-02", "machine": {"cpu": "CPU", "cores": 2}, "versions": {"krait": "abc", "aqlm": "1"},
  "rows": [{"scheme": "2x8g8", "package": "numba", "package_seconds": 0.003, "ratio": {"1": 1.5},
            "krait": {"1": {"seconds": 0.002, "percent": 12.3}}}]}}"""

SPECULATION = """{"format": "krait-speculation-1", "date": "2026-01-02", "commit": "abc", "tokens": 200,
 "machine": {"cpu": "CPU", "cores": 2}, "models": [{"model": "m", "rounds": 3, "rows": [
 {"text": "prose", "plain": 87.0, "drafters": {
  "model, 4 tokens": {"ratio": 1.5, "tokens_per_pass": 3.2},
  "cascade": {"ratio": 1.8, "tokens_per_pass": 3.5}}}]}]}"""

PAGE = ("peers", "peers_mamba2", "own_zen4", "quality")
COMPRESSION_PAGE = ("compression", "aqlm_encoders", "aqlm_kernels")


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "docs").mkdir()
        (self.root / "bench" / "results").mkdir(parents=True)
        for name in ("peers.json", "peers_mamba2.json"):
            (self.root / "bench" / "results" / name).write_text(STORED.read_text())
        (self.root / "bench" / "results" / "own_zen4.json").write_text(OWN)
        (self.root / "bench" / "results" / "quality.json").write_text(QUALITY)
        self.readme = self.root / "README.md"
        self.readme.write_text("before\n<!-- bench:summary -->\nold\n<!-- /bench -->\nafter\n")
        (self.root / "bench" / "results" / "compression.json").write_text(COMPRESSION)
        (self.root / "bench" / "results" / "aqlm.json").write_text(AQLM)
        (self.root / "bench" / "results" / "speculation.json").write_text(SPECULATION)
        pages = {"performance": PAGE, "compression": COMPRESSION_PAGE, "speculation": ("speculation",)}
        for document, sections in pages.items():
            page = "".join(f"<!-- bench:{name} -->\n<!-- /bench -->\n" for name in sections)
            (self.root / "docs" / f"{document}.md").write_text(page)

    def run_report(self, *arguments):
        command = [sys.executable, PEERS.parent / "report.py", "--root", self.root, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_rewrites_what_has_changed_and_nothing_else(self):
        stale = self.run_report("--check")
        self.assertEqual(stale.returncode, 1)
        self.assertRegex(stale.stderr, r"^\[report\] .* found others in README.md, docs/performance.md, .*\n$")
        self.assertIn("old", self.readme.read_text())

        self.assertEqual(self.run_report().returncode, 0)
        text = self.readme.read_text()
        self.assertTrue(text.startswith("before\n<!-- bench:summary -->\n| tokens per second"))
        self.assertTrue(text.endswith("<!-- /bench -->\nafter\n"))
        self.assertIn("| f32 | 800 (4.0×) | 60.0 (1.2×) | 240 (3.0×) |", text)
        page = (self.root / "docs" / "performance.md").read_text()
        self.assertEqual(page.count("800 / 200 = **4.00**"), 2)
        self.assertIn("| bf16, `--compute bf16` | 1,595 | 10 | 20 |", page)
        self.assertIn("| `m` | q4 | 1.50 MB | 1.500000 | 6e-14 |\n| `m` | q8 | 2.50 MB | 1.250000 |  |\n", page)
        self.assertTrue((self.root / "bench/results/peers_mamba2.svg").is_file())
        page = (self.root / "docs" / "compression.md").read_text()
        self.assertIn("| f32 | 4,000 | 4.00 | 1.5000 | 0 | 10 |\n", page)
        self.assertIn("| AQLM 4x4g8, rest q8 | 500 | 0.50 | 1.6000 | 0.023 | 12,345 |\n", page)
        self.assertIn("| 8 x 8 | 4x4g8 | 0.0900 / 0.1200, 25 % less | 2.0 / 20.0, 10.0 times as fast |\n", page)
        self.assertIn("| 2x8g8 | 3.00, numba | 2.00 (**1.5×**), 12 % of read bandwidth |\n", page)
        page = (self.root / "docs" / "speculation.md").read_text()
        self.assertIn("m, 3 runs:\n", page)
        self.assertIn("| prose | 87.0 | 1.50× (3.2) | 1.80× (3.5) | 1.20 |\n", page)
        picture = (self.root / "bench/results/compression.svg").read_text()
        # f32 lies beyond the picture; the legend names the kinds that are in it.
        self.assertEqual(picture.count("<circle"), 2 + 2)
        self.assertNotIn("LASER", picture)

        self.assertEqual(self.run_report("--check").returncode, 0)
        self.assertEqual(self.run_report().stdout, "")

    def test_bad_documents_and_files_give_one_line(self):
        for text, message in (
            ("<!-- bench:nothing -->\n<!-- /bench -->\n", "expected one of summary, .* found nothing"),
            ("<!-- bench:summary -->\n", "found one without"),
            (None, "README.md: expected a file"),
        ):
            self.readme.unlink(missing_ok=True)
            if text is not None:
                self.readme.write_text(text)
            done = self.run_report()
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf"^\[report\] .*{message}.*\n$")
        self.readme.write_text("")
        (self.root / "bench" / "results" / "own_zen4.json").write_text(STORED.read_text())
        self.assertRegex(self.run_report().stderr, r'expected "format": "krait-own-1", found krait-peers-1\n$')


KRAIT = """#!/bin/sh
case "$*" in
  *--version*) echo "krait 9.9.9"; exit ;;
  *"--dtype q8"*) echo "[model] --dtype: expected f32, found q8" >&2; exit 2 ;;
esac
cat <<'END'
{"prefill": {"tokens_per_second": 400.0}, "decode": {"tokens_per_second": 40.0},
 "batch": [{"users": 8, "tokens_per_second": 160.0}], "peak_rss_bytes": 1000000, "isa": "avx2",
 "roofline": {"read_gb_s": 30.0, "gflop_s": 200.0}, "weights_bytes": 500000000,
 "state_bytes": 3000000, "flop_per_token": 2e8}
END
"""

LLAMA_BENCH = """#!/bin/sh
case "$*" in
  *"-p 256 -n 0") speed=200.0 ;;
  *"-p 0 -n 64 -d 256") speed=50.0 ;;
esac
echo '[{"avg_ts": '"$speed"', "model_size": 1, "build_commit": "abc"}]'
"""

BATCHED_BENCH = """#!/bin/sh
echo 'llama_context: something'
echo '{"pp": 16, "tg": 64, "pl": 8, "speed_pp": 1.0, "speed_tg": 80.0}' >&2
"""


class Compare(unittest.TestCase):
    """With programs that print what the real ones do."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for path, text in {
            "krait/examples/krait/krait": KRAIT,
            "llama.cpp-build/bin/llama-bench": LLAMA_BENCH,
            "llama.cpp-build/bin/llama-batched-bench": BATCHED_BENCH,
            "llama.cpp/.complete": "llama_cpp_python-1.2.3\nabc\n",
            "llama.cpp/CMakeLists.txt": self.version("LLAMA"),
            "llama.cpp/ggml/CMakeLists.txt": self.version("GGML"),
            "llama.cpp-build/.complete": "-DGGML_NATIVE=ON\n",
            "llama.cpp-build/CMakeCache.txt": "GGML_OPENMP:BOOL=ON\n",
        }.items():
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if text.startswith("#!"):
                file.chmod(file.stat().st_mode | stat.S_IXUSR)

    @staticmethod
    def version(prefix):
        return "".join(f"set({prefix}_VERSION_{part} {i})\n" for i, part in enumerate(("MAJOR", "MINOR", "PATCH")))

    def options(self, forms):
        return types.SimpleNamespace(
            work=self.root, krait=self.root / "krait", out=self.root / "out.json", shape="mamba-130m", forms=forms,
            threads=2, prompt=256, decode=64, users=8, repeats=3, realtime=False, transformers=False,
        )  # fmt: skip

    def test_rounds_notes_and_ratios(self):
        data = compare.compare(self.options("f32,q8"))
        self.assertEqual(json.loads((self.root / "out.json").read_text()), json.loads(json.dumps(data)))
        self.assertEqual([(e["program"], e["form"]) for e in data["results"]], [("krait", "f32"), ("llama.cpp", "f32")])
        self.assertEqual(data["results"][0]["runs"]["prefill"], [400.0] * 3)
        self.assertEqual(data["versions"]["llama.cpp"]["version"], "0.1.2")
        self.assertEqual(len(data["notes"]), 1)
        self.assertIn("krait q8 left out: exit code 2: [model] --dtype", data["notes"][0])
        self.assertIn("400 / 200 = **2.00** | 40.0 / 50.0 = **0.80** | 160 / 80.0 = **2.00**", results.table(data))

    def test_no_form_left(self):
        with self.assertRaisesRegex(compare.Failed, "no form of q8 runs"):
            compare.compare(self.options("q8"))

    def test_a_peer_that_fails_is_named(self):
        (self.root / "llama.cpp-build/bin/llama-bench").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
        with self.assertRaisesRegex(compare.Failed, "llama.cpp f32: expected it to run, found exit code 3: broken"):
            compare.compare(self.options("f32"))


if __name__ == "__main__":
    unittest.main()
