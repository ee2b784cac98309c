//! ONNX's numbers and names of element types.

use partita_ir::{DType, Diag};

/// ONNX's number of each element type.
pub(crate) const DTYPES: &[(i32, DType)] = &[
    (1, DType::F32),
    (2, DType::U8),
    (3, DType::I8),
    (4, DType::U16),
    (5, DType::I16),
    (6, DType::I32),
    (7, DType::I64),
    (8, DType::Str),
    (9, DType::Bool),
    (10, DType::F16),
    (11, DType::F64),
    (12, DType::U32),
    (13, DType::U64),
    (16, DType::Bf16),
    (17, DType::F8E4M3fn),
    (18, DType::F8E4M3fnuz),
    (19, DType::F8E5M2),
    (20, DType::F8E5M2fnuz),
    (21, DType::U4),
    (22, DType::I4),
    (23, DType::F4E2M1),
    (24, DType::F8E8M0),
    (25, DType::U2),
    (26, DType::I2),
    (27, DType::F6E2M3),
    (28, DType::F6E3M2),
];

/// Names of the types ONNX has and we have not.
const OTHER_TYPES: &[(i32, &str)] = &[(14, "complex64"), (15, "complex128")];

const NOT_SUPPORTED: &str = "export the model with real numbers, integers, booleans or text";

/// The element type ONNX gives the number `code`.
///
/// # Errors
/// `U003` for a type that is not supported, `I041` for a number that is no type.
pub(crate) fn dtype_of(code: i64) -> Result<DType, Diag> {
    if let Some((_, dtype)) = DTYPES.iter().find(|(n, _)| i64::from(*n) == code) {
        return Ok(*dtype);
    }
    if let Some((_, name)) = OTHER_TYPES.iter().find(|(n, _)| i64::from(*n) == code) {
        return Err(Diag::new("U003", format!("element type {name} is not supported")).hint(NOT_SUPPORTED));
    }
    Err(Diag::new("I041", format!("{code} is not an element type")).hint(crate::tensors::DAMAGED))
}

/// The number of the element type ONNX calls `name`, as `FLOAT16`.
///
/// # Errors
/// `U003` for a name of no supported type.
pub(crate) fn code_named(name: &str) -> Result<i64, Diag> {
    let ours = match name {
        "FLOAT" => "f32".to_owned(),
        "DOUBLE" => "f64".to_owned(),
        "BFLOAT16" => "bf16".to_owned(),
        "STRING" => "str".to_owned(),
        other => other.to_lowercase().replace("uint", "u").replace("int", "i").replace("float", "f"),
    };
    let found = DTYPES.iter().find(|(_, dtype)| dtype.name() == ours);
    found
        .map(|(code, _)| i64::from(*code))
        .ok_or_else(|| Diag::new("U003", format!("element type {name} is not supported")).hint(NOT_SUPPORTED))
}

/// ONNX's number of an element type.
pub(crate) fn code_of(dtype: DType) -> i32 {
    DTYPES.iter().find(|(_, d)| *d == dtype).map_or(0, |(n, _)| *n)
}
