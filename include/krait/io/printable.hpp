#pragma once

/// \file
/// Text from files, made fit for a message or a terminal.

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// The text on one line, cut after about `limit` bytes, without anything that could steer a
/// terminal or mislead a reader: control characters (C0, DEL, C1), line and paragraph separators,
/// marks that change the direction of text, invisible characters and bytes that are no UTF-8 become
/// question marks.
KRAIT_API std::string printable(std::string_view text, std::size_t limit = 80);

/// The same error with a message that is printable as a whole. What reads a file lets its errors
/// pass through here once, so that no name or value of the file reaches a terminal as it is.
KRAIT_API Error printable(Error error);

template <class T>
Result<T> printable(Result<T> result) {
  if (result) return result;
  return printable(std::move(result).error());
}

}  // namespace v0_1
}  // namespace krait
