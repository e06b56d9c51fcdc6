#include "krait/kernels/norm.hpp"
#include "training/blocks.hpp"
#include "training/products.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

// linear(mlp(norm(attention(x)))) of rows x [T, 2 d_model].
class SharedTransformerGradient final : public BlockGradient {
 public:
  SharedTransformerGradient(const SharedTransformerSpec& spec, Index d_model)
      : spec_(spec),
        d_model_(d_model),
        attention_(inner_gradient(spec.attention, d_model, 2 * d_model)),
        mlp_(inner_gradient(spec.mlp, d_model)) {}

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    const Workspace::Frame frame(work.memory);
    const Index T = args.x.rows;
    const ParameterScope attention = weights.scope(spec_.attention_name);
    const ParameterScope norm = weights.scope(spec_.norm_name);
    const ParameterScope mlp = weights.scope(spec_.mlp_name);
    // The forward pass again.
    const auto attended = work.memory.matrix(T, d_model_);
    const auto normed = work.memory.matrix(T, d_model_);
    const auto mixed = work.memory.matrix(T, d_model_);
    attention_->forward(work, attention, args.x, attended);
    kernels::rms_norm(
        {.x = attended, .weight = norm.value("weight"), .eps = spec_.norm.eps, .y = normed});
    mlp_->forward(work, mlp, normed, mixed);
    // The backward pass.
    const auto d = work.memory.matrix(T, d_model_);
    linear_backward(work, weights.beside(spec_.linear_name), d_model_, d_model_, mixed, args.dy, d);
    mlp_->backward(work, mlp, {.x = normed, .dy = d, .dx = d});
    norm_backward(work, spec_.norm, norm, attended, d, d);
    attention_->backward(work, attention, {.x = args.x, .dy = d, .dx = args.dx});
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    for (int i = 0; i < 3; ++i) room.matrix(T, d_model_);
    room.peak(attention_->forward_memory(size));
    room.peak(mlp_->forward_memory(size));
    room.matrix(T, d_model_);
    room.linear_backward(d_model_, d_model_, T, {});
    room.peak(mlp_->memory(size));
    room.norm_backward(T, d_model_);
    room.peak(attention_->memory(size));
    return room.most();
  }

 private:
  SharedTransformerSpec spec_;
  Index d_model_;
  std::unique_ptr<const InnerGradient> attention_;
  std::unique_ptr<const InnerGradient> mlp_;
};

}  // namespace

std::unique_ptr<const BlockGradient> gradient_of(const SharedTransformerSpec& spec, Index d_model) {
  return std::make_unique<SharedTransformerGradient>(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
