#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "io/gguf.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/loading/checkpoint.hpp"
#include "krait/text/token_table.hpp"

namespace krait {
inline namespace v0_1 {

/// Opens file `i` of `count`, from 0, of a model of which the first is open.
using OpenGgufPart = FunctionRef<Result<std::shared_ptr<const FileBytes>>(Index i, Index count)>;

/// Turns a GGUF file, with the others of a model in several, into the checkpoint of transformers
/// that it was made from: configuration and chat template as the texts of their files, tensors
/// under transformers' names. Matrices stay where the file has them, in its formats. Fills in
/// everything but the path. Errors: those of read_gguf; unsupported (an architecture that is not
/// known, by name), bad_config.
Result<void> read_gguf_checkpoint(std::shared_ptr<const FileBytes> file,
                                  const OpenGgufPart& open_part, Checkpoint& checkpoint);

/// Whether the bytes begin as GGUF files do.
bool is_gguf(std::span<const std::byte> bytes) noexcept;

/// The vocabulary of a file; null if it has none. Tokens at the end that no text reaches are left
/// out: they pad the matrices. Errors: bad_format.
Result<std::shared_ptr<const TokenTable>> read_gguf_vocabulary(const Metadata& metadata,
                                                               const std::string& path);

/// The name of a chat template in a file's keys, where all but letters and digits is "_". Of names
/// of files, it leads nowhere else.
std::string gguf_template_name(std::string_view name);

/// What a tokenizer_config.json says of it: the texts of the marks around a text.
std::string tokenizer_config_of(const TokenTable& table);

/// The same vocabulary as a tokenizer.json. Errors: unsupported (another `model` than gpt2, a `pre`
/// that is not known here, by name).
KRAIT_API Result<std::string> tokenizer_json_of(const TokenTable& table);

}  // namespace v0_1
}  // namespace krait
