#include "terminal.hpp"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "input.hpp"

namespace krait::cli {
namespace {

struct Character {
  char32_t code;
  std::size_t length;
  bool is_valid;
};

// The first character of a text that is not empty; of what is no UTF-8, the first byte.
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  constexpr std::array<char32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
  const Character invalid{lead, 1, false};
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return invalid;
  char32_t code = lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return invalid;
    code = code << 6U | (byte(i) & 0x3FU);
  }
  if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return invalid;
  return {code, length, true};
}

bool steers(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x61C || c == 0x200E || c == 0x200F ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

std::string escape(char letter, char32_t code, int digits) {
  char text[16];
  std::snprintf(text, sizeof text, "\\%c%0*x", letter, digits, static_cast<unsigned>(code));
  return text;
}

Error write_failure() {
  const int number = errno;
  if (number == EINTR && is_interrupted()) return interruption();
  return {
      ErrorCode::io_failed,
      std::string("[output] standard output: expected to write, found: ") + std::strerror(number)};
}

}  // namespace

std::string shown(std::string_view text, bool with_lines) {
  std::string result;
  while (!text.empty()) {
    const auto [code, length, is_valid] = first_character(text);
    if (!is_valid) {
      result += escape('x', code, 2);
    } else if (!steers(code) || (with_lines && code == '\n')) {
      result += text.substr(0, length);
    } else if (code == '\n' || code == '\t' || code == '\r') {
      result += code == '\n' ? "\\n" : code == '\t' ? "\\t" : "\\r";
    } else {
      result += code < 0x80 ? escape('x', code, 2) : escape('u', code, 4);
    }
    text.remove_prefix(length);
  }
  return result;
}

void tell(std::string_view line) {
  const std::string text = shown(line) + "\n";
  std::fwrite(text.data(), 1, text.size(), stderr);
}

int report(const Error& error) {
  if (error.code == ErrorCode::cancelled) {
    tell("krait: interrupted");
    return interrupted;
  }
  tell("krait: " + error.message);
  return failed;
}

Result<void> print(std::string_view text) {
  if (!text.empty() && std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    return write_failure();
  }
  return {};
}

Result<void> flush() {
  if (std::fflush(stdout) != 0) return write_failure();
  return {};
}

Result<void> print_all(std::string_view text) {
  KRAIT_RETURN_IF_ERROR(print(text));
  return flush();
}

std::string escape_steering(std::string_view json) {
  std::string result;
  while (!json.empty()) {
    const Character c = first_character(json);
    result += steers(c.code) ? escape('u', c.code, 4) : std::string(json.substr(0, c.length));
    json.remove_prefix(c.length);
  }
  return result;
}

Result<void> print_json(const std::string& line) { return print_all(line + "\n"); }

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Flow ProgressLine::operator()(Index done, Index total) {
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  const double time = now();
  if (last_ == 0.0) last_ = time;
  if (total != total_) {  // the beginning, or another stage of the work
    total_ = total;
    start_ = time;
    first_ = done;
  }
  // Nothing for work that is over at once.
  if (time - last_ > (is_terminal ? 0.2 : 10.0) || (shown_ && done == total)) {
    last_ = time;
    shown_ = true;
    char left[48] = "";
    if (done > first_ && done < total) {
      std::snprintf(
          left, sizeof left, ", %.0f s left",
          (time - start_) * static_cast<double>(total - done) / static_cast<double>(done - first_));
    }
    std::fprintf(stderr, "%s%s %lld of %lld %s (%.0f %%%s)%s", is_terminal ? "\r" : "",
                 what_.c_str(), static_cast<long long>(done), static_cast<long long>(total),
                 unit_.c_str(),
                 total > 0 ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 100.0,
                 left, is_terminal ? "\033[K" : "\n");
    std::fflush(stderr);
  }
  return is_interrupted() ? Flow::stop : Flow::go_on;
}

ProgressLine::~ProgressLine() {
  if (shown_ && isatty(STDERR_FILENO) != 0) std::fputs("\r\033[K", stderr);
}

}  // namespace krait::cli
