//! Elements below a byte: files pack them, the first element in the lowest bits; memory holds one a byte.

use partita_ir::{DType, Tensor};
use std::borrow::Cow;

/// Bytes that `n` elements take in a file; `None` when that overflows. Not for text.
pub(crate) fn file_len(dtype: DType, n: usize) -> Option<usize> {
    n.checked_mul(dtype.bits()).map(|bits| bits.div_ceil(8))
}

/// Whether a file packs several elements into one byte.
pub(crate) fn is_packed(dtype: DType) -> bool {
    dtype.bits() < 8
}

/// The `n` elements that `packed` holds, one a byte; signed integers get their sign.
pub(crate) fn unpack(dtype: DType, packed: &[u8], n: usize) -> Vec<u8> {
    let bits = dtype.bits();
    let mask = (1u8 << bits) - 1;
    let byte = |at: usize| packed.get(at).map_or(0, |&b| u16::from(b));
    let element = |i: usize| {
        // An element of 6 bits may reach into the next byte.
        let (at, shift) = (i * bits / 8, i * bits % 8);
        let code = ((byte(at) | byte(at + 1) << 8) >> shift) as u8 & mask;
        let signed = matches!(dtype, DType::I4 | DType::I2) && code >> (bits - 1) == 1;
        if signed { code | !mask } else { code }
    };
    (0..n).map(element).collect()
}

/// The bytes a file holds for the tensor; empty for text, which is kept as strings.
pub(crate) fn file_bytes(tensor: &Tensor) -> Cow<'_, [u8]> {
    if tensor.dtype() == DType::Str {
        return Cow::Borrowed(&[]);
    }
    if !is_packed(tensor.dtype()) {
        return Cow::Borrowed(tensor.bytes());
    }
    Cow::Owned(pack(tensor.dtype(), tensor.bytes()))
}

/// Codes, one a byte, as a file packs them.
pub(crate) fn pack(dtype: DType, codes: &[u8]) -> Vec<u8> {
    let bits = dtype.bits();
    let mask = (1u8 << bits) - 1;
    let mut out = vec![0u8; (codes.len() * bits).div_ceil(8)];
    for (i, code) in codes.iter().enumerate() {
        let (at, shift) = (i * bits / 8, i * bits % 8);
        let [low, high] = (u16::from(code & mask) << shift).to_le_bytes();
        out[at] |= low;
        if high != 0 {
            out[at + 1] |= high;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_element_is_lowest() {
        assert_eq!(unpack(DType::U4, &[0x21, 0x03], 3), [1, 2, 3]);
        assert_eq!(unpack(DType::I4, &[0xf8], 2), [0xf8, 0xff]);
        assert_eq!(unpack(DType::U2, &[0b1110_0100], 4), [0, 1, 2, 3]);
        assert_eq!(unpack(DType::I2, &[0b0000_1011], 2), [0xff, 0xfe]);
        assert_eq!(unpack(DType::F6E3M2, &[0b0100_0001, 0b0011_0000, 0b0000_1000], 4), [1, 1, 3, 2]);
    }

    #[test]
    fn packing_is_undone() {
        for dtype in [DType::I2, DType::U2, DType::I4, DType::U4, DType::F4E2M1, DType::F6E2M3] {
            for n in 0..10usize {
                let codes: Vec<u8> = (0..n).map(|i| (i * 7 + 3) as u8).collect();
                let elements = unpack(dtype, &codes, n);
                let tensor = Tensor::new(dtype, &[n], partita_ir::Bytes::from_vec(elements.clone())).unwrap();
                let packed = file_bytes(&tensor);
                assert_eq!(Some(packed.len()), file_len(dtype, n));
                assert_eq!(unpack(dtype, &packed, n), elements);
            }
        }
    }
}
