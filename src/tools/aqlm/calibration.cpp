#include "tools/aqlm/calibration.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

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

void subtract(MatrixView<float> from, MatrixView<const float> what) {
  for (Index t = 0; t < from.rows; ++t) {
    for (Index i = 0; i < from.cols; ++i) from(t, i) -= what(t, i);
  }
}

void add(MatrixView<float> to, MatrixView<const float> what) {
  for (Index t = 0; t < to.rows; ++t) {
    for (Index i = 0; i < to.cols; ++i) to(t, i) += what(t, i);
  }
}

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

Result<void> Calibration::begin(const Tokenizer& tokenizer, std::string_view text) {
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenizer.encode(text));
  if (tokens.empty()) {
    return Error{ErrorCode::bad_argument, "[aqlm] calibration: expected text, found none"};
  }
  constexpr Index most_floats = Index{32} << 20;
  const Index width = original_.d_model();
  const Index most = std::max<Index>(1, most_floats / width);
  tokens.resize(static_cast<std::size_t>(std::min<Index>(std::ssize(tokens), most)));
  reference_ = AlignedBuffer<float>(std::ssize(tokens) * width);
  Session session(original_, executor_, few_sequences());
  KRAIT_RETURN_IF_ERROR(session.embed(tokens, {reference_.data(), std::ssize(tokens), width}));
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
  std::vector<MatrixStatistics> result(places.size());
  if (!has_text()) return result;
  const Index width = original_.d_model();
  InputMoments moments(executor_);
  Recorder of_original;
  Recorder of_quantised(&moments);
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const MatrixPlace& place = places[i];
    std::size_t same = 0;
    while (same < i && !(places[same].path == place.path && places[same].input == place.input &&
                         places[same].expert == place.expert)) {
      ++same;
    }
    numbers.push_back(
        same < i ? numbers[same]
                 : moments.watch(place.path, place.input, place.expert, place.in, diagonal));
    // Experts see other tokens in the two models.
    if (diagonal || place.expert >= 0) continue;
    result[i].is_of_outputs = place.makes_output;
    result[i].difference_rows = place.makes_output ? width : place.in;
    result[i].difference.assign(static_cast<std::size_t>(result[i].difference_rows * place.in),
                                0.0);
    for (Recorder* recorder : {&of_original, &of_quantised}) {
      recorder->watch(place.path, place.input, place.in);
    }
  }
  // The blocks of the layer in order, for what the stream is behind each.
  std::vector<std::string> blocks;
  for (const ResidualSpec& residual :
       plan_.config.spec.layers[static_cast<std::size_t>(layer)].residuals) {
    blocks.push_back(
        fmt::format("{}.{}.{}", plan_.config.spec.layers_name, layer, residual.block_name));
    for (Recorder* recorder : {&of_original, &of_quantised}) {
      recorder->watch(blocks.back(), Site::output, width);
    }
  }
  KRAIT_ASSIGN_OR_RETURN(const Model quantised, this->quantised());
  Session original_session(original_, executor_, few_sequences(&of_original));
  Session quantised_session(quantised, executor_, few_sequences(&of_quantised));
  State original_state = original_.initial_state();
  State quantised_state = quantised.initial_state();
  const Index tokens = stream_.size() / width;
  AlignedBuffer<float> copy(tokens_at_once * width);
  AlignedBuffer<float> lost(tokens_at_once * width);
  for (Index first = 0; first < tokens; first += tokens_at_once) {
    const Index count = std::min(tokens_at_once, tokens - first);
    const MatrixView<float> rows(copy.data(), count, width);
    const MatrixView<float> behind(lost.data(), count, width);
    of_original.clear();
    of_quantised.clear();
    std::copy_n(stream_.data() + first * width, count * width, copy.data());
    KRAIT_RETURN_IF_ERROR(quantised_session.run_layers({layer, layer + 1}, rows, quantised_state));
    if (diagonal) continue;
    std::copy_n(reference_.data() + first * width, count * width, copy.data());
    std::copy_n(copy.data(), count * width, lost.data());
    KRAIT_RETURN_IF_ERROR(original_session.run_layers({layer, layer + 1}, rows, original_state));
    subtract(behind, {stream_.data() + first * width, count, width});
    for (const std::string& block : blocks) {
      add(behind, of_original.rows(block, Site::output));
      subtract(behind, of_quantised.rows(block, Site::output));
      for (std::size_t i = 0; i < places.size(); ++i) {
        if (places[i].path != block || result[i].difference.empty()) continue;
        const MatrixView<float> seen = of_quantised.rows(block, places[i].input);
        if (places[i].makes_output) {
          add_products(executor_, behind, seen, result[i].difference);
          continue;
        }
        const MatrixView<float> wanted = of_original.rows(block, places[i].input);
        subtract(wanted, seen);
        add_products(executor_, wanted, seen, result[i].difference);
        add(wanted, seen);
      }
    }
  }
  for (std::size_t i = 0; i < places.size(); ++i) {
    result[i].inputs = moments.moments(numbers[i]);
    result[i].rows = moments.rows(numbers[i]);
    for (double& sum : result[i].difference) sum /= static_cast<double>(result[i].rows);
  }
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
                              state);
  };
  KRAIT_ASSIGN_OR_RETURN(const Model quantised, this->quantised());
  KRAIT_RETURN_IF_ERROR(run(quantised, stream_));
  replaced_.reset();
  return run(original_, reference_);
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
