#include "loading/layouts/gguf/export.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "io/json.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

#define KRAIT_ADDRESS(architecture) &architecture,
constexpr std::array writable = {KRAIT_GGUF_ARCHITECTURES(KRAIT_ADDRESS)};
#undef KRAIT_ADDRESS

Error fail(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::unsupported, fmt::format("[convert] {}: expected {}, found {}",
                                              printable(what), expected, printable(found))};
}

Result<const GgufArchitecture*> architecture_for(const Metadata& config,
                                                 const ConfigReader& reader) {
  std::string known;
  for (const GgufArchitecture* architecture : writable) {
    for (const std::string_view type : architecture->model_types) {
      const bool is_of = architecture->is_of == nullptr || architecture->is_of(reader);
      if (config["model_type"].is(type) && is_of) return architecture;
      const std::string word = fmt::format("{}{}", known.empty() ? "" : ", ", type);
      if (!known.ends_with(word)) known += word;
    }
  }
  return fail("model_type", "one of " + known, json_text(config["model_type"]));
}

// Puts `sign` for the number behind `mark`, which it returns: "" if there is none.
std::string take_number(std::string& name, std::string_view mark, char sign) {
  const std::size_t place = name.find(mark);
  if (place == name.npos) return {};
  const std::size_t begin = place + mark.size();
  const std::size_t end = name.find_first_not_of("0123456789", begin);
  if (end == name.npos || end == begin) return {};
  std::string number = name.substr(begin, end - begin);
  name.replace(begin, end - begin, 1, sign);
  return number;
}

// Experts of one stack: their number goes in front of its extents.
Result<void> join_stacks(std::vector<GgufExportTensor>& tensors) {
  struct Stack {
    Index count = 0;
    GgufOutput first;
  };
  std::map<std::string, Stack, std::less<>> stacks;
  for (const GgufExportTensor& tensor : tensors) {
    if (tensor.expert < 0) continue;
    const auto stack = stacks.try_emplace(tensor.output.name, Stack{0, tensor.output}).first;
    ++stack->second.count;
    const GgufOutput& first = stack->second.first;
    if (first.type.dtype != tensor.output.type.dtype ||
        first.type.blocks != tensor.output.type.blocks || first.extents != tensor.output.extents) {
      return fail(tensor.output.name, "experts of one type and shape", "several");
    }
  }
  for (GgufExportTensor& tensor : tensors) {
    if (tensor.expert < 0) continue;
    const Index count = stacks.find(tensor.output.name)->second.count;
    if (tensor.expert >= count) {
      return fail(tensor.output.name, fmt::format("experts 0 to {}", count - 1),
                  fmt::format("expert {}", tensor.expert));
    }
    tensor.output.extents.insert(tensor.output.extents.begin(), count);
  }
  return {};
}

std::vector<Index> extents_of(const GgufName& rule, std::vector<Index> extents, Index n_group) {
  if (rule.shape == GgufShape::depthwise && extents.size() == 3 && extents[1] == 1) {
    extents.erase(extents.begin() + 1);
  } else if (rule.shape == GgufShape::column && extents.size() == 1) {
    extents.push_back(1);
  } else if (rule.shape == GgufShape::groups && extents.size() == 1 && extents[0] % n_group == 0) {
    extents = {n_group, extents[0] / n_group};
  }
  return extents;
}

bool is_written(GgufUse use, bool has_experts) {
  return use == GgufUse::always ||
         use == (has_experts ? GgufUse::with_experts : GgufUse::without_experts);
}

// A tensor under the name that the rule has for it.
Result<GgufExportTensor> export_tensor(const GgufName& rule, const GgufSource& source,
                                       Index n_group) {
  GgufExportTensor made;
  made.output.name = rule.gguf;
  made.output.type = source.is_matrix ? source.type : *GgufType::of(DType::f32);
  made.output.extents = extents_of(rule, source.extents, n_group);
  made.values = rule.values;
  made.rows = rule.rows;
  if (rule.rows == GgufRows::all) return made;
  std::vector<Index>& extents = made.output.extents;
  if (extents.size() < 2 || extents[extents.size() - 2] % 2 != 0) {
    return fail(source.name, "matrices of two halves", fmt::format("{} axes", extents.size()));
  }
  extents[extents.size() - 2] /= 2;
  return made;
}

}  // namespace

Result<GgufExport> export_gguf(const Checkpoint& checkpoint, const std::string& config_text,
                               const ModelSpec& spec, const std::vector<GgufSource>& tensors) {
  KRAIT_ASSIGN_OR_RETURN(const Metadata config, parse_json(config_text, checkpoint.path));
  const ConfigReader reader(config, checkpoint.path);
  KRAIT_ASSIGN_OR_RETURN(const GgufArchitecture* architecture, architecture_for(config, reader));
  ConfigObject metadata;
  metadata.set("general.architecture", std::string(architecture->name));
  metadata.set("general.type", std::string("model"));
  KRAIT_RETURN_IF_ERROR(architecture->describe(reader, spec, metadata));
  const Index n_group = metadata.number(fmt::format("{}.ssm.group_count", architecture->name), 1);
  const bool has_experts =
      metadata.number(fmt::format("{}.expert_count", architecture->name), 0) > 0;
  std::multimap<std::string_view, const GgufName*, std::less<>> names;
  for (const GgufName& name : architecture->names) {
    if (is_written(name.use, has_experts)) names.emplace(name.name, &name);
  }
  GgufExport result;
  if (architecture->made != nullptr) result.made = architecture->made(spec);
  Index rows = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const GgufSource& tensor = tensors[i];
    // "backbone.layers.*.norm.weight" and layer "3" of "backbone.layers.3.norm.weight".
    std::string pattern = tensor.name;
    const std::string layer = take_number(pattern, "layers.", '*');
    const std::string expert = take_number(pattern, "experts.", '#');
    const auto [begin, end] = names.equal_range(pattern);
    if (begin == end) {
      return fail(tensor.name, fmt::format("a tensor of {}", architecture->name), "another");
    }
    std::vector<RowFactor> factors;
    if (architecture->factors != nullptr) {
      KRAIT_ASSIGN_OR_RETURN(factors, architecture->factors(reader, spec, pattern));
    }
    for (auto rule = begin; rule != end; ++rule) {
      KRAIT_ASSIGN_OR_RETURN(GgufExportTensor made, export_tensor(*rule->second, tensor, n_group));
      std::string& name = made.output.name;
      if (const std::size_t star = name.find('*'); star != name.npos) name.replace(star, 1, layer);
      if (name == "token_embd.weight") rows = tensor.extents.front();
      made.source = i;
      made.factors = factors;
      if (!expert.empty() && expert.size() <= 6) made.expert = std::stol(expert);
      result.tensors.push_back(std::move(made));
    }
  }
  KRAIT_RETURN_IF_ERROR(join_stacks(result.tensors));
  KRAIT_RETURN_IF_ERROR(export_gguf_tokenizer(checkpoint, rows, metadata));
  const auto n_head = config["num_attention_heads"].integer().value_or(1);
  result.pair_rows = config["head_dim"].integer().value_or(
      config["hidden_size"].integer().value_or(0) / std::max<std::int64_t>(n_head, 1));
  result.metadata = metadata.take();
  return result;
}

}  // namespace v0_1
}  // namespace krait
