#pragma once

/// \file
/// Recogniser: how a text stands with a grammar.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "decoding/grammar/program.hpp"
#include "decoding/grammar/small_set.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// One reading of the text so far: in which state of which lexeme, and where it leads to.
struct Reading {
  std::uint32_t state = 0;  ///< among those of all lexemes
  std::uint32_t count = 0;  ///< texts of a counted lexeme that are complete
  std::uint32_t next = 0;   ///< the point behind the lexeme
  std::uint32_t frame = 0;  ///< of the rule that the point is in

  friend bool operator==(const Reading&, const Reading&) = default;
};

/// All readings of a text, as a stack with shared parts: a rule that several readings enter at one
/// place has one frame, from which it returns to all of them (Tomita 1986). A value, whose size is
/// that of the rules that are open.
///
/// A grammar may be so ambiguous that readings multiply. Beyond `most_readings` of them, or a
/// multiple of that in steps between two bytes, those found first stand: what is then allowed is
/// less than the grammar allows, and still leads to its end, as every reading does.
class Recogniser {
 public:
  static constexpr std::size_t most_readings = 1000;
  static constexpr std::uint32_t root_frame = 0;

  /// Before the text.
  explicit Recogniser(const Program& program);

  /// The text goes on. Whether any reading is left; if none is, nothing ever follows.
  bool accept(const Program& program, std::string_view bytes);

  /// Whether the text may end here.
  bool may_end() const noexcept { return may_end_; }
  const std::vector<Reading>& readings() const noexcept { return readings_; }

  /// The readings become those that begin at a point in a frame. For a copy that is asked what
  /// would follow: frames are added and none is taken away.
  void begin_at(const Program& program, std::uint32_t point, std::uint32_t frame);

  /// The bytes that any continuation begins with, at most `most`.
  std::string forced(const Program& program, std::size_t most) const;

 private:
  static constexpr std::uint32_t none = 0xFFFFFFFF;

  // Where a frame's rule returns to, as a list.
  struct Return {
    std::uint32_t point, frame, next;
  };
  struct Frame {
    std::uint32_t rule = none;
    std::uint32_t returns = none;
  };

  struct Visit {
    std::uint32_t point, frame;
    bool may_return;  // something of the point's rule has been read

    friend bool operator==(const Visit&, const Visit&) = default;
  };
  // A way back from a frame that a step has made.
  struct NewReturn {
    std::uint32_t entered, point, frame;

    friend bool operator==(const NewReturn&, const NewReturn&) = default;
  };
  struct Hash {
    std::size_t operator()(const Visit& visit) const noexcept;
    std::size_t operator()(const NewReturn& way) const noexcept;
    std::size_t operator()(const Reading& reading) const noexcept;
  };

  void step(const Program& program, unsigned char byte);
  void go_on(const Program& program);
  std::uint32_t enter(std::uint32_t rule, std::uint32_t point, std::uint32_t frame);
  void collect();

  std::vector<Frame> frames_ = {{}};
  std::vector<Return> returns_;
  std::vector<Reading> readings_;
  bool may_end_ = false;
  std::size_t collect_at_ = 64;

  // Of one step; empty between steps, so that copies are small.
  SmallSet<Visit, Hash> visits_;
  SmallSet<Reading, Hash> found_;
  SmallSet<NewReturn, Hash> new_returns_;
  std::size_t first_new_frame_ = 0;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
