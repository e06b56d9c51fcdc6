// Mamba on one page: a byte-level language model in standard C++20 and nothing else.
//   one_page_mamba MODEL_DIR PROMPT [N_BYTE]      prints the N_BYTE (64) likeliest next bytes
//   one_page_mamba MODEL_DIR --logits 73,116,32   prints the logits after these tokens
// MODEL_DIR holds config.json and model.safetensors, such as examples/models/krait-bytes-2m.
// The model is `step`, near the end. Paper: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling
// with Selective State Spaces", arXiv 2312.00752. Glossary, with the paper's symbols:
//   d_model   D    width of the residual stream x, the vector that travels through all layers
//   d_inner   ED   channels inside a layer, E = 2 for each number of the stream
//   d_state   N    numbers that each channel remembers
//   dt_rank   R    rank of the projection that makes dt (section 3.6)
//   u         x    input of the state-space model, one number per channel
//   h         h    its state; with the last d_conv inputs of each channel, all that is remembered
//   A         A    how fast each state number fades: negative, learned, the same for every token
//   B, C      B, C how a token is written into the state, and how the state is read: made from u
//   dt        Δ    step size, made from u: large "take this in, forget the past", small "pass by"
//   D         D    how much of u goes past the state (not the width, despite the letter)
//   z              gate that multiplies the output (section 3.4, figure 3)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

using std::size_t;  // clang-format off
using Vec = std::vector<float>;  // matrices are [rows, columns], row after row

[[noreturn]] static void fail(const std::string& what) {
  std::fprintf(stderr, "one_page_mamba: %s\n", what.c_str());
  std::exit(1);
}
static std::string read_file(const std::string& path) {
  std::ostringstream bytes;
  if (!(bytes << std::ifstream(path, std::ios::binary).rdbuf())) fail("cannot read '" + path + "'");
  return bytes.str();
}
static const char* after_key(const std::string& json, const std::string& key) {  // or nullptr
  const size_t at = json.find('"' + key + "\":");
  return at == std::string::npos ? nullptr : json.c_str() + at + key.size() + 3;
}
static double number(const std::string& json, const std::string& key) {
  const char* text = after_key(json, key);
  const double value = text ? std::strtod(text, nullptr) : 0;
  if (!(value > 0 && value < 1e6)) fail("config.json has no usable '" + key + "'");
  return value;
}

struct Tensors {  // safetensors: u64 length of the header, header in JSON, raw numbers
  std::string header, data;
  explicit Tensors(const std::string& path) : data(read_file(path)) {
    unsigned long long length = 0;  // 64 bits, little-endian
    if (data.size() > 8) std::memcpy(&length, data.data(), 8);
    if (length == 0 || length > data.size() - 8) fail("'" + path + "' is no safetensors file");
    header = data.substr(8, length);
    data.erase(0, 8 + length);
  }
  Vec read(const std::string& name, size_t n) const {  // n numbers
    const char* place = after_key(header, name);  // {"dtype":"F32","data_offsets":[begin,end],...}
    if (!place && name.ends_with(".bias")) return Vec(n);  // a bias that is not stored is zero
    const std::string entry(place ? place : "", place ? std::strcspn(place, "}") : 0);
    const char* offsets = after_key(entry, "data_offsets");
    const size_t width = entry.find("\"BF16\"") != entry.npos ? 2 : 4;
    size_t begin = 0, end = 0;
    if ((width == 4 && entry.find("\"F32\"") == entry.npos) || !offsets ||
        std::sscanf(offsets, " [ %zu , %zu", &begin, &end) != 2 || begin > end ||
        end > data.size() || end - begin != n * width)
      fail("tensor '" + name + "' is missing, or neither F32 nor BF16, or of the wrong size");
    Vec out(n);  // bf16 is the upper half of a float, its last two bytes in memory
    for (size_t i = 0; i < n; ++i)
      std::memcpy(reinterpret_cast<char*>(&out[i]) + 4 - width, &data[begin + i * width], width);
    return out;
  }
};

struct Linear {
  Vec W, b;  // [n_out, n_in], [n_out]
  Vec operator()(std::span<const float> x) const {  // [n_in] -> [n_out]
    Vec y = b;
    for (size_t i = 0; i < y.size(); ++i)
      for (size_t j = 0; j < x.size(); ++j) y[i] += W[i * x.size() + j] * x[j];
    return y;
  }
};

struct Layer {
  Vec norm;                // [d_model]
  Linear in_proj;          // [2 d_inner, d_model]: rows that make u, then rows that make z
  Vec conv_w, conv_b;      // [d_inner, d_conv], [d_inner]; the last tap meets the newest input
  Linear x_proj, dt_proj;  // [dt_rank + 2 d_state, d_inner], [d_inner, dt_rank]
  Vec A, D;                // [d_inner, d_state], [d_inner]
  Linear out_proj;         // [d_model, d_inner]
};

