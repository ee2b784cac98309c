//! numpy's `.npy` files (format 1.0 to 3.0, little-endian, C order): bounded reading, writing.

use crate::error::{Error, Result};
use partita_ir::{Bytes, DType, Tensor};
use std::path::Path;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read, in bytes.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Reads a tensor.
///
/// # Errors
/// `F001` when the file cannot be read, `F002` when it is not a supported array.
pub fn read(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    parse(bytes).map_err(|why| Error::new("F002", why, "save it with numpy.save").in_file(path))
}

/// Writes a tensor.
///
/// # Errors
/// `F001` when the file cannot be written.
pub fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let out = match tensor.dtype() {
        DType::Str => text_array(tensor),
        dtype => [header(descr(dtype), tensor.shape()).as_slice(), tensor.bytes()].concat(),
    };
    std::fs::write(path, out).map_err(|e| Error::io("write", path, &e))
}

/// The `descr` of an element type; bfloat16 has none and is written as its bits.
fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::F64 => "<f8",
        DType::I8 | DType::I4 | DType::I2 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        // Small floats have no name there; they are written as their codes.
        DType::U8 | DType::U4 | DType::U2 | DType::F4E2M1 | DType::F8E8M0 => "|u1",
        DType::F6E2M3 | DType::F6E3M2 => "|u1",
        DType::F8E4M3fn | DType::F8E4M3fnuz | DType::F8E5M2 | DType::F8E5M2fnuz => "|u1",
        DType::U16 | DType::Bf16 => "<u2",
        DType::U32 | DType::Str => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
    }
}

/// Text as numpy holds it: as many code points for every element as the longest one has.
fn text_array(tensor: &Tensor) -> Vec<u8> {
    let strings = tensor.strings();
    let width = strings.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1);
    let mut out = header(&format!("<U{width}"), tensor.shape());
    for string in strings {
        let padded = string.chars().map(u32::from).chain(std::iter::repeat(0)).take(width);
        out.extend(padded.flat_map(u32::to_le_bytes));
    }
    out
}

fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(|d| format!("{d},")).collect();
    let mut text =
        format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, dims.join(" "));
    // The data starts at a multiple of 64 bytes; the text ends with a newline.
    let padded = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', padded - MAGIC.len() - 4 - text.len() - 1));
    text.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

fn parse(bytes: Vec<u8>) -> std::result::Result<Tensor, String> {
    if !bytes.starts_with(MAGIC) || bytes.len() < 12 {
        return Err("this is not a .npy file".to_owned());
    }
    let (header_len, start) = match bytes[6] {
        1 => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
        2 | 3 => (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12),
        v => return Err(format!("version {v} of the .npy format is not supported")),
    };
    let end = start + header_len;
    if header_len > MAX_HEADER_BYTES || bytes.len() < end {
        return Err("the header is longer than the file or the limit of 65536 bytes".to_owned());
    }
    let text = std::str::from_utf8(&bytes[start..end]).map_err(|_| "the header is not text".to_owned())?;
    let (dtype, shape) = parse_header(text)?;
    let len = bytes.len() - end;
    let part = Bytes::from_vec(bytes).sub(end, len).ok_or("the file is too short")?;
    Tensor::new(dtype, &shape, part).ok_or_else(|| "the data is not as long as the header says".to_owned())
}

fn parse_header(text: &str) -> std::result::Result<(DType, Vec<usize>), String> {
    let field = |name: &str| text.split_once(&format!("'{name}':")).map(|(_, rest)| rest.trim_start());
    if !field("fortran_order").is_some_and(|v| v.starts_with("False")) {
        return Err("only C order is supported; use numpy.ascontiguousarray before saving".to_owned());
    }
    let wanted =
        field("descr").and_then(|v| v.strip_prefix('\'')).and_then(|v| v.split_once('\'')).map(|(d, _)| d);
    let wanted = wanted.ok_or("the header does not name a plain element type")?;
    let dtype = (0..)
        .map_while(|n| DType::try_from(n).ok())
        .find(|d| *d != DType::Bf16 && descr(*d) == wanted)
        .ok_or_else(|| format!("element type {wanted} is not supported"))?;
    let dims =
        field("shape").and_then(|v| v.strip_prefix('(')).and_then(|v| v.split_once(')')).map(|(d, _)| d);
    let dims = dims.ok_or("the header has no shape")?;
    let shape = dims
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(str::parse)
        .collect::<std::result::Result<_, _>>();
    shape.map(|s| (dtype, s)).map_err(|_| "the shape is not a list of sizes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for shape in [vec![], vec![3], vec![2, 0], vec![2, 3]] {
            let n: usize = shape.iter().product();
            let t = Tensor::from_slice(&shape, &vec![1.5f32; n]).unwrap();
            let mut bytes = header(descr(t.dtype()), t.shape());
            assert_eq!(bytes.len() % 64, 0);
            bytes.extend_from_slice(t.bytes());
            assert_eq!(parse(bytes).unwrap(), t);
        }
    }

    #[test]
    fn malformed_files_are_sentences() {
        let good = header(descr(DType::F32), &[2]);
        for cut in 0..good.len() {
            assert!(parse(good[..cut].to_vec()).is_err());
        }
        assert!(parse(good).is_err());
    }
}
