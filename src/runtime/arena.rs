//! Bytes that start on a cache line, for weights that arrive unaligned and for arenas of host devices.

/// One cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

const LINE_BYTES: usize = 64;

/// A fixed number of zeroed bytes whose first address is a multiple of 64.
pub struct AlignedBytes {
    lines: Box<[Line]>,
    bytes: usize,
}

impl AlignedBytes {
    /// Reserves `bytes` zeroed bytes; pages are touched on first use. `None` when memory is short.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        let lines = bytes.div_ceil(LINE_BYTES);
        let lines = bytemuck::allocation::try_zeroed_slice_box(lines).ok()?;
        Some(Self { lines, bytes })
    }

    /// A copy of `source`. `None` when memory is short.
    pub fn copy_of(source: &[u8]) -> Option<Self> {
        let mut copy = Self::zeroed(source.len())?;
        copy.as_mut().copy_from_slice(source);
        Some(copy)
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.bytes]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_aligned_and_equal() {
        for bytes in [0, 1, 63, 64, 65, 4097] {
            let source: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
            let copy = AlignedBytes::copy_of(&source).unwrap();
            assert_eq!(copy.as_ref(), source);
            assert_eq!(copy.as_ref().as_ptr() as usize % 64, 0);
        }
        assert!(AlignedBytes::zeroed(usize::MAX / 2).is_none());
    }
}