struct Model {
  size_t vocab, d_model, d_inner, d_state, d_conv, dt_rank, n_layer;
  float eps;              // keeps the norms from dividing by zero
  Vec embedding, norm_f;  // [vocab, d_model], [d_model]
  Linear head;            // [vocab, d_model]: the embedding again where no other head is stored
  std::vector<Layer> layers;
  explicit Model(const std::string& dir) {
    const std::string config = read_file(dir + "/config.json");
    const auto size = [&](const char* key) { return size_t(number(config, key)); };
    vocab = size("vocab_size"), d_model = size("hidden_size"), d_inner = size("intermediate_size");
    d_state = size("state_size"), d_conv = size("conv_kernel"), dt_rank = size("time_step_rank");
    n_layer = size("num_hidden_layers"), eps = float(number(config, "layer_norm_epsilon"));
    const Tensors t(dir + "/model.safetensors");
    const auto linear = [&t](const std::string& name, size_t n_out, size_t n_in) {
      return Linear{t.read(name + ".weight", n_out * n_in), t.read(name + ".bias", n_out)};
    };
    embedding = t.read("backbone.embeddings.weight", vocab * d_model);
    norm_f = t.read("backbone.norm_f.weight", d_model);
    const bool has_head = after_key(t.header, "lm_head.weight") != nullptr;
    head = linear(has_head ? "lm_head" : "backbone.embeddings", vocab, d_model);
    for (size_t l = 0; l < n_layer; ++l) {
      const std::string p = "backbone.layers." + std::to_string(l), m = p + ".mixer.";
      layers.push_back(
          {t.read(p + ".norm.weight", d_model), linear(m + "in_proj", 2 * d_inner, d_model),
           t.read(m + "conv1d.weight", d_inner * d_conv), t.read(m + "conv1d.bias", d_inner),
           linear(m + "x_proj", dt_rank + 2 * d_state, d_inner),
           linear(m + "dt_proj", d_inner, dt_rank), t.read(m + "A_log", d_inner * d_state),
           t.read(m + "D", d_inner), linear(m + "out_proj", d_model, d_inner)});
      for (float& a : layers.back().A) a = -std::exp(a);  // so that A is always negative
    }
  }
};

struct State {               // all that is remembered of a text, however long; zero at its start
  std::vector<Vec> conv, h;  // per layer: [d_inner, d_conv] last inputs, [d_inner, d_state]
};
static float silu(float x) { return x / (1 + std::exp(-x)); }
static float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

static Vec rms_norm(Vec x, const Vec& weight, float eps) {  // [d_model] -> [d_model]
  float squares = 0;
  for (const float v : x) squares += v * v;
  const float scale = 1 / std::sqrt(squares / static_cast<float>(x.size()) + eps);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * weight[i];
  return x;
}

// Takes one token in; returns the logits of the next, [vocab].
static Vec step(const Model& m, State& state, size_t token) {
  if (token >= m.vocab) fail("a token is outside the vocabulary");
  Vec x(&m.embedding[token * m.d_model], &m.embedding[token * m.d_model] + m.d_model);  // [d_model]
  for (size_t l = 0; l < m.n_layer; ++l) {
    const Layer& w = m.layers[l];
    const Vec uz = w.in_proj(rms_norm(x, w.norm, m.eps));           // [2 d_inner]
    Vec u(m.d_inner), y(m.d_inner);                                 // [d_inner]
    for (size_t d = 0; d < m.d_inner; ++d) {                        // short causal convolution
      float* last = &state.conv[l][d * m.d_conv];                   // [d_conv], newest last
      std::rotate(last, last + 1, last + m.d_conv);
      last[m.d_conv - 1] = uz[d];
      float sum = w.conv_b[d];
      for (size_t k = 0; k < m.d_conv; ++k) sum += w.conv_w[d * m.d_conv + k] * last[k];
      u[d] = silu(sum);
    }
    // Selection (section 3.2, algorithm 2): the text itself sets dt, B and C.
    const Vec s = w.x_proj(u);                                      // [dt_rank + 2 d_state]
    const Vec dt_raw = w.dt_proj(std::span(s).first(m.dt_rank));    // [d_inner]
    const float *B = &s[m.dt_rank], *C = B + m.d_state;             // [d_state] each
    for (size_t d = 0; d < m.d_inner; ++d) {
      const float dt = softplus(dt_raw[d]);
      const float* A = &w.A[d * m.d_state];                         // [d_state]
      float* h = &state.h[l][d * m.d_state];                        // [d_state]
      for (size_t n = 0; n < m.d_state; ++n) {  // A by equation 4; B as dt B, the authors' way
        h[n] = std::exp(dt * A[n]) * h[n] + dt * B[n] * u[d];       // equation 2a
        y[d] += C[n] * h[n];                                        // equation 2b
      }
      y[d] = (y[d] + w.D[d] * u[d]) * silu(uz[m.d_inner + d]);      // D u; gate by z
    }
    const Vec out = w.out_proj(y);                                  // [d_model]
    for (size_t i = 0; i < m.d_model; ++i) x[i] += out[i];          // residual stream
  }
  return m.head(rms_norm(x, m.norm_f, m.eps));                      // [vocab]
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) fail("usage: MODEL_DIR PROMPT [N_BYTE], or MODEL_DIR --logits 1,2,3");
  const Model m(argv[1]);
  State state{{m.n_layer, Vec(m.d_inner * m.d_conv)}, {m.n_layer, Vec(m.d_inner * m.d_state)}};
  Vec logits;
  if (argc == 4 && std::string(argv[2]) == "--logits") {
    std::istringstream list(argv[3]);
    for (size_t token; list >> token; list.get()) logits = step(m, state, token);
    if (!list.eof()) fail("--logits takes tokens such as 1,2,3");
    for (const float v : logits) std::printf("%.9g\n", static_cast<double>(v));
    return 0;
  }
  for (const char* c = argv[2]; *c; ++c) logits = step(m, state, static_cast<unsigned char>(*c));
  for (long i = argc == 4 ? std::atol(argv[3]) : 64; i > 0 && !logits.empty(); --i) {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    std::putchar(static_cast<int>(best));
    logits = step(m, state, static_cast<size_t>(best));
  }
  std::putchar('\n');
}
