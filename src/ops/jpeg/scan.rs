//! The coefficients of one scan, sequential or progressive (ITU-T T.81, F.2 and G.2).

use super::Broken;
use super::huffman::{Bits, Code};

/// Where the coefficients are that are stored in zigzag order.
#[rustfmt::skip]
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Which coefficients a scan holds, and which of their bits.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub(super) progressive: bool,
    /// First and last coefficient, in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Whether earlier scans held higher bits.
    pub(super) refines: bool,
    /// Lowest bit.
    pub(super) low: u8,
}

/// The codes of one component in a scan.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    pub(super) dc: Option<&'a Code>,
    pub(super) ac: Option<&'a Code>,
}

/// State between blocks; a restart clears it.
#[derive(Default)]
pub(super) struct State {
    /// The last DC coefficient of each component.
    pub(super) dc: [i32; 4],
    /// Blocks still to come whose rest is zero.
    pub(super) empty: u32,
}

/// Reads one block of component `n` of the scan.
pub(super) fn block(
    bits: &mut Bits,
    band: Band,
    codes: Codes,
    (state, n): (&mut State, usize),
    block: &mut [i16],
) -> Result<(), Broken> {
    let ac = || codes.ac.ok_or(Broken);
    if !band.progressive {
        dc_first(bits, codes.dc.ok_or(Broken)?, &mut state.dc[n], 0, block)?;
        return ac_sequential(bits, ac()?, block);
    }
    match (band.first == 0, band.refines) {
        (true, false) => dc_first(bits, codes.dc.ok_or(Broken)?, &mut state.dc[n], band.low, block),
        (true, true) => {
            if bits.bit()? {
                block[0] |= 1 << band.low;
            }
            Ok(())
        }
        (false, false) => ac_first(bits, ac()?, band, &mut state.empty, block),
        (false, true) => ac_refine(bits, ac()?, band, &mut state.empty, block),
    }
}

/// The DC coefficient as a difference from the one before.
fn dc_first(bits: &mut Bits, code: &Code, last: &mut i32, low: u8, block: &mut [i16]) -> Result<(), Broken> {
    let size = code.symbol(bits)?;
    if size > 15 {
        return Err(Broken);
    }
    *last = last.wrapping_add(bits.signed(size)?);
    block[0] = (*last << low) as i16;
    Ok(())
}

fn ac_sequential(bits: &mut Bits, code: &Code, block: &mut [i16]) -> Result<(), Broken> {
    let mut k = 1;
    while k < 64 {
        let symbol = code.symbol(bits)?;
        let (run, size) = (usize::from(symbol >> 4), symbol & 15);
        if size == 0 && run < 15 {
            break;
        }
        k += run;
        if size > 0 {
            *block.get_mut(*ZIGZAG.get(k).ok_or(Broken)?).ok_or(Broken)? = bits.signed(size)? as i16;
        }
        k += 1;
    }
    Ok(())
}

fn ac_first(
    bits: &mut Bits,
    code: &Code,
    band: Band,
    empty: &mut u32,
    block: &mut [i16],
) -> Result<(), Broken> {
    if *empty > 0 {
        *empty -= 1;
        return Ok(());
    }
    let mut k = band.first;
    while k <= band.last {
        let symbol = code.symbol(bits)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        if size == 0 && run < 15 {
            *empty = (1 << run) + bits.number(run)?.unsigned_abs() - 1;
            break;
        }
        k += usize::from(run);
        if size > 0 {
            block[*ZIGZAG.get(k).ok_or(Broken)?] = (bits.signed(size)? << band.low) as i16;
        }
        k += 1;
    }
    Ok(())
}

/// One more bit of a coefficient that is not zero.
fn refine(bits: &mut Bits, value: &mut i16, low: u8) -> Result<(), Broken> {
    if bits.bit()? && *value & 1 << low == 0 {
        *value = value.wrapping_add(if *value >= 0 { 1 << low } else { -1 << low });
    }
    Ok(())
}

fn ac_refine(
    bits: &mut Bits,
    code: &Code,
    band: Band,
    empty: &mut u32,
    block: &mut [i16],
) -> Result<(), Broken> {
    let mut k = band.first;
    while *empty == 0 && k <= band.last {
        let symbol = code.symbol(bits)?;
        let (mut run, size) = (symbol >> 4, symbol & 15);
        let mut new = 0;
        match size {
            0 if run < 15 => {
                *empty = (1 << run) + bits.number(run)?.unsigned_abs();
                break;
            }
            0 => {}
            _ => new = if bits.bit()? { 1i16 << band.low } else { -1 << band.low },
        }
        // Coefficients that are not zero get their bit on the way; `run` counts the zeros that are passed.
        while k <= band.last {
            let value = &mut block[ZIGZAG[k]];
            k += 1;
            if *value != 0 {
                refine(bits, value, band.low)?;
            } else if run == 0 {
                *value = new;
                break;
            } else {
                run -= 1;
            }
        }
    }
    if *empty > 0 {
        *empty -= 1;
        for &at in &ZIGZAG[k..=band.last] {
            if block[at] != 0 {
                refine(bits, &mut block[at], band.low)?;
            }
        }
    }
    Ok(())
}
