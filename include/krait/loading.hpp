#pragma once

/// \file
/// From a checkpoint to a model: configurations, names of tensors, tokenizers.

#include "krait/loading/adapter.hpp"
#include "krait/loading/bundled_model.hpp"
#include "krait/loading/chat_templates.hpp"
#include "krait/loading/checkpoint.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/loading/registry.hpp"
