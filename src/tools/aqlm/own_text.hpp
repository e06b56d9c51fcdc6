#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/models/model.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

struct OwnTextOptions {
  Index tokens = 0;                  ///< in all
  Index prompt_tokens = 256;         ///< of the text in front of each continuation
  Index continuation_tokens = 2048;  ///< behind a prompt
  Index sequences = 16;              ///< that are written at a time
};

/// Text as the model writes it: continuations of pieces of `text` from its beginning to its end,
/// drawn from the model's own distributions, one behind the other, without the pieces. Where a
/// quantised model is to learn these distributions, there can be as much of it as is wanted.
///
/// What was written is kept in `work`, where a later call goes on behind it. The result depends
/// neither on the executor nor on `sequences`. `progress` counts tokens. Errors: cancelled,
/// not_finite, io_failed. The text is not empty.
Result<std::vector<Token>> own_text(const Model& model, std::span<const Token> text,
                                    const OwnTextOptions& options, std::uint64_t seed,
                                    const PartialWork& work, Executor& executor, Progress progress);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
