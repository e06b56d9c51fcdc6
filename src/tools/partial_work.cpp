#include "tools/partial_work.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "io/content_checksum.hpp"
#include "io/entries_of.hpp"
#include "io/partial_folder.hpp"
#include "io/temporaries.hpp"
#include "io/write_text_file.hpp"
#include "krait/core/tensor.hpp"
#include "krait/io/mapped_file.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr const char* key_file = "key";

// Whether a call got no further than the folder, killed or on a full device before it had its key.
bool is_only_begun(const fs::path& folder) {
  std::error_code error;
  for (const fs::path& entry : entries_of(folder, error)) {
    const std::string name = entry.filename().string();
    if (!name.starts_with(fmt::format("{}.", key_file)) || !name.ends_with(".tmp")) return false;
  }
  return !error;
}

}  // namespace

Result<PartialWork> PartialWork::open(std::string_view area, const std::string& destination,
                                      const std::string& key) {
  PartialWork work;
  work.folder_ = partial_folder(destination);
  const std::string path = work.folder_ + "/" + key_file;
  std::error_code error;
  if (fs::exists(work.folder_, error) && !is_only_begun(work.folder_)) {
    const auto found = read_text_file(path, std::size_t{1} << 20U);
    if (!found || *found != key) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[{}] unfinished work: expected that of the same call, found {} "
                               "({}; remove the folder to begin anew)",
                               area, found ? "another's" : "something else", work.folder_)};
    }
    KRAIT_RETURN_IF_ERROR(work.lock(area));
    return work;
  }
  fs::create_directory(work.folder_, error);
  if (error) {
    return Error{ErrorCode::io_failed,
                 fmt::format("[{}] destination: expected a folder to write to, found {} ({})", area,
                             error.message(), work.folder_)};
  }
  KRAIT_RETURN_IF_ERROR(work.lock(area));
  if (const Result<void> written = write_text_file(path, key); !written) {
    fs::remove(work.folder_, error);
    return written.error();
  }
  return work;
}

PartialWork PartialWork::in_memory() {
  PartialWork work;
  work.folder_ = "memory";
  work.memory_ = std::make_shared<std::map<std::string, WeightStore>>();
  return work;
}

std::string PartialWork::path_of(const std::string& name) const {
  return fmt::format("{}/{}.safetensors", folder_, name);
}

std::optional<WeightStore> PartialWork::read(const std::string& name) const {
  if (memory_ != nullptr) {
    const auto piece = memory_->find(name);
    return piece == memory_->end() ? std::nullopt : std::optional(piece->second);
  }
  std::error_code ignored;
  if (!fs::exists(path_of(name), ignored)) return std::nullopt;
  auto file = open_file(path_of(name), WeightsMode::copy);
  if (!file) return std::nullopt;
  WeightStore store;
  if (!read_safetensors(*std::move(file), store)) return std::nullopt;
  std::vector<NamedTensor> content;
  for (const auto& [part, entry] : store.entries()) content.push_back({part, entry.tensor});
  const auto sum = store.metadata.find(content_checksum_key);
  // A damaged file is made again instead of mixed in.
  if (sum == store.metadata.end() ||
      sum->second != content_checksum(std::move(content), store.metadata)) {
    return std::nullopt;
  }
  return store;
}

Result<void> PartialWork::write(const std::string& name, std::vector<NamedTensor> tensors,
                                Metadata metadata) const {
  if (memory_ != nullptr) {
    WeightStore piece;
    for (const NamedTensor& tensor : tensors) {
      const auto copy = std::make_shared<Tensor>(tensor.tensor.dtype, tensor.tensor.shape);
      std::copy_n(static_cast<const std::byte*>(tensor.tensor.data), tensor.tensor.bytes(),
                  static_cast<std::byte*>(copy->data()));
      piece.add(tensor.name, copy->view(), copy);
    }
    piece.metadata = std::move(metadata);
    memory_->insert_or_assign(name, std::move(piece));
    return {};
  }
  metadata.emplace(content_checksum_key, content_checksum(tensors, metadata));
  return write_safetensors(path_of(name), tensors, metadata);
}

// The lock is the folder's own, so that it ends with the process, however that ends.
Result<void> PartialWork::lock(std::string_view area) {
  const int descriptor = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    return Error{ErrorCode::io_failed,
                 fmt::format("[{}] unfinished work: expected a folder, found {} ({})", area,
                             std::generic_category().message(errno), folder_)};
  }
  lock_ = std::shared_ptr<const int>(new int(descriptor), [](const int* held) {
    ::close(*held);
    delete held;
  });
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[{}] unfinished work: expected none that runs, found another process "
                           "at it ({})",
                           area, folder_)};
}

void PartialWork::remove() const {
  if (memory_ != nullptr) {
    memory_->clear();
    return;
  }
  // Half of it, after a kill, would be taken for something else: first it gets the name of what is
  // left over.
  const Temporary place = make_temporary_folder(folder_);
  const bool is_moved = place.descriptor >= 0 && ::rename(folder_.c_str(), place.name.c_str()) == 0;
  std::error_code ignored;
  if (!is_moved) fs::remove_all(folder_, ignored);
  if (place.descriptor < 0) return;
  fs::remove_all(place.name, ignored);
  ::close(place.descriptor);
}

bool copy_tensor(const WeightStore& piece, const std::string& name, DType dtype,
                 std::span<std::byte> values) {
  const WeightStore::Entry* entry = piece.find(name);
  if (entry == nullptr || entry->tensor.dtype != dtype ||
      entry->tensor.bytes() != std::ssize(values)) {
    return false;
  }
  std::ranges::copy(std::span(static_cast<const std::byte*>(entry->tensor.data), values.size()),
                    values.begin());
  return true;
}

}  // namespace v0_1
}  // namespace krait
