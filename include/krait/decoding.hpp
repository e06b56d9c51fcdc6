#pragma once

/// \file
/// Sampling and generation.

#include "krait/decoding/beam_search.hpp"
#include "krait/decoding/best_of.hpp"
#include "krait/decoding/candidates.hpp"
#include "krait/decoding/constraint.hpp"
#include "krait/decoding/conversation.hpp"
#include "krait/decoding/draft.hpp"
#include "krait/decoding/drafter.hpp"
#include "krait/decoding/drugs.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/generation.hpp"
#include "krait/decoding/grammar.hpp"
#include "krait/decoding/guidance.hpp"
#include "krait/decoding/log_probs.hpp"
#include "krait/decoding/rejection.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/decoding/sampler_step.hpp"
#include "krait/decoding/sequence.hpp"
#include "krait/decoding/speculation.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/decoding/stop.hpp"
#include "krait/decoding/template_conversation.hpp"
#include "krait/decoding/token_mask.hpp"
#include "krait/decoding/token_spelling.hpp"
