#include "input.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <utility>

#include "command_line.hpp"

namespace krait::cli {
namespace {

// More than a text for a model has; an endless device ends here.
constexpr std::size_t largest_text = std::size_t{1} << 31U;

std::atomic<bool> interrupted_flag{false};
// Readable from the first signal on. A flag alone could be set between a look at it and a read.
int wake_pipe[2] = {-1, -1};

extern "C" void on_interrupt(int) {
  const int saved = errno;
  interrupted_flag.store(true, std::memory_order_relaxed);
  [[maybe_unused]] const ssize_t ignored = ::write(wake_pipe[1], "", 1);
  errno = saved;
}

constexpr std::array<int, 3> signals{SIGINT, SIGTERM, SIGHUP};

Error failure(std::string_view expected, const std::string& name) {
  const int number = errno;
  return {number == ENOENT || number == ENOTDIR ? ErrorCode::not_found : ErrorCode::io_failed,
          "[file] expected " + std::string(expected) + ", found: " + std::strerror(number) + " (" +
              name + ")"};
}

bool is_standard_input(std::string_view path) {
  return path == "-" || path == "/dev/stdin" || path == "/dev/fd/0" || path == "/proc/self/fd/0";
}

}  // namespace

bool is_interrupted() noexcept { return interrupted_flag.load(std::memory_order_relaxed); }

Error interruption() { return {ErrorCode::cancelled, "interrupted"}; }

void catch_signals() {
  // In place of a stream that is missing, one of which every use fails.
  for (int descriptor = 0; descriptor < 3; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) {
      [[maybe_unused]] const int ignored =
          ::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
  }
  if (::pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0) wake_pipe[0] = wake_pipe[1] = -1;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // no SA_RESTART: waiting ends
  ::sigemptyset(&action.sa_mask);
  for (const int signal : signals) {
    struct sigaction before {};
    ::sigaction(signal, nullptr, &before);
    // nohup; a shell in the background ignores SIGINT too, but whoever sends that means it.
    if (signal == SIGHUP && before.sa_handler == SIG_IGN) continue;
    ::sigaction(signal, &action, nullptr);
  }
  std::signal(SIGXFSZ, SIG_IGN);  // writing fails instead, which leaves nothing behind
}

void outlive_readers() { std::signal(SIGPIPE, SIG_IGN); }

struct SignalsForMainThread::Saved {
  sigset_t mask;
};

SignalsForMainThread::SignalsForMainThread() : saved_(std::make_unique<Saved>()) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : signals) ::sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, &saved_->mask);
}

SignalsForMainThread::~SignalsForMainThread() {
  ::pthread_sigmask(SIG_SETMASK, &saved_->mask, nullptr);
}

Input Input::standard() { return {STDIN_FILENO, false, "standard input"}; }

Result<Input> Input::open(const std::string& path) {
  if (is_standard_input(path)) return standard();
  // Without O_NONBLOCK, opening a pipe would wait for its writer, and no signal could end that for
  // certain.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) return failure("a readable file", path);
  return Input(descriptor, true, path);
}

Input::Input(Input&& other) noexcept
    : descriptor_(other.descriptor_),
      is_ours_(std::exchange(other.is_ours_, false)),
      name_(std::move(other.name_)),
      buffer_(std::move(other.buffer_)) {}

Input::~Input() {
  if (is_ours_) ::close(descriptor_);
}

Result<bool> Input::fill() {
  for (;;) {
    std::array<pollfd, 2> waits{pollfd{descriptor_, POLLIN, 0}, pollfd{wake_pipe[0], POLLIN, 0}};
    const int ready = ::poll(waits.data(), waits.size(), -1);
    if (is_interrupted()) return interruption();
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return failure("readable text", name_);
    if (waits[0].revents == 0) continue;
    char bytes[1 << 16];
    const ssize_t count = ::read(descriptor_, bytes, sizeof bytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return failure("readable text", name_);
    buffer_.append(bytes, static_cast<std::size_t>(count));
    return count > 0;
  }
}

Result<std::optional<std::string>> Input::line() {
  for (std::size_t seen = 0;;) {
    const std::size_t end = buffer_.find('\n', seen);
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return std::optional(std::move(line));
    }
    seen = buffer_.size();
    KRAIT_ASSIGN_OR_RETURN(const bool is_more, fill());
    if (is_more) continue;
    if (buffer_.empty()) return std::optional<std::string>();
    std::string line = std::exchange(buffer_, {});
    if (line.ends_with('\r')) line.pop_back();
    return std::optional(std::move(line));
  }
}

Result<std::string> Input::rest(std::size_t limit) {
  while (buffer_.size() < limit) {
    KRAIT_ASSIGN_OR_RETURN(const bool is_more, fill());
    if (!is_more) break;
    if (buffer_.size() > largest_text) {
      return Error{ErrorCode::bad_format, "[file] expected a text of at most " +
                                              std::to_string(largest_text) +
                                              " bytes, found a longer one (" + name_ + ")"};
    }
  }
  std::string text = std::exchange(buffer_, {});
  if (text.size() > limit) text.resize(limit);
  return text;
}

