#pragma once

/// \file
/// Training: exact backward passes of models and blocks, and runs with them. In an archive of its
/// own.

#include "krait/training/block_gradient.hpp"
#include "krait/training/compare_answers.hpp"
#include "krait/training/initial_weights.hpp"
#include "krait/training/lora.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/training/parameters.hpp"
#include "krait/training/preference.hpp"
#include "krait/training/reward_stages.hpp"
#include "krait/training/rows.hpp"
#include "krait/training/self_reward.hpp"
#include "krait/training/train.hpp"
#include "krait/training/train_options.hpp"
#include "krait/training/trainer.hpp"
#include "krait/training/workspace.hpp"
