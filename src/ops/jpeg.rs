//! JPEG images (ITU-T T.81): sequential and progressive, Huffman-coded, 8 bits a sample, grey or three colours.
//! Every rounding step is the one that the widespread decoders use, so that pixels are equal, not just close.

mod color;
mod huffman;
mod idct;
mod scan;

use color::Plane;
use huffman::{Bits, Code};
use scan::{Band, Codes, State, ZIGZAG};

/// The data is not a JPEG image, or damaged.
pub(crate) struct Broken;

/// Why there is no image.
pub(crate) enum Failure {
    Broken,
    /// A valid kind of image that is not read, by name.
    Unsupported(&'static str),
}

impl From<Broken> for Failure {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// An image, three bytes a pixel, or one when it is grey.
pub(crate) struct Image {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) grey: bool,
    pub(crate) pixels: Vec<u8>,
}

/// Most scans of an image; progressive ones have about ten.
const MAX_SCANS: usize = 256;

#[derive(Default)]
struct Component {
    id: u8,
    /// Samples across and down for each unit of the picture.
    h: usize,
    v: usize,
    table: usize,
    /// The quantisation, as it was when the first scan of the component began.
    quantisation: Option<[u16; 64]>,
    /// Size in samples.
    width: usize,
    height: usize,
    /// Blocks in a row, and rows, with those that fill the last units.
    across: usize,
    down: usize,
    coefficients: Vec<i16>,
}

struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    h_max: usize,
    v_max: usize,
    components: Vec<Component>,
}

#[derive(Default)]
struct Decoder<'a> {
    data: &'a [u8],
    at: usize,
    tables: [Option<[u16; 64]>; 4],
    dc: [Option<Code>; 4],
    ac: [Option<Code>; 4],
    restart: usize,
    frame: Option<Frame>,
    jfif: bool,
    /// What the application marker of a well-known editor says of the colours.
    transform: Option<u8>,
    n_scans: usize,
}

/// Decodes an image of at most `max_pixels`.
pub(crate) fn decode(data: &[u8], max_pixels: usize) -> Result<Image, Failure> {
    let mut decoder = Decoder { data, at: 2, ..Decoder::default() };
    if !data.starts_with(&[0xff, 0xd8]) {
        return Err(Failure::Broken);
    }
    loop {
        let marker = decoder.marker()?;
        if marker == 0xd9 {
            return decoder.image();
        }
        if (0xd0..=0xd7).contains(&marker) || marker == 1 {
            continue;
        }
        let segment = decoder.segment()?;
        match marker {
            0xc0..=0xc2 => decoder.frame(marker == 0xc2, segment, max_pixels)?,
            0xc4 => decoder.codes(segment)?,
            0xc3 | 0xc5..=0xc7 => return Err(Failure::Unsupported("lossless or hierarchical JPEG")),
            0xc8..=0xcf => return Err(Failure::Unsupported("arithmetic-coded JPEG")),
            0xda => decoder.scan(segment)?,
            0xdb => decoder.quantisation(segment)?,
            0xdc => return Err(Failure::Unsupported("JPEG with its height after the first scan")),
            0xdd => decoder.restart = usize::from(word(segment, 0)?),
            0xe0 => decoder.jfif |= segment.starts_with(b"JFIF\0"),
            0xee if segment.starts_with(b"Adobe") => decoder.transform = segment.get(11).copied(),
            _ => {}
        }
    }
}

/// Two bytes as a number.
fn word(data: &[u8], at: usize) -> Result<u16, Broken> {
    match data.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Broken),
    }
}

impl<'a> Decoder<'a> {
    /// The next marker; what lies before it is skipped.
    fn marker(&mut self) -> Result<u8, Broken> {
        loop {
            match self.data.get(self.at..self.at + 2) {
                Some(&[0xff, code]) if code != 0 && code != 0xff => {
                    self.at += 2;
                    return Ok(code);
                }
                Some(_) => self.at += 1,
                None => return Err(Broken),
            }
        }
    }

