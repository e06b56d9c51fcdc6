#include "training/line_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "krait/io/atomic_file.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

namespace fs = std::filesystem;

Result<LineFile> LineFile::open(const std::string& path, const std::string& work) {
  LineFile file;
  file.path_ = path;
  if (path.empty()) return file;
  std::error_code ignored;
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored)) return file;
  file.partial_ = path + ".partial";
  std::string kept = work + "\n";
  if (fs::is_regular_file(file.partial_, ignored)) {
    std::ifstream old(file.partial_);
    std::string line;
    // A line without its end was cut.
    const bool is_ours = std::getline(old, line) && line == work;
    // What was only begun is nobody's loss.
    if (!is_ours && std::getline(old, line) && !old.eof()) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[training] unfinished work: expected that of the same call, found "
                               "another's ({}; remove the file to begin anew)",
                               file.partial_)};
    }
    while (is_ours && std::getline(old, line) && !old.eof()) {
      kept += line + "\n";
      file.lines_.push_back(std::move(line));
    }
  }
  KRAIT_ASSIGN_OR_RETURN(AtomicFile begin, AtomicFile::create(file.partial_));
  KRAIT_RETURN_IF_ERROR(begin.write(kept));
  KRAIT_RETURN_IF_ERROR(begin.commit());
  file.stream_.open(file.partial_, std::ios::app);
  if (!file.stream_) return file.failed();
  return file;
}

Error LineFile::failed() const {
  return {ErrorCode::io_failed, fmt::format("[training] file: expected to write it, found: {} ({})",
                                            std::generic_category().message(errno), partial_)};
}

Result<void> LineFile::write(std::string line) {
  if (!partial_.empty()) {
    stream_ << line << '\n';
    stream_.flush();
    if (!stream_) return failed();
  }
  lines_.push_back(std::move(line));
  return {};
}

Result<std::vector<std::string>> LineFile::commit() {
  KRAIT_RETURN_IF_ERROR(commit(lines_));
  return std::move(lines_);
}

Result<void> LineFile::commit(const std::vector<std::string>& lines) {
  if (!path_.empty()) KRAIT_RETURN_IF_ERROR(write_lines(path_, lines));
  discard();
  return {};
}

void LineFile::discard() {
  stream_.close();
  std::error_code ignored;
  if (!partial_.empty()) fs::remove(partial_, ignored);
}

Result<void> write_lines(const std::string& path, const std::vector<std::string>& lines) {
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  for (const std::string& line : lines) KRAIT_RETURN_IF_ERROR(file.write(line + "\n"));
  return file.commit();
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
