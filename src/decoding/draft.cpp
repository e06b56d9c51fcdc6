#include "krait/decoding/draft.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace krait {
inline namespace v0_1 {

TokenLaw TokenLaw::one_hot(Token token) {
  TokenLaw law;
  law.only_ = token;
  return law;
}

TokenLaw TokenLaw::sparse(std::vector<std::pair<Token, double>> tokens) {
  TokenLaw law;
  law.sparse_ = std::move(tokens);
  std::ranges::sort(law.sparse_, {}, &std::pair<Token, double>::first);
  return law;
}

TokenLaw TokenLaw::dense(std::vector<double> probabilities) {
  TokenLaw law;
  law.dense_ = std::move(probabilities);
  return law;
}

double TokenLaw::operator()(Token token) const noexcept {
  if (is_one_hot()) return token == only_ ? 1.0 : 0.0;
  if (!dense_.empty()) {
    const bool is_known = token >= 0 && token < std::ssize(dense_);
    return is_known ? dense_[static_cast<std::size_t>(token)] : 0.0;
  }
  const auto it = std::ranges::lower_bound(sparse_, token, {}, &std::pair<Token, double>::first);
  return it != sparse_.end() && it->first == token ? it->second : 0.0;
}

Result<void> validate(const TokenLaw& law, Index vocab) {
  const auto bad = [](std::string_view what, std::string_view expected, std::string_view found) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[draft] law: expected {} {}, found {}", what, expected, found)};
  };
  double sum = 0.0;
  Token before = -1;
  Result<void> result;
  law.for_each([&](Token token, double probability) {
    if (!result) return;
    if (token <= before || token >= vocab) {
      result =
          bad("tokens", fmt::format("from 0 to {}, each once", vocab - 1), fmt::to_string(token));
    } else if (!(probability >= 0.0 && probability <= 1.0 + 1e-9)) {
      result = bad("probabilities", "from 0 to 1", fmt::to_string(probability));
    }
    before = token;
    sum += probability;
  });
  if (result && !(std::fabs(sum - 1.0) <= 1e-6)) {
    return bad("probabilities", "that add up to 1", fmt::to_string(sum));
  }
  return result;
}

}  // namespace v0_1
}  // namespace krait
