#include "decoding/grammar/recogniser.hpp"

#include <utility>

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

constexpr std::size_t most_visits = 8 * Recogniser::most_readings;
constexpr std::size_t most_moves = 32 * Recogniser::most_readings;  // from all of them

std::size_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t hash = a * 0x9E3779B97F4A7C15U ^ (b + 0x9E3779B97F4A7C15U);
  hash = (hash ^ (hash >> 32U)) * 0xD6E8FEB86659FD93U;
  return static_cast<std::size_t>(hash ^ (hash >> 32U));
}

}  // namespace

std::size_t Recogniser::Hash::operator()(const Visit& visit) const noexcept {
  return mix(visit.point * std::uint64_t{2} + (visit.may_return ? 1 : 0), visit.frame);
}

std::size_t Recogniser::Hash::operator()(const Reading& reading) const noexcept {
  return mix((std::uint64_t{reading.state} << 32U) | reading.count,
             (std::uint64_t{reading.next} << 32U) | reading.frame);
}

std::size_t Recogniser::Hash::operator()(const NewReturn& way) const noexcept {
  return mix((std::uint64_t{way.entered} << 32U) | way.point, way.frame);
}

Recogniser::Recogniser(const Program& program) {
  visits_.insert({program.root(), root_frame, false});
  go_on(program);
  may_end_ = program.accepts_empty_text();
}

bool Recogniser::accept(const Program& program, std::string_view bytes) {
  for (const char byte : bytes) {
    if (readings_.empty()) may_end_ = false;
    if (readings_.empty()) return false;
    step(program, static_cast<unsigned char>(byte));
  }
  if (frames_.size() > collect_at_) collect();
  return !readings_.empty() || may_end_;
}

void Recogniser::begin_at(const Program& program, std::uint32_t point, std::uint32_t frame) {
  first_new_frame_ = frames_.size();
  visits_.insert({point, frame, true});
  go_on(program);
}

void Recogniser::step(const Program& program, unsigned char byte) {
  first_new_frame_ = frames_.size();
  may_end_ = false;
  for (Reading reading : readings_) {
    const Lexeme& lexeme = program.lexeme_of(reading.state);
    const std::uint32_t local = lexeme.dfa.step(reading.state - lexeme.first_state, byte);
    if (local == Dfa::dead) continue;
    reading.state = lexeme.first_state + local;
    bool is_complete = program.state(reading.state).accepts;
    bool goes_on = program.state(reading.state).can_go_on;
    if (lexeme.is_counted && is_complete) {
      const std::uint32_t count = reading.count + 1;
      is_complete = count >= lexeme.least;
      goes_on = count < lexeme.most;
      reading.state = lexeme.first_state;
      // Without an end it matters only whether there are enough.
      reading.count = lexeme.most == unbounded ? std::min(count, lexeme.least) : count;
    }
    if (goes_on && found_.size() < most_readings) found_.insert(reading);
    if (is_complete) visits_.insert({reading.next, reading.frame, true});
  }
  go_on(program);
}

// From points that were reached to lexemes, through rules that begin and rules that end there.
void Recogniser::go_on(const Program& program) {
  std::size_t steps = 0;
  for (std::size_t i = 0; i < visits_.size() && i < most_visits; ++i) {
    const Visit visit = visits_[i];
    for (const Step& step : program.steps(visit.point)) {
      if (++steps > most_moves) break;
      if (!step.is_rule) {
        if (found_.size() == most_readings) break;
        found_.insert({.state = program.lexemes()[step.what].first_state,
                       .next = step.next,
                       .frame = visit.frame});
        continue;
      }
      // A rule at the end of another returns to where that one does: lists do not grow the stack.
      const std::uint32_t frame =
          program.is_end(step.next) ? visit.frame : enter(step.what, step.next, visit.frame);
      visits_.insert({program.entry(step.what), frame, false});
    }
    if (!visit.may_return || !program.may_end(visit.point)) continue;
    if (visit.frame == root_frame) may_end_ = true;
    for (std::uint32_t r = frames_[visit.frame].returns; r != none; r = returns_[r].next) {
      if (++steps > most_moves) break;
      visits_.insert({returns_[r].point, returns_[r].frame, true});
    }
  }
  readings_ = found_.values();
  visits_.clear();
  found_.clear();
  new_returns_.clear();
}

// The frame of a rule that begins here, which returns to `point` in `frame` too.
std::uint32_t Recogniser::enter(std::uint32_t rule, std::uint32_t point, std::uint32_t frame) {
  std::size_t entered = first_new_frame_;
  while (entered < frames_.size() && frames_[entered].rule != rule) ++entered;
  if (entered == frames_.size()) frames_.push_back({.rule = rule});
  const auto number = static_cast<std::uint32_t>(entered);
  if (!new_returns_.insert({number, point, frame})) return number;
  std::uint32_t& first = frames_[entered].returns;
  returns_.push_back({point, frame, first});
  first = static_cast<std::uint32_t>(returns_.size() - 1);
  return number;
}

// Keeps the frames that a reading may return to.
void Recogniser::collect() {
  std::vector<std::uint32_t> number(frames_.size(), none);
  std::vector<std::uint32_t> order = {root_frame};
  number[root_frame] = 0;
  const auto keep = [&](std::uint32_t& frame) {
    if (number[frame] == none) {
      number[frame] = static_cast<std::uint32_t>(order.size());
      order.push_back(frame);
    }
    frame = number[frame];
  };
  for (Reading& reading : readings_) keep(reading.frame);
  std::vector<Frame> frames;
  std::vector<Return> returns;
  for (std::size_t i = 0; i < order.size(); ++i) {
    Frame frame = frames_[order[i]];
    std::uint32_t r = std::exchange(frame.returns, none);
    for (; r != none; r = returns_[r].next) {
      Return kept = returns_[r];
      keep(kept.frame);
      kept.next = frame.returns;
      frame.returns = static_cast<std::uint32_t>(returns.size());
      returns.push_back(kept);
    }
    frames.push_back(frame);
  }
  frames_ = std::move(frames);
  returns_ = std::move(returns);
  collect_at_ = 64 + 2 * frames_.size();
}

std::string Recogniser::forced(const Program& program, std::size_t most) const {
  std::string bytes;
  Recogniser ahead = *this;
  while (bytes.size() < most && !ahead.may_end_ && !ahead.readings_.empty()) {
    const int byte = program.state(ahead.readings_[0].state).only_byte;
    if (byte < 0 || std::ranges::any_of(ahead.readings_, [&](const Reading& reading) {
          return program.state(reading.state).only_byte != byte;
        })) {
      break;
    }
    const char next = static_cast<char>(byte);
    ahead.accept(program, {&next, 1});
    bytes.push_back(next);
  }
  return bytes;
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
