#include "text/stages/post_processor.hpp"

#include <fmt/format.h>

#include <string>

#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::mismatch;

constexpr std::size_t max_ids = 256;

class Reader {
 public:
  explicit Reader(Index vocab) : vocab_(vocab) {}

  Result<void> add(std::string_view type, const Metadata& step, const std::string& where) {
    if (type == "ByteLevel") return {};  // moves offsets, adds nothing
    TextEnds ends;
    if (type == "TemplateProcessing") {
      KRAIT_ASSIGN_OR_RETURN(ends, read_template(step, where));
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      KRAIT_RETURN_IF_ERROR(append_pair(step, "cls", where, ends.before));
      KRAIT_RETURN_IF_ERROR(append_pair(step, "sep", where, ends.after));
    } else {
      return mismatch(ErrorCode::unsupported, where + ".type",
                      "TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing or "
                      "Sequence",
                      describe(step["type"]));
    }
    if (ends.before.empty() && ends.after.empty()) return {};
    if (!ends_.before.empty() || !ends_.after.empty()) {
      // `tokenizers` would take what the first one added for a text of its own.
      return mismatch(ErrorCode::unsupported, where, "one step that adds ids", "another");
    }
    ends_ = std::move(ends);
    return check_count(ends_.before.size() + ends_.after.size(), where);
  }

  TextEnds take() { return std::move(ends_); }

 private:
  static Result<void> check_count(std::size_t count, const std::string& where) {
    if (count <= max_ids) return {};
    return mismatch(ErrorCode::unsupported, where,
                    fmt::format("at most {} ids around a text", max_ids), "more");
  }

  Result<void> append_id(const Metadata& value, const std::string& where, std::vector<Token>& ids) {
    const auto id = value.whole();
    if (!id || *id >= static_cast<std::uint64_t>(vocab_)) {
      return mismatch(ErrorCode::bad_format, where, fmt::format("an id below {}", vocab_),
                      describe(value));
    }
    ids.push_back(static_cast<Token>(*id));
    return {};
  }

  // ["[CLS]", 101]
  Result<void> append_pair(const Metadata& step, const char* name, const std::string& where,
                           std::vector<Token>& ids) {
    const Metadata& pair = step[name];
    if (pair.array() == nullptr || pair.size() != 2 || pair[0].text() == nullptr) {
      return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name),
                      "a token and its id", describe(pair));
    }
    return append_id(pair[1], fmt::format("{}.{}[1]", where, name), ids);
  }

  Result<TextEnds> read_template(const Metadata& step, const std::string& where) {
    TextEnds ends;
    std::size_t texts = 0;
    KRAIT_RETURN_IF_ERROR(fields::elements(
        step, "single", where,
        [&](const Metadata& piece, const std::string& place) -> Result<void> {
          if (const Metadata& text = piece["Sequence"]; !text.is_null()) {
            KRAIT_ASSIGN_OR_RETURN(const std::string_view id,
                                   fields::string(text, "id", place + ".Sequence"));
            if (id != "A" || ++texts > 1) {
              return mismatch(ErrorCode::unsupported, where + ".single", "the text A once",
                              id == "A" ? "it twice" : describe(text["id"]));
            }
            return {};
          }
          const std::string token_place = place + ".SpecialToken";
          KRAIT_ASSIGN_OR_RETURN(const std::string_view name,
                                 fields::string(piece["SpecialToken"], "id", token_place));
          return append_special(step, std::string(name), where,
                                texts == 0 ? ends.before : ends.after);
        }));
    if (texts == 0) {
      return mismatch(ErrorCode::unsupported, where + ".single", "the text A once", "no text");
    }
    return ends;
  }

  Result<void> append_special(const Metadata& step, const std::string& name,
                              const std::string& where, std::vector<Token>& ids) {
    const std::string place = fmt::format("{}.special_tokens[{}]", where, describe(name));
    return fields::elements(step["special_tokens"][name], "ids", place,
                            [&](const Metadata& id, const std::string& id_place) -> Result<void> {
                              KRAIT_RETURN_IF_ERROR(check_count(ids.size() + 1, where));
                              return append_id(id, id_place, ids);
                            });
  }

  Index vocab_;
  TextEnds ends_;
};

}  // namespace

Result<TextEnds> read_post_processor(const Metadata& post_processor, Index vocab) {
  Reader reader(vocab);
  if (!post_processor.is_null()) {
    KRAIT_RETURN_IF_ERROR(
        fields::steps(post_processor, "processors", "post_processor",
                      [&](std::string_view type, const Metadata& step, const std::string& where) {
                        return reader.add(type, step, where);
                      }));
  }
  return reader.take();
}

}  // namespace v0_1
}  // namespace krait
