//! Tensors on the host: shared, possibly memory-mapped bytes with an element type and a shape.
//!
//! Text is dictionary-encoded: an element is an index into the tensor's own sorted table, so operators that move
//! or compare elements need not know of it (see `share_tables`).

use crate::ElementType as DType;
use crate::{rounding, small_float};
use half::{bf16, f16};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Bytes somebody owns: a vector, or a range of a memory map. Cloning shares them.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// Owns `bytes`.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { owner: Arc::new(bytes), start: 0, len }
    }

    /// The range `start..start + len` of what `owner` holds; `None` when it does not hold that much.
    pub fn slice_of(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        ((*owner).as_ref().len() >= end).then_some(Self { owner, start, len })
    }

    /// A part of these bytes; `None` when it reaches beyond their end.
    pub fn sub(&self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= self.len).then(|| Self { owner: self.owner.clone(), start: self.start + start, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

/// A dense row-major tensor, little-endian.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
    /// The strings of a tensor of text, sorted, each once.
    table: Option<Arc<[String]>>,
}

/// Number of elements of a shape, or `None` when it overflows. Empty dimensions do not hide an overflow of the
/// others, so that products of some of the dimensions cannot overflow either.
pub fn n_elements(shape: &[usize]) -> Option<usize> {
    let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { n })
}

impl Tensor {
    /// A tensor over `bytes`; `None` when the length does not match the shape.
    pub fn new(dtype: DType, shape: &[usize], bytes: Bytes) -> Option<Self> {
        let want = n_elements(shape)?.checked_mul(dtype.size_bytes())?;
        (bytes.len == want).then(|| Self { dtype, shape: shape.to_vec(), bytes, table: None })
    }

    /// From plain values; `None` when their number does not match the shape.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Option<Self> {
        Self::new(T::DTYPE, shape, Bytes::from_vec(bytemuck::cast_slice(values).to_vec()))
    }

    /// A scalar.
    pub fn scalar<T: Element>(value: T) -> Self {
        let bytes = Bytes::from_vec(bytemuck::bytes_of(&value).to_vec());
        Self { dtype: T::DTYPE, shape: Vec::new(), bytes, table: None }
    }

    /// A tensor of text; `None` when the number of strings does not match the shape.
    pub fn from_strings(shape: &[usize], strings: &[impl AsRef<str>]) -> Option<Self> {
        let sorted: BTreeSet<&str> = strings.iter().map(AsRef::as_ref).collect();
        let table: Vec<&str> = sorted.into_iter().collect();
        let index = |s: &str| table.binary_search(&s).unwrap_or(0) as u32;
        let bytes = strings.iter().flat_map(|s| index(s.as_ref()).to_le_bytes()).collect();
        let tensor = Self::new(DType::Str, shape, Bytes::from_vec(bytes))?;
        Some(tensor.with_table(Some(table.into_iter().map(str::to_owned).collect())))
    }

    /// The strings of a tensor of text, in order; empty for other element types. An element without an entry in the
    /// table is the empty string.
    pub fn strings(&self) -> Vec<&str> {
        let Some(table) = &self.table else {
            return if self.dtype == DType::Str { vec![""; self.n_elements()] } else { Vec::new() };
        };
        let entry = |i: i64| usize::try_from(i).ok().and_then(|i| table.get(i)).map_or("", String::as_str);
        self.to_i64s().into_iter().map(entry).collect()
    }

    /// The table of a tensor of text.
    pub fn table(&self) -> Option<&Arc<[String]>> {
        self.table.as_ref()
    }

    /// The same elements with another table.
    #[must_use]
    pub fn with_table(mut self, table: Option<Arc<[String]>>) -> Self {
        self.table = table.filter(|_| self.dtype == DType::Str);
        self
    }

    /// From f64 values rounded to `dtype`; integers wrap as `as` does not: they saturate, NaN is 0.
    pub fn from_f64s(dtype: DType, shape: &[usize], values: &[f64]) -> Option<Self> {
        let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
        values.iter().for_each(|&v| push_f64(dtype, v, &mut bytes));
        Self::new(dtype, shape, Bytes::from_vec(bytes))
    }

    /// From i64 values, wrapped to the width of `dtype` (bool: not zero).
    pub fn from_i64s(dtype: DType, shape: &[usize], values: &[i64]) -> Option<Self> {
        let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
        values.iter().for_each(|&v| push_i64(dtype, v, &mut bytes));
        Self::new(dtype, shape, Bytes::from_vec(bytes))
    }

    /// From booleans.
    pub fn from_bools(shape: &[usize], values: &[bool]) -> Option<Self> {
        Self::new(DType::Bool, shape, Bytes::from_vec(values.iter().map(|&b| u8::from(b)).collect()))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.bytes.len / self.dtype.size_bytes()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The same elements in another shape; `None` when the numbers differ.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        Some(Self::new(self.dtype, shape, self.bytes.clone())?.with_table(self.table.clone()))
    }

    /// The elements as `T`, without a copy where the bytes are aligned; `None` for another element type.
    pub fn as_slice<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        if self.dtype != T::DTYPE {
            return None;
        }
        Some(match bytemuck::try_cast_slice(self.bytes()) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(self.bytes())),
        })
    }

    /// All elements as f64 (u64 and i64 above 2^53 lose digits).
    pub fn to_f64s(&self) -> Vec<f64> {
        let size = self.dtype.size_bytes();
        self.bytes().chunks_exact(size).map(|c| read_f64(self.dtype, c)).collect()
    }

    /// All elements as i64 (floats towards zero, u64 bits reinterpreted).
    pub fn to_i64s(&self) -> Vec<i64> {
        let size = self.dtype.size_bytes();
        self.bytes().chunks_exact(size).map(|c| read_i64(self.dtype, c)).collect()
    }

    /// All elements as booleans ("not zero").
    pub fn to_bools(&self) -> Vec<bool> {
        self.to_i64s().into_iter().map(|v| v != 0).collect()
    }

    /// The only element as f64; `None` unless there is exactly one.
    pub fn to_scalar_f64(&self) -> Option<f64> {
        (self.n_elements() == 1).then(|| read_f64(self.dtype, self.bytes()))
    }

    /// The value all elements share (bitwise), as f64; `None` when they differ or there is none.
    pub fn splat_f64(&self) -> Option<f64> {
        let size = self.dtype.size_bytes();
        let first = self.bytes().get(..size).filter(|_| self.dtype != DType::Str)?;
        self.bytes().chunks_exact(size).all(|c| c == first).then(|| read_f64(self.dtype, first))
    }

    /// A key that is equal for equal content: the bytes for small tensors, a 128-bit hash beyond.
    pub fn key(&self) -> String {
        const INLINE_BYTES: usize = 64;
        if self.dtype == DType::Str {
            return format!("str{:?}:{:?}", self.shape, self.strings());
        }
        let bytes = self.bytes();
        let content =
            if bytes.len() <= INLINE_BYTES { hex(bytes) } else { format!("#{:032x}", hash128(bytes)) };
        format!("{}{:?}:{content}", self.dtype.name(), self.shape)
    }

    /// Whether both share the same memory.
    pub fn same_memory(&self, other: &Self) -> bool {
        std::ptr::eq(self.bytes(), other.bytes())
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        let same = self.dtype == other.dtype && self.shape == other.shape;
        match self.dtype {
            DType::Str => same && self.strings() == other.strings(),
            _ => same && self.bytes() == other.bytes(),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype.name(), self.shape)
    }
}

