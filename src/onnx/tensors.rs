//! `TensorProto` to `Tensor` and back. Weights are slices of the file; only data stored as numbers is decoded.

use crate::external::External;
use crate::limits::Limits;
use crate::map::{Owner, hold};
use crate::schema::{Msg, Weights};
use crate::wire::{Lift, push_varint, scan};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{Message, TensorProto};
use partita_ir::builder::MAX_RANK;
use partita_ir::tensor::n_elements;
use partita_ir::{Bytes, DType, Diag, Tensor};

/// ONNX's number of each element type.
const DTYPES: &[(i32, DType)] = &[
    (1, DType::F32),
    (2, DType::U8),
    (3, DType::I8),
    (4, DType::U16),
    (5, DType::I16),
    (6, DType::I32),
    (7, DType::I64),
    (9, DType::Bool),
    (10, DType::F16),
    (11, DType::F64),
    (12, DType::U32),
    (13, DType::U64),
    (16, DType::Bf16),
];

/// Names of the types ONNX has and we have not.
const OTHER_TYPES: &[(i32, &str)] = &[
    (8, "string"),
    (14, "complex64"),
    (15, "complex128"),
    (17, "float8e4m3fn"),
    (18, "float8e4m3fnuz"),
    (19, "float8e5m2"),
    (20, "float8e5m2fnuz"),
    (21, "uint4"),
    (22, "int4"),
    (23, "float4e2m1"),
    (24, "float8e8m0"),
    (25, "uint2"),
    (26, "int2"),
    (27, "float6e2m3"),
    (28, "float6e3m2"),
];

/// The element type ONNX gives the number `code`.
///
/// # Errors
/// `U003` for a type that is not supported, `I041` for a number that is no type.
pub(crate) fn dtype_of(code: i64) -> Result<DType, Diag> {
    if let Some((_, dtype)) = DTYPES.iter().find(|(n, _)| i64::from(*n) == code) {
        return Ok(*dtype);
    }
    if let Some((_, name)) = OTHER_TYPES.iter().find(|(n, _)| i64::from(*n) == code) {
        return Err(Diag::new("U003", format!("element type {name} is not supported"))
            .hint("export the model with float, integer or boolean tensors"));
    }
    Err(Diag::new("I041", format!("{code} is not an element type")).hint(DAMAGED))
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
        other => other.to_lowercase().replace("uint", "u").replace("int", "i").replace("float", "f"),
    };
    let found = DTYPES.iter().find(|(_, dtype)| dtype.name() == ours);
    found.map(|(code, _)| i64::from(*code)).ok_or_else(|| {
        Diag::new("U003", format!("element type {name} is not supported"))
            .hint("export the model with float, integer or boolean tensors")
    })
}

/// ONNX's number of an element type.
pub(crate) fn code_of(dtype: DType) -> i32 {
    DTYPES.iter().find(|(_, d)| *d == dtype).map_or(0, |(n, _)| *n)
}

const DAMAGED: &str = "the file is damaged or was written by a faulty exporter; export it again";

/// Where the weights of a file's tensors are.
pub(crate) struct Store {
    pub(crate) owner: Owner,
    pub(crate) lifts: Vec<Lift>,
    pub(crate) external: External,
}

impl Store {
    /// The tensor.
    ///
    /// # Errors
    /// `U003` type, `I03x` external data, `I040` data that does not fit the shape, `I041` bad shape,
    /// `I042` data stated twice.
    pub(crate) fn tensor(&mut self, proto: &TensorProto) -> Result<Tensor, Diag> {
        self.read(proto).map_err(|d| d.at_value(proto.name.clone()))
    }

    fn read(&mut self, proto: &TensorProto) -> Result<Tensor, Diag> {
        let dtype = dtype_of(proto.data_type.into())?;
        let shape = shape_of(&proto.dims)?;
        let n = n_elements(&shape).ok_or_else(too_many)?;
        let n_bytes = n.checked_mul(dtype.size_bytes()).filter(|&n| isize::try_from(n).is_ok());
        let n_bytes = n_bytes.ok_or_else(too_many)?;
        let bytes = if proto.data_location.value() == DataLocation::EXTERNAL as i32 {
            if proto.segment.is_some() || numbers_of(proto) > 0 {
                return Err(twice());
            }
            self.external.data(proto, n_bytes)?
        } else {
            self.inline(proto, dtype, n)?
        };
        let len = bytes.as_slice().len();
        let tensor = Tensor::new(dtype, &shape, bytes).ok_or_else(|| {
            let text = format!("the tensor holds {len} bytes, its shape {shape:?} needs {n_bytes}");
            Diag::new("I040", text).hint(DAMAGED)
        })?;
        Ok(if dtype == DType::Bool { clean_bools(tensor) } else { tensor })
    }

