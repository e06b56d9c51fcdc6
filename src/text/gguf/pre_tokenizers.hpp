#pragma once

#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "text/stages/pretokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// What `tokenizer.ggml.pre` stands for, beside how texts are cut.
struct PreTokenizerFlags {
  bool ignores_merges = false;  ///< of a piece that is a token
  bool adds_bos = false;        ///< unless the file says otherwise
};

/// None of a name that is not known.
PreTokenizerFlags pre_tokenizer_flags(std::string_view name);

struct NamedPreTokenizer {
  PreTokenizer pre_tokenizer;
  PreTokenizerFlags flags;
};

/// Errors: unsupported, with the known names.
Result<NamedPreTokenizer> named_pre_tokenizer(std::string_view name);

}  // namespace v0_1
}  // namespace krait