/// Gives all tensors of text among `tensors` one sorted table, so that their elements compare and mix as numbers,
/// and returns it; `None` when there is no text.
pub fn share_tables(tensors: &mut [&mut Tensor]) -> Option<Arc<[String]>> {
    let all: BTreeSet<String> = tensors
        .iter()
        .filter(|t| t.dtype == DType::Str)
        .flat_map(|t| t.strings().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    if !tensors.iter().any(|t| t.dtype == DType::Str) {
        return None;
    }
    let table: Arc<[String]> = all.into_iter().collect();
    for tensor in tensors.iter_mut().filter(|t| t.dtype == DType::Str) {
        let index = |s: &str| table.binary_search_by(|e| e.as_str().cmp(s)).unwrap_or(0) as u32;
        let bytes = tensor.strings().into_iter().flat_map(|s| index(s).to_le_bytes()).collect();
        tensor.bytes = Bytes::from_vec(bytes);
        tensor.table = Some(Arc::clone(&table));
    }
    Some(table)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Two independent 64-bit multiply-xor hashes: identity of content, not protection against an adversary.
fn hash128(bytes: &[u8]) -> u128 {
    let mut state = [0x9e37_79b9_7f4a_7c15_u64, 0xc2b2_ae3d_27d4_eb4f];
    for chunk in bytes.chunks(8) {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        state[0] = (state[0] ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        state[1] = (state[1].wrapping_add(word)).wrapping_mul(0xc4ce_b9fe_1a85_ec53).rotate_left(31) ^ word;
    }
    (u128::from(state[0]) << 64) | u128::from(state[1] ^ bytes.len() as u64)
}

/// A Rust type that is an element type.
pub trait Element: bytemuck::Pod {
    const DTYPE: DType;
}

macro_rules! element {
    ($($ty:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

element! { f32 => F32, f16 => F16, bf16 => Bf16, f64 => F64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
u8 => U8, u16 => U16, u32 => U32, u64 => U64 }

fn word<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// One element as f64.
fn read_f64(dtype: DType, b: &[u8]) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(word(b))),
        DType::F16 => f16::from_le_bytes(word(b)).to_f64(),
        DType::Bf16 => bf16::from_le_bytes(word(b)).to_f64(),
        DType::F64 => f64::from_le_bytes(word(b)),
        DType::U64 => u64::from_le_bytes(word(b)) as f64,
        _ if dtype.is_small_float() => small_float::decode(dtype, b[0]),
        _ => read_i64(dtype, b) as f64,
    }
}

/// One element as i64.
fn read_i64(dtype: DType, b: &[u8]) -> i64 {
    match dtype {
        DType::I8 | DType::I4 | DType::I2 => i64::from(i8::from_le_bytes(word(b))),
        DType::I16 => i64::from(i16::from_le_bytes(word(b))),
        DType::I32 => i64::from(i32::from_le_bytes(word(b))),
        DType::I64 => i64::from_le_bytes(word(b)),
        DType::U8 | DType::U4 | DType::U2 => i64::from(b[0]),
        DType::Bool => i64::from(b[0] != 0),
        DType::U16 => i64::from(u16::from_le_bytes(word(b))),
        DType::U32 | DType::Str => i64::from(u32::from_le_bytes(word(b))),
        DType::U64 => u64::from_le_bytes(word(b)).cast_signed(),
        _ => read_f64(dtype, b) as i64,
    }
}

fn push_f64(dtype: DType, v: f64, out: &mut Vec<u8>) {
    match dtype {
        DType::F32 => out.extend((v as f32).to_le_bytes()),
        DType::F16 => out.extend(rounding::to_f16(v).to_le_bytes()),
        DType::Bf16 => out.extend(rounding::to_bf16(v).to_le_bytes()),
        DType::F64 => out.extend(v.to_le_bytes()),
        DType::I8 => out.extend((v as i8).to_le_bytes()),
        DType::I16 => out.extend((v as i16).to_le_bytes()),
        DType::I32 => out.extend((v as i32).to_le_bytes()),
        DType::I64 => out.extend((v as i64).to_le_bytes()),
        DType::U8 => out.push(v as u8),
        DType::U16 => out.extend((v as u16).to_le_bytes()),
        DType::U32 => out.extend((v as u32).to_le_bytes()),
        DType::U64 => out.extend((v as u64).to_le_bytes()),
        DType::Bool => out.push(u8::from(v != 0.0)),
        DType::I4 => out.push((v as i8).clamp(-8, 7).cast_unsigned()),
        DType::U4 => out.push((v as u8).min(15)),
        DType::I2 => out.push((v as i8).clamp(-2, 1).cast_unsigned()),
        DType::U2 => out.push((v as u8).min(3)),
        DType::Str => out.extend((v as u32).to_le_bytes()),
        _ => out.push(small_float::encode(dtype, v, true)),
    }
}

fn push_i64(dtype: DType, v: i64, out: &mut Vec<u8>) {
    match dtype {
        DType::Bool => out.push(u8::from(v != 0)),
        // The low bits, with their sign where there is one.
        DType::I4 => out.push((((v << 60) >> 60) as i8).cast_unsigned()),
        DType::U4 => out.push((v & 15) as u8),
        DType::I2 => out.push((((v << 62) >> 62) as i8).cast_unsigned()),
        DType::U2 => out.push((v & 3) as u8),
        _ if dtype.is_float() => push_f64(dtype, v as f64, out),
        _ => out.extend(&v.to_le_bytes()[..dtype.size_bytes()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert!(Tensor::from_slice(&[2, 2], &[1.0f32; 3]).is_none());
        assert!(Tensor::from_slice(&[usize::MAX, 2], &[1.0f32; 3]).is_none());
        assert!(Bytes::slice_of(Arc::new(vec![0u8; 4]), 3, usize::MAX).is_none());
    }

    #[test]
    fn conversions_wrap_and_round() {
        let t = Tensor::from_i64s(DType::I8, &[2], &[300, -1]).unwrap();
        assert_eq!(t.to_i64s(), [44, -1]);
        let t = Tensor::from_f64s(DType::F16, &[1], &[1.0 / 3.0]).unwrap();
        assert!((t.to_f64s()[0] - 1.0 / 3.0).abs() < 1e-3);
        assert_eq!(Tensor::from_i64s(DType::Bool, &[2], &[2, 0]).unwrap().to_bools(), [true, false]);
    }

    #[test]
    fn keys_tell_content_apart() {
        let a = Tensor::from_slice(&[100], &[1.0f32; 100]).unwrap();
        let mut values = [1.0f32; 100];
        values[99] = 2.0;
        let b = Tensor::from_slice(&[100], &values).unwrap();
        assert_ne!(a.key(), b.key());
        assert_eq!(a.key(), a.clone().key());
        assert_eq!(a.splat_f64(), Some(1.0));
        assert_eq!(b.splat_f64(), None);
    }
}
