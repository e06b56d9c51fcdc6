// A block of the application's own, in a model beside krait's, without rebuilding krait: an
// exponential moving average over time, with a learned decay for every channel.
//
//   h[d] = decay[d] h[d] + (1 - decay[d]) x[d]

#include <cstdio>
#include <memory>

#include "krait/krait.hpp"

namespace {

class Ema final : public krait::Block {
 public:
  static krait::Result<std::unique_ptr<const Block>> bind(const krait::WeightScope& weights,
                                                          krait::Bookings& bookings) {
    auto block = std::make_unique<Ema>();
    KRAIT_ASSIGN_OR_RETURN(block->decay_, weights.get<float>("decay", {bookings.d_model()}));
    block->h_ = bookings.state(weights.path("h"), {bookings.d_model()});
    return std::unique_ptr<const Block>(std::move(block));
  }

  void forward(krait::BlockContext& ctx) const noexcept override {
    for (const krait::SequenceRows& rows : ctx.sequences) {
      const std::span<float> h = rows.slot(h_);  // [d_model]
      for (krait::Index t = rows.first; t < rows.first + rows.count; ++t) {
        const std::span<float> x = ctx.x.row(t);  // [d_model]
        for (std::size_t d = 0; d < h.size(); ++d) {
          x[d] = h[d] = decay_[d] * h[d] + (1.0F - decay_[d]) * x[d];
        }
      }
    }
  }

  std::string description() const override { return "Ema"; }

 private:
  std::span<const float> decay_;  // [d_model]
  krait::StateSlot h_;
};

krait::Result<void> run() {
  using namespace krait;
  const ModelBuilder builder =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 256, .d_model = 64})
          .repeat(2,
                  [](LayerBuilder& layer) {
                    layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{})
                        .residual("norm2", RmsNormSpec{}, "ema", CustomSpec{"Ema", "", Ema::bind});
                  })
          .final_norm("norm_f", RmsNormSpec{})
          .tied_head();
  KRAIT_ASSIGN_OR_RETURN(const WeightStore weights, random_weights(builder.spec(), 7));
  KRAIT_ASSIGN_OR_RETURN(const Model model, builder.build(weights));
  std::printf("%s", model.describe().c_str());

  // A prompt in one run and the same prompt token by token leave the same state.
  SerialExecutor executor;
  Session session(model, executor);
  const std::vector<Token> prompt = {1, 2, 3, 4, 5};
  State whole = model.initial_state();
  State steps = model.initial_state();
  session.prefill(prompt, whole).value();
  for (const Token token : prompt) session.step(token, steps).value();
  std::printf("whole prompt and single steps: %s\n", whole == steps ? "equal" : "different");
  return {};
}

}  // namespace

int main() {
  const krait::Result<void> result = run();
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