    /// Data inside the message: lifted bytes, or numbers the parser decoded.
    fn inline(&self, proto: &TensorProto, dtype: DType, n: usize) -> Result<Bytes, Diag> {
        let lifts = self.lifts_of(proto);
        match (lifts, numbers_of(proto)) {
            ([], _) => decoded(proto, dtype, n),
            (_, 1..) => Err(twice()),
            ([lift], _) => self.lifted(*lift, dtype),
            (several, _) => self.joined(several, dtype),
        }
    }

    fn lifts_of(&self, proto: &TensorProto) -> &[Lift] {
        let index = |v: i64| usize::try_from(v).unwrap_or(usize::MAX);
        let range = proto.segment.as_ref().map(|s| index(s.begin)..index(s.end));
        range.and_then(|r| self.lifts.get(r)).unwrap_or(&[])
    }

    fn lifted(&self, lift: Lift, dtype: DType) -> Result<Bytes, Diag> {
        let fits = match lift.weights {
            Weights::Raw => true,
            Weights::Float => dtype == DType::F32,
            Weights::Double => dtype == DType::F64,
        };
        if !fits {
            return Err(wrong_field(dtype));
        }
        Bytes::slice_of(self.owner.clone(), lift.offset, lift.len).ok_or_else(twice)
    }

    /// Packed data in several pieces; legal, though nobody writes it.
    fn joined(&self, lifts: &[Lift], dtype: DType) -> Result<Bytes, Diag> {
        if lifts.iter().any(|l| l.weights == Weights::Raw || l.weights != lifts[0].weights) {
            return Err(twice());
        }
        let mut out = Vec::with_capacity(lifts.iter().map(|l| l.len).sum());
        for lift in lifts {
            out.extend_from_slice(self.lifted(*lift, dtype)?.as_slice());
        }
        Ok(Bytes::from_vec(out))
    }
}

fn shape_of(dims: &[i64]) -> Result<Vec<usize>, Diag> {
    if dims.len() > MAX_RANK {
        let text = format!("the tensor has {} dimensions, at most {MAX_RANK} are supported", dims.len());
        return Err(Diag::new("I041", text));
    }
    let bad = |d: i64| Diag::new("I041", format!("the tensor has a dimension of size {d}")).hint(DAMAGED);
    dims.iter().map(|&d| usize::try_from(d).map_err(|_| bad(d))).collect()
}

fn too_many() -> Diag {
    Diag::new("I041", "the tensor has more elements than can be counted").hint(DAMAGED)
}

fn twice() -> Diag {
    Diag::new("I042", "the tensor states its data more than once").hint(DAMAGED)
}

fn wrong_field(dtype: DType) -> Diag {
    let text = format!("a tensor of {} keeps its data in a field of another type", dtype.name());
    Diag::new("I042", text).hint(DAMAGED)
}

/// How many numbers the parser decoded, in all fields together.
fn numbers_of(proto: &TensorProto) -> usize {
    proto.int32_data.len()
        + proto.int64_data.len()
        + proto.uint64_data.len()
        + proto.float_data.len()
        + proto.double_data.len()
        + proto.string_data.len()
}

/// Data stored as numbers.
fn decoded(proto: &TensorProto, dtype: DType, n: usize) -> Result<Bytes, Diag> {
    let small = || proto.int32_data.iter().map(|&v| i64::from(v));
    let (len, tensor) = match dtype {
        DType::F32 => (proto.float_data.len(), Tensor::from_slice(&[n], &proto.float_data)),
        DType::F64 => (proto.double_data.len(), Tensor::from_slice(&[n], &proto.double_data)),
        DType::I64 => (proto.int64_data.len(), Tensor::from_slice(&[n], &proto.int64_data)),
        DType::U64 => (proto.uint64_data.len(), Tensor::from_slice(&[n], &proto.uint64_data)),
        DType::U32 => {
            let values: Vec<i64> = proto.uint64_data.iter().map(|v| v.cast_signed()).collect();
            (values.len(), Tensor::from_i64s(dtype, &[n], &values))
        }
        // Half floats are stored as their bits.
        DType::F16 | DType::Bf16 => {
            let values: Vec<i64> = small().collect();
            (values.len(), Tensor::from_i64s(DType::U16, &[n], &values))
        }
        _ => {
            let values: Vec<i64> = small().collect();
            (values.len(), Tensor::from_i64s(dtype, &[n], &values))
        }
    };
    if len != numbers_of(proto) {
        return Err(wrong_field(dtype));
    }
    let tensor = tensor.ok_or_else(|| {
        Diag::new("I040", format!("the tensor holds {len} numbers, its shape needs {n}")).hint(DAMAGED)
    })?;
    Ok(Bytes::from_vec(tensor.bytes().to_vec()))
}

