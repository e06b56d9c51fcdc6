#pragma once

/// \file
/// Renderer: runs a template.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template/nodes.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

class Frame;
using FramePtr = std::shared_ptr<Frame>;

/// Variables of a scope; a name that is not there is looked for outside.
class Frame {
 public:
  explicit Frame(FramePtr outer) : outer_(std::move(outer)) {}

  void set(std::string_view name, Value value);
  const Value* find(std::string_view name) const noexcept;

 private:
  FramePtr outer_;
  std::vector<std::pair<std::string_view, Value>> values_;
};

/// The variable `loop`, and what the loop goes through.
class Loop {
 public:
  using Test = std::function<bool(const Value&)>;

  Loop(std::vector<Value> items, Test test, int depth)
      : items_(std::move(items)),
        test_(std::move(test)),
        depth_(depth),
        containers_(container_depth(items_)) {}

  /// The next item that passes the test, or null.
  const Value* next();
  /// Nothing is tested any more: the loop is over.
  void finish() {
    test_ = nullptr;
    recursive = nullptr;
    frame = nullptr;
    changed.clear();  // which may have come to hold this loop, or others in a chain
  }

  /// An attribute; an undefined value for one that loops lack.
  Value attribute(Renderer& renderer, const Value& self, std::string_view name);
  std::int64_t index() const noexcept { return static_cast<std::int64_t>(seen_) - 1; }
  int depth() const noexcept { return depth_; }
  /// How deep a container the loop is.
  std::uint32_t containers() const noexcept { return containers_; }

  std::vector<Value> changed = {};  ///< what loop.changed saw last
  bool has_changed = false;
  const Statement* recursive = nullptr;  ///< of a loop that can be called
  FramePtr frame = {};

 private:
  bool fetch(std::size_t count);

  std::vector<Value> items_;  // in front of `tested_` those that passed, behind it all others
  Test test_;
  std::size_t passed_ = 0;  // items that passed, moved to the front
  std::size_t tested_ = 0;
  std::size_t seen_ = 0;
  int depth_;
  std::uint32_t containers_;
};

/// One rendering.
class Renderer {
 public:
  explicit Renderer(Budget& budget) : budget_(budget), frame_(std::make_shared<Frame>(nullptr)) {}
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;
  ~Renderer();

  /// Sets a variable of whoever renders.
  void set(std::string_view name, Value value) { frame_->set(name, std::move(value)); }
  String render(const Block& block);

  Budget& budget() noexcept { return budget_; }
  std::size_t line() const noexcept { return line_; }

  Value call(const Value& function, const Arguments& arguments);
  /// object.name and object[key], as templates write them.
  Value attribute(const Value& object, std::string_view name);
  Value subscript(const Value& object, const Value& key);
  /// A part as attribute='a.b.0' of filters has it.
  /// `fallback`, if there is one, takes the place of what is not there, also on the way.
  Value path(const Value& object, const Value& attribute, const Value* fallback = nullptr);
  /// A filter or test by its name, as `map` and `select` have it.
  Value apply(bool is_test, const Value& subject, const Value& name, const Arguments& arguments);

  Value binary(std::string_view sign, const Value& a, const Value& b);
  NamespacePtr make_namespace();
  /// Runs a recursive loop one level deeper.
  Value loop_again(Loop& loop, const Value& iterable);

 private:
  enum class Flow { go_on, break_loop, continue_loop };
  class Scope;
  class Level;

  Value evaluate(const Expression& expression);
  Value evaluate_any(const Expression& expression);
  Value variable(const Expression& expression);
  Value slice(const Expression& expression);
  Value comparison(const Expression& expression);
  Value evaluate_call(const Expression& expression, const Value* caller);
  Value evaluate_filter(const Expression& expression, const Value* subject);
  Value evaluate_dict(const Expression& expression);
  Value unary(const Expression& expression);
  Value concatenation(const Expression& expression);
  std::vector<Value> evaluate_parts(const Expression& expression);
  Arguments evaluate_arguments(const WrittenArguments& written);

  Flow run(const Block& block, TextBuilder& out);
  Flow run(const Statement& statement, TextBuilder& out);
  Flow run_condition(const Statement& statement, TextBuilder& out);
  void run_loop(const Statement& statement, const Value& iterable, int depth, TextBuilder& out);
  Flow run_scope(const Statement& statement, TextBuilder& out);
  void run_assign_text(const Statement& statement);
  void run_call(const Statement& statement, TextBuilder& out);
  String run_to_text(const Block& block);
  Value filtered(const Expression* filters, Value subject);
  void assign(const Expression& target, const Value& value);
  Value make_macro(const MacroNode& node);
  Value call_macro(const Callable& macro, const Arguments& arguments);
  void bind_parameters(const MacroNode& macro, const Arguments& arguments, Frame& frame);

  Budget& budget_;
  FramePtr frame_;
  int depth_ = 0;
  std::size_t line_ = 1;
  std::vector<FramePtr> kept_;            // frames that macros refer to
  std::vector<NamespacePtr> namespaces_;  // which can hold each other
};

/// The value of a method or attribute of an object; nothing for one that it lacks.
std::optional<Value> find_method(Renderer& renderer, const Value& object, std::string_view name);
/// range, namespace, …; null for a name that is none.
Callable::Function find_function(std::string_view name) noexcept;
/// The text % values.
Value format_percent(Renderer& renderer, const String& text, const Value& values);
/// str.format.
Value format_braces(Renderer& renderer, const Value& self, const Arguments& arguments);

/// Arguments by position or name.
class Parameters {
 public:
  /// Fails for names that the function lacks, too many arguments, and missing ones of the first
  /// `required`.
  Parameters(std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> names, std::size_t required = 0);

  const Value* operator[](std::size_t i) const noexcept { return values_[i]; }
  bool has(std::size_t i) const noexcept { return values_[i] != nullptr; }
  /// Given and not none.
  bool has_value(std::size_t i) const noexcept { return has(i) && !values_[i]->is_none(); }
  Value value(std::size_t i, Value preset = {}) const {
    return has(i) ? *values_[i] : std::move(preset);
  }
  bool boolean(std::size_t i, bool preset) const { return has(i) ? is_true(*values_[i]) : preset; }
  std::int64_t integer(std::size_t i, std::int64_t preset) const;
  const String& string(std::size_t i) const;

 private:
  std::string function_;
  std::vector<const Value*> values_;
};

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
