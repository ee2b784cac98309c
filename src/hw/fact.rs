//! A number together with where it comes from.

use serde::{Deserialize, Serialize};

/// A value and its origin in words, such as "profile nvidia-h100-sxm5-80gb (checked)".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Fact<T> {
    /// The value, in the unit its field names.
    pub value: T,
    /// Where it comes from.
    pub origin: String,
}

impl<T> Fact<T> {
    /// A value with its origin.
    pub fn new(value: T, origin: impl Into<String>) -> Self {
        Fact { value, origin: origin.into() }
    }
}
