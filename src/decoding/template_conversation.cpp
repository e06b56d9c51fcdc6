#include "krait/decoding/template_conversation.hpp"

#include <algorithm>
#include <utility>

#include "decoding/reply_end.hpp"
#include "krait/text/stream_decoder.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Stand for what somebody said: texts that templates write as they are, whatever they do to others.
constexpr std::string_view some_question = "730591826417";
constexpr std::string_view some_reply = "842906153759";

Metadata message(std::string_view role, std::string_view content) {
  return Metadata::Object{{"role", std::string(role)}, {"content", std::string(content)}};
}

// The parts behind `begin`.
std::vector<ByteRange> parts_behind(const std::vector<ByteRange>& ranges, std::size_t begin) {
  std::vector<ByteRange> rest;
  for (const ByteRange& range : ranges) {
    if (range.end > begin)
      rest.push_back({std::max(range.begin, begin) - begin, range.end - begin});
  }
  return rest;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

std::string_view without_spaces(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// What ends a reply, of the text between it and what the user says next: a special token in front,
// else the first word, else, where it begins with a line break or blank, all of it.
std::string stop_of(std::string_view between, const Tokenizer& tokenizer) {
  std::size_t first = 0;
  while (first < between.size() && is_space(between[first])) ++first;
  const std::string_view rest = between.substr(first);
  const Result<std::vector<Token>> tokens = tokenizer.encode(rest);
  if (tokens && !tokens->empty() && tokenizer.is_special(tokens->front())) {
    return std::string(tokenizer.bytes(tokens->front()));
  }
  if (first > 0) return std::string(between);
  const auto* const end = std::find_if(between.begin(), between.end(), is_space);
  return {between.begin(), end};
}

}  // namespace

Metadata chat_variables(Metadata::Array messages, const Metadata& variables) {
  Metadata::Object all;
  all.push_back({"messages", std::move(messages)});
  all.push_back({"tools", {}});
  all.push_back({"documents", {}});
  all.push_back({"add_generation_prompt", true});
  if (variables.object() == nullptr) return all;
  for (const auto& [key, value] : *variables.object()) {
    const auto known = std::find_if(all.begin(), all.end(),
                                    [&key = key](const auto& member) { return member.key == key; });
    if (known == all.end()) {
      all.push_back({key, value});
    } else {
      known->value = value;
    }
  }
  return all;
}

TurnMarks find_turn_marks(const ChatSetup& setup, const Tokenizer& tokenizer) {
  const auto write = [&](Metadata::Array messages, bool begins_reply) {
    Metadata variables = chat_variables(std::move(messages), setup.variables);
    for (Metadata::Member& member : *variables.object()) {
      if (member.key == "add_generation_prompt") member.value = begins_reply;
    }
    return setup.chat_template.render(variables, setup.marks);
  };
  TurnMarks marks;
  const Metadata question = message("user", some_question);
  const Metadata reply = message("assistant", some_reply);
  const Result<RenderedText> alone = write({question}, true);
  if (!alone) return marks;
  marks.shows_messages = alone->text.find(some_question) != std::string::npos;

  const Result<RenderedText> again = write({question, reply, question}, true);
  if (again) {
    const std::size_t said = again->text.rfind(some_reply);
    const std::size_t next =
        said == std::string::npos ? said : again->text.find(some_question, said);
    if (next != std::string::npos) {
      const std::size_t end = said + some_reply.size();
      const std::string stop =
          stop_of(std::string_view(again->text).substr(end, next - end), tokenizer);
      if (!stop.empty()) marks.stops.push_back(stop);
    }
  }
  // A template without a mark for where a reply begins may still end there, as Mistral's do.
  const Result<RenderedText> ended = write({question}, false);
  const Result<RenderedText> replied = write({question, reply}, false);
  if (ended && replied && ended->text == alone->text) {
    const std::string_view before =
        std::string_view(replied->text).substr(0, replied->text.find(some_reply));
    marks.begins_replies = without_spaces(before) == without_spaces(alone->text);
  }
  return marks;
}

TemplateConversation::TemplateConversation(Session& session, const LanguageModel& model,
                                           GenerationOptions options, ChatSetup setup,
                                           Sequence sequence)
    : session_(&session),
      model_(&model),
      options_(std::move(options)),
      setup_(std::move(setup)),
      has_earlier_(!sequence.tokens.empty() || sequence.state.position() > 0),
      start_(std::move(sequence)),
      sequence_(start_) {
  options_.stop_strings = setup_.stops;
  options_.hold_back = false;
  // A stop that is one token needs no matching of text.
  for (const std::string& stop : setup_.stops) {
    const auto token = model_->tokenizer->find(stop);
    if (token && model_->tokenizer->is_special(*token)) options_.stop_tokens.push_back(*token);
  }
  if (has_earlier_) {
    messages_ = {message("user", some_question), message("assistant", some_reply)};
  } else if (setup_.system) {
    messages_ = {message("system", *setup_.system)};
  }
}

Result<RenderedText> TemplateConversation::render() const {
  return setup_.chat_template.render(chat_variables(messages_, setup_.variables), setup_.marks);
}

Result<GenerationResult> TemplateConversation::reply(std::string_view line,
                                                     GenerationCallback callback,
                                                     Progress progress) {
  Sequence before = sequence_;
  const std::string written_before = written_;
  const std::size_t said_before = messages_.size();
  const auto answer = [&]() -> Result<GenerationResult> {
    messages_.push_back(message("user", line));
    KRAIT_ASSIGN_OR_RETURN(const RenderedText prompt, render());
    KRAIT_RETURN_IF_ERROR(append_prompt(prompt, progress));
    const Sequence asked = sequence_;
    KRAIT_ASSIGN_OR_RETURN(
        GenerationResult reply,
        generate(*session_, *model_->tokenizer, sequence_, options_, callback, progress));
    KRAIT_RETURN_IF_ERROR(keep_what_was_shown(sequence_, asked, reply, *model_->tokenizer));
    // As it was shown, but with special tokens.
    StreamDecoder decoder;
    for (std::size_t i = asked.tokens.size(); i < sequence_.tokens.size(); ++i) {
      written_ += decoder.push(model_->tokenizer->bytes(sequence_.tokens[i]));
    }
    written_ += decoder.finish();
    messages_.push_back(message("assistant", reply.text));
    return reply;
  };
  Result<GenerationResult> done = answer();
  if (!done) {
    sequence_ = std::move(before);
    written_ = written_before;
    messages_.resize(said_before);
  }
  return done;
}

// Where the text behind what was there at the beginning begins.
Result<std::size_t> TemplateConversation::end_of_earlier(const RenderedText& prompt) const {
  if (!has_earlier_) return std::size_t{0};
  const std::size_t at = prompt.text.rfind(some_reply);
  if (at == std::string::npos) {
    return Error{ErrorCode::unsupported,
                 "[template] chat template: expected one that writes earlier replies, to go on "
                 "behind a state, found another"};
  }
  return at + some_reply.size();
}

Result<void> TemplateConversation::append_prompt(const RenderedText& prompt, Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(const std::size_t begin, end_of_earlier(prompt));
  const std::string_view text = std::string_view(prompt.text).substr(begin);
  go_back(text);
  std::size_t from = begin + written_.size();
  if (has_earlier_ && written_.empty()) {
    // The end of the turn before, of which some may be there.
    const auto said = std::find_if(prompt.literal.begin(), prompt.literal.end(),
                                   [&](const ByteRange& range) { return range.end > begin; });
    const std::size_t end =
        said == prompt.literal.end() ? prompt.text.size() : std::max(said->begin, begin);
    KRAIT_ASSIGN_OR_RETURN(
        const std::vector<Token> turn_end,
        model_->tokenizer->encode(text.substr(0, end - begin), {.before = TextBefore::text}));
    end_turn(sequence_, turn_end, options_.stop_tokens);
    from = end;
  }
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, tail_tokens(prompt, from));
  sequence_.append(tokens);
  written_ = text;
  last_.reset();
  // Passes that are noised are the generation's.
  if (sequence_.awaits_noise() || options_.max_tokens == 0) return {};
  KRAIT_RETURN_IF_ERROR(prefill(*session_, sequence_, progress));
  last_ = Place{sequence_, written_};
  return {};
}

