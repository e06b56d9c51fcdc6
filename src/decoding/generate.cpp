#include "krait/decoding/generate.hpp"

#include <chrono>
#include <utility>

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

// The prompt in one go. If its logits are wanted, its end is not reported: generate does that when
// nothing can be lost any more.
Result<std::span<const float>> consume(Session& session, const GenerationStep& step, State& state,
                                       Progress progress) {
  const auto report = [&](Index done, Index total) {
    return done < total || !step.wants_logits ? progress(done, total) : Flow::go_on;
  };
  return session.prefill(step.tokens, state, progress ? Progress(report) : Progress());
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

Result<GenerationResult> generate(Session& session, const Tokenizer& tokenizer, Sequence& sequence,
                                  const GenerationOptions& options, GenerationCallback callback,
                                  Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(Generation generation, Generation::make(session.model(), tokenizer,
                                                                 std::move(sequence), options));
  const GiveBack give_back(generation, sequence);
  const Index prompt_tokens = std::as_const(generation).result().prompt_tokens;
  Stopwatch watch;
  double prompt_seconds = 0.0;
  GenerationEvent last;
  const auto show = [&](const GenerationEvent& event) {
    last = event;
    return callback ? callback(event) : Flow::go_on;
  };
  for (bool is_prompt = true; !generation.is_finished(); is_prompt = false) {
    const GenerationStep step = generation.next();
    KRAIT_ASSIGN_OR_RETURN(const std::span<const float> logits,
                           is_prompt ? consume(session, step, generation.state(), progress)
                                     : session.step(step.tokens.front(), generation.state()));
    if (is_prompt) prompt_seconds = watch.lap();
    KRAIT_ASSIGN_OR_RETURN(const auto event, generation.accept(logits));
    Flow flow = Flow::go_on;
    if (is_prompt && step.wants_logits && progress) flow = progress(prompt_tokens, prompt_tokens);
    if (event && show(*event) == Flow::stop) flow = Flow::stop;
    if (flow == Flow::stop) generation.cancel();
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
