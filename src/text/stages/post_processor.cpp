#include "text/stages/post_processor.hpp"

#include <fmt/format.h>

#include <string>

#include "text/huggingface/json_fields.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::get;
using fields::mismatch;
using nlohmann::json;

constexpr std::size_t max_steps = 64;
constexpr std::size_t max_ids = 256;

class Reader {
 public:
  explicit Reader(Index vocab) : vocab_(vocab) {}

  Result<void> add(const json& step, const std::string& where) {
    KRAIT_ASSIGN_OR_RETURN(const std::string_view type, fields::string(step, "type", where));
    if (++steps_ > max_steps) {
      return mismatch(ErrorCode::unsupported, where, fmt::format("at most {} steps", max_steps),
                      "more");
    }
    if (type == "Sequence") {
      return fields::sequence(
          step, "processors", where,
          [this](const json& part, const std::string& place) { return add(part, place); });
    }
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
                      describe(get(step, "type")));
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

  Result<void> append_id(const json& value, const std::string& where, std::vector<Token>& ids) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocab_)) {
      return mismatch(ErrorCode::bad_format, where, fmt::format("an id below {}", vocab_),
                      describe(value));
    }
    ids.push_back(static_cast<Token>(value.get<std::uint64_t>()));
    return {};
  }

  // ["[CLS]", 101]
  Result<void> append_pair(const json& step, const char* name, const std::string& where,
                           std::vector<Token>& ids) {
    const json& pair = get(step, name);
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) {
      return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name),
                      "a token and its id", describe(pair));
    }
    return append_id(pair[1], fmt::format("{}.{}[1]", where, name), ids);
  }

  Result<TextEnds> read_template(const json& step, const std::string& where) {
    TextEnds ends;
    std::size_t texts = 0;
    KRAIT_RETURN_IF_ERROR(fields::sequence(
        step, "single", where, [&](const json& piece, const std::string& place) -> Result<void> {
          if (const json& text = get(piece, "Sequence"); !text.is_null()) {
            KRAIT_ASSIGN_OR_RETURN(const std::string_view id,
                                   fields::string(text, "id", place + ".Sequence"));
            if (id != "A" || ++texts > 1) {
              return mismatch(ErrorCode::unsupported, where + ".single", "the text A once",
                              id == "A" ? "it twice" : describe(get(text, "id")));
            }
            return {};
          }
          const std::string token_place = place + ".SpecialToken";
          KRAIT_ASSIGN_OR_RETURN(const std::string_view name,
                                 fields::string(get(piece, "SpecialToken"), "id", token_place));
          return append_special(step, std::string(name), where,
                                texts == 0 ? ends.before : ends.after);
        }));
    if (texts == 0) {
      return mismatch(ErrorCode::unsupported, where + ".single", "the text A once", "no text");
    }
    return ends;
  }

  Result<void> append_special(const json& step, const std::string& name, const std::string& where,
                              std::vector<Token>& ids) {
    const std::string place = fmt::format("{}.special_tokens[{}]", where, describe(json(name)));
    return fields::sequence(get(get(step, "special_tokens"), name.c_str()), "ids", place,
                            [&](const json& id, const std::string& id_place) -> Result<void> {
                              KRAIT_RETURN_IF_ERROR(check_count(ids.size() + 1, where));
                              return append_id(id, id_place, ids);
                            });
  }

  Index vocab_;
  std::size_t steps_ = 0;
  TextEnds ends_;
};

}  // namespace

Result<TextEnds> read_post_processor(const json& post_processor, Index vocab) {
  Reader reader(vocab);
  if (!post_processor.is_null()) {
    KRAIT_RETURN_IF_ERROR(reader.add(post_processor, "post_processor"));
  }
  return reader.take();
}

}  // namespace v0_1
}  // namespace krait
