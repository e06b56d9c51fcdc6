#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "io/json.hpp"
#include "krait/loading/language_model.hpp"
#include "loading/config_reader.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class MarkReader {
 public:
  MarkReader(const Checkpoint& checkpoint, const Tokenizer& tokenizer)
      : checkpoint_(checkpoint), tokenizer_(tokenizer) {}

  Result<TextMarks> run() {
    KRAIT_RETURN_IF_ERROR(read_ids(checkpoint_.generation_config, "generation_config.json"));
    const std::vector<Token> others = std::exchange(ends_, {});
    KRAIT_RETURN_IF_ERROR(read_ids(checkpoint_.config, checkpoint_.config_file));
    ends_.insert(ends_.end(), others.begin(), others.end());
    KRAIT_RETURN_IF_ERROR(read_texts(checkpoint_.tokenizer_config, "tokenizer_config.json"));
    KRAIT_RETURN_IF_ERROR(read_texts(checkpoint_.special_tokens, "special_tokens_map.json"));
    // Original checkpoints do not say how texts end; their tokenizer does.
    const auto end = tokenizer_.find("<|endoftext|>");
    if (ends_.empty() && end) ends_.push_back(*end);
    TextMarks marks{bos_, {}};
    std::set<Token> known;
    std::ranges::copy_if(ends_, std::back_inserter(marks.ends),
                         [&](Token id) { return known.insert(id).second; });
    return marks;
  }

 private:
  Result<Metadata> parse(const std::string& text, const std::string& file) const {
    const std::string name = checkpoint_.path + "/" + file;
    KRAIT_ASSIGN_OR_RETURN(Metadata values, parse_json(text, name));
    if (values.object() == nullptr) {
      return Error{ErrorCode::bad_config, fmt::format("[config] expected an object, found {} ({})",
                                                      json_text(values), name)};
    }
    return values;
  }

  Error wrong(const char* key, const char* expected, const Metadata& found,
              const std::string& file) const {
    return {ErrorCode::bad_config, fmt::format("[config] {}: expected {}, found {} ({}/{})", key,
                                               expected, json_text(found), checkpoint_.path, file)};
  }

  Result<void> read_ids(const std::string& text, const std::string& file) {
    if (text.empty()) return {};
    KRAIT_ASSIGN_OR_RETURN(const Metadata values, parse(text, file));
    const ConfigReader reader(values, checkpoint_.path + "/" + file);
    KRAIT_ASSIGN_OR_RETURN(const auto begins, reader.tokens("bos_token_id"));
    if (!bos_ && !begins.empty()) bos_ = begins.front();
    KRAIT_ASSIGN_OR_RETURN(const auto found, reader.tokens("eos_token_id"));
    ends_.insert(ends_.end(), found.begin(), found.end());
    return {};
  }

  // A token's text, or an object with it. A text that is no token marks nothing.
  Result<std::optional<Token>> token(const Metadata& found, const char* key,
                                     const std::string& file) const {
    if (found.is_null()) return std::optional<Token>();
    const Metadata& content = found.object() != nullptr ? found["content"] : found;
    if (content.text() == nullptr) return wrong(key, "a token's text", found, file);
    return tokenizer_.find(*content.text());
  }

  Result<void> read_texts(const std::string& text, const std::string& file) {
    if (text.empty()) return {};
    KRAIT_ASSIGN_OR_RETURN(const Metadata values, parse(text, file));
    KRAIT_ASSIGN_OR_RETURN(const auto begin, token(values["bos_token"], "bos_token", file));
    if (!bos_) bos_ = begin;
    KRAIT_ASSIGN_OR_RETURN(const auto end, token(values["eos_token"], "eos_token", file));
    if (end) ends_.push_back(*end);
    return {};
  }

  const Checkpoint& checkpoint_;
  const Tokenizer& tokenizer_;
  std::optional<Token> bos_;
  std::vector<Token> ends_;
};

}  // namespace

Result<TextMarks> read_text_marks(const Checkpoint& checkpoint, const Tokenizer& tokenizer) {
  if (&tokenizer == byte_tokenizer().get()) return TextMarks{};  // there every id is a byte of text
  return MarkReader(checkpoint, tokenizer).run();
}

}  // namespace v0_1
}  // namespace krait
