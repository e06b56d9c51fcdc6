#include "krait/text/stream_decoder.hpp"

#include "core/utf8.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";

}  // namespace

std::string_view StreamDecoder::push(std::string_view bytes) {
  ready_.clear();
  // Complete what was held back, byte by byte: at most three bytes are needed, and joining the
  // two texts would copy all of `bytes`.
  while (!pending_.empty() && !bytes.empty()) {
    pending_.push_back(bytes.front());
    bytes.remove_prefix(1);
    std::size_t position = 0;
    while (position < pending_.size()) {
      const utf8::Step here = utf8::step(pending_, position);
      if (here.form == utf8::Form::truncated) {
        break;
      }
      if (here.form == utf8::Form::complete) {
        ready_.append(pending_, position, here.length);
      } else {
        ready_ += replacement;
      }
      position += here.length;
    }
    pending_.erase(0, position);
  }
  std::size_t position = 0;
  while (position < bytes.size()) {
    const std::size_t plain = utf8::ascii_prefix(bytes, position);
    ready_.append(bytes, position, plain);
    position += plain;
    if (position == bytes.size()) {
      break;
    }
    const utf8::Step here = utf8::step(bytes, position);
    if (here.form == utf8::Form::truncated) {
      pending_.assign(bytes.substr(position));
      break;
    }
    if (here.form == utf8::Form::complete) {
      ready_.append(bytes, position, here.length);
    } else {
      ready_ += replacement;
    }
    position += here.length;
  }
  return ready_;
}

std::string_view StreamDecoder::finish() {
  ready_.clear();
  if (!pending_.empty()) {
    ready_ += replacement;
    pending_.clear();
  }
  return ready_;
}

}  // namespace v0_1
}  // namespace krait
