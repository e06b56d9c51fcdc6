#include "krait/decoding/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "decoding/stopwatch.hpp"
#include "krait/decoding/guidance.hpp"
#include "krait/decoding/speculation.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Gives the caller its sequence back, however a run ends: a callback may throw.
class GiveBack {
 public:
  GiveBack(Generation& from, Sequence& to) : from_(from), to_(to) {}
  ~GiveBack() { to_ = from_.release(); }
  GiveBack(const GiveBack&) = delete;
  GiveBack& operator=(const GiveBack&) = delete;

 private:
  Generation& from_;
  Sequence& to_;
};

// Keeps `pending` right, however a run of the pending tokens ends.
class Consumption {
 public:
  explicit Consumption(Sequence& sequence)
      : sequence_(sequence), end_(sequence.state.position() + sequence.pending) {}
  ~Consumption() { sequence_.pending = end_ - sequence_.state.position(); }
  Consumption(const Consumption&) = delete;
  Consumption& operator=(const Consumption&) = delete;

 private:
  Sequence& sequence_;
  Index end_;  // the position of the state once nothing is pending
};

// Runs the items of a text, with guidance where it is asked for.
class Runner {
 public:
  explicit Runner(Session& session) : session_(&session) {}

  Result<void> guide(const GenerationOptions& options, std::span<const Token> prompt) {
    if (options.guidance_scale == 1.0 || options.max_tokens == 0) return {};
    const std::span<const Token> negative = options.negative_prompt;
    KRAIT_ASSIGN_OR_RETURN(guidance_,
                           Guidance::make(*session_, negative.empty() ? prompt.last(1) : negative,
                                          options.guidance_scale));
    return {};
  }

  // Most tokens of an item. What guides it needs as many.
  Index most() const noexcept {
    const Index chunk = session_->options().chunk;
    return guidance_ ? std::max<Index>(1, chunk / 2) : chunk;
  }

  Result<RunOutput> run(const RunItem& item) {
    return guidance_ ? guidance_->run(*session_, item) : session_->run({&item, 1});
  }

 private:
  Session* session_;
  std::optional<Guidance> guidance_;
};

GenerationOptions without_guidance(const GenerationOptions& options) {
  GenerationOptions plain = options;
  plain.guidance_scale = 1.0;
  return plain;
}

// Gives a text the logits of its item, and keeps of a tentative one what was accepted, whether or
// not accepting throws.
Result<void> accept_item(Session& session, Generation& text, const RunItem& item, Index i,
                         const RunOutput& output) {
  const auto keep = [&]() -> Result<void> {
    return item.tentative ? session.keep(text.kept(), text.state(), i) : Result<void>();
  };
#if KRAIT_HAS_EXCEPTIONS
  try {
    KRAIT_RETURN_IF_ERROR(text.accept(output.logits(i)));
  } catch (...) {
    static_cast<void>(keep());
    throw;
  }
#else
  KRAIT_RETURN_IF_ERROR(text.accept(output.logits(i)));
#endif
  return keep();
}

}  // namespace

Result<void> prefill(Session& session, Sequence& sequence, Progress progress) {
  KRAIT_RETURN_IF_ERROR(validate(sequence));
  // What is held back must stay pending, so that it can be taken back.
  if (sequence.pending < 2 || sequence.unshown > 0) return {};
  const Consumption consumption(sequence);
  const auto pending = sequence.pending_tokens();
  KRAIT_RETURN_IF_ERROR(
      session.prefill(pending.first(pending.size() - 1), sequence.state, progress));
  return {};
}

