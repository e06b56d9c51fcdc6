#pragma once

// A file of lines that takes long to make.

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// Lines are first written to <path>.partial, each as soon as it is there, and become the file at
// `path` all at once. Whoever makes them again after an interruption goes on behind those that were
// finished, if they are of the same work.
class LineFile {
 public:
  // `work`: one line that says all that decides the file. Without a path there is no file, only its
  // lines. Errors: bad_argument where there are finished lines of another call.
  static Result<LineFile> open(const std::string& path, const std::string& work);

  // Lines that are there.
  Index size() const noexcept { return std::ssize(lines_); }
  const std::string& operator[](Index i) const { return lines_[static_cast<std::size_t>(i)]; }
  Result<void> write(std::string line);
  // Puts the file at its place; the lines.
  Result<std::vector<std::string>> commit();
  // The same with lines that were made of these.
  Result<void> commit(const std::vector<std::string>& lines);
  // Gives the unfinished work up.
  void discard();

 private:
  Error failed() const;

  std::string path_;
  std::string partial_;  // empty: the lines are written at the end
  std::vector<std::string> lines_;
  std::ofstream stream_;
};

// A file of these lines, at once.
Result<void> write_lines(const std::string& path, const std::vector<std::string>& lines);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
