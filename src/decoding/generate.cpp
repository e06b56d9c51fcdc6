#include "krait/decoding/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

namespace krait {
inline namespace v0_1 {
namespace {

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

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

// Keeps of tentative items what was accepted, whatever happens to the others.
class Keeping {
 public:
  Keeping(Session& session, std::span<const RunItem> items, std::span<Generation* const> texts)
      : session_(session), items_(items), texts_(texts) {}
  ~Keeping() { static_cast<void>(finish()); }
  Keeping(const Keeping&) = delete;
  Keeping& operator=(const Keeping&) = delete;

  Result<void> finish() {
    Result<void> result;
    for (; next_ < items_.size(); ++next_) {
      if (!items_[next_].tentative) continue;
      Generation& text = *texts_[next_];
      auto kept = session_.keep(text.kept(), text.state(), static_cast<Index>(next_));
      if (!kept && result) result = std::move(kept);
    }
    return result;
  }

 private:
  Session& session_;
  std::span<const RunItem> items_;
  std::span<Generation* const> texts_;
  std::size_t next_ = 0;
};

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
    left -= item.tentative ? std::ssize(item.tokens) : 1;
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].tentative) continue;
    const Index more = std::clamp<Index>(left, 0, std::ssize(items[i].tokens) - 1);
    KRAIT_ASSIGN_OR_RETURN(items[i], running[i]->next(1 + more));
    left -= more;
  }
  KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session.run(items));
  Keeping keeping(session, items, running);
  for (std::size_t i = 0; i < items.size(); ++i) {
    KRAIT_RETURN_IF_ERROR(running[i]->accept(output.logits(static_cast<Index>(i))));
  }
  return keeping.finish();
}

Result<GenerationResult> generate(Session& session, const Tokenizer& tokenizer, Sequence& sequence,
                                  const GenerationOptions& options, GenerationCallback callback,
                                  Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(Generation generation, Generation::make(session.model(), tokenizer,
                                                                 std::move(sequence), options));
  const GiveBack give_back(generation, sequence);
  KRAIT_ASSIGN_OR_RETURN(const RunItem prompt, generation.next());
  const Index total = std::ssize(prompt.tokens);
  Stopwatch watch;
  double prompt_seconds = 0.0;
  GenerationEvent last;
  const auto show = [&](const GenerationEvent& event) {
    last = event;
    return callback ? callback(event) : Flow::go_on;
  };
  for (Index done = 0; !generation.is_finished();) {
    const bool is_prompt = done < total;
    KRAIT_ASSIGN_OR_RETURN(const RunItem item, generation.next(session.options().chunk));
    KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session.run({&item, 1}));
    done += std::ssize(item.tokens);
    if (is_prompt && done == total) prompt_seconds = watch.lap();
    KRAIT_ASSIGN_OR_RETURN(const auto events, generation.accept(output.logits(0)));
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
