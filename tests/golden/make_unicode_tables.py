#!/usr/bin/env python3
"""Writes src/text/unicode_categories.cpp: the general category of every code point, Unicode 16.0.

Needs Python 3.11, whose unicodedata is that of Unicode 14.0, and `pip install unicodedata2==16.0.0`. Ids of texts depend on this table: another version of
Unicode gives other ids, so it changes with a new golden file of tokenizers only.
"""

import unicodedata
from pathlib import Path

import unicodedata2

NAMES = "Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()


def main():
    assert unicodedata2.unidata_version == "16.0.0", unicodedata2.unidata_version
    runs, last = [], None
    for code in range(0x110000):
        name = unicodedata2.category(chr(code))
        if name != last:
            runs.append(code << 5 | NAMES.index(name))
            last = name
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    changes = []
    for code in range(0x110000):
        old, new = unicodedata.category(chr(code)), unicodedata2.category(chr(code))
        if old == new:
            continue
        if changes and changes[-1][1:] == [code - 1, old, new]:
            changes[-1][1] = code
        else:
            changes.append([code, code, old, new])
    lines, line = [], "   "
    for run in runs:
        word = f" 0x{run:X},"
        if len(line) + len(word) > 100:
            lines.append(line)
            line = "   "
        line += word
    lines.append(line)
    path = Path(__file__).resolve().parents[2] / "src/text/unicode_categories.cpp"
    path.write_text(
        '#include "text/unicode.hpp"\n\n'
        "// General categories, Unicode 16.0, written by tests/golden/make_unicode_tables.py: where each\n"
        "// run of code points begins, times 32, plus its category.\n\n"
        "// clang-format off\n"
        "namespace krait::inline v0_1::unicode {\nnamespace {\n\n"
        "constexpr std::uint32_t runs[] = {\n" + "\n".join(lines) + "\n};\n\n"
        "// What has another category than in Unicode 14.0.\n"
        "constexpr CategoryChange changes[] = {\n" +
        "".join(f"    {{{{0x{first:X}, 0x{last:X}}}, Category::{old.lower()}, Category::{new.lower()}}},\n"
                for first, last, old, new in changes) +
        "};\n\n}  // namespace\n\n"
        "std::span<const CategoryChange> changes_since_14() noexcept { return changes; }\n"
        "std::span<const std::uint32_t> category_runs() noexcept { return runs; }\n\n"
        "}  // namespace krait::inline v0_1::unicode\n// clang-format on\n")
    print(f"{len(runs)} runs, {len(changes)} changes")


if __name__ == "__main__":
    main()
