#pragma once

#include <optional>
#include <vector>

#include "krait/loading/checkpoint.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// Where texts begin and end.
struct TextMarks {
  std::optional<Token> bos;
  std::vector<Token> ends;  ///< each once, those of the configuration first
};

/// What the files of a checkpoint say of it: the first one that names a beginning is believed, and
/// every end that any of them names is one. Errors: bad_format, bad_config.
KRAIT_API Result<TextMarks> read_text_marks(const Checkpoint& checkpoint,
                                            const Tokenizer& tokenizer);

}  // namespace v0_1
}  // namespace krait
