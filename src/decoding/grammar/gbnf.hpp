#pragma once

/// \file
/// Grammars in llama.cpp's notation (GBNF).

#include <string_view>

#include "decoding/grammar/expr.hpp"
#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// The rules of a grammar; rule 0 is the one named `root`. Errors: bad_format, with the line.
Result<Rules> parse_gbnf(std::string_view text, std::string_view root);

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
