#include "tools/aqlm/tuned_matrix.hpp"

#include <algorithm>

#include "tools/aqlm/fit.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

std::vector<float> floats(const std::vector<f16>& stored) {
  std::vector<float> values(stored.size());
  std::ranges::transform(stored, values.begin(), [](f16 value) { return to_float(value); });
  return values;
}

std::vector<f16> halves(const std::vector<float>& values) {
  std::vector<f16> stored(values.size());
  std::ranges::transform(values, stored.begin(), to_f16);
  return stored;
}

}  // namespace

TunedMatrix::TunedMatrix(const AqlmMatrix& matrix)
    : scheme_(matrix.scheme),
      out_(matrix.out),
      in_(matrix.in),
      codes_(matrix.codes),
      codebooks_(floats(matrix.codebooks),
                 static_cast<std::size_t>(scheme_.codewords() * scheme_.in_group)),
      scales_(floats(matrix.scales), 1) {
  std::vector<float> weights(static_cast<std::size_t>(out_ * in_));
  decode(weights.data());
  beyond_ = Adam(std::vector<float>(weights.size()),
                 root_mean_squares(weights, static_cast<std::size_t>(in_)));
}

void TunedMatrix::unscaled(Index row, std::vector<float>& sums) const {
  const Index g = scheme_.in_group;
  const std::uint16_t* codes = codes_.data() + row * (in_ / g) * scheme_.codebooks;
  std::ranges::fill(sums, 0.0F);
  for (Index j = 0; j < in_ / g; ++j) {
    float* sum = sums.data() + j * g;
    for (Index m = 0; m < scheme_.codebooks; ++m, ++codes) {
      const float* codeword = codebooks_.values().data() + (m * scheme_.codewords() + *codes) * g;
      for (Index d = 0; d < g; ++d) sum[d] += codeword[d];
    }
  }
}

void TunedMatrix::decode(float* weights) const {
  std::vector<float> sums(static_cast<std::size_t>(in_));
  for (Index i = 0; i < out_; ++i) {
    unscaled(i, sums);
    const float scale = scales_.values()[static_cast<std::size_t>(i)];
    for (Index k = 0; k < in_; ++k) {
      weights[i * in_ + k] = sums[static_cast<std::size_t>(k)] * scale;
    }
  }
}

void TunedMatrix::move(const float* gradient, const TuneRates& rates, AdamStep step) {
  const Index g = scheme_.in_group;
  std::vector<double> of_codebooks(codebooks_.values().size());
  std::vector<float> of_scales;
  std::vector<float> sums(static_cast<std::size_t>(in_));
  const std::uint16_t* codes = codes_.data();
  for (Index i = 0; i < out_; ++i) {
    unscaled(i, sums);
    const float* row = gradient + i * in_;
    const auto scale = static_cast<double>(scales_.values()[static_cast<std::size_t>(i)]);
    double of_scale = 0.0;
    for (Index k = 0; k < in_; ++k) {
      of_scale +=
          static_cast<double>(row[k]) * static_cast<double>(sums[static_cast<std::size_t>(k)]);
    }
    of_scales.push_back(static_cast<float>(of_scale));
    for (Index j = 0; j < in_ / g; ++j) {
      for (Index m = 0; m < scheme_.codebooks; ++m, ++codes) {
        double* codeword = of_codebooks.data() + (m * scheme_.codewords() + *codes) * g;
        for (Index d = 0; d < g; ++d) codeword[d] += scale * static_cast<double>(row[j * g + d]);
      }
    }
  }
  const double rate = step.rate;
  step.rate = rate * rates.codebooks;
  codebooks_.move(std::vector<float>(of_codebooks.begin(), of_codebooks.end()), step);
  scales_.move(of_scales, step);
  step.rate = rate * rates.weights;
  beyond_.move({gradient, static_cast<std::size_t>(out_ * in_)}, step);
}

void TunedMatrix::encode(Index beam, Executor& executor) {
  const Metric metric({}, in_);  // all weights count the same
  AlignedBuffer<float> weights(out_ * in_);
  decode(weights.data());
  for (Index i = 0; i < out_ * in_; ++i)
    weights[i] += beyond_.values()[static_cast<std::size_t>(i)];
  Fit fit;
  fit.scheme = scheme_;
  fit.W = {weights.data(), out_, in_};
  fit.H = &metric;
  fit.executor = &executor;
  fit.codes = std::move(codes_);
  fit.codebooks = codebooks_.values();
  fit.scales = scales_.values();
  fit.error = AlignedBuffer<float>(out_ * in_);
  update_error(fit);
  // Groups do not depend on each other here, so that one sweep is enough, in any order.
  improve_codes(fit, beam, 0, 0);
  codes_ = std::move(fit.codes);
  beyond_.set(fit.error.span());
}

AqlmMatrix TunedMatrix::stored() const {
  AqlmMatrix matrix;
  matrix.scheme = scheme_;
  matrix.out = out_;
  matrix.in = in_;
  matrix.codes = codes_;
  matrix.codebooks = halves(codebooks_.values());
  matrix.scales = halves(scales_.values());
  return matrix;
}

void TunedMatrix::append_to(std::vector<NamedTensor>& tensors, const std::string& name) const {
  tensors.push_back({name + ".codes", {codes_.data(), DType::i16, {std::ssize(codes_)}}});
  codebooks_.append_to(tensors, name + ".codebooks");
  scales_.append_to(tensors, name + ".scales");
  beyond_.append_to(tensors, name + ".beyond");
}

bool TunedMatrix::restore(const WeightStore& store, const std::string& name) {
  return copy_tensor(store, name + ".codes", DType::i16,
                     std::as_writable_bytes(std::span(codes_))) &&
         codebooks_.restore(store, name + ".codebooks") &&
         scales_.restore(store, name + ".scales") && beyond_.restore(store, name + ".beyond");
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
