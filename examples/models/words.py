#!/usr/bin/env python3
"""Measures how a model writes, by what can be counted.

  python3 examples/models/words.py build/examples/krait/krait --books BOOKS [--model M]...

Beginnings of 30 words, cut out of a text at equal distances, are continued by `krait candidates`.
Of the continuations are counted:

  words       those that occur in the books, whatever their case; of a word that the beginning has
              begun the whole, and none that the end of the continuation cuts off
  begun       quotations that are open where the beginning ends, and are closed
  opened      quotations that the continuation opens, and closes in what it has left; one in front
              of which another was not closed makes that one count as left open
  sentences   ends of sentences, and of paragraphs that end without a full stop, a question mark or
              an exclamation mark, which are the ones without

The last line is the same of what follows the beginnings in the text itself, in as many bytes: what
a model that writes like the text would have. BOOKS is a folder as for train.sh, of which its list of
books is read, or one or more text files.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
# An end, with the marks that may stand behind it; or the end of a paragraph.
SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]_]*(?=\s|$|[—-])")
PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")


def normal(word):
    return word.replace("’", "'").lower()


def known_words(texts):
    return {normal(word) for text in texts for word in WORD.findall(text)}


def training_numbers():
    """The books that train.sh lists."""
    script = (HERE / "train.sh").read_text()
    return re.search(r'^numbers="([^"]*)"', script, re.M).group(1).split()


def book_files(names):
    files = []
    for name in map(pathlib.Path, names):
        if not name.is_dir():
            files.append(name)
            continue
        for number in training_numbers():
            found = sorted(name.glob(f"{number}-*.txt"))
            if not found:
                sys.exit(f"words.py: book {number}: expected {name}/{number}-<title>.txt, found none")
            files.append(found[-1])
    return files


def beginnings(text, count, words):
    """Pairs of a beginning and where it ends in the text."""
    places = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    if len(places) < 2 * words:
        sys.exit(f"words.py: text: expected at least {2 * words} words, found {len(places)}")
    room = len(places) - 2 * words
    result = []
    for i in range(count):
        first = room * i // max(1, count - 1) if count > 1 else 0
        begin, end = places[first][0], places[first + words - 1][1]
        result.append((text[begin:end], end))
    return result


def share_of_words(beginning, text, known):
    """(known, all) of the words that end within a continuation."""
    whole = beginning + text
    hits = total = 0
    for match in WORD.finditer(whole):
        if match.end() <= len(beginning) or match.end() == len(whole):
            continue
        total += 1
        hits += normal(match.group()) in known
    return hits, total


def quotations(beginning, text):
    """((closed, all) of those begun before, (closed, all) of those opened here)."""
    whole = beginning + text
    at = None  # where the open quotation begins
    counts = [[0, 0], [0, 0]]

    def count(closed):
        place = counts[at >= len(beginning)]
        place[0] += closed
        place[1] += 1

    for i, mark in enumerate(whole):
        if mark not in '"“”':
            continue
        if mark == '"':
            is_opening = at is None
        else:
            is_opening = mark == "“"
        if is_opening:
            if at is not None and i >= len(beginning):
                count(False)
            at = i
        elif at is not None:
            if i >= len(beginning):
                count(True)
            at = None
    if at is not None:
        count(False)
    return tuple(counts[0]), tuple(counts[1])


def sentences(text):
    """(with a mark, all) of the ends of sentences. What is not at an end yet does not count."""
    ended = unended = 0
    parts = PARAGRAPH.split(text)
    for i, part in enumerate(parts):
        ends = [match.end() for match in SENTENCE_END.finditer(part)]
        ended += len(ends)
        is_whole = i + 1 < len(parts)  # a paragraph ends here
        rest = part[ends[-1]:] if ends else part
        unended += is_whole and WORD.search(rest) is not None
    return ended, ended + unended


def measure(pairs, known):
    """Sums over pairs of a beginning and its continuation."""
    sums = {"words": [0, 0], "begun": [0, 0], "opened": [0, 0], "sentences": [0, 0]}
    for beginning, text in pairs:
        begun, opened = quotations(beginning, text)
        for name, (hits, total) in (("words", share_of_words(beginning, text, known)),
                                    ("begun", begun), ("opened", opened),
                                    ("sentences", sentences(text))):
            sums[name][0] += hits
            sums[name][1] += total
    return sums


def continued(options, model, prompts):
    with tempfile.TemporaryDirectory() as folder:
        source, result = pathlib.Path(folder, "prompts.jsonl"), pathlib.Path(folder, "answers.jsonl")
        source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
        done = subprocess.run([options.krait, "candidates", "-m", model, "--prompts", source, "--out",
                               result, "--count", str(options.count), "-n", str(options.tokens),
                               "--temperature", str(options.temperature), "--seed", str(options.seed)],
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        if done.returncode != 0:
            sys.exit(f"words.py: {done.stderr.strip()}")
        for line in result.read_text().splitlines():
            found = json.loads(line)
            for response in found["responses"]:
                yield found["prompt"], response["text"]


def row(name, sums):
    def cell(key):
        hits, total = sums[key]
        return f"{100 * hits / total:.1f} % of {total:,}" if total else "none"
    return "| " + " | ".join([name, *map(cell, ("words", "begun", "opened", "sentences"))]) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("krait", help="the program")
    parser.add_argument("--books", nargs="+", required=True, metavar="FILE",
                        help="text files whose words count, or a folder as for train.sh")
    parser.add_argument("--model", action="append", metavar="M",
                        help="may be repeated; krait-bytes-moe if not given")
    parser.add_argument("--text", default=HERE.parents[1] / "tests/data/heldout_64k.txt", metavar="FILE",
                        help="where the beginnings come from; tests/data/heldout_64k.txt if not given")
    parser.add_argument("--prompts", type=int, default=32, help="beginnings (32)")
    parser.add_argument("--words", type=int, default=30, help="words of a beginning (30)")
    parser.add_argument("--count", type=int, default=8, help="continuations of each (8)")
    parser.add_argument("-n", "--tokens", type=int, default=200, help="tokens of a continuation (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="(0.8)")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parser.add_argument("--json", action="store_true", help="counts as one JSON object")
    options = parser.parse_args()

    def read(path):
        try:
            return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            sys.exit(f"words.py: {path}: expected a text file, found: {error.strerror}")

    known = known_words(map(read, book_files(options.books)))
    text = read(options.text)
    starts = beginnings(text, options.prompts, options.words)
    prompts = [beginning for beginning, _ in starts]
    rows = {model: measure(continued(options, model, prompts), known)
            for model in options.model or ["krait-bytes-moe"]}
    rows["the text itself"] = measure(
        ((b, text[end:].encode()[:options.tokens].decode(errors="ignore")) for b, end in starts), known)
    if options.json:
        print(json.dumps(rows))
        return
    print("| | words in the books | begun quotations closed | opened quotations closed | "
          "sentences with a mark |\n| --- | --- | --- | --- | --- |")
    for name, sums in rows.items():
        print(row(name, sums))


if __name__ == "__main__":
    main()