/// Booleans as 0 and 1, whatever the file says for true.
fn clean_bools(tensor: Tensor) -> Tensor {
    if tensor.bytes().iter().all(|&b| b <= 1) {
        return tensor;
    }
    let shape = tensor.shape().to_vec();
    Tensor::from_bools(&shape, &tensor.to_bools()).unwrap_or(tensor)
}

/// Reads a file that holds one `TensorProto`: its name and the tensor.
///
/// # Errors
/// From the wire scan (`I00x`), or what is wrong with the tensor (`I03x`, `I04x`, `U003`). External data is
/// refused: the bytes have no folder.
pub fn tensor_from_pb(bytes: Bytes) -> Result<(String, Tensor), Diag> {
    let scanned = scan(bytes.as_slice(), Msg::Tensor, &Limits::default())?;
    let proto = TensorProto::parse_from_bytes(&scanned.structure)
        .map_err(|e| Diag::new("I009", format!("the tensor cannot be decoded: {e}")).hint(DAMAGED))?;
    let mut store = Store { owner: hold(bytes), lifts: scanned.lifts, external: External::default() };
    let tensor = store.tensor(&proto)?;
    Ok((proto.name, tensor))
}

/// Everything of a `TensorProto` but its data.
pub(crate) fn header(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto::new();
    name.clone_into(&mut proto.name);
    proto.data_type = code_of(tensor.dtype());
    proto.dims = tensor.shape().iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
    proto
}

/// The bytes of a `TensorProto` that come before its data, data length included; the data follows.
pub(crate) fn prefix(name: &str, tensor: &Tensor) -> Vec<u8> {
    // Writing to memory fails for missing required fields only, which ONNX has not.
    let mut out = header(name, tensor).write_to_bytes().unwrap_or_default();
    push_varint(&mut out, 9 << 3 | 2);
    push_varint(&mut out, tensor.bytes().len() as u64);
    out
}

/// A file that holds one `TensorProto`.
pub fn tensor_to_pb(name: &str, tensor: &Tensor) -> Vec<u8> {
    let mut out = prefix(name, tensor);
    out.extend_from_slice(tensor.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(proto: &TensorProto) -> Result<Tensor, &'static str> {
        let bytes = Bytes::from_vec(proto.write_to_bytes().unwrap());
        tensor_from_pb(bytes).map(|(_, t)| t).map_err(|d| d.code)
    }

    #[test]
    fn all_types_round_trip() {
        for (_, dtype) in DTYPES {
            let tensor = Tensor::from_i64s(*dtype, &[2, 2], &[0, 1, 1, 0]).unwrap();
            let (name, back) = tensor_from_pb(Bytes::from_vec(tensor_to_pb("t", &tensor))).unwrap();
            assert_eq!((name.as_str(), &back), ("t", &tensor));
        }
    }

    #[test]
    fn numbers_are_decoded() {
        let mut proto = TensorProto { dims: vec![2], data_type: 1, ..Default::default() };
        proto.float_data = vec![1.5, -2.0];
        assert_eq!(read(&proto).unwrap().to_f64s(), [1.5, -2.0]);
        let halves =
            TensorProto { dims: vec![1], data_type: 10, int32_data: vec![0x3c00], ..Default::default() };
        assert_eq!(read(&halves).unwrap().to_f64s(), [1.0]);
        let words = TensorProto {
            dims: vec![1],
            data_type: 12,
            uint64_data: vec![u32::MAX.into()],
            ..Default::default()
        };
        assert_eq!(read(&words).unwrap().to_i64s(), [i64::from(u32::MAX)]);
    }

    #[test]
    fn data_must_fit_the_shape() {
        let mut proto =
            TensorProto { dims: vec![1000], data_type: 1, raw_data: vec![0; 16], ..Default::default() };
        assert_eq!(read(&proto), Err("I040"));
        proto.dims = vec![1 << 33, 1 << 33];
        assert_eq!(read(&proto), Err("I041"));
        proto.dims = vec![-1];
        assert_eq!(read(&proto), Err("I041"));
        proto.dims = vec![4];
        proto.int32_data = vec![1];
        assert_eq!(read(&proto), Err("I042"));
        proto.int32_data.clear();
        proto.data_type = 9999;
        assert_eq!(read(&proto), Err("I041"));
        proto.data_type = 17;
        assert_eq!(read(&proto), Err("U003"));
        let missing = TensorProto { dims: vec![1], data_type: 1, ..Default::default() };
        assert_eq!(read(&missing), Err("I040"));
    }
}
