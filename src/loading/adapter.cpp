#include "krait/loading/adapter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "io/json.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/io/printable.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/weights/adapter.hpp"
#include "krait/weights/convert.hpp"
#include "loading/adapter_config.hpp"
#include "models/bind_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

// A matrix of the model, or one of a stack.
struct Target {
  std::string name;  // in the store, of the stack where it is one of it
  Index out = 0;
  Index in = 0;
  Index of_stack = -1;  // which it is
  Index count = 1;      // matrices of the stack
  bool is_embedding = false;
};

// The two factors of a module, as the file has them.
struct Factors {
  const WeightStore::Entry* A = nullptr;
  const WeightStore::Entry* B = nullptr;
  std::string A_name;
  std::string B_name;
  bool is_embedding = false;
};

class AdapterReader {
 public:
  AdapterReader(std::string file, AdapterConfig config, const ModelConfig& model,
                WeightStore& weights)
      : file_(std::move(file)), config_(std::move(config)), model_(model), weights_(weights) {}

  Result<void> read() {
    KRAIT_ASSIGN_OR_RETURN(const auto bytes, open_file(file_, WeightsMode::map));
    KRAIT_RETURN_IF_ERROR(read_safetensors(bytes, tensors_));
    KRAIT_RETURN_IF_ERROR(list_targets());
    KRAIT_RETURN_IF_ERROR(collect());
    KRAIT_RETURN_IF_ERROR(check_complete());
    for (const auto& [module, factors] : factors_) KRAIT_RETURN_IF_ERROR(attach(module, factors));
    for (const auto& [name, stack] : stacks_) KRAIT_RETURN_IF_ERROR(attach_stack(name, stack));
    return {};
  }

 private:
  // Those of a stack, until all are there.
  struct Stack {
    Target target;
    Index rank = 0;
    float scale = 0.0F;
    std::shared_ptr<AlignedBuffer<float>> A, B;
    std::vector<bool> has;
  };

  Error fail(ErrorCode code, std::string_view what, const std::string& expected,
             const std::string& found) const {
    return {code, fmt::format("[adapter] {}: expected {}, found {} ({})", printable(what, 120),
                              expected, found, file_)};
  }
  // The same of what cannot be missing or otherwise in an adapter for this model.
  Error of_another_model(ErrorCode code, std::string_view what, const std::string& expected,
                         const std::string& found) const {
    const std::string base =
        config_.base.empty() ? std::string() : fmt::format(" ({})", printable(config_.base, 120));
    return fail(code, what, expected,
                fmt::format("{}, as in an adapter for another model{}", found, base));
  }