Result<void> advance_all(Session& session, std::span<Generation* const> texts) {
  std::vector<Generation*> running;
  std::vector<RunItem> items;
  running.reserve(texts.size());
  items.reserve(texts.size());
  Index left = session.options().chunk;  // for prompts, beyond a token of each
  for (Generation* const text : texts) {
    if (text == nullptr) {
      return Error{ErrorCode::bad_argument,
                   "[generate] advance_all: expected generations, found a null pointer"};
    }
    KRAIT_ASSIGN_OR_RETURN(const RunItem item, text->next());
    if (text->is_finished()) continue;
    running.push_back(text);
    items.push_back(item);
    left -= (item.tentative ? std::ssize(item.tokens) : 1) * (item.clean ? 2 : 1);
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].tentative) continue;
    const Index rows = items[i].clean ? 2 : 1;  // of a token
    const Index more = std::clamp<Index>(left / rows, 0, std::ssize(items[i].tokens) - 1);
    KRAIT_ASSIGN_OR_RETURN(items[i], running[i]->next(rows * (1 + more)));
    left -= rows * more;
  }
  KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session.run(items));
  // Nothing that befalls one of them keeps the others from their step: its logits are gone then.
  Result<void> result;
  const auto accept = [&](std::size_t i) {
    Result<void> done = accept_item(session, *running[i], items[i], static_cast<Index>(i), output);
    if (!done && result) result = std::move(done);
  };
#if KRAIT_HAS_EXCEPTIONS
  std::exception_ptr thrown;
  for (std::size_t i = 0; i < items.size(); ++i) {
    try {
      accept(i);
    } catch (...) {
      if (!thrown) thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
#else
  for (std::size_t i = 0; i < items.size(); ++i) accept(i);
#endif
  return result;
}

Result<GenerationResult> generate(Session& session, const Tokenizer& tokenizer, Sequence& sequence,
                                  const GenerationOptions& options, GenerationCallback callback,
                                  Progress progress) {
  KRAIT_RETURN_IF_ERROR(validate(options, session.model()));
  KRAIT_ASSIGN_OR_RETURN(
      Generation generation,
      Generation::make(session.model(), tokenizer, std::move(sequence),
                       options.guidance_scale == 1.0 ? options : without_guidance(options)));
  const GiveBack give_back(generation, sequence);
  Runner runner(session);
  KRAIT_RETURN_IF_ERROR(runner.guide(options, generation.sequence().tokens));
  Speculation* const speculation = options.max_tokens > 0 ? options.speculation.get() : nullptr;
  KRAIT_ASSIGN_OR_RETURN(const RunItem prompt, generation.next());
  const Index total =
      options.max_tokens > 0 ? generation.result().prompt_tokens : std::ssize(prompt.tokens);
  Stopwatch watch;
  if (speculation) KRAIT_RETURN_IF_ERROR(speculation->begin(generation.sequence(), options));
  double prompt_seconds = 0.0;
  GenerationEvent last;
  const auto show = [&](const GenerationEvent& event) {
    last = event;
    return callback ? callback(event) : Flow::go_on;
  };
  for (Index done = 0; !generation.is_finished();) {
    const bool is_prompt = done < total;
    if (speculation) {
      const Index room = std::min(session.options().chunk, session.options().max_verify) - 1;
      KRAIT_RETURN_IF_ERROR(speculation->propose(generation, room));
    }
    KRAIT_ASSIGN_OR_RETURN(const RunItem item, generation.next(runner.most()));
    KRAIT_ASSIGN_OR_RETURN(const RunOutput output, runner.run(item));
    done += item.tentative ? 1 : std::ssize(item.tokens);
    if (is_prompt && done >= total) prompt_seconds = watch.lap();
    KRAIT_RETURN_IF_ERROR(accept_item(session, generation, item, 0, output));
    if (speculation) KRAIT_RETURN_IF_ERROR(speculation->observe(generation));
    const auto events = generation.events();
    Flow flow = Flow::go_on;
    if (is_prompt && progress) flow = progress(done, total);
    if (flow == Flow::stop && done < total) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[generate] prompt: stopped after {} of {} tokens", done, total)};
    }
    for (const GenerationEvent& event : events) {
      if (show(event) == Flow::stop) flow = Flow::stop;
    }
    // A text of no tokens ends with its prompt, whatever the answer.
    if (flow == Flow::stop && options.max_tokens > 0) generation.cancel();
  }
  last.text = generation.finish();
  if (!last.text.empty()) show(last);
  GenerationResult result = std::move(generation).result();
  result.prompt_seconds = prompt_seconds;
  if (options.max_tokens > 0) result.decode_seconds = watch.lap();
  return result;
}

}  // namespace v0_1
}  // namespace krait
