// The program: it includes the present release's headers, and uses a part of itself that was built
// with the past release.

#include <cstdio>
#include <cstring>
#include <exception>

#include "krait/krait.hpp"

extern "C" int krait_past_sum(int n);
extern "C" const char* krait_past_version();
extern "C" int krait_past_layers(int n);
void krait_past_throw();

namespace {

// The same as in past.cpp, by the present release.
int present_sum(int n) {
  krait::ThreadPool pool(2);
  krait::Tensor squares(krait::DType::i32, {n});
  const auto values = squares.as<std::int32_t>();
  krait::parallel_for(pool, n, 1, [&](krait::Range range) {
    for (krait::Index i = range.begin; i < range.end; ++i) {
      values[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * i);
    }
  });
  int sum = 0;
  for (const std::int32_t value : values) sum += value;
  return sum;
}

bool is_told_apart() {
  try {
    krait_past_throw();
  } catch (const krait::Exception&) {
    return false;  // of the present release
  } catch (const std::exception& error) {
    return std::strcmp(error.what(), "[past] no file") == 0;
  }
  return false;
}

}  // namespace

int main() {
  const krait::ModelBuilder builder =
      krait::ModelBuilder{}
          .embedding("embedding", {.vocab = 10, .d_model = 8})
          .repeat(3,
                  [](krait::LayerBuilder& layer) {
                    layer.residual("norm", krait::RmsNormSpec{}, "mixer", krait::MambaSpec{});
                  })
          .final_norm("norm_f", krait::RmsNormSpec{})
          .tied_head();
  const krait::Model model =
      builder.build(krait::random_weights(builder.spec(), 1).value()).value();
  krait::ThreadPool pool(2);
  krait::Session session(model, pool);
  krait::State state = model.initial_state();
  session.step(1, state).value();

  const int past = krait_past_sum(100);
  const int present = present_sum(100);
  std::printf("present %s: %d, %d layers\n", krait::version(), present,
              static_cast<int>(model.spec().layers.size()));
  std::printf("past %s: %d, %d layers\n", krait_past_version(), past, krait_past_layers(5));
  return past == 328350 && present == past && krait_past_layers(5) == 5 && is_told_apart() ? 0 : 1;
}
