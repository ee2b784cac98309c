//! Bits of an entropy-coded segment, and Huffman codes over them.

use super::Broken;

/// Reads bits, most significant first; a marker ends them.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    n_held: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at, held: 0, n_held: 0 }
    }

    /// The next byte of the segment; after 0xff comes a zero, or a marker that ends the segment.
    fn byte(&mut self) -> Result<u8, Broken> {
        let byte = *self.data.get(self.at).ok_or(Broken)?;
        if byte == 0xff {
            if self.data.get(self.at + 1) != Some(&0) {
                return Err(Broken);
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(byte)
    }

    /// The next bit.
    pub(super) fn bit(&mut self) -> Result<bool, Broken> {
        if self.n_held == 0 {
            self.held = u32::from(self.byte()?);
            self.n_held = 8;
        }
        self.n_held -= 1;
        Ok(self.held >> self.n_held & 1 == 1)
    }

    /// A number of `n` bits, at most 16.
    pub(super) fn number(&mut self, n: u8) -> Result<i32, Broken> {
        (0..n).try_fold(0, |v, _| Ok(v << 1 | i32::from(self.bit()?)))
    }

    /// A signed number of `n` bits: the smaller half of the codes is negative.
    pub(super) fn signed(&mut self, n: u8) -> Result<i32, Broken> {
        if n == 0 {
            return Ok(0);
        }
        let v = self.number(n)?;
        Ok(if v < 1 << (n - 1) { v - (1 << n) + 1 } else { v })
    }

    /// Goes over the restart marker that must come next.
    pub(super) fn restart(&mut self) -> Result<(), Broken> {
        self.n_held = 0;
        match self.data.get(self.at..self.at + 2) {
            Some([0xff, 0xd0..=0xd7]) => self.at += 2,
            _ => return Err(Broken),
        }
        Ok(())
    }

    /// Where the segment's bytes that were read end.
    pub(super) fn position(&self) -> usize {
        self.at
    }
}

/// A Huffman code: for each length the first code, how many there are, and where their symbols start.
#[derive(Clone)]
pub(super) struct Code {
    counts: [u8; 16],
    symbols: Vec<u8>,
}

impl Code {
    /// A code from the number of codes of each length, and the symbols in order.
    pub(super) fn new(counts: [u8; 16], symbols: &[u8]) -> Self {
        Self { counts, symbols: symbols.to_vec() }
    }

    /// The next symbol.
    pub(super) fn symbol(&self, bits: &mut Bits) -> Result<u8, Broken> {
        let (mut code, mut first, mut start) = (0usize, 0usize, 0usize);
        for &count in &self.counts {
            code = code << 1 | usize::from(bits.bit()?);
            let count = usize::from(count);
            if code < first + count {
                return self
                    .symbols
                    .get(start + code.checked_sub(first).ok_or(Broken)?)
                    .copied()
                    .ok_or(Broken);
            }
            start += count;
            first = (first + count) << 1;
        }
        Err(Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_canonical() {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2]) = (1, 1, 2);
        let code = Code::new(counts, &[7, 8, 9, 10]);
        // 0, 10, 110, 111.
        let mut bits = Bits::new(&[0b0101_1011, 0b1000_0000], 0);
        let read: Vec<u8> = (0..4).map(|_| code.symbol(&mut bits).unwrap_or(0)).collect();
        assert_eq!(read, [7, 8, 9, 10]);
    }

    #[test]
    fn signed_numbers_have_no_zero() {
        let mut bits = Bits::new(&[0b0011_1000], 0);
        assert_eq!([2, 2, 1].map(|n| bits.signed(n).unwrap_or(99)), [-3, 3, 1]);
    }
}
