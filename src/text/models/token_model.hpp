#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "text/models/merge_pairs.hpp"

namespace krait {
inline namespace v0_1 {

/// Best way to the end of a prefix of a piece, for the Viterbi search of Unigram models.
struct BestPath {
  static constexpr std::uint32_t none = ~std::uint32_t{0};
  double score = 0;
  Token token = 0;
  std::uint32_t begin = none;  ///< where its last token begins
};

/// What models work on. Keep it between calls and they stop allocating.
struct ModelScratch {
  PairSymbols pairs;
  std::vector<BestPath> paths;
  std::vector<std::uint32_t> begins;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> spans;
};

/// Turns pieces of text into tokens. Immutable.
class TokenModel {
 public:
  virtual ~TokenModel() = default;

  /// Appends the tokens of `piece`: well-formed UTF-8 without the marks that the stages before took
  /// out, shorter than 2^28 bytes, not empty. `is_plain`: special tokens are no part of the text,
  /// whatever it spells.
  virtual Result<void> encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                              std::vector<Token>& tokens) const = 0;
};

/// Which tokens are special, by id; ids beyond the end are not.
using SpecialTokens = std::vector<bool>;

inline bool is_in(const SpecialTokens& special, Token token) noexcept {
  const auto id = static_cast<std::size_t>(token);
  return token >= 0 && id < special.size() && special[id];
}

}  // namespace v0_1
}  // namespace krait