  // The matrices of the model by the name of their module.
  Result<void> list_targets() {
    KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, plan_model(model_.spec, nullptr, model_.prefix));
    constexpr std::string_view suffix = ".weight";
    for (const TensorUse& use : plan.tensors) {
      if (use.role != TensorRole::matrix || !use.name.ends_with(suffix)) continue;
      const std::string name = use.name.substr(0, use.name.size() - suffix.size());
      const std::string path = use.path.substr(0, use.path.size() - suffix.size());
      const int last = use.shape.rank() - 1;
      Target target{.name = name, .out = use.shape[last - 1], .in = use.shape[last]};
      target.is_embedding = &use == &plan.tensors.front();
      if (last == 2) {
        target.count = use.shape[0];
        for (target.of_stack = 0; target.of_stack < target.count; ++target.of_stack) {
          add_target(fmt::format("{}.{}", name, target.of_stack),
                     fmt::format("{}.{}", path, target.of_stack), target);
        }
        continue;
      }
      // Where the head's matrix is the embedding, its adapter stands with the head's name.
      if (target.is_embedding && is_embedding_in_head(model_.spec, &weights_, model_.prefix)) {
        target.name = model_.spec.head_name;
      }
      add_target(name, path, target);
      if (!target.is_embedding) continue;
      // transformers and the original state-spaces repository have different words for it.
      for (const char* word : {"embedding", "embeddings"}) add_target("", word, target);
      if (model_.spec.tied_head && target.name == name) {
        target.is_embedding = false;
        target.name = model_.spec.head_name;
        add_target(target.name, target.name, target);
      }
    }
    return {};
  }

  void add_target(const std::string& name, const std::string& path, const Target& target) {
    if (!name.empty()) targets_.emplace(name, target);
    for (const char* prefix : {"", "backbone.", "model."}) targets_.emplace(prefix + path, target);
  }

  // Sorts the file's tensors by module.
  Result<void> collect() {
    struct Suffix {
      std::string_view text;
      const WeightStore::Entry* Factors::*entry;
      std::string Factors::*name;
      bool is_embedding;
    };
    static const Suffix peft[] = {{".lora_A.weight", &Factors::A, &Factors::A_name, false},
                                  {".lora_B.weight", &Factors::B, &Factors::B_name, false},
                                  {".lora_embedding_A", &Factors::A, &Factors::A_name, true},
                                  {".lora_embedding_B", &Factors::B, &Factors::B_name, true}};
    static const Suffix mlx[] = {{".lora_a", &Factors::A, &Factors::A_name, false},
                                 {".lora_b", &Factors::B, &Factors::B_name, false}};
    const std::span<const Suffix> suffixes =
        config_.is_mlx ? std::span<const Suffix>(mlx) : std::span<const Suffix>(peft);
    for (const auto& [name, tensor] : tensors_.unreadable()) {
      return fail(ErrorCode::dtype_mismatch, name, "f32, f16 or bf16", tensor.what);
    }
    for (const auto& [name, entry] : tensors_.entries()) {
      std::string_view rest = name;
      if (rest.starts_with(peft_prefix)) rest.remove_prefix(peft_prefix.size());
      const auto suffix = std::ranges::find_if(
          suffixes, [&](const Suffix& one) { return rest.ends_with(one.text); });
      if (suffix == suffixes.end()) {
        KRAIT_RETURN_IF_ERROR(check_base(name, rest, entry.tensor));
        continue;
      }
      KRAIT_RETURN_IF_ERROR(check_values(name, entry.tensor));
      Factors& own = factors_[std::string(rest.substr(0, rest.size() - suffix->text.size()))];
      own.*suffix->entry = &entry;
      own.*suffix->name = name;
      own.is_embedding = suffix->is_embedding;
    }
    if (!factors_.empty()) return {};
    return fail(ErrorCode::missing_tensor, "factors",
                config_.is_mlx ? "tensors such as M.lora_a" : "tensors such as M.lora_A.weight",
                fmt::format("{} others", tensors_.size()));
  }

  Result<void> check_values(const std::string& name, const TensorView& tensor) const {
    if (!is_float(tensor.dtype)) {
      return fail(ErrorCode::dtype_mismatch, name, "f32, f16 or bf16",
                  std::string(to_string(tensor.dtype)));
    }
    const auto bad = find_not_finite(tensor);
    if (!bad) return {};
    return fail(ErrorCode::bad_format, name, "finite numbers",
                fmt::format("one that is not (element {})", *bad));
  }

  // PEFT adds the embedding's own matrix where that is adapted; it must be the model's.
  Result<void> check_base(const std::string& name, std::string_view rest,
                          const TensorView& tensor) const {
    constexpr std::string_view suffix = ".base_layer.weight";
    const auto unknown = [&] {
      return fail(ErrorCode::unsupported, name, "a factor of an adapter of low rank",
                  fmt::format("another tensor {}", to_string(tensor.shape)));
    };
    if (config_.is_mlx || !rest.ends_with(suffix)) return unknown();
    const auto found = targets_.find(rest.substr(0, rest.size() - suffix.size()));
    if (found == targets_.end()) return unknown();
    const WeightStore::Entry* own = weights_.find(found->second.name + ".weight");
    if (own == nullptr) return {};  // coded: not the same numbers
    const auto floats = [](const TensorView& from) {
      AlignedBuffer<float> values(from.size());
      convert_floats(from, DType::f32, values.data());
      return values;
    };
    if (tensor.shape == own->tensor.shape && is_float(tensor.dtype) &&
        is_float(own->tensor.dtype)) {
      const AlignedBuffer<float> a = floats(tensor);
      const AlignedBuffer<float> b = floats(own->tensor);
      const auto is_near = [](float x, float y) {  // one may be rounded to bf16
        return std::abs(x - y) <= std::abs(y) / 128.0F + 1e-7F;
      };
      if (std::ranges::equal(a.span(), b.span(), is_near)) return {};
    }
    return fail(ErrorCode::unsupported, name, "the model's own matrix", "another");
  }

  // That no module has one factor only, and none is missing that the configuration names.
  Result<void> check_complete() const {
    std::set<std::pair<std::string_view, Index>> adapted;  // matrices, and places in their stacks
    for (const auto& [module, factors] : factors_) {
      if (factors.A == nullptr || factors.B == nullptr) {
        return fail(ErrorCode::missing_tensor,
                    factors.A != nullptr ? factors.A_name : factors.B_name, "two factors",
                    factors.A != nullptr ? "the first (A) only" : "the second (B) only");
      }
      const auto found = targets_.find(module);
      if (found != targets_.end()) adapted.emplace(found->second.name, found->second.of_stack);
    }
    const std::set<std::string_view> words(config_.targets.begin(), config_.targets.end());
    for (const auto& [module, target] : targets_) {
      if (adapted.contains({target.name, target.of_stack})) continue;
      // A word is a module's name, or the end of one behind a dot.
      std::string_view rest = module;
      while (!words.contains(rest)) {
        const std::size_t dot = rest.find('.');
        if (dot == rest.npos) break;
        rest.remove_prefix(dot + 1);
      }
      if (!words.contains(rest)) continue;
      const std::string expected =
          fmt::format("factors, as target_modules names {}", printable(rest, 40));
      return is_beyond(module, adapted)
                 ? of_another_model(ErrorCode::missing_tensor, module, expected, "none")
                 : fail(ErrorCode::missing_tensor, module, expected, "none");
    }
    return {};
  }

  // Whether all that has factors stands in layers before the module's: another model's last ones.
  bool is_beyond(std::string_view module,
                 const std::set<std::pair<std::string_view, Index>>& adapted) const {
    const std::optional<Index> own = layer_of(module);
    return own && !adapted.empty() && std::ranges::all_of(adapted, [&](const auto& one) {
             const std::optional<Index> layer = layer_of(one.first);
             return layer && *layer < *own;
           });
  }

  // The number behind the name of the model's layers.
  std::optional<Index> layer_of(std::string_view module) const {
    const std::string name = fmt::format("{}.", model_.spec.layers_name);
    const std::size_t found = module.find(name);
    if (found == module.npos) return std::nullopt;
    Index layer = 0;
    const std::string_view rest = module.substr(found + name.size());
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
    if (error != std::errc()) return std::nullopt;
    return layer;
  }

  Result<void> attach(const std::string& module, const Factors& factors) {
    const auto found = targets_.find(module);
    if (found == targets_.end()) {
      return of_another_model(
          ErrorCode::not_found, factors.A_name,
          fmt::format("a matrix of the model, such as {}", printable(example())),
          "a module that it does not have");
    }
    const Target& target = found->second;
    if (config_.is_mlx && target.is_embedding) {  // which are the head's too, there
      return fail(ErrorCode::unsupported, factors.A_name, "factors of linear maps",
                  "those of an embedding");
    }
    if (factors.is_embedding != target.is_embedding) {
      return fail(ErrorCode::unsupported, factors.A_name,
                  target.is_embedding ? "factors of an embedding (.lora_embedding_A)"
                                      : "factors of a linear map (.lora_A.weight)",
                  "others");
    }
    KRAIT_ASSIGN_OR_RETURN(const AdapterConfig::Scaling scaling, config_.scaling(module));
    const Index rank = scaling.rank;
    // As the file has them: of embeddings the roles change, and MLX has them transposed.
    const bool is_turned = factors.is_embedding || config_.is_mlx;
    const Shape A_shape = config_.is_mlx         ? Shape{target.in, rank}
                          : factors.is_embedding ? Shape{rank, target.out}
                                                 : Shape{rank, target.in};
    const Shape B_shape = config_.is_mlx         ? Shape{rank, target.out}
                          : factors.is_embedding ? Shape{target.in, rank}
                                                 : Shape{target.out, rank};
    const int A_side =
        config_.is_mlx ? 0 : 1;  // where A has the matrix's own side, and not the rank
    for (const auto& [name, tensor, shape] :
         {std::tuple{&factors.A_name, &factors.A->tensor, A_shape},
          std::tuple{&factors.B_name, &factors.B->tensor, B_shape}}) {
      if (tensor->shape == shape) continue;
      const std::string expected = fmt::format("{} (rank {})", to_string(shape), rank);
      // Of a matrix of this model at least one side is that of the matrix, if not the rank.
      const int side = name == &factors.A_name ? A_side : 1 - A_side;
      const bool fits = tensor->shape.rank() != 2 || tensor->shape[side] == shape[side] ||
                        tensor->shape[side] == rank;
      return fits ? fail(ErrorCode::shape_mismatch, *name, expected, to_string(tensor->shape))
                  : of_another_model(ErrorCode::shape_mismatch, *name, expected,
                                     to_string(tensor->shape));
    }
    TensorView A = factors.A->tensor;
    TensorView B = factors.B->tensor;
    std::shared_ptr<const void> owner;
    if (is_turned) {
      auto block = std::make_shared<AlignedBuffer<float>>(A.size() + B.size());
      transpose(A, block->data());
      transpose(B, block->data() + A.size());
      const float* first = block->data();
      const TensorView turned_A{first, DType::f32, {A.shape[1], A.shape[0]}};
      const TensorView turned_B{first + A.size(), DType::f32, {B.shape[1], B.shape[0]}};
      A = factors.is_embedding ? turned_B : turned_A;
      B = factors.is_embedding ? turned_A : turned_B;
      owner = std::move(block);
    }
    const auto scale = static_cast<float>(scaling.scale);
    if (target.of_stack >= 0) return add_to_stack(target, rank, A, B, scale);
    if (owner == nullptr) owner = file_owner();
    attach_adapter(weights_, target.name, A, B, scale, std::move(owner));
    return {};
  }

  Result<void> add_to_stack(const Target& target, Index rank, const TensorView& A,
                            const TensorView& B, float scale) {
    Stack& stack = stacks_[target.name];
    const Index A_size = rank * target.in;
    const Index B_size = target.out * rank;
    if (stack.has.empty()) {
      stack = {.target = target,
               .rank = rank,
               .scale = scale,
               .A = std::make_shared<AlignedBuffer<float>>(target.count * A_size),
               .B = std::make_shared<AlignedBuffer<float>>(target.count * B_size),
               .has = std::vector<bool>(static_cast<std::size_t>(target.count))};
    }
    if (stack.rank != rank || stack.scale != scale) {
      return fail(ErrorCode::unsupported, target.name, "one rank and scale for all of a stack",
                  "several");
    }
    convert_floats(A, DType::f32, stack.A->data() + target.of_stack * A_size);
    convert_floats(B, DType::f32, stack.B->data() + target.of_stack * B_size);
    stack.has[static_cast<std::size_t>(target.of_stack)] = true;
    return {};
  }

  Result<void> attach_stack(const std::string& name, const Stack& stack) {
    const auto missing = std::ranges::find(stack.has, false);
    if (missing != stack.has.end()) {
      return fail(ErrorCode::missing_tensor,
                  fmt::format("{}.{}", name, missing - stack.has.begin()),
                  "factors, as others of the stack have them", "none");
    }
    const Target& target = stack.target;
    auto both =
        std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>>(
            stack.A, stack.B);
    attach_adapter(weights_, name,
                   {stack.A->data(), DType::f32, {target.count, stack.rank, target.in}},
                   {stack.B->data(), DType::f32, {target.count, target.out, stack.rank}},
                   stack.scale, std::move(both));
    return {};
  }

  static void transpose(const TensorView& from, float* to) {
    AlignedBuffer<float> values(from.size());
    convert_floats(from, DType::f32, values.data());
    const Index rows = from.shape[0];
    const Index cols = from.shape[1];
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < cols; ++c) to[c * rows + r] = values.data()[r * cols + c];
    }
  }

  // All of them: tensors that do not lie aligned in the file are copies of their own.
  std::shared_ptr<const void> file_owner() {
    if (owners_ == nullptr) owners_ = std::make_shared<Owners>(tensors_.owners());
    return owners_;
  }

  std::string example() const {
    for (const auto& [module, target] : targets_) {
      if (!target.is_embedding && module == target.name) return module;
    }
    return targets_.begin()->first;
  }

  std::string file_;
  AdapterConfig config_;
  const ModelConfig& model_;
  WeightStore& weights_;
  WeightStore tensors_;
  using Owners = std::vector<std::shared_ptr<const void>>;
  std::shared_ptr<const Owners> owners_;
  std::map<std::string, Target, std::less<>> targets_;
  std::map<std::string, Factors> factors_;
  std::map<std::string, Stack> stacks_;
};

