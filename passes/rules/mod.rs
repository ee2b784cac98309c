//! The shipped rules: data by theme. A new theme is one file and one line here.

use crate::egraph::parse::rules;
use crate::egraph::pattern::Rule;
use partita_ir::diag::Diag;

/// Themes and their rule texts.
pub const THEMES: &[(&str, &str)] = &[
    ("arithmetic", include_str!("arithmetic.rules")),
    ("bounds", include_str!("bounds.rules")),
    ("shape", include_str!("shape.rules")),
    ("transpose", include_str!("transpose.rules")),
    ("matmul", include_str!("matmul.rules")),
    ("conv", include_str!("conv.rules")),
    ("activation", include_str!("activation.rules")),
    ("norm", include_str!("norm.rules")),
    ("softmax", include_str!("softmax.rules")),
];

/// All shipped rules.
///
/// # Errors
/// What is wrong with a file; a unit test holds that nothing is.
pub fn shipped() -> Result<Vec<Rule>, Vec<Diag>> {
    let mut out = Vec::new();
    for (theme, text) in THEMES {
        out.extend(rules(theme, text, partita_ops::registry())?);
    }
    Ok(out)
}
