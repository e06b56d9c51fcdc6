#pragma once

/// \file
/// The filters that are written in text_filters.cpp.

#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace filters {

Value absolute(Renderer& renderer, const Value& value, const Arguments& arguments);
Value capitalize_text(Renderer& renderer, const Value& value, const Arguments& arguments);
Value center(Renderer& renderer, const Value& value, const Arguments& arguments);
Value escape(Renderer& renderer, const Value& value, const Arguments& arguments);
Value escape_always(Renderer& renderer, const Value& value, const Arguments& arguments);
Value format(Renderer& renderer, const Value& value, const Arguments& arguments);
Value indent(Renderer& renderer, const Value& value, const Arguments& arguments);
Value lower_text(Renderer& renderer, const Value& value, const Arguments& arguments);
Value real(Renderer& renderer, const Value& value, const Arguments& arguments);
Value replace(Renderer& renderer, const Value& value, const Arguments& arguments);
Value round(Renderer& renderer, const Value& value, const Arguments& arguments);
Value safe(Renderer& renderer, const Value& value, const Arguments& arguments);
Value string(Renderer& renderer, const Value& value, const Arguments& arguments);
Value title_text(Renderer& renderer, const Value& value, const Arguments& arguments);
Value tojson(Renderer& renderer, const Value& value, const Arguments& arguments);
Value trim(Renderer& renderer, const Value& value, const Arguments& arguments);
Value truncate(Renderer& renderer, const Value& value, const Arguments& arguments);
Value upper_text(Renderer& renderer, const Value& value, const Arguments& arguments);
Value urlencode(Renderer& renderer, const Value& value, const Arguments& arguments);
Value whole(Renderer& renderer, const Value& value, const Arguments& arguments);
Value wordcount(Renderer& renderer, const Value& value, const Arguments& arguments);

}  // namespace filters
}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
