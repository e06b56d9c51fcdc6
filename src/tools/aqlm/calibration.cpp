#include "tools/aqlm/calibration.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "krait/kernels/product.hpp"
#include "krait/weights/overlay.hpp"
#include "tools/aqlm/moments.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// Tokens that both models run through at a time, so that their activations are held for these only.
constexpr Index tokens_at_once = 1024;

SessionOptions few_sequences(ActivationHook* hook = nullptr) {
  return {.max_batch = 1, .max_verify = 0, .max_verify_batch = 0, .hook = hook};
}

// Keeps the rows at some places, and shows them to another hook.
class Recorder final : public ActivationHook {
 public:
  explicit Recorder(InputMoments* moments = nullptr) : moments_(moments) {}

  void watch(const std::string& path, Site site, Index width) {
    for (const Kept& kept : kept_) {
      if (kept.path == path && kept.site == site) return;
    }
    kept_.push_back({path, site, 0, width, AlignedBuffer<float>(tokens_at_once * width)});
  }
  void clear() noexcept {
    for (Kept& kept : kept_) kept.rows = 0;
  }
  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    if (moments_ != nullptr) moments_->at(place, values);
    for (Kept& kept : kept_) {
      if (kept.site != place.site || kept.path != place.path) continue;
      for (Index t = 0; t < values.rows; ++t, ++kept.rows) {
        std::copy_n(values.row_data(t), kept.width, kept.values.data() + kept.rows * kept.width);
      }
    }
  }
  MatrixView<float> rows(const std::string& path, Site site) noexcept {
    for (Kept& kept : kept_) {
      if (kept.path == path && kept.site == site)
        return {kept.values.data(), kept.rows, kept.width};
    }
    return {};
  }

 private:
  struct Kept {
    std::string path;
    Site site;
    Index rows;
    Index width;
    AlignedBuffer<float> values;
  };
  std::vector<Kept> kept_;
  InputMoments* moments_;
};

// sums [a.cols, b.cols] += Σ a bᵀ over the rows, in f32 for a batch of rows and in double beyond.
void add_products(Executor& executor, MatrixView<const float> a, MatrixView<const float> b,
                  std::vector<double>& sums) {
  constexpr Index batch = 128;
  AlignedBuffer<float> A(a.cols * batch);
  AlignedBuffer<float> B(b.cols * batch);
  AlignedBuffer<float> product(a.cols * b.cols);
  AlignedBuffer<float> workspace(a.cols * kernels::product_workspace(batch));
  for (Index first = 0; first < a.rows; first += batch) {
    const Index count = std::min(batch, a.rows - first);
    const auto transpose = [&](MatrixView<const float> from, AlignedBuffer<float>& to) {
      std::fill_n(to.data(), to.size(), 0.0F);
      for (Index t = 0; t < count; ++t) {
        for (Index i = 0; i < from.cols; ++i) to[i * batch + t] = from(first + t, i);
      }
    };
    transpose(a, A);
    transpose(b, B);
    kernels::product({executor, workspace.span()}, {B.data(), DType::f32, b.cols, batch},
                     {.x = {A.data(), a.cols, batch}, .y = {product.data(), a.cols, b.cols}});
    for (Index i = 0; i < product.size(); ++i) {
      sums[static_cast<std::size_t>(i)] += static_cast<double>(product[i]);
    }
  }
}

// to += factor · what
void add(MatrixView<float> to, MatrixView<const float> what, float factor = 1.0F) {
  for (Index t = 0; t < to.rows; ++t) {
    for (Index i = 0; i < to.cols; ++i) to(t, i) += factor * what(t, i);
  }
}

void subtract(MatrixView<float> from, MatrixView<const float> what) { add(from, what, -1.0F); }

// A block of a layer, and what its output counts in the stream: 0 where it goes to the block behind
// it instead.
struct LayerBlock {
  std::string path;
  float scale = 1.0F;
};

