#include "tools/aqlm/moments.hpp"

#include <algorithm>

#include "krait/kernels/product.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

constexpr Index rows_of_moments = 256;

}  // namespace

std::size_t InputMoments::watch(std::string_view path, Site site, Index expert, Index width,
                                bool diagonal) {
  Watched watched;
  watched.path = path;
  watched.site = site;
  watched.expert = expert;
  watched.width = width;
  watched.diagonal = diagonal;
  watched.columns = AlignedBuffer<float>(width * batch);
  watched.sums = AlignedBuffer<double>(diagonal ? width : width * width);
  if (!diagonal && product_.size() < width * width) {
    product_ = AlignedBuffer<float>(width * width);
    workspace_ = AlignedBuffer<float>(rows_of_moments * kernels::product_workspace(batch));
  }
  watched_.push_back(std::move(watched));
  return watched_.size() - 1;
}

void InputMoments::at(const ActivationPlace& place, MatrixView<float> values) noexcept {
  for (Watched& watched : watched_) {
    if (watched.site != place.site || watched.path != place.path) continue;
    if (watched.expert >= 0 && watched.expert != place.expert) continue;
    for (Index t = 0; t < values.rows; ++t) {
      for (Index i = 0; i < watched.width; ++i) {
        watched.columns[i * batch + watched.waiting] = values(t, i);
      }
      if (++watched.waiting == batch) flush(watched);
    }
    watched.rows += values.rows;
  }
}

// Columns that are not filled are zeros.
void InputMoments::flush(Watched& watched) noexcept {
  if (watched.waiting == 0) return;
  const Index width = watched.width;
  const float* columns = watched.columns.data();
  if (watched.diagonal) {
    for (Index i = 0; i < width; ++i) {
      for (Index t = 0; t < batch; ++t) {
        const auto value = static_cast<double>(columns[i * batch + t]);
        watched.sums[i] += value * value;
      }
    }
  } else {
    const MatrixView<const float> X(columns, width, batch);
    const MatrixView<float> XX(product_.data(), width, width);
    for (Index first = 0; first < width; first += rows_of_moments) {
      const Index count = std::min(rows_of_moments, width - first);
      kernels::product({executor_, workspace_.span()}, {columns, DType::f32, width, batch},
                       {.x = X.rows_from(first, count), .y = XX.rows_from(first, count)});
    }
    for (Index i = 0; i < width * width; ++i) {
      watched.sums[i] += static_cast<double>(product_[i]);
    }
  }
  std::fill_n(watched.columns.data(), width * batch, 0.0F);
  watched.waiting = 0;
}

SecondMoments InputMoments::moments(std::size_t i) {
  Watched& watched = watched_[i];
  flush(watched);
  SecondMoments result{watched.width, {}};
  const double n = static_cast<double>(std::max<Index>(1, watched.rows));
  for (Index k = 0; k < watched.sums.size(); ++k) {
    result.values.push_back(static_cast<float>(watched.sums[k] / n));
  }
  return result;
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
