#pragma once

/// \file
/// Specs, models, states, sessions.

#include "krait/models/builder.hpp"
#include "krait/models/model.hpp"
#include "krait/models/model_plan.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"
#include "krait/models/spec.hpp"
#include "krait/models/state.hpp"
