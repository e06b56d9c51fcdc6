#pragma once

/// \file
/// What the program writes: text to standard output, everything else to standard error.

#include <string>
#include <string_view>

#include "krait/krait.hpp"

namespace krait::cli {

/// Exit codes: a promise to scripts.
enum ExitCode : int { ok = 0, failed = 1, wrong_usage = 2, interrupted = 130 };

/// Text from files and arguments, so that it cannot steer a terminal: control characters (C0, DEL,
/// C1), marks that turn the direction of writing, and what is no UTF-8 become escapes such as \x1b
/// and \u202e. `with_lines`: line breaks stay.
std::string shown(std::string_view text, bool with_lines = false);

/// Writes one line to standard error, as `shown`.
void tell(std::string_view line);

/// Prints the error as one line and returns the exit code for it.
int report(const Error& error);

/// Writes text to standard output, as it is; the error names what the system said.
Result<void> print(std::string_view text);
/// Flushes standard output; to be called before success is reported.
Result<void> flush();
/// Both: all that a command has to say.
Result<void> print_all(std::string_view text);
/// JSON in which characters that could steer a terminal are escaped; they stand in strings alone.
std::string escape_steering(std::string_view json);
/// Prints one line of JSON.
Result<void> print_json(const std::string& line);

/// A line on stderr that is rewritten on a terminal, and printed now and then elsewhere.
class ProgressLine {
 public:
  ProgressLine(std::string what, std::string unit)
      : what_(std::move(what)), unit_(std::move(unit)) {}
  ~ProgressLine();
  Flow operator()(Index done, Index total);

 private:
  std::string what_;
  std::string unit_;
  Index total_ = -1;
  double start_ = 0.0;
  Index first_ = 0;  // done at the start
  double last_ = 0.0;
  bool shown_ = false;
};

/// Seconds of a clock that never goes back.
double now();

}  // namespace krait::cli
