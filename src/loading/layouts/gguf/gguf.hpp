#pragma once

#include <memory>
#include <string>

#include "io/gguf.hpp"
#include "krait/loading/checkpoint.hpp"

namespace krait {
inline namespace v0_1 {

/// Turns a GGUF file into the checkpoint of transformers that it was made from: configuration,
/// tokenizer and chat template as the texts of their files, tensors under transformers' names.
/// Matrices stay where the file has them, in its formats. Fills in everything but the path.
/// Errors: those of read_gguf; unsupported (an architecture that is not known, by name),
/// bad_config.
Result<void> read_gguf_checkpoint(std::shared_ptr<const FileBytes> file, Checkpoint& checkpoint);

/// Whether the bytes begin as GGUF files do.
bool is_gguf(std::span<const std::byte> bytes) noexcept;

/// The tokenizer of a file as the text of a tokenizer.json, and what its tokenizer_config.json
/// would say; empty where the file has none. `problem` says why there is none, if it has one of a
/// kind that is not read. Errors: bad_format.
struct GgufTokenizer {
  std::string json;
  std::string config;
  std::string problem;
};
Result<GgufTokenizer> read_gguf_tokenizer(const Metadata& metadata, const std::string& path);

}  // namespace v0_1
}  // namespace krait
