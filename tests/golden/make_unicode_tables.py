#!/usr/bin/env python3
"""Writes src/text/unicode/unicode_categories.cpp and unicode_scripts.cpp: the general category and the script
of every code point, Unicode 16.0.

Needs Python 3.11, whose unicodedata is that of Unicode 14.0, and
`pip install unicodedata2==16.0.0 fonttools==4.57.0`. Ids of texts depend on these tables: another
version of Unicode gives other ids, so they change with a new golden file of tokenizers only.
"""

import unicodedata
from pathlib import Path

import unicodedata2
from fontTools.unicodedata import Scripts

SOURCES = Path(__file__).resolve().parents[2] / "src/text/unicode"
NAMES = "Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()


def in_lines(numbers):
    """Hexadecimal numbers in lines of at most 100 columns."""
    lines, line = [], "   "
    for number in numbers:
        word = f" 0x{number:X},"
        if len(line) + len(word) > 100:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join(lines + [line])


def write_scripts():
    assert "Scripts-16.0.0.txt" in Path(Scripts.__file__).read_text(encoding="utf-8")
    codes = sorted(set(Scripts.VALUES))
    runs = [first << 8 | codes.index(value) for first, value in zip(Scripts.RANGES, Scripts.VALUES)]
    names = "".join(
        f'    {{"{code.lower()}", "{Scripts.NAMES[code].replace("_", "").lower()}"}},\n' for code in codes)
    (SOURCES / "unicode_scripts.cpp").write_text(
        '#include "text/unicode/unicode.hpp"\n\n'
        "// Scripts (not their extensions), Unicode 16.0, written by tests/golden/make_unicode_tables.py:\n"
        "// where each run of code points begins, times 256, plus the place of its script's names.\n\n"
        "// clang-format off\n"
        "namespace krait {\ninline namespace v0_1 {\nnamespace unicode {\nnamespace {\n\n"
        "constexpr std::uint32_t runs[] = {\n" + in_lines(runs) + "\n};\n\n"
        "constexpr ScriptNames names[] = {\n" + names + "};\n\n}  // namespace\n\n"
        "std::span<const std::uint32_t> script_runs() noexcept { return runs; }\n"
        "std::span<const ScriptNames> script_names() noexcept { return names; }\n\n"
        "}  // namespace unicode\n}  // namespace v0_1\n}  // namespace krait\n// clang-format on\n")
    print(f"{len(runs)} runs of {len(codes)} scripts")


def main():
    write_scripts()
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
    (SOURCES / "unicode_categories.cpp").write_text(
        '#include "text/unicode/unicode.hpp"\n\n'
        "// General categories, Unicode 16.0, written by tests/golden/make_unicode_tables.py: where each\n"
        "// run of code points begins, times 32, plus its category.\n\n"
        "// clang-format off\n"
        "namespace krait {\ninline namespace v0_1 {\nnamespace unicode {\nnamespace {\n\n"
        "constexpr std::uint32_t runs[] = {\n" + in_lines(runs) + "\n};\n\n"
        "// What has another category than in Unicode 14.0.\n"
        "constexpr CategoryChange changes[] = {\n" +
        "".join(f"    {{{{0x{first:X}, 0x{last:X}}}, Category::{old.lower()}, Category::{new.lower()}}},\n"
                for first, last, old, new in changes) +
        "};\n\n}  // namespace\n\n"
        "std::span<const CategoryChange> changes_since_14() noexcept { return changes; }\n"
        "std::span<const std::uint32_t> category_runs() noexcept { return runs; }\n\n"
        "}  // namespace unicode\n}  // namespace v0_1\n}  // namespace krait\n// clang-format on\n")
    print(f"{len(runs)} runs, {len(changes)} changes")


if __name__ == "__main__":
    main()
