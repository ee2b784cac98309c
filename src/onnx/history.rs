//! When operators of the standard domain came and went. A model that uses one outside its time states a wrong
//! opset, and then nothing else it says can be trusted either.
//!
//! Source: the operator schemas of onnx 1.23 (`onnx.defs.get_all_schemas_with_history`).

use partita_ir::Diag;

/// Operators by the opset that introduced them; those not listed are older than any opset that is read.
#[rustfmt::skip]
const INTRODUCED: &[(i64, &[&str])] = &[
    (7, &["Acos", "Asin", "Atan", "Cos", "Multinomial", "Sin", "Tan"]),
    (8, &["Expand", "Scan"]),
    (
        9,
        &[
            "Acosh", "Asinh", "Atanh", "Compress", "ConstantOfShape", "Cosh", "Erf", "EyeLike", "IsNaN",
            "MaxUnpool", "MeanVarianceNormalization", "NonZero", "OneHot", "Scatter", "Shrink", "Sign", "Sinh",
            "TfIdfVectorizer", "Where",
        ],
    ),
    (
        10,
        &[
            "ConvInteger", "DequantizeLinear", "IsInf", "MatMulInteger", "Mod", "NonMaxSuppression",
            "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Resize", "ReverseSequence", "RoiAlign",
            "StringNormalizer", "ThresholdedRelu",
        ],
    ),
    (
        11,
        &[
            "BitShift", "ConcatFromSequence", "CumSum", "Det", "DynamicQuantizeLinear", "GatherElements",
            "GatherND", "Range", "Round", "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct",
            "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence", "Unique",
        ],
    ),
    (
        12,
        &[
            "Celu", "Einsum", "GreaterOrEqual", "LessOrEqual", "NegativeLogLikelihoodLoss",
            "SoftmaxCrossEntropyLoss",
        ],
    ),
    (14, &["HardSwish", "Trilu"]),
    (15, &["Bernoulli", "CastLike", "Optional", "OptionalGetElement", "OptionalHasElement"]),
    (16, &["GridSample"]),
    (
        17,
        &[
            "BlackmanWindow", "DFT", "HammingWindow", "HannWindow", "LayerNormalization", "MelWeightMatrix",
            "STFT", "SequenceMap",
        ],
    ),
    (
        18,
        &[
            "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im",
            "GroupNormalization", "Mish",
        ],
    ),
    (19, &["DeformConv"]),
    (20, &["AffineGrid", "Gelu", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit"]),
    (23, &["Attention", "RMSNormalization", "RotaryEmbedding"]),
    (24, &["Swish", "TensorScatter"]),
    (26, &["BitCast", "CumProd"]),
    (27, &["CausalConvWithState", "LinearAttention"]),
    (28, &["SwiGLU"]),
];

/// Operators that were withdrawn: (operator, first opset without it, what took its place).
const WITHDRAWN: &[(&str, i64, &str)] = &[("Scatter", 11, "ScatterElements"), ("Upsample", 10, "Resize")];

/// Whether the standard domain has the operator in this opset.
///
/// # Errors
/// `I027` when it came later or was withdrawn before.
pub(crate) fn check(op_type: &str, opset: i64) -> Result<(), Diag> {
    let hint = "the model states a wrong opset; export it again";
    if let Some((since, _)) = INTRODUCED.iter().find(|(since, ops)| *since > opset && ops.contains(&op_type))
    {
        let text = format!("operator {op_type} exists since opset {since}, the model states opset {opset}");
        return Err(Diag::new("I027", text).hint(hint));
    }
    if let Some((_, gone, newer)) = WITHDRAWN.iter().find(|(op, gone, _)| *op == op_type && opset >= *gone) {
        let text =
            format!("operator {op_type} is {newer} since opset {gone}, the model states opset {opset}");
        return Err(Diag::new("I027", text).hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_their_time() {
        assert!(check("Gelu", 20).is_ok());
        assert!(check("Relu", 6).is_ok());
        assert_eq!(check("Gelu", 19).unwrap_err().code, "I027");
        assert!(check("Upsample", 9).is_ok());
        assert_eq!(check("Upsample", 10).unwrap_err().code, "I027");
    }
}