namespace {

Result<std::string> read_at_most(const TextSource& source, std::string_view what,
                                 std::size_t limit) {
  if (source.argument && *source.argument != "-") return source.argument->substr(0, limit);
  if (!source.is_given() && ::isatty(STDIN_FILENO) != 0) {
    throw WrongUsage(what, "a text, '-' or text piped into the program", "none");
  }
  if (source.file.empty()) return Input::standard().rest(limit);
  KRAIT_ASSIGN_OR_RETURN(Input input, Input::open(source.file));
  return input.rest(limit);
}

bool has_extension(const std::filesystem::path& path,
                   std::initializer_list<std::string_view> extensions) {
  return std::ranges::count(extensions, path.extension().string()) > 0;
}

// What checkpoints consist of, beside weights.
bool is_text(const std::filesystem::path& path) {
  return has_extension(path, {".json", ".model", ".jinja", ".txt", ".v3"});
}

// What lies beside a file of weights and is read with it: the texts of a checkpoint, and the other
// files of a split model.
bool is_read_beside(const std::filesystem::path& input, const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (input.extension() != ".gguf") {
    return has_extension(input, {".safetensors", ".bin", ".pt", ".pth"}) && is_text(path);
  }
  const std::string first = input.filename().string();
  const std::size_t number = first.rfind("-00001-of-");
  return number != std::string::npos && name.starts_with(first.substr(0, number + 1)) &&
         name.ends_with(first.substr(number + std::string_view("-00001").size()));
}

}  // namespace

Result<std::string> read_text(const TextSource& source, std::string_view what) {
  return read_at_most(source, what, std::numeric_limits<std::size_t>::max());
}

Result<std::string> read_text_part(const TextSource& source, std::string_view what,
                                   std::optional<Index> limit, const Tokenizer& tokenizer) {
  if (!limit) return read_text(source, what);
  const auto bytes = static_cast<std::size_t>(*limit);
  // One more, to know whether the text goes on.
  KRAIT_ASSIGN_OR_RETURN(std::string text, read_at_most(source, what, bytes + 1));
  if (text.size() <= bytes) return text;
  text.resize(bytes);
  // Not in the middle of a character, which a tokenizer of text would refuse.
  if (tokenizer.vocab() != 256) {
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0U) == 0x80U) {
      text.pop_back();
    }
    if (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80U) != 0) text.pop_back();
  }
  return text;
}

Result<Sequence> read_state(const Model& model, const std::string& path) {
  struct stat status {};
  if (!is_standard_input(path) && (::stat(path.c_str(), &status) != 0 || S_ISREG(status.st_mode))) {
    return load_state(model, path);
  }
  KRAIT_ASSIGN_OR_RETURN(Input input, Input::open(path));
  KRAIT_ASSIGN_OR_RETURN(const std::string bytes, input.rest());
  return load_state(model, borrow_bytes(std::as_bytes(std::span(bytes)), path));
}

Result<void> check_not_read(std::string_view option, const std::string& path,
                            const std::vector<std::string>& inputs) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (path.empty() || !fs::is_regular_file(path, ignored)) return {};
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : ".";
  // What checkpoints consist of; drawings and states may lie beside it.
  const bool is_part = is_text(path) || has_extension(path, {".safetensors", ".bin", ".gguf"});
  for (const std::string& input : inputs) {
    if (input.empty()) continue;
    const bool is_folder = fs::is_directory(input, ignored);
    const fs::path above = fs::path(input).has_parent_path() ? fs::path(input).parent_path() : ".";
    const bool is_in = is_part &&
                       fs::equivalent(folder, is_folder ? fs::path(input) : above, ignored) &&
                       (is_folder || is_read_beside(input, path));
    if (!is_in && !fs::equivalent(path, input, ignored)) continue;
    return Error{ErrorCode::bad_argument, "[file] " + std::string(option) +
                                              ": expected a file that is not read, found one of " +
                                              input + " (" + path + ")"};
  }
  return {};
}

Result<void> check_destination(std::string_view option, const std::string& path,
                               const std::vector<std::string>& inputs, bool is_rewritten) {
  if (path.empty()) return {};
  KRAIT_RETURN_IF_ERROR(check_not_read(option, path, inputs));
  if (path == "-") throw WrongUsage(option, "the name of a file", "'-'; './-' would be one");
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (exists && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
    // A pipe or device: to open it would be felt at its other end.
    if (is_rewritten && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode) ||
                         (path == "/dev/stdout" && ::isatty(STDOUT_FILENO) != 0))) {
      return Error{ErrorCode::io_failed,
                   "[file] expected a file, found a pipe or terminal (" + path + ")"};
    }
    if (::access(path.c_str(), W_OK) != 0) return failure("to write a file", path);
    return {};
  }
  KRAIT_ASSIGN_OR_RETURN(const AtomicFile file, AtomicFile::create(path));
  return {};
}

}  // namespace krait::cli
