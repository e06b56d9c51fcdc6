#include "krait/decoding/sequence.hpp"

#include <fmt/format.h>

namespace krait {
inline namespace v0_1 {

Result<void> validate(const Sequence& sequence) {
  if (sequence.pending >= 0 && sequence.pending <= std::ssize(sequence.tokens) &&
      sequence.unshown >= 0) {
    return {};
  }
  return Error{ErrorCode::bad_argument,
               fmt::format("[generate] sequence: expected 0 to {} tokens pending and no negative "
                           "number of bytes unshown, found {} and {}",
                           sequence.tokens.size(), sequence.pending, sequence.unshown)};
}

}  // namespace v0_1
}  // namespace krait
