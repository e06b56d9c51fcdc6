#pragma once

#include <utility>

#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

/// A scope of its own, inside of another.
class Renderer::Scope {
 public:
  Scope(Renderer& renderer, FramePtr outer) : renderer_(renderer) {
    renderer.budget_.allocate(sizeof(Frame));
    FramePtr inner = std::make_shared<Frame>(std::move(outer));
    before_ = std::exchange(renderer.frame_, std::move(inner));
  }
  ~Scope() { renderer_.frame_ = std::move(before_); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  Renderer& renderer_;
  FramePtr before_;
};

/// How deep the rendering is within itself, so that its stack is limited.
class Renderer::Level {
 public:
  explicit Level(Renderer& renderer) : renderer_(renderer) {
    renderer.budget_.step();
    if (renderer.depth_ >= max_levels) {
      throw Failure{ErrorCode::unsupported,
                    "template: expected macros, loops and expressions nested at most 600 deep, "
                    "found more"};
    }
    ++renderer.depth_;
  }
  ~Level() { --renderer_.depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  static constexpr int max_levels = 600;
  Renderer& renderer_;
};

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