// Both models in one layer, at the places of some matrices.
class Comparison {
 public:
  Comparison(Executor& executor, const std::vector<MatrixPlace>& places,
             std::vector<LayerBlock> blocks, Index d_model, bool diagonal)
      : of_quantised(&moments_),
        executor_(executor),
        places_(places),
        blocks_(std::move(blocks)),
        moments_(executor),
        result_(places.size()) {
    // Many wide experts have too many second moments: then what all of them see goes for each.
    constexpr Index most_moments = Index{128} << 20;
    Index wanted = 0;
    for (const MatrixPlace& place : places) wanted += diagonal ? place.in : place.in * place.in;
    std::map<std::tuple<std::string, Site, Index>, std::size_t> known;
    for (const MatrixPlace& place : places) {
      const Index expert = wanted > most_moments ? -1 : place.expert;
      const auto [at, is_new] = known.try_emplace({place.path, place.input, expert}, 0);
      if (is_new) at->second = moments_.watch(place.path, place.input, expert, place.in, diagonal);
      numbers_.push_back(at->second);
    }
    for (std::size_t i = 0; i < places.size() && !diagonal; ++i) {
      const MatrixPlace& place = places[i];
      if (place.expert >= 0) continue;  // experts see other tokens in the two models
      result_[i].is_of_outputs = place.makes_output;
      result_[i].difference_rows = place.makes_output ? d_model : place.in;
      result_[i].difference.assign(static_cast<std::size_t>(result_[i].difference_rows * place.in),
                                   0.0);
      watch(place.path, place.input, place.in);
    }
    if (diagonal) return;
    for (const LayerBlock& block : blocks_) watch(block.path, Site::output, d_model);
  }

  Recorder of_original;
  Recorder of_quantised;

  // Before both models run through some tokens.
  void begin() noexcept {
    of_original.clear();
    of_quantised.clear();
  }
  // After it; `difference` has that of the streams in front of the layer, and becomes that behind
  // its blocks.
  void add(MatrixView<float> difference) {
    for (const LayerBlock& block : blocks_) {
      const MatrixView<float> original = of_original.rows(block.path, Site::output);
      const MatrixView<float> quantised = of_quantised.rows(block.path, Site::output);
      aqlm::add(difference, original, block.scale);
      aqlm::add(difference, quantised, -block.scale);
      for (std::size_t i = 0; i < places_.size(); ++i) {
        std::vector<double>& sums = result_[i].difference;
        if (places_[i].path != block.path || sums.empty()) continue;
        const MatrixView<float> seen = of_quantised.rows(block.path, places_[i].input);
        if (places_[i].makes_output && block.scale == 1.0F) {
          add_products(executor_, difference, seen, sums);
          continue;
        }
        // What the output has to change by: for all that the stream lacks, or for itself alone.
        const bool is_for_stream = places_[i].makes_output && block.scale != 0.0F;
        MatrixView<float> wanted = of_original.rows(block.path, places_[i].input);
        if (places_[i].makes_output) wanted = is_for_stream ? difference : original;
        AlignedBuffer<float> change(wanted.rows * wanted.cols);
        const MatrixView<float> lost(change.data(), wanted.rows, wanted.cols);
        std::copy_n(wanted.data, change.size(), change.data());
        if (is_for_stream) {
          for (float& value : change.span()) value /= block.scale;
        } else {
          subtract(lost, places_[i].makes_output ? quantised : seen);
        }
        add_products(executor_, lost, seen, sums);
      }
    }
  }

  std::vector<MatrixStatistics> take() {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      result_[i].inputs = moments_.moments(numbers_[i]);
      result_[i].rows = moments_.rows(numbers_[i]);
      for (double& sum : result_[i].difference) sum /= static_cast<double>(result_[i].rows);
    }
    return std::move(result_);
  }

 private:
  void watch(const std::string& path, Site site, Index width) {
    of_original.watch(path, site, width);
    of_quantised.watch(path, site, width);
  }

  Executor& executor_;
  const std::vector<MatrixPlace>& places_;
  std::vector<LayerBlock> blocks_;
  InputMoments moments_;
  std::vector<std::size_t> numbers_;
  std::vector<MatrixStatistics> result_;
};

void add_multiple(double factor, const double* values, Index count, double* to) noexcept {
  for (Index i = 0; i < count; ++i) to[i] += factor * values[i];
}

// The linear algebra is written out so that sums have one order on every machine.

// A [n, n] becomes R, upper triangular, with A = RᵀR. False if A is not positive definite.
bool factorise(Executor& executor, std::vector<double>& A, Index n) {
  for (Index k = 0; k < n; ++k) {
    double* row = A.data() + k * n;
    if (!(row[k] > 0.0)) return false;
    const double root = std::sqrt(row[k]);
    for (Index j = k; j < n; ++j) row[j] /= root;
    const ItemCost cost = ItemCost::of(0, 2 * (n - k));
    parallel_for(executor, n - k - 1, 1, cost, [&](Range range) {
      for (Index i = k + 1 + range.begin; i < k + 1 + range.end; ++i) {
        add_multiple(-row[i], row + i, n - i, A.data() + i * n + i);
      }
    });
  }
  return true;
}

