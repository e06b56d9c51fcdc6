#pragma once

/// \file
/// Sampling and generation.

#include "krait/decoding/generate.hpp"
#include "krait/decoding/language_model.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/decoding/sequence.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/decoding/stop.hpp"
