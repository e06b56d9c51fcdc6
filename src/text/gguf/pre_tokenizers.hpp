#pragma once

#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "text/stages/pretokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// What `tokenizer.ggml.pre` stands for.
struct NamedPreTokenizer {
  PreTokenizer pre_tokenizer;
  bool ignores_merges = false;
  bool adds_bos = false;  ///< unless the file says otherwise
};

/// Errors: unsupported, with the known names.
Result<NamedPreTokenizer> named_pre_tokenizer(std::string_view name);

}  // namespace v0_1
}  // namespace krait