// X [n, m] becomes the solution of RᵀR X = X.
void solve(Executor& executor, const std::vector<double>& R, Index n, std::vector<double>& X,
           Index m) {
  const auto at = [&](Index i, Index k) { return R[static_cast<std::size_t>(i * n + k)]; };
  parallel_for(executor, m, 16, [&](Range columns) {
    const auto row = [&](Index i) { return X.data() + i * m + columns.begin; };
    const auto divide = [&](Index i) {
      for (Index j = 0; j < columns.size(); ++j) row(i)[j] /= at(i, i);
    };
    for (Index i = 0; i < n; ++i) {
      for (Index k = 0; k < i; ++k) add_multiple(-at(k, i), row(k), columns.size(), row(i));
      divide(i);
    }
    for (Index i = n - 1; i >= 0; --i) {
      for (Index k = i + 1; k < n; ++k) add_multiple(-at(i, k), row(k), columns.size(), row(i));
      divide(i);
    }
  });
}

std::vector<double> transposed(const std::vector<double>& A, Index rows, Index cols) {
  std::vector<double> result(A.size());
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < cols; ++c) {
      result[static_cast<std::size_t>(c * rows + r)] = A[static_cast<std::size_t>(r * cols + c)];
    }
  }
  return result;
}

}  // namespace

void MatrixStatistics::correct(Executor& executor, MatrixView<float> W) const {
  if (difference.empty()) return;
  const Index in = W.cols;
  std::vector<double> H(inputs.values.begin(), inputs.values.end());
  double trace = 0.0;
  for (Index i = 0; i < in; ++i) trace += H[static_cast<std::size_t>(i * in + i)];
  // Less of a ridge follows the calibration text to where other text is not: with 16 KiB of it,
  // 0.01 loses on others what 0.1 gains.
  constexpr double ridge = 0.1;
  for (Index i = 0; i < in; ++i) {
    H[static_cast<std::size_t>(i * in + i)] += ridge * trace / static_cast<double>(in);
  }
  if (!factorise(executor, H, in)) return;
  // (H + λI) Mᵀ = Dᵀ, then M by rows.
  std::vector<double> M = transposed(difference, difference_rows, in);
  solve(executor, H, in, M, difference_rows);
  M = transposed(M, in, difference_rows);
  parallel_for(executor, W.rows, 1, [&](Range block) {
    std::vector<double> row(static_cast<std::size_t>(in));
    for (Index r = block.begin; r < block.end; ++r) {
      for (Index i = 0; i < in; ++i)
        row[static_cast<std::size_t>(i)] = static_cast<double>(W(r, i));
      if (is_of_outputs) {
        add_multiple(1.0, M.data() + r * in, in, row.data());
      } else {
        for (Index k = 0; k < in; ++k) {
          add_multiple(static_cast<double>(W(r, k)), M.data() + k * in, in, row.data());
        }
      }
      for (Index i = 0; i < in; ++i) W(r, i) = static_cast<float>(row[static_cast<std::size_t>(i)]);
    }
  });
}

Result<void> Calibration::begin(std::span<const Token> text) {
  if (text.empty()) {
    return Error{ErrorCode::bad_argument, "[aqlm] calibration: expected text, found none"};
  }
  constexpr Index most_floats = Index{32} << 20;
  const Index width = original_.d_model();
  const Index most = std::max<Index>(1, most_floats / width);
  text_ = text.first(static_cast<std::size_t>(std::min<Index>(std::ssize(text), most)));
  reference_ = AlignedBuffer<float>(std::ssize(text_) * width);
  Session session(original_, executor_, few_sequences());
  KRAIT_RETURN_IF_ERROR(session.embed(text_, {reference_.data(), std::ssize(text_), width}));
  stream_ = reference_;
  return {};
}

Result<Model> Calibration::quantised() const {
  return build_model(plan_.config.spec, replaced_ ? *replaced_ : plan_.checkpoint.weights,
                     plan_.config.prefix);
}

