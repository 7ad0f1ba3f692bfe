//! The model and the tokens of a call, on the span of its request. Nothing else of a call is there.

use tracing::Span;

use crate::biz::values::{ids::ModelName, usage::Usage};

/// Records the model that a call names, and its tokens.
pub(super) fn note_call(model: Option<&ModelName>, usage: Option<Usage>) {
    note("gen_ai.request.model", model, usage);
}

/// Records the model that has served a call, and its tokens.
pub(super) fn note_served(model: Option<&ModelName>, usage: Option<Usage>) {
    note("gen_ai.response.model", model, usage);
}

fn note(field: &str, model: Option<&ModelName>, usage: Option<Usage>) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    if let Some(model) = model {
        span.record(field, model.as_str());
    }
    if let Some(usage) = usage.filter(|usage| !usage.is_empty()) {
        span.record("gen_ai.usage.input_tokens", usage.input_tokens);
        span.record("gen_ai.usage.output_tokens", usage.output_tokens);
    }
}
