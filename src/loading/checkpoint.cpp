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
    "model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
    "pytorch_model.bin.index.json or consolidated.safetensors";

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

// All files that an index names.
Result<void> read_shards(const fs::path& index, const CheckpointOptions& options,
                         decltype(read_safetensors_index) read, Checkpoint& checkpoint) {
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_regular_text_file(index.string(), largest_config));
  checkpoint.files.push_back(index.string());
  return read(text, index.parent_path().string(), options.weights, checkpoint.weights,
              progress_of(options));
}

Result<void> read_weights(const fs::path& folder, const CheckpointOptions& options,
                          Checkpoint& checkpoint) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                           "pytorch_model.bin.index.json", "consolidated.safetensors"}) {
    const fs::path path = folder / name;
    if (!is_there(path)) continue;
    if (path.extension() != ".json") return read_weights_file(path, options, checkpoint);
    const bool is_safetensors = path.filename() == "model.safetensors.index.json";
    return read_shards(path, options,
                       is_safetensors ? read_safetensors_index : read_pytorch_bin_index,
                       checkpoint);
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

// A file, or the first of several: those that llama.cpp splits are called NAME-00001-of-00003.gguf.
Result<void> read_gguf_files(const std::string& path, const CheckpointOptions& options,
                             Checkpoint& checkpoint) {
  const auto open = [&](const std::string& name) {
    checkpoint.files.push_back(name);
    return open_file(name, options.weights, progress_of(options));
  };
  const auto open_part = [&](Index i, Index count) -> Result<std::shared_ptr<const FileBytes>> {
    const auto ending = [&](Index number) {
      return fmt::format("-{:05}-of-{:05}.gguf", number, count);
    };
    if (!path.ends_with(ending(1))) {
      return unsupported(fmt::format("the first of {} files, named …{}", count, ending(1)),
                         "another name", path);
    }
    return open(path.substr(0, path.size() - ending(1).size()) + ending(i + 1));
  };
  KRAIT_ASSIGN_OR_RETURN(auto file, open(path));
  return read_gguf_checkpoint(std::move(file), open_part, checkpoint);
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
    KRAIT_RETURN_IF_ERROR(read_gguf_files(path, options, checkpoint));
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
  if (!bytes.weights.empty() && bytes.config.empty() && is_gguf(bytes.weights.front())) {
    const auto refuse = [&](Index count) {
      return Error{
          ErrorCode::bad_argument,
          fmt::format("[checkpoint] weights: expected the {} of a model, found {} (memory)",
                      count == 1 ? "one file" : fmt::format("{} files", count),
                      bytes.weights.size())};
    };
    Index n_file = 1;
    const auto part = [&](Index i, Index count) -> Result<std::shared_ptr<const FileBytes>> {
      n_file = count;
      if (count != std::ssize(bytes.weights)) return refuse(count);
      return borrow_bytes(bytes.weights[static_cast<std::size_t>(i)], "memory");
    };
    KRAIT_RETURN_IF_ERROR(
        read_gguf_checkpoint(borrow_bytes(bytes.weights.front(), "memory"), part, checkpoint));
    if (n_file != std::ssize(bytes.weights)) return refuse(n_file);
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
