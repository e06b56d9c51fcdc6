#include "krait/loading/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "io/entries_of.hpp"
#include "krait/io/printable.hpp"
#include "krait/io/pytorch_bin.hpp"
#include "krait/io/safetensors.hpp"
#include "loading/checkpoint_texts.hpp"
#include "loading/layouts/gguf/gguf.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t largest_config = std::size_t{16} << 20U;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

Error unsupported(std::string_view expected, std::string_view found, const fs::path& path) {
  return {ErrorCode::unsupported,
          fmt::format("[checkpoint] expected {}, found {} ({})", expected, found, path.string())};
}

constexpr std::string_view known_files =
    "model.safetensors, model.safetensors.index.json, pytorch_model.bin or "
    "consolidated.safetensors";

// An empty function must not become a reference that looks callable.
Progress progress_of(const CheckpointOptions& options) {
  return options.progress ? Progress(options.progress) : Progress();
}

Result<void> read_weights_file(const fs::path& path, const CheckpointOptions& options,
                               Checkpoint& checkpoint) {
  KRAIT_ASSIGN_OR_RETURN(auto file,
                         open_file(path.string(), options.weights, progress_of(options)));
  checkpoint.files.push_back(path.string());
  if (path.extension() == ".safetensors") {
    return read_safetensors(std::move(file), checkpoint.weights);
  }
  if (path.extension() == ".bin" || path.extension() == ".pt" || path.extension() == ".pth") {
    return read_pytorch_bin(std::move(file), checkpoint.weights);
  }
  return unsupported("a file named .safetensors, .bin or .gguf", "another name", path);
}

Result<void> read_weights(const fs::path& folder, const CheckpointOptions& options,
                          Checkpoint& checkpoint) {
  const fs::path index = folder / "model.safetensors.index.json";
  if (is_there(folder / "model.safetensors")) {
    return read_weights_file(folder / "model.safetensors", options, checkpoint);
  }
  if (is_there(index)) {
    KRAIT_ASSIGN_OR_RETURN(const std::string text,
                           read_regular_text_file(index.string(), largest_config));
    checkpoint.files.push_back(index.string());
    return read_safetensors_index(text, folder.string(), options.weights, checkpoint.weights,
                                  progress_of(options));
  }
  if (is_there(folder / "pytorch_model.bin")) {
    return read_weights_file(folder / "pytorch_model.bin", options, checkpoint);
  }
  if (is_there(folder / "consolidated.safetensors")) {
    return read_weights_file(folder / "consolidated.safetensors", options, checkpoint);
  }
  if (is_there(folder / "pytorch_model.bin.index.json")) {
    return unsupported(known_files, "pytorch_model.bin in shards, which are not read", folder);
  }
  std::error_code ignored;
  for (const fs::path& entry : entries_of(folder, ignored)) {
    if (entry.extension() == ".gguf") {
      return unsupported(known_files, "GGUF, which is opened by the name of the file", entry);
    }
  }
  return Error{ErrorCode::not_found, fmt::format("[checkpoint] expected {}, found none ({})",
                                                 known_files, folder.string())};
}

Result<void> read_texts(const fs::path& folder, Checkpoint& checkpoint) {
  if (!is_there(folder / "config.json")) {
    if (!is_there(folder / "params.json")) {
      return Error{ErrorCode::not_found,
                   fmt::format("[checkpoint] expected config.json or params.json, found none ({})",
                               folder.string())};
    }
    checkpoint.config_file = "params.json";  // Mistral's
  }
  KRAIT_ASSIGN_OR_RETURN(
      checkpoint.config,
      read_regular_text_file((folder / checkpoint.config_file).string(), largest_config));
  return read_texts_beside(folder.string(), checkpoint);
}

Result<Checkpoint> open_at(const std::string& path, const CheckpointOptions& options) {
  Checkpoint checkpoint;
  checkpoint.path = path;
  std::error_code ignored;
  if (!is_there(path)) {
    return Error{ErrorCode::not_found,
                 fmt::format("[checkpoint] expected a file or directory, found none ({})", path)};
  }
  if (fs::is_directory(path, ignored)) {
    // The configuration first: where there is none, nothing else is worth a message.
    if (is_there(fs::path(path) / "config.json") || is_there(fs::path(path) / "params.json")) {
      KRAIT_RETURN_IF_ERROR(read_texts(path, checkpoint));
      KRAIT_RETURN_IF_ERROR(read_weights(path, options, checkpoint));
    } else {
      KRAIT_RETURN_IF_ERROR(read_weights(path, options, checkpoint));
      KRAIT_RETURN_IF_ERROR(read_texts(path, checkpoint));
    }
    return checkpoint;
  }
  if (fs::path(path).extension() == ".gguf") {
    KRAIT_ASSIGN_OR_RETURN(auto file, open_file(path, options.weights, progress_of(options)));
    checkpoint.files.push_back(path);
    KRAIT_RETURN_IF_ERROR(read_gguf_checkpoint(std::move(file), checkpoint));
    return checkpoint;
  }
  KRAIT_RETURN_IF_ERROR(read_weights_file(path, options, checkpoint));
  const fs::path folder = fs::path(path).parent_path();
  KRAIT_RETURN_IF_ERROR(read_texts(folder.empty() ? "." : folder, checkpoint));
  return checkpoint;
}

}  // namespace

Result<Checkpoint> open_checkpoint(const std::string& path, const CheckpointOptions& options) {
  return printable(open_at(path, options));
}

Result<Checkpoint> open_checkpoint(const CheckpointBytes& bytes) {
  Checkpoint checkpoint;
  checkpoint.path = "memory";
  checkpoint.config = bytes.config;
  checkpoint.tokenizer = bytes.tokenizer;
  if (bytes.weights.size() == 1 && bytes.config.empty() && is_gguf(bytes.weights.front())) {
    KRAIT_RETURN_IF_ERROR(
        read_gguf_checkpoint(borrow_bytes(bytes.weights.front(), "memory"), checkpoint));
    return checkpoint;
  }
  for (const std::span<const std::byte> weights : bytes.weights) {
    auto file = borrow_bytes(weights, "memory");
    const bool is_zip = weights.size() >= 4 && std::memcmp(weights.data(), "PK\x03\x04", 4) == 0;
    KRAIT_RETURN_IF_ERROR(is_zip ? read_pytorch_bin(std::move(file), checkpoint.weights)
                                 : read_safetensors(std::move(file), checkpoint.weights));
  }
  return checkpoint;
}

}  // namespace v0_1
}  // namespace krait