Result<std::vector<MatrixStatistics>> Calibration::see(Index layer,
                                                       const std::vector<MatrixPlace>& places,
                                                       bool diagonal) {
  if (!has_text()) return std::vector<MatrixStatistics>(places.size());
  if (places.front().path.empty()) return see_head(places.front(), diagonal);
  const Index width = original_.d_model();
  const ModelSpec& spec = plan_.config.spec;
  std::vector<LayerBlock> blocks;
  for (const ResidualSpec& residual : spec.layers[static_cast<std::size_t>(layer)].residuals) {
    blocks.push_back({fmt::format("{}.{}.{}", spec.layers_name, layer, residual.block_name),
                      residual.aside ? 0.0F : residual.scale});
  }
  Comparison comparison(executor_, places, std::move(blocks), width, diagonal);
  KRAIT_ASSIGN_OR_RETURN(const Model quantised, this->quantised());
  Session original_session(original_, executor_, few_sequences(&comparison.of_original));
  Session quantised_session(quantised, executor_, few_sequences(&comparison.of_quantised));
  State original_state = original_.initial_state();
  State quantised_state = quantised.initial_state();
  AlignedBuffer<float> copy(tokens_at_once * width);
  AlignedBuffer<float> lost(tokens_at_once * width);
  for (Index first = 0; first < std::ssize(text_); first += tokens_at_once) {
    const Index count = std::min(tokens_at_once, std::ssize(text_) - first);
    const MatrixView<float> rows(copy.data(), count, width);
    const auto tokens =
        text_.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    comparison.begin();
    std::copy_n(stream_.data() + first * width, count * width, copy.data());
    KRAIT_RETURN_IF_ERROR(
        quantised_session.run_layers({layer, layer + 1}, rows, quantised_state, tokens));
    if (diagonal) continue;
    std::copy_n(reference_.data() + first * width, count * width, copy.data());
    std::copy_n(copy.data(), count * width, lost.data());
    KRAIT_RETURN_IF_ERROR(
        original_session.run_layers({layer, layer + 1}, rows, original_state, tokens));
    const MatrixView<float> difference(lost.data(), count, width);
    subtract(difference, {stream_.data() + first * width, count, width});
    comparison.add(difference);
  }
  return comparison.take();
}

// Both streams behind the norm in front of the head, which the models share.
std::vector<MatrixStatistics> Calibration::see_head(const MatrixPlace& place, bool diagonal) {
  const Index width = original_.d_model();
  const Norm& norm = original_.parts().final_norm;
  InputMoments moments(executor_);
  const std::size_t number = moments.watch(place.path, place.input, -1, width, diagonal);
  std::vector<MatrixStatistics> result(1);
  std::vector<double>& sums = result.front().difference;
  if (!diagonal) {
    result.front().difference_rows = width;
    sums.assign(static_cast<std::size_t>(width * width), 0.0);
  }
  AlignedBuffer<float> seen(tokens_at_once * width);
  AlignedBuffer<float> lost(tokens_at_once * width);
  for (Index first = 0; first < std::ssize(text_); first += tokens_at_once) {
    const Index count = std::min(tokens_at_once, std::ssize(text_) - first);
    const MatrixView<float> inputs(seen.data(), count, width);
    norm.apply({stream_.data() + first * width, count, width}, inputs);
    moments.at({.site = place.input, .path = place.path}, inputs);
    if (diagonal) continue;
    const MatrixView<float> difference(lost.data(), count, width);
    norm.apply({reference_.data() + first * width, count, width}, difference);
    subtract(difference, inputs);
    add_products(executor_, difference, inputs, sums);
  }
  result.front().inputs = moments.moments(number);
  result.front().rows = moments.rows(number);
  for (double& sum : sums) sum /= static_cast<double>(result.front().rows);
  return result;
}

void Calibration::replace(const std::string& name, const Shape& shape,
                          std::shared_ptr<AlignedBuffer<float>> values) {
  if (!has_text()) return;
  if (!replaced_) replaced_ = plan_.checkpoint.weights;
  const TensorView weight{values->data(), DType::f32, shape};
  replace_matrix(*replaced_, name, "f32", {{"weight", weight}}, values);
}

Result<void> Calibration::advance(Index layer) {
  if (!has_text()) return {};
  const Index width = original_.d_model();
  const auto run = [&](const Model& model, AlignedBuffer<float>& stream) {
    Session session(model, executor_, few_sequences());
    State state = model.initial_state();
    return session.run_layers({layer, layer + 1}, {stream.data(), stream.size() / width, width},
                              state, text_);
  };
  KRAIT_ASSIGN_OR_RETURN(const Model quantised, this->quantised());
  KRAIT_RETURN_IF_ERROR(run(quantised, stream_));
  replaced_.reset();
  return run(original_, reference_);
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
