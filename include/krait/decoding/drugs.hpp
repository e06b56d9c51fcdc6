#pragma once

/// \file
/// DRµGS: noise inside the model in place of sampling at its end.
///
/// The reference is EGjoni/DRUGS (Deep Random micro-Glitch Sampling), which turns heads of Llama
/// and Mistral. In a state-space model, with C as query, B as key, x as value and the state h as
/// the folded cache, the same turns have the sites below.

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/models/session.hpp"
#include "krait/modules/hook.hpp"

namespace krait {
inline namespace v0_1 {

/// Where noise turns vectors; in brackets what is one vector.
enum class DrugSite {
  H,  ///< what the block reads, after its norm [d_model]; in a mixture what experts read
  X,  ///< x after the convolution [d_inner]
  V,  ///< x as the recurrence takes it [Mamba: d_inner; Mamba-2: a head]; cached values [a head]
  B,  ///< B [d_state]
  D,  ///< the step size before dt_proj [dt_rank]; Mamba-2: of all heads, before bias and softplus
  Q,  ///< C [d_state]; queries before the rotary embedding [a head]
  S,  ///< the state, as y reads it [d_state of each channel]
  W,  ///< the state itself, behind its update: it stays turned [d_state of each channel]
  A,  ///< what the recurrence gives [Mamba: d_inner; Mamba-2: a head], or the attention [a head]
  Z,  ///< the gate, before its SiLU [d_inner]
  O,  ///< the input of the output projection [all of it]
  K,  ///< cached keys, as a query meets them [a head]; of no state-space block
};
inline constexpr std::string_view drug_letters = "HXVBDQSWAZOK";

/// How strong a dose is at a depth: layer i of L has depth i / L.
struct DosePoint {
  double depth = 0.0;
  double ratio = 0.0;  ///< of theta
  friend bool operator==(const DosePoint&, const DosePoint&) = default;
};

/// What is taken between two points.
enum class DoseMode { interpolate, ceil, floor };

/// A dose of one site.
struct Dose {
  DrugSite site = DrugSite::A;
  double theta = 0.0;                 ///< largest angle (uniform), in radians
  std::vector<DosePoint> shape = {};  ///< ascending depths; empty: 1 at all depths
  DoseMode mode = DoseMode::interpolate;

  /// theta times what the shape says of this depth: between two points by the mode, beyond the
  /// first and last what they say.
  KRAIT_API double angle_at(double depth) const noexcept;
  friend bool operator==(const Dose&, const Dose&) = default;
};

/// Which state the next token finds.
enum class DrugState {
  clean,   ///< the one that a run without noise leaves: each token runs twice, in one pass
  carry,   ///< what the noised passes have left
  shower,  ///< the same, but in front of the pass behind N noised ones it becomes the clean one
};

/// The direction of a turn: of numbers with a normal law, which has no preference, or, as in the
/// reference, of numbers from 0 to 1, which has: two of them have a mean cosine of 0.75.
enum class DrugDirection { gauss, legacy };

/// The law of the angle: uniform from 0 to theta, or |normal| · theta / √3, which has the same mean
/// square.
enum class DrugAngle { uniform, halfnormal };

/// What is done to a model.
struct DrugPlan {
  std::vector<Dose> doses;  ///< each site at most once
  DrugState state = DrugState::clean;
  Index shower = 0;  ///< N, where the state says so
  std::uint64_t seed = 0;
  DrugDirection direction = DrugDirection::gauss;
  DrugAngle angle = DrugAngle::uniform;
  Index group = 0;  ///< cuts the vectors of H X V A Z O into parts of this width; 0: whole
};

/// Reads doses such as "A:theta=0.1,shape=rect(0.4,0.156),mode=ceil;S:theta=0.05": no dose is one
/// text, too. Shapes:
///
///   rect(c,h)      (c - 1.01h, 0) (c - h, 1) (c + h, 1) (c + 1.01h, 0)
///   ramp(a,b)      (a, 0) (b, 1)
///   peak(c,w)      (c - w, 0) (c, 1) (c + w, 0)
///   points(d:r,…)  as they stand
///
/// Errors: bad_argument, saying what is wrong in which dose.
KRAIT_API Result<std::vector<Dose>> parse_doses(std::string_view text);

/// Reads "clean", "carry" or "shower(N)" into the plan. Errors: bad_argument.
KRAIT_API Result<void> parse_drug_state(std::string_view text, DrugPlan& plan);

/// A plan that fits a model. Immutable; texts share it.
class KRAIT_API Drugs {
 public:
  /// Errors: bad_argument (negative angles, a site twice, a site that no block of the model has, a
  /// group that does not divide its vectors, a shower of no passes).
  static Result<Drugs> make(const DrugPlan& plan, const Model& model);

  const DrugPlan& plan() const noexcept { return plan_; }
  /// Whether nothing is turned anywhere: then a run needs no hook and gives the same bits.
  bool is_sober() const noexcept { return widest_ == 0; }
  /// Noised passes behind which the state becomes the clean one: 1 for `clean`; more than there
  /// will be for `carry`.
  Index most_noised() const noexcept {
    return plan_.state == DrugState::clean   ? 1
           : plan_.state == DrugState::carry ? std::numeric_limits<Index>::max()
                                             : plan_.shower;
  }

 private:
  friend class DrugHook;
  // What is done at a site of a block.
  struct Turn {
    Site site = Site::input;
    DrugSite drug = DrugSite::H;
    Index width = 0;  // of a vector, after grouping
    double angle = 0.0;
  };
  struct Place {
    std::string path;
    std::vector<Turn> turns;
  };

  Result<void> add_block(const Block& block, Index layer, std::string path, Index layers,
                         std::array<bool, drug_letters.size()>& found);

  DrugPlan plan_;
  std::vector<std::vector<Place>> layers_;
  Index widest_ = 0;
  std::array<bool, 32> wanted_ = {};  // by site
};

/// The noise for one sequence, as a hook: a function of (seed, sequence, position, layer, site) and
/// the vector alone (numeric contract, section 13). Give it to a `RunItem`, with `clean` where the
/// plan says so. One run at a time.
class KRAIT_API DrugHook final : public ActivationHook {
 public:
  DrugHook(std::shared_ptr<const Drugs> drugs, std::uint32_t sequence);

  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override;
  bool wants(Site site) const noexcept override {
    return drugs_->wanted_[static_cast<std::size_t>(site)];
  }

  const Drugs& drugs() const noexcept { return *drugs_; }

 private:
  std::shared_ptr<const Drugs> drugs_;
  std::uint32_t sequence_;
  std::vector<float> direction_;  // of the widest vector
};

/// A given text under noise: every position is noised, by the plan's policy for the state.
class KRAIT_API NoisedRun {
 public:
  /// Begins an empty text. The observer, which may be null, sees what the noise has left at each
  /// site of the rows that give the logits; it and the session must outlive the run.
  NoisedRun(Session& session, std::shared_ptr<const Drugs> drugs, std::uint32_t sequence = 0,
            ActivationHook* observer = nullptr);

  /// Runs the first of these tokens, as many as the session has rows of logits for, and returns the
  /// logits behind each of them: at least one row. Errors: those of Session::run.
  Result<MatrixView<const float>> run(std::span<const Token> tokens);

 private:
  class Hook final : public ActivationHook {
   public:
    Hook(std::shared_ptr<const Drugs> drugs, std::uint32_t sequence, ActivationHook* observer)
        : noise_(std::move(drugs), sequence), observer_(observer) {}
    void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
      noise_.at(place, values);
      if (observer_ != nullptr) observer_->at(place, values);
    }
    bool wants(Site site) const noexcept override {
      return noise_.wants(site) || (observer_ != nullptr && observer_->wants(site));
    }

   private:
    DrugHook noise_;
    ActivationHook* observer_;
  };

  Session* session_;
  std::shared_ptr<const Drugs> drugs_;
  Hook hook_;
  bool has_hook_;
  State state_;
  State clean_;               // in front of since_
  std::vector<Token> since_;  // noised, of a shower
};

/// Where noise lies.
struct NoiseKey {
  std::uint64_t seed = 0;
  std::uint32_t sequence = 0;
  Index position = 0;
  Index layer = 0;
  DrugSite site = DrugSite::A;
  Index vector = 0;  ///< which of the site's vectors of that token
  DrugDirection direction = DrugDirection::gauss;
  DrugAngle angle = DrugAngle::uniform;
};

/// Turns x by a random angle around a random axis; `direction` is working memory of as many floats:
///
///   o = u - x (u·x) / (x·x)        x' = cos φ · x + sin φ · |x| · o / |o|
///
/// with u and φ from the key, φ of the law's size `theta`. Vectors of one number, of zeros, and
/// such as are not finite stay as they are. Numeric contract, section 13.
KRAIT_API void turn(std::span<float> x, double theta, const NoiseKey& key,
                    std::span<float> direction) noexcept;

}  // namespace v0_1
}  // namespace krait
