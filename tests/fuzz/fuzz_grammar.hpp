#pragma once

/// \file
/// What the fuzz targets of grammars share.

#include <string>

#include "krait/decoding/grammar.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace krait::test {

/// Writes a text of bytes that the grammar allows, chosen by the input: there always is one, until
/// the text may end.
inline void follow(const Result<Grammar>& grammar, const std::uint8_t* data, std::size_t size) {
  if (!grammar) return check_error(grammar.error());
  static const Vocabulary vocabulary(byte_tokenizer());
  const auto made = grammar->constrain(vocabulary);
  if (!made) return check_error(made.error());
  const auto constraint = (*made)->clone();
  std::string text;
  TokenMask mask(256);
  for (std::size_t i = 0; i < 60; ++i) {
    mask.allow_all();
    constraint->restrict_to(mask);
    Token next = size > 0 ? data[i % size] : 0;
    if (!mask.allows_any()) {
      demand(grammar->matches(text));
      return;
    }
    while (!mask.allows(next)) next = (next + 1) % 256;
    constraint->accept(next);
    text.push_back(static_cast<char>(next));
  }
}

}  // namespace krait::test