    /// The bytes of a segment, without its length.
    fn segment(&mut self) -> Result<&'a [u8], Broken> {
        let len = usize::from(word(self.data, self.at)?);
        let segment = self.data.get(self.at + 2..self.at + len).ok_or(Broken)?;
        self.at += len;
        Ok(segment)
    }

    fn quantisation(&mut self, mut data: &[u8]) -> Result<(), Broken> {
        while let Some((&head, rest)) = data.split_first() {
            let wide = head >> 4 == 1;
            let table = self.tables.get_mut(usize::from(head & 15)).ok_or(Broken)?;
            let mut values = [0; 64];
            for (k, &at) in ZIGZAG.iter().enumerate() {
                values[at] = if wide { word(rest, 2 * k)? } else { u16::from(*rest.get(k).ok_or(Broken)?) };
            }
            *table = Some(values);
            data = rest.get(if wide { 128 } else { 64 }..).ok_or(Broken)?;
        }
        Ok(())
    }

    fn codes(&mut self, mut data: &[u8]) -> Result<(), Broken> {
        while let Some((&head, rest)) = data.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(Broken)?;
            let n: usize = counts.iter().map(|&c| usize::from(c)).sum();
            let symbols = rest.get(..n).filter(|s| s.len() <= 256).ok_or(Broken)?;
            let kind = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *kind.get_mut(usize::from(head & 15)).ok_or(Broken)? = Some(Code::new(*counts, symbols));
            data = &rest[n..];
        }
        Ok(())
    }

    fn frame(&mut self, progressive: bool, data: &[u8], max_pixels: usize) -> Result<(), Failure> {
        let (height, width) = (usize::from(word(data, 1)?), usize::from(word(data, 3)?));
        let n = usize::from(*data.get(5).ok_or(Broken)?);
        if self.frame.is_some() || height == 0 || width == 0 || data.len() < 6 + 3 * n {
            return Err(Failure::Broken);
        }
        if data[0] != 8 || !matches!(n, 1 | 3) {
            return Err(Failure::Unsupported("JPEG of other than 8 bits, or of two or four colours"));
        }
        if width * height > max_pixels {
            return Err(Failure::Unsupported("an image of that many pixels"));
        }
        let mut components: Vec<Component> = Vec::new();
        for c in data[6..6 + 3 * n].chunks_exact(3) {
            let (h, v, table) = (usize::from(c[1] >> 4), usize::from(c[1] & 15), usize::from(c[2]));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || table > 3 {
                return Err(Failure::Broken);
            }
            components.push(Component { id: c[0], h, v, table, ..Component::default() });
        }
        let h_max = components.iter().map(|c| c.h).max().unwrap_or(1);
        let v_max = components.iter().map(|c| c.v).max().unwrap_or(1);
        for c in &mut components {
            if h_max % c.h != 0 || v_max % c.v != 0 {
                return Err(Failure::Unsupported("JPEG with fractions of sampling rates"));
            }
            (c.width, c.height) = ((width * c.h).div_ceil(h_max), (height * c.v).div_ceil(v_max));
            (c.across, c.down) = (width.div_ceil(8 * h_max) * c.h, height.div_ceil(8 * v_max) * c.v);
            c.coefficients = vec![0; c.across * c.down * 64];
        }
        self.frame = Some(Frame { progressive, width, height, h_max, v_max, components });
        Ok(())
    }

    fn scan(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.n_scans += 1;
        if self.n_scans > MAX_SCANS {
            return Err(Failure::Unsupported("JPEG of that many scans"));
        }
        let frame = self.frame.as_mut().ok_or(Broken)?;
        let n = usize::from(*data.first().ok_or(Broken)?);
        let Some([first, last, bits]) = data.get(1 + 2 * n..4 + 2 * n) else { return Err(Failure::Broken) };
        let band = Band {
            progressive: frame.progressive,
            first: usize::from(*first),
            last: usize::from(*last),
            refines: bits >> 4 != 0,
            low: bits & 15,
        };
        let dc_alone = (band.first == 0) == (band.last == 0);
        let valid = band.first <= band.last && band.last < 64 && band.low < 14 && dc_alone;
        if n == 0 || n > 4 || (band.progressive && (!valid || band.first > 0 && n > 1)) {
            return Err(Failure::Broken);
        }
        let mut parts = Vec::new();
        for c in data[1..=2 * n].chunks_exact(2) {
            let at = frame.components.iter().position(|k| k.id == c[0]).ok_or(Broken)?;
            let component = &mut frame.components[at];
            if component.quantisation.is_none() {
                component.quantisation = self.tables[component.table];
            }
            let code = |codes: &'_ [Option<Code>; 4], n: u8| codes.get(usize::from(n)).cloned().flatten();
            parts.push((at, code(&self.dc, c[1] >> 4), code(&self.ac, c[1] & 15)));
        }
        let mut bits = Bits::new(self.data, self.at);
        frame.read(&mut bits, band, &parts, self.restart)?;
        self.at = bits.position();
        Ok(())
    }

    /// Whether the three components are red, green and blue.
    fn is_rgb(&self, frame: &Frame) -> bool {
        let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
        match self.transform {
            _ if self.jfif => false,
            Some(transform) => transform == 0,
            None => ids == *b"RGB",
        }
    }

    fn image(&self) -> Result<Image, Failure> {
        let frame = self.frame.as_ref().ok_or(Broken)?;
        let planes: Vec<Plane> = frame.components.iter().map(plane).collect::<Result<_, _>>()?;
        let (width, height, grey) = (frame.width, frame.height, planes.len() == 1);
        let mut pixels = Vec::with_capacity(width * height * planes.len());
        let as_is = self.is_rgb(frame);
        for y in 0..height {
            let scales = frame.components.iter().map(|c| (frame.h_max / c.h, frame.v_max / c.v));
            let rows: Vec<Vec<u8>> = planes.iter().zip(scales).map(|(p, s)| p.enlarged(y, s)).collect();
            match rows.as_slice() {
                [a, b, c] if as_is => pixels.extend((0..width).flat_map(|x| [a[x], b[x], c[x]])),
                [a, b, c] => pixels.extend((0..width).flat_map(|x| color::rgb(a[x], b[x], c[x]))),
                _ => pixels.extend_from_slice(&rows[0][..width]),
            }
        }
        Ok(Image { width, height, grey, pixels })
    }
}