// To the last place that the prompt goes on from.
void TemplateConversation::go_back(std::string_view prompt) {
  rerun_tokens_ = 0;
  if (prompt.starts_with(written_)) return;
  // An end token that the template does not write was never shown, nor is it consumed.
  const std::vector<Token>& stops = options_.stop_tokens;
  if (sequence_.pending > 0 && !sequence_.tokens.empty() &&
      std::find(stops.begin(), stops.end(), sequence_.tokens.back()) != stops.end()) {
    const std::string_view end = model_->tokenizer->bytes(sequence_.tokens.back());
    const std::string_view rest = std::string_view(written_).substr(
        0, written_.ends_with(end) ? written_.size() - end.size() : written_.size());
    if (prompt.starts_with(rest)) {
      written_ = std::string(rest);
      sequence_.tokens.pop_back();
      --sequence_.pending;
      sequence_.forget_marks();
      return;
    }
  }
  const Index position = sequence_.state.position();
  if (last_ && prompt.starts_with(last_->written)) {
    sequence_ = last_->sequence;
    written_ = last_->written;
  } else {
    sequence_ = start_;
    written_.clear();
  }
  rerun_tokens_ = position - sequence_.state.position();
}

// The tokens of a prompt from a byte on: those that the whole has there, where one begins there.
Result<std::vector<Token>> TemplateConversation::tail_tokens(const RenderedText& prompt,
                                                             std::size_t begin) const {
  const Tokenizer& tokenizer = *model_->tokenizer;
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> all,
                         tokenizer.encode(prompt.text, {.literal = prompt.literal}));
  if (begin == 0) return all;
  std::string_view rest = std::string_view(prompt.text).substr(begin);
  std::size_t first = all.size();
  while (!rest.empty() && first > 0) {
    const std::string_view bytes = tokenizer.bytes(all[first - 1]);
    if (bytes.empty() || !rest.ends_with(bytes)) break;
    rest.remove_suffix(bytes.size());
    --first;
  }
  if (rest.empty()) {
    return std::vector<Token>(all.begin() + static_cast<std::ptrdiff_t>(first), all.end());
  }
  const std::vector<ByteRange> literal = parts_behind(prompt.literal, begin);
  return tokenizer.encode(std::string_view(prompt.text).substr(begin),
                          {.literal = literal, .before = before_of(tokenizer, sequence_.tokens)});
}

}  // namespace v0_1
}  // namespace krait
