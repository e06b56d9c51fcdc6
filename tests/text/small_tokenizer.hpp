#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "src/text/pipeline/byte_alphabet.hpp"

namespace krait::test {

/// A tokenizer file whose first 256 ids are the bytes, with the merges "t h", "th e", "Ġ the".
inline nlohmann::json small_tokenizer() {
  auto file = nlohmann::json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "post_processor": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
              "continuing_subword_prefix": null, "end_of_word_suffix": null,
              "vocab": {"th": 256, "the": 257, "Ġthe": 258},
              "merges": ["t h", "th e", "Ġ the"]}})");
  for (int byte = 0; byte < 256; ++byte) {
    std::string key;
    const char c = static_cast<char>(static_cast<unsigned char>(byte));
    byte_alphabet::append_written(key, {&c, 1});
    file["model"]["vocab"][key] = byte;
  }
  return file;
}

}  // namespace krait::test
