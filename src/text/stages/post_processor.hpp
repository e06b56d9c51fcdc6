#pragma once

#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"

namespace krait {
inline namespace v0_1 {

/// What a tokenizer puts around a text: the `post_processor` of its file.
struct TextEnds {
  std::vector<Token> before, after;
};

/// Reads what a single text gets; `vocab` is the number of ids.
Result<TextEnds> read_post_processor(const Metadata& post_processor, Index vocab);

}  // namespace v0_1
}  // namespace krait
