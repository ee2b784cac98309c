//! Problem files as text, plain or gzipped.

use crate::error::PlaceError;
use crate::text::MAX_TEXT_BYTES;
use std::io::Read;

/// What a gzip stream begins with (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The text in a file's bytes; a gzip stream is unpacked up to [`MAX_TEXT_BYTES`].
///
/// # Errors
/// `P003` for more text than is taken, `P011` for a damaged stream or bytes that are not UTF-8.
pub fn text_of(bytes: Vec<u8>) -> Result<String, PlaceError> {
    let bytes = if bytes.starts_with(&GZIP) { unpack(&bytes)? } else { bytes };
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(PlaceError::limit("file", format!("more than {MAX_TEXT_BYTES} bytes of text")));
    }
    String::from_utf8(bytes).map_err(|e| PlaceError::unreadable(e.to_string()))
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, PlaceError> {
    let mut text = Vec::new();
    let stream = flate2::read::MultiGzDecoder::new(bytes);
    let most = MAX_TEXT_BYTES as u64 + 1;
    stream.take(most).read_to_end(&mut text).map_err(|e| PlaceError::unreadable(e.to_string()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn gzipped_text_reads_as_plain() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"problem p").unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(text_of(packed.clone()).unwrap(), "problem p");
        assert_eq!(text_of(b"problem p".to_vec()).unwrap(), "problem p");
        assert_eq!(text_of(packed[..packed.len() / 2].to_vec()).unwrap_err().code, "P011");
        assert_eq!(text_of(vec![0xff, 0xfe]).unwrap_err().code, "P011");
    }
}
