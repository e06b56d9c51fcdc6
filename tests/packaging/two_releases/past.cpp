// A part of the program that was written for the past release: it includes that one's headers.

#include <stdexcept>
#include <string>
#include <vector>

#include "krait/krait.hpp"

// Declared again in present.cpp, in types that releases do not change.
extern "C" int krait_past_sum(int n);
extern "C" const char* krait_past_version();
extern "C" int krait_past_layers(int n);
void krait_past_throw();

// Threads, views and owning tensors.
int krait_past_sum(int n) {
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

const char* krait_past_version() { return krait::version(); }

// A spec, which is plain data with callbacks, variants and strings.
int krait_past_layers(int n) {
  const krait::ModelBuilder builder =
      krait::ModelBuilder{}
          .embedding("embedding", {.vocab = 10, .d_model = 8})
          .repeat(n, [](krait::LayerBuilder& layer) {
            layer.residual("norm", krait::RmsNormSpec{}, "mixer", krait::MambaSpec{});
            layer.residual("norm2", krait::RmsNormSpec{}, "mlp", krait::MlpSpec{});
          });
  const krait::ModelSpec copy = builder.spec();
  return copy == builder.spec() ? static_cast<int>(copy.layers.size()) : -1;
}

void krait_past_throw() {
  const krait::Result<int> result = krait::Error{krait::ErrorCode::not_found, "[past] no file"};
  result.value();
}
