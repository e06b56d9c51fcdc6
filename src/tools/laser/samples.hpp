#pragma once

#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"
#include "krait/tools/laser_search.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {

/// Tokens of which those from `first` on are scored.
struct Sequence {
  std::vector<Token> tokens;
  Index first = 1;
  Index bytes = 0;  ///< that the scored tokens stand for
};

/// A window of text, or a question with its answers, of which one is right.
struct Sample {
  std::vector<Sequence> choices;
  std::size_t right = 0;

  const Sequence& answer() const { return choices[right]; }
};

/// Errors: bad_argument (too few samples), bad_format (what is no line of that task).
Result<std::vector<Sample>> read_samples(std::string_view data, LaserTask task,
                                         const Tokenizer& tokenizer);

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
