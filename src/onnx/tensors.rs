//! `TensorProto` to `Tensor` and back. Weights are slices of the file; only data stored as numbers is decoded.

use crate::dtypes::{code_of, dtype_of};
use crate::external::External;
use crate::limits::Limits;
use crate::map::{Owner, hold};
use crate::packed::{file_bytes, file_len, is_packed, pack, unpack};
use crate::schema::{Msg, Weights};
use crate::wire::{Lift, push_varint, scan};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{Message, TensorProto};
use partita_ir::builder::MAX_RANK;
use partita_ir::tensor::n_elements;
use partita_ir::{Bytes, DType, Diag, Tensor};

/// Hint for data that cannot be right.
pub(crate) const DAMAGED: &str = "the file is damaged or was written by a faulty exporter; export it again";

/// Where the weights of a file's tensors are.
pub(crate) struct Store {
    pub(crate) owner: Owner,
    pub(crate) lifts: Vec<Lift>,
    pub(crate) external: External,
    pub(crate) limits: Limits,
}

impl Store {
    /// A store over a message of its own, without a folder.
    pub(crate) fn of_message(owner: Owner, lifts: Vec<Lift>) -> Self {
        Self { owner, lifts, external: External::default(), limits: Limits::default() }
    }

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
        let n = n_elements(&shape).filter(|n| *n as u64 <= self.limits.elements).ok_or_else(too_many)?;
        let in_memory = n.checked_mul(dtype.size_bytes()).filter(|&n| isize::try_from(n).is_ok());
        in_memory.ok_or_else(too_many)?;
        let external = proto.data_location.value() == DataLocation::EXTERNAL as i32;
        if dtype == DType::Str {
            return self.text(proto, &shape, n, external);
        }
        let n_bytes = file_len(dtype, n).ok_or_else(too_many)?;
        let bytes = if external {
            if proto.segment.is_some() || numbers_of(proto) > 0 {
                return Err(twice());
            }
            self.external.data(proto, n_bytes)?
        } else {
            self.inline(proto, dtype, n)?
        };
        let len = bytes.as_slice().len();
        let wrong = || {
            let text = format!("the tensor holds {len} bytes, its shape {shape:?} needs {n_bytes}");
            Diag::new("I040", text).hint(DAMAGED)
        };
        if len != n_bytes {
            return Err(wrong());
        }
        let bytes =
            if is_packed(dtype) { Bytes::from_vec(unpack(dtype, bytes.as_slice(), n)) } else { bytes };
        let tensor = Tensor::new(dtype, &shape, bytes).ok_or_else(wrong)?;
        Ok(if dtype == DType::Bool { clean_bools(tensor) } else { tensor })
    }

    /// A tensor of text.
    fn text(&self, proto: &TensorProto, shape: &[usize], n: usize, external: bool) -> Result<Tensor, Diag> {
        let len = proto.string_data.len();
        if external || !self.lifts_of(proto).is_empty() || numbers_of(proto) != len {
            return Err(wrong_field(DType::Str));
        }
        let text = |s: &Vec<u8>| {
            std::str::from_utf8(s).map(str::to_owned).map_err(|_| {
                Diag::new("I008", "a tensor of text holds bytes that are not UTF-8").hint(DAMAGED)
            })
        };
        let strings: Vec<String> = proto.string_data.iter().map(text).collect::<Result<_, _>>()?;
        Tensor::from_strings(shape, &strings).ok_or_else(|| {
            Diag::new("I040", format!("the tensor holds {len} texts, its shape needs {n}")).hint(DAMAGED)
        })
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

/// A shape from a file's dimensions.
pub(crate) fn shape_of(dims: &[i64]) -> Result<Vec<usize>, Diag> {
    if dims.len() > MAX_RANK {
        let text = format!("the tensor has {} dimensions, at most {MAX_RANK} are supported", dims.len());
        return Err(Diag::new("I041", text).hint("merge dimensions"));
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
        // Floats below 32 bits are stored as their bits, and what is packed as the bytes of the pack.
        DType::F16 | DType::Bf16 => {
            let values: Vec<i64> = small().collect();
            (values.len(), Tensor::from_i64s(DType::U16, &[n], &values))
        }
        // But for 6 bits, where every number is one element.
        DType::F6E2M3 | DType::F6E3M2 => {
            let codes: Vec<u8> = small().map(|v| v as u8).collect();
            let n_codes = Tensor::from_slice(&[n], &codes);
            (
                codes.len(),
                n_codes.and_then(|_| Tensor::from_slice(&[file_len(dtype, n)?], &pack(dtype, &codes))),
            )
        }
        _ if dtype.is_small_float() || is_packed(dtype) => {
            let values: Vec<i64> = small().collect();
            let n_bytes = file_len(dtype, n).unwrap_or(usize::MAX);
            (values.len(), Tensor::from_i64s(DType::U8, &[n_bytes], &values))
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
    let mut store = Store::of_message(hold(bytes), scanned.lifts);
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

/// A whole `TensorProto`, its data inside.
pub(crate) fn full(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = header(name, tensor);
    if tensor.dtype() == DType::Str {
        proto.string_data = tensor.strings().into_iter().map(|s| s.as_bytes().to_vec()).collect();
    } else {
        proto.raw_data = file_bytes(tensor).into_owned();
    }
    proto
}

/// The bytes of a `TensorProto` that come before the `n_bytes` of its data, data length included; the data follows.
/// Text is all in front.
pub(crate) fn prefix(name: &str, tensor: &Tensor, n_bytes: usize) -> Vec<u8> {
    // Writing to memory fails for missing required fields only, which ONNX has not.
    if tensor.dtype() == DType::Str {
        return full(name, tensor).write_to_bytes().unwrap_or_default();
    }
    let mut out = header(name, tensor).write_to_bytes().unwrap_or_default();
    push_varint(&mut out, 9 << 3 | 2);
    push_varint(&mut out, n_bytes as u64);
    out
}

/// A file that holds one `TensorProto`.
pub fn tensor_to_pb(name: &str, tensor: &Tensor) -> Vec<u8> {
    let data = file_bytes(tensor);
    let mut out = prefix(name, tensor, data.len());
    out.extend_from_slice(&data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtypes::DTYPES;

    fn read(proto: &TensorProto) -> Result<Tensor, &'static str> {
        let bytes = Bytes::from_vec(proto.write_to_bytes().unwrap());
        tensor_from_pb(bytes).map(|(_, t)| t).map_err(|d| d.code)
    }

    #[test]
    fn all_types_round_trip() {
        for (_, dtype) in DTYPES.iter().filter(|(_, d)| *d != DType::Str) {
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
    fn text_round_trips() {
        let tensor = Tensor::from_strings(&[3], &["b", "", "a"]).unwrap();
        let (_, back) = tensor_from_pb(Bytes::from_vec(tensor_to_pb("t", &tensor))).unwrap();
        assert_eq!(back, tensor);
        let strings = vec![vec![0xff]];
        let broken = TensorProto { dims: vec![1], data_type: 8, string_data: strings, ..Default::default() };
        assert_eq!(read(&broken), Err("I008"));
        let raw = TensorProto { dims: vec![1], data_type: 8, raw_data: vec![0; 4], ..Default::default() };
        assert_eq!(read(&raw), Err("I042"));
    }

    #[test]
    fn packed_numbers_are_bytes_of_the_pack() {
        let proto = |data_type, int32_data: Vec<i32>| TensorProto {
            dims: vec![3],
            data_type,
            int32_data,
            ..Default::default()
        };
        assert_eq!(read(&proto(22, vec![0x7f, 0x08])).unwrap().to_i64s(), [-1, 7, -8]);
        assert_eq!(read(&proto(21, vec![0x7f, 0x08])).unwrap().to_i64s(), [15, 7, 8]);
        assert_eq!(read(&proto(22, vec![1, 2, 3])), Err("I040"));
        assert_eq!(read(&proto(17, vec![0x38, 0xb8, 0x40])).unwrap().to_f64s(), [1.0, -1.0, 2.0]);
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
        proto.data_type = 14;
        assert_eq!(read(&proto), Err("U003"));
        let missing = TensorProto { dims: vec![1], data_type: 1, ..Default::default() };
        assert_eq!(read(&missing), Err("I040"));
    }
}
