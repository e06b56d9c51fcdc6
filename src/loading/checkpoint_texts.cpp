#include "loading/checkpoint_texts.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "io/entries_of.hpp"
#include "io/write_text_file.hpp"
#include "krait/io/mapped_file.hpp"
#include "loading/layouts/gguf/gguf.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t largest_text = std::size_t{16} << 20U;  // but for vocabularies
constexpr const char* templates_folder = "additional_chat_templates";

Result<void> read_more_chat_templates(const fs::path& folder, Checkpoint& checkpoint) {
  std::error_code ignored;
  std::vector<fs::path> files;
  for (const fs::path& entry : entries_of(folder / templates_folder, ignored)) {
    if (entry.extension() == ".jinja") files.push_back(entry);
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    KRAIT_ASSIGN_OR_RETURN(std::string text, read_regular_text_file(file.string(), largest_text));
    checkpoint.more_chat_templates.push_back({file.stem().string(), std::move(text)});
  }
  return {};
}

// Of what a checkpoint lacks, no file.
Result<void> write_text(const fs::path& path, std::string_view text) {
  return text.empty() ? Result<void>() : write_text_file(path.string(), text);
}

}  // namespace

Result<void> read_texts_beside(const std::string& folder, Checkpoint& checkpoint) {
  const fs::path path = folder;
  std::error_code ignored;
  if (fs::exists(path / "tokenizer.json", ignored)) {
    KRAIT_ASSIGN_OR_RETURN(checkpoint.tokenizer,
                           read_regular_text_file((path / "tokenizer.json").string()));
  } else {
    for (const char* name : {"tokenizer.model", "tokenizer.model.v3"}) {
      if (!fs::exists(path / name, ignored)) continue;
      KRAIT_ASSIGN_OR_RETURN(checkpoint.sentencepiece,
                             read_regular_text_file((path / name).string()));
      checkpoint.sentencepiece_file = name;
      break;
    }
  }
  const std::pair<const char*, std::string*> others[] = {
      {"tokenizer_config.json", &checkpoint.tokenizer_config},
      {"chat_template.jinja", &checkpoint.chat_template},
      {"generation_config.json", &checkpoint.generation_config},
      {"special_tokens_map.json", &checkpoint.special_tokens},
      {"added_tokens.json", &checkpoint.added_tokens}};
  for (const auto& [name, text] : others) {
    if (!fs::exists(path / name, ignored)) continue;
    KRAIT_ASSIGN_OR_RETURN(*text, read_regular_text_file((path / name).string(), largest_text));
  }
  return read_more_chat_templates(path, checkpoint);
}

Result<void> check_texts(const Checkpoint& checkpoint) {
  if (checkpoint.token_table == nullptr) return {};
  const auto tokenizer = tokenizer_json_of(*checkpoint.token_table);
  return tokenizer ? Result<void>() : tokenizer.error();
}

Result<void> write_texts(const Checkpoint& checkpoint, std::string_view config,
                         const std::string& folder) {
  std::string tokenizer = checkpoint.tokenizer;
  if (checkpoint.token_table != nullptr) {
    KRAIT_ASSIGN_OR_RETURN(tokenizer, tokenizer_json_of(*checkpoint.token_table));
  }
  const fs::path path = folder;
  const std::pair<std::string, std::string_view> texts[] = {
      {checkpoint.config_file, config},
      {"tokenizer.json", tokenizer},
      {checkpoint.sentencepiece_file, checkpoint.sentencepiece},
      {"tokenizer_config.json", checkpoint.tokenizer_config},
      {"chat_template.jinja", checkpoint.chat_template},
      {"generation_config.json", checkpoint.generation_config},
      {"special_tokens_map.json", checkpoint.special_tokens},
      {"added_tokens.json", checkpoint.added_tokens}};
  for (const auto& [name, text] : texts) KRAIT_RETURN_IF_ERROR(write_text(path / name, text));
  for (const NamedText& more : checkpoint.more_chat_templates) {
    std::error_code ignored;
    fs::create_directory(path / templates_folder, ignored);
    KRAIT_RETURN_IF_ERROR(write_text(path / templates_folder / (more.name + ".jinja"), more.text));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
