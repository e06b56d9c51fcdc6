#pragma once

/// \file
/// What the program reads beside models, and the signals that end it. Every wait for input ends
/// when a signal comes.

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "krait/krait.hpp"

namespace krait::cli {

/// Whether Ctrl-C was pressed (SIGINT), or SIGTERM or SIGHUP came. The first one asks the running
/// command to end; a second one ends the process as usual.
bool is_interrupted() noexcept;
/// To be called first. Also sees to it that no file the program opens becomes a standard stream
/// that the program was started without.
void catch_signals();
/// Holds those signals back from the threads that are made while it lives, so that they reach the
/// main thread, whose waiting they end.
class SignalsForMainThread {
 public:
  SignalsForMainThread();
  ~SignalsForMainThread();
  SignalsForMainThread(const SignalsForMainThread&) = delete;
  SignalsForMainThread& operator=(const SignalsForMainThread&) = delete;

 private:
  struct Saved;
  std::unique_ptr<Saved> saved_;
};

/// The error a cancelled command ends with.
Error interruption();

/// An open file, pipe or terminal that is read to its end, whatever size it says it has.
class Input {
 public:
  static Input standard();
  /// "-" and the names of standard input are standard input. Errors: not_found, io_failed.
  static Result<Input> open(const std::string& path);
  Input(Input&& other) noexcept;
  Input& operator=(Input&&) = delete;
  ~Input();

  /// The next line, without its end ("\n" or "\r\n"); nothing at the end.
  Result<std::optional<std::string>> line();
  /// What is left, but at most `limit` bytes of it. Errors: io_failed, cancelled (a signal).
  Result<std::string> rest(std::size_t limit = std::numeric_limits<std::size_t>::max());

 private:
  Input(int descriptor, bool is_ours, std::string name)
      : descriptor_(descriptor), is_ours_(is_ours), name_(std::move(name)) {}
  Result<bool> fill();  // false at the end

  int descriptor_;
  bool is_ours_;
  std::string name_;
  std::string buffer_;
};

/// Where a text comes from: an argument, a file, or standard input, which also is what is read
/// where nothing is given and no terminal stands there.
struct TextSource {
  std::optional<std::string> argument;  // "-" is standard input
  std::string file;                     // so is it here

  bool is_given() const { return argument || !file.empty(); }
  /// The file, for reports.
  std::string name() const { return file.empty() ? "-" : file; }
};
/// `what` names it for the usage line that is thrown where there is none.
Result<std::string> read_text(const TextSource& source, std::string_view what);
/// The first `limit` bytes of a text, cut between two characters.
Result<std::string> read_text_part(const TextSource& source, std::string_view what,
                                   std::optional<Index> limit, const Tokenizer& tokenizer);

/// As load_state; the file may be a pipe.
Result<Sequence> read_state(const Model& model, const std::string& path);

/// That the file which an option is about to write is none of those that the command reads: texts,
/// and checkpoints with their files. Names that are empty are of none.
Result<void> check_not_read(std::string_view option, const std::string& path,
                            const std::vector<std::string>& inputs);

/// That, and whether the file, if one was given, can be written; to be asked before the work.
/// `is_rewritten`: not only from beginning to end, which a pipe cannot take.
Result<void> check_destination(std::string_view option, const std::string& path,
                               const std::vector<std::string>& inputs, bool is_rewritten = false);
/// From here on, writing to a pipe that nobody reads is an error and not the end, so that what else
/// there is to save can be saved.
void outlive_readers();

}  // namespace krait::cli
