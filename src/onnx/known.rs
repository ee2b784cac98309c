//! Which operators a model may hold.

use crate::adapt::{NEWEST_OPSET, OLDEST_OPSET};
use crate::import::standard;
use crate::{contrib, history};

/// Standard operators without a row: they are read as constants or as what took their place.
const READ_AS_OTHERS: &[&str] = &["Constant", "Scatter", "Upsample"];

/// Operators that are known by name, but have no meaning here: (domain, operator).
const REFUSED: &[(&str, &str)] = &[("ai.onnx.preview.training", "Gradient")];

/// Whether a model of the given opset of `domain` may hold the operator. That says nothing of its attributes, and of its
/// operands' types.
pub fn accepts(domain: &str, op_type: &str, opset: i64) -> bool {
    let domain = standard(domain);
    let is_standard = domain.is_empty();
    if REFUSED.contains(&(domain, op_type)) {
        return false;
    }
    if is_standard
        && (!(OLDEST_OPSET..=NEWEST_OPSET).contains(&opset) || history::check(op_type, opset).is_err())
    {
        return false;
    }
    let has_row = || {
        partita_ops::registry()
            .iter()
            .any(|op| op.onnx.iter().any(|n| n.domain == domain && n.op_type == op_type))
    };
    is_standard && READ_AS_OTHERS.contains(&op_type) || contrib::knows(domain, op_type) || has_row()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_decide() {
        assert!(accepts("", "Relu", 6));
        assert!(accepts("ai.onnx", "Constant", 13));
        assert!(accepts("", "Scatter", 10));
        assert!(!accepts("", "Scatter", 11));
        assert!(!accepts("", "Gelu", 19));
        assert!(accepts("com.microsoft", "FusedMatMul", 1));
        assert!(!accepts("com.microsoft", "NoSuchThing", 1));
        assert!(!accepts("ai.onnx.preview.training", "Gradient", 1));
    }
}
