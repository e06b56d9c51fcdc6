#include "tools/checkpoint_copy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/block_format.hpp"
#include "io/lies_in.hpp"
#include "io/write_text_file.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/weights/convert.hpp"
#include "loading/checkpoint_texts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

bool is_folder(const Checkpoint& checkpoint) {
  std::error_code ignored;
  return fs::is_directory(checkpoint.path, ignored);
}

fs::path folder_of(const Checkpoint& checkpoint) {
  const fs::path path = checkpoint.path;
  if (is_folder(checkpoint)) return path;
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

Result<void> check_floats(const ModelPlan& plan, const WeightStore& weights,
                          const std::string& path, std::string_view area) {
  for (const TensorUse& use : plan.tensors) {
    if (use.role == TensorRole::matrix && !weights.contains(use.name)) {
      return Error{
          ErrorCode::bad_argument,
          fmt::format("[{}] {}: expected a matrix of floats, found {}{} ({})", area, use.name,
                      use.form, find_block_format(use.form) ? ", which krait convert decodes" : "",
                      path)};
    }
  }
  return {};
}

Result<void> check_finite(const ModelPlan& plan, const WeightStore& weights,
                          const std::string& path, std::string_view area) {
  for (const TensorUse& use : plan.tensors) {
    const WeightStore::Entry* entry = weights.find(use.name);
    if (entry == nullptr) continue;
    const TensorView& tensor = entry->tensor;
    if (!is_float(tensor.dtype) && tensor.dtype != DType::f64) continue;
    const auto bad = find_not_finite(tensor);
    if (!bad) continue;
    return Error{ErrorCode::not_finite,
                 fmt::format("[{}] {}: expected finite weights, found {} ({})", area, use.name,
                             element_text(tensor, *bad), path)};
  }
  return {};
}

Result<void> check_outside(const Checkpoint& checkpoint, const std::string& destination,
                           std::string_view area) {
  if (!is_folder(checkpoint) || !lies_in(destination, folder_of(checkpoint))) return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[{}] destination: expected a place outside the source, found one in it "
                           "({})",
                           area, destination)};
}

Result<void> copy_texts(const Checkpoint& checkpoint, std::string_view config,
                        const std::string& to) {
  KRAIT_RETURN_IF_ERROR(write_texts(checkpoint, config, to));
  if (checkpoint.path.ends_with(".gguf")) return {};  // what lies beside it may be another's
  // What krait does not read itself, other programs may.
  const fs::path source = folder_of(checkpoint);
  const fs::path destination = to;
  constexpr std::size_t largest = std::size_t{1} << 30U;
  const auto copy_file = [&](const fs::path& name) -> Result<void> {
    KRAIT_ASSIGN_OR_RETURN(const std::string text, read_regular_text_file(source / name, largest));
    return write_text_file(destination / name, text);
  };
  std::error_code ignored;
  for (const char* name : {"chat_template.json", "vocab.json", "merges.txt", "tokenizer.model",
                           "tokenizer.model.v3", "tekken.json"}) {
    if (fs::is_regular_file(source / name, ignored)) KRAIT_RETURN_IF_ERROR(copy_file(name));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
