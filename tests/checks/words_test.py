"""Tests of examples/models/words.py: python3 tests/checks/words_test.py"""

import importlib
import json
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "examples" / "models"

sys.dont_write_bytecode = True
sys.path[:0] = [str(MODELS)]
words = importlib.import_module("words")

# Answers to every prompt with the same text, as `krait candidates` would.
PROGRAM = """#!/usr/bin/env python3
import json, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "candidates" and options["-n"] == "40", sys.argv
if options["-m"] == "missing":
    sys.exit("krait: missing: expected a model")
with open(options["--out"], "w") as out:
    for line in open(options["--prompts"]):
        answer = {"text": " the sea. Then xyzzy"}
        print(json.dumps(json.loads(line) | {"responses": [answer] * int(options["--count"])}), file=out)
"""


class Counts(unittest.TestCase):
    def test_words(self):
        known = words.known_words(["The Sea’s gar-\nden, gardener don't É"])
        self.assertEqual(known, {"the", "sea's", "gar", "den", "gardener", "don't", "é"})
        # What the beginning began counts as a whole, what the end cuts off does not.
        self.assertEqual(words.share_of_words("a gard", "ener saw the SEA'S gar", known), (3, 4))
        self.assertEqual(words.share_of_words("a garden", " the gar.", known), (2, 2))
        self.assertEqual(words.share_of_words("a garden", "", known), (0, 0))

    def test_quotations(self):
        none = (0, 0)
        self.assertEqual(words.quotations("“Go", " on,” he said."), ((1, 1), none))
        self.assertEqual(words.quotations("“Go", " on, he said."), ((0, 1), none))
        self.assertEqual(words.quotations("“Go.” He", " said, “No.” “Yes"), (none, (1, 2)))
        self.assertEqual(words.quotations("He", " said, “No. “Yes.”"), (none, (1, 2)))
        self.assertEqual(words.quotations('"Go', '," he. "No." "Y'), ((1, 1), (1, 2)))
        self.assertEqual(words.quotations("on,” he", " said,” and"), (none, none))

    def test_sentences(self):
        self.assertEqual(words.sentences("He went. “Did he?” she asked"), (2, 2))
        self.assertEqual(words.sentences("He went\n\nand came.\n\nShe said"), (1, 2))
        self.assertEqual(words.sentences("He went. And\n \nshe\n\n***\n\n“No!”\n\n"), (2, 4))
        self.assertEqual(words.sentences("3.5 miles"), (0, 0))

    def test_beginnings_are_at_fixed_places(self):
        text = " ".join(f"w{i}" for i in range(100))
        found = words.beginnings(text, 3, 10)
        self.assertEqual([b.split()[0] for b, _ in found], ["w0", "w40", "w80"])
        for beginning, end in found:
            self.assertEqual(len(beginning.split()), 10)
            self.assertTrue(text[:end].endswith(beginning))


class Program(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.folder = Path(self.directory.name)
        self.krait = self.folder / "krait"
        self.krait.write_text(PROGRAM)
        self.krait.chmod(self.krait.stat().st_mode | stat.S_IXUSR)
        self.book = self.folder / "book.txt"
        self.book.write_text("Then the sea. " * 20)

    def run_script(self, *arguments):
        return subprocess.run([sys.executable, MODELS / "words.py", self.krait, "-n", "40", "--text", self.book,
                               "--prompts", "4", "--words", "5", *arguments],
                              capture_output=True, text=True, check=False)

    def test_table(self):
        done = self.run_script("--books", self.book, "--model", "m", "--count", "2")
        self.assertEqual(done.stderr, "")
        rows = done.stdout.splitlines()
        self.assertEqual(rows[2], "| m | 100.0 % of 24 | none | none | 100.0 % of 8 |")
        self.assertTrue(rows[3].startswith("| the text itself | 100.0 % of "))
        found = json.loads(self.run_script("--books", self.book, "--json").stdout)
        self.assertEqual(found["krait-bytes-moe"]["words"], [96, 96])

    def test_mistakes_are_told(self):
        for arguments, message in ((("--books", self.folder / "nowhere.txt"), "expected a text file, found"),
                                   (("--books", self.folder), "book 1023: expected "),
                                   (("--books", self.book, "--model", "missing"), "expected a model"),
                                   (("--books", self.book, "--words", "500"), "expected at least 1000 words")):
            done = self.run_script(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_books_are_those_of_the_training(self):
        numbers = words.training_numbers()
        self.assertEqual(len(numbers), 37)
        self.assertFalse({"113", "2226"} & set(numbers))  # held out


if __name__ == "__main__":
    unittest.main()