/// A component of a scan: which one, and its codes.
type Part = (usize, Option<Code>, Option<Code>);

impl Frame {
    /// Reads all blocks of a scan. A single component comes block by block, without those that only fill units.
    fn read(&mut self, bits: &mut Bits, band: Band, parts: &[Part], restart: usize) -> Result<(), Broken> {
        let single = parts.len() == 1;
        let (across, down) = if single {
            let c = &self.components[parts[0].0];
            (c.width.div_ceil(8), c.height.div_ceil(8))
        } else {
            (self.width.div_ceil(8 * self.h_max), self.height.div_ceil(8 * self.v_max))
        };
        let mut state = State::default();
        for unit in 0..across * down {
            if restart > 0 && unit > 0 && unit % restart == 0 {
                bits.restart()?;
                state = State::default();
            }
            for (n, (at, dc, ac)) in parts.iter().enumerate() {
                let c = &mut self.components[*at];
                let (h, v) = if single { (1, 1) } else { (c.h, c.v) };
                for (y, x) in (0..v).flat_map(|y| (0..h).map(move |x| (y, x))) {
                    let block = (unit / across * v + y) * c.across + unit % across * h + x;
                    let block = c.coefficients.get_mut(block * 64..(block + 1) * 64).ok_or(Broken)?;
                    let codes = Codes { dc: dc.as_ref(), ac: ac.as_ref() };
                    scan::block(bits, band, codes, (&mut state, n), block)?;
                }
            }
        }
        Ok(())
    }
}

/// The samples of a component.
fn plane(c: &Component) -> Result<Plane, Broken> {
    let quantisation = c.quantisation.ok_or(Broken)?;
    let stride = c.across * 8;
    let mut samples = vec![0; stride * c.down * 8];
    for (n, block) in c.coefficients.chunks_exact(64).enumerate() {
        let start = n / c.across * 8 * stride + n % c.across * 8;
        for (y, row) in idct::samples(block, &quantisation).chunks_exact(8).enumerate() {
            samples[start + y * stride..][..8].copy_from_slice(row);
        }
    }
    Ok(Plane { stride, width: c.width, height: c.height, samples })
}