// The file with the weights.
Result<std::string> weights_file(const std::string& path, bool is_mlx) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  const std::string file =
      (fs::path(path) / (is_mlx ? "adapters.safetensors" : "adapter_model.safetensors")).string();
  if (fs::is_regular_file(file, ignored)) return file;
  const bool has_pickle = fs::is_regular_file(fs::path(path) / "adapter_model.bin", ignored);
  return Error{has_pickle ? ErrorCode::unsupported : ErrorCode::not_found,
               fmt::format("[adapter] {}: expected the adapter's weights, found {} ({})",
                           fs::path(file).filename().string(),
                           has_pickle ? "adapter_model.bin" : "none", path)};
}

Result<void> read_any(const std::string& path, const ModelConfig& model, WeightStore& weights) {
  if (path.empty()) return {};
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return Error{ErrorCode::not_found,
                 fmt::format("[adapter] expected a folder or a file, found none ({})", path)};
  }
  KRAIT_ASSIGN_OR_RETURN(AdapterConfig config, read_adapter_config(path));
  KRAIT_ASSIGN_OR_RETURN(std::string file, weights_file(path, config.is_mlx));
  WeightStore adapted = weights;
  AdapterReader reader(std::move(file), std::move(config), model, adapted);
  KRAIT_RETURN_IF_ERROR(reader.read());
  weights = std::move(adapted);
  return {};
}

}  // namespace

Result<void> add_adapter(const std::string& path, const ModelConfig& config, WeightStore& weights) {
  return printable(read_any(path, config, weights));
}

}  // namespace v0_1
}  // namespace krait
