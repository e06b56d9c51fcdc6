#include <algorithm>
#include <utility>

#include "text/template/level.hpp"
#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

using StatementKind = Statement::Kind;

void Frame::set(std::string_view name, Value value) {
  for (auto& [known, old] : values_) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  values_.emplace_back(name, std::move(value));
}

const Value* Frame::find(std::string_view name) const noexcept {
  for (const Frame* frame = this; frame != nullptr; frame = frame->outer_.get()) {
    for (const auto& [known, value] : frame->values_) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

Renderer::~Renderer() {
  // Namespaces and frames may hold each other.
  for (const NamespacePtr& space : namespaces_) {
    for (auto& [name, value] : space->items) value = None();
  }
}

NamespacePtr Renderer::make_namespace() {
  budget_.allocate(sizeof(Namespace));
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

String Renderer::render(const Block& block) { return run_to_text(block); }

String Renderer::run_to_text(const Block& block) {
  TextBuilder out(budget_);
  run(block, out);
  return out.take();
}

Renderer::Flow Renderer::run(const Block& block, TextBuilder& out) {
  for (const Statement& statement : block) {
    const Flow flow = run(statement, out);
    if (flow != Flow::go_on) return flow;
  }
  return Flow::go_on;
}

Renderer::Flow Renderer::run(const Statement& statement, TextBuilder& out) {
  const Level level(*this);
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::text:
      out.append(statement.text);
      break;
    case StatementKind::output:
      append_text(out, evaluate(*statement.expressions[0]));
      break;
    case StatementKind::condition:
      return run_condition(statement, out);
    case StatementKind::loop: {
      // Only the outermost run of a recursive loop is one that was not asked for by it.
      const Value iterable = evaluate(*statement.expressions[1]);
      run_loop(statement, iterable, 0, out);
      break;
    }
    case StatementKind::assign:
      assign(*statement.expressions[0], evaluate(*statement.expressions[1]));
      break;
    case StatementKind::assign_text:
      run_assign_text(statement);
      break;
    case StatementKind::macro:
      frame_->set(statement.macro->name, make_macro(*statement.macro));
      break;
    case StatementKind::call:
      run_call(statement, out);
      break;
    case StatementKind::filter: {
      Value text;
      {
        const Scope scope(*this, frame_);
        text = make_string(run_to_text(statement.blocks[0]));
      }
      append_text(out, filtered(statement.expressions[0].get(), std::move(text)));
      break;
    }
    case StatementKind::generation:
    case StatementKind::scope:
      return run_scope(statement, out);
    case StatementKind::break_loop:
      return Flow::break_loop;
    case StatementKind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::go_on;
}

Renderer::Flow Renderer::run_condition(const Statement& statement, TextBuilder& out) {
  for (std::size_t i = 0; i < statement.expressions.size(); ++i) {
    if (is_true(evaluate(*statement.expressions[i]))) return run(statement.blocks[i], out);
  }
  const bool has_else = statement.blocks.size() > statement.expressions.size();
  return has_else ? run(statement.blocks.back(), out) : Flow::go_on;
}

void Renderer::run_loop(const Statement& statement, const Value& iterable, int depth,
                        TextBuilder& out) {
  const Expression& target = *statement.expressions[0];
  const Expression* const condition = statement.expressions[2].get();
  const FramePtr outer = frame_;
  Loop::Test test;
  if (condition != nullptr) {
    test = [this, &target, condition, outer](const Value& item) {
      const Scope scope(*this, outer);
      assign(target, item);
      return is_true(evaluate(*condition));
    };
  }
  const auto loop = std::make_shared<Loop>(elements(budget_, iterable), std::move(test), depth);
  struct Finish {
    Loop& loop;
    ~Finish() { loop.finish(); }
  } const finish{*loop};
  if (statement.is_recursive) {
    loop->recursive = &statement;
    loop->frame = outer;
  }
  // As Jinja has it: `break` and `continue` leave a body before it counts as run.
  bool has_run = false;
  while (const Value* next = loop->next()) {
    budget_.step();
    const Value item = *next;
    const Scope scope(*this, outer);
    frame_->set("loop", loop);
    assign(target, item);
    const Flow flow = run(statement.blocks[0], out);
    if (flow == Flow::break_loop) break;
    has_run = has_run || flow == Flow::go_on;
  }
  if (!has_run && statement.blocks.size() > 1) {
    const Scope scope(*this, outer);
    run(statement.blocks[1], out);
  }
}

Value Renderer::loop_again(Loop& loop, const Value& iterable) {
  const Level level(*this);
  if (loop.recursive == nullptr) {
    fail("loop", "a recursive loop that is running", "the call of another");
  }
  const Statement& statement = *loop.recursive;
  TextBuilder out(budget_);
  const FramePtr before = std::exchange(frame_, loop.frame);
  struct Restore {
    FramePtr& frame;
    const FramePtr& before;
    ~Restore() { frame = before; }
  } const restore{frame_, before};
  run_loop(statement, iterable, loop.depth() + 1, out);
  return make_string(out.take());
}

Renderer::Flow Renderer::run_scope(const Statement& statement, TextBuilder& out) {
  // Values of `with` are those outside of it.
  std::vector<Value> values;
  for (std::size_t i = 1; i < statement.expressions.size(); i += 2) {
    values.push_back(evaluate(*statement.expressions[i]));
  }
  const Scope scope(*this, frame_);
  for (std::size_t i = 0; i < values.size(); ++i) {
    assign(*statement.expressions[2 * i], values[i]);
  }
  return run(statement.blocks[0], out);
}

void Renderer::run_assign_text(const Statement& statement) {
  Value text;
  {
    const Scope scope(*this, frame_);
    text = make_string(run_to_text(statement.blocks[0]));
  }
  assign(*statement.expressions[0], filtered(statement.expressions[1].get(), std::move(text)));
}

// The filters of a block, the innermost of which has no subject of its own.
Value Renderer::filtered(const Expression* filters, Value subject) {
  if (filters == nullptr) return subject;
  const Value inner = filtered(filters->parts[0].get(), std::move(subject));
  return evaluate_filter(*filters, &inner);
}

void Renderer::run_call(const Statement& statement, TextBuilder& out) {
  const Value caller = make_macro(*statement.macro);
  append_text(out, evaluate_call(*statement.expressions[0], &caller));
}

void Renderer::assign(const Expression& target, const Value& value) {
  if (target.kind == Expression::Kind::name) {
    frame_->set(target.name, value);
    return;
  }
  if (target.kind == Expression::Kind::attribute) {
    const Value* holder = frame_->find(target.parts[0]->name);
    const auto* space = holder == nullptr ? nullptr : holder->get<NamespacePtr>();
    if (space == nullptr) {
      fail("assignment", "a namespace in front of '." + target.name + "'",
           holder == nullptr ? "an undefined name" : "a '" + std::string(type_name(*holder)) + "'");
    }
    if (target.name.starts_with('_')) {
      fail("assignment", "a name without an underscore in front", "'" + target.name + "'");
    }
    for (auto& [name, old] : (*space)->items) {
      if (name != target.name) continue;
      old = value;
      return;
    }
    (*space)->items.emplace_back(target.name, value);
    return;
  }
  const std::vector<Value> items = elements(budget_, value);
  if (items.size() != target.parts.size()) {
    fail("assignment", std::to_string(target.parts.size()) + " values",
         std::to_string(items.size()));
  }
  for (std::size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i]);
}

Value Renderer::make_macro(const MacroNode& node) {
  budget_.allocate(sizeof(Callable));
  kept_.push_back(frame_);
  Callable macro;
  macro.name = node.name;
  macro.macro = &node;
  macro.frame = frame_;
  return std::make_shared<const Callable>(std::move(macro));
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
