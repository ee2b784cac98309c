//! Encoded images become pixels: `image_decoder`. The size of the image is known only at run time.

use crate::common::{
    PLAIN, attr, attr_error, data_dependent, exactly, input, onnx, tensor, type_error, unsupported, work,
};
use crate::elements::from_bytes;
use crate::jpeg;
use crate::shapes::or_unknown;
use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};
use std::io::Cursor;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&IMAGE_DECODER];

/// Most pixels of an image.
const MAX_PIXELS: usize = 1 << 26;
/// Most bytes a decoder may allocate.
const MAX_DECODER_BYTES: u64 = 1 << 30;

static IMAGE_DECODER: OpDef = OpDef {
    name: "image_decoder",
    doc: "The pixels of an encoded image, [height, width, channels]; empty when it cannot be decoded.",
    onnx: &[onnx("ImageDecoder", 20)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("pixel_format", AttrKind::Str)],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    // Dominated by the inverse transform of blocks, some ten operations a sample.
    work: |c| work(c, 10.0 * crate::common::n_out(c), WorkKind::Vector),
    sample,
};

/// Order and number of channels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pixels {
    Rgb,
    Bgr,
    Grey,
}

impl Pixels {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        match attrs.str("pixel_format").unwrap_or("RGB") {
            "RGB" => Ok(Self::Rgb),
            "BGR" => Ok(Self::Bgr),
            "Grayscale" => Ok(Self::Grey),
            other => {
                Err(attr_error(format!("pixel_format is {other:?}"))
                    .hint("allowed are RGB, BGR and Grayscale"))
            }
        }
    }

    fn channels(self) -> usize {
        if self == Self::Grey { 1 } else { 3 }
    }

    /// The bytes of a pixel.
    fn of(self, [r, g, b]: [u8; 3]) -> Vec<u8> {
        match self {
            Self::Rgb => vec![r, g, b],
            Self::Bgr => vec![b, g, r],
            // ITU-R BT.601 luminance in 16-bit fixed point.
            Self::Grey => {
                let sum = 19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b);
                vec![((sum + (1 << 15)) >> 16) as u8]
            }
        }
    }
}

/// A decoded image: height, width, and red, green and blue of each pixel.
struct Image {
    height: usize,
    width: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// What stands for an image that cannot be decoded.
    fn none() -> Self {
        Self { height: 0, width: 0, rgb: Vec::new() }
    }
}

fn check(ctx: &InferCtx) -> Result<(), Diag> {
    Pixels::read(ctx.attrs)?;
    let x = input(ctx, 0)?;
    if x.dtype == DType::U8 && x.rank() == 1 {
        return Ok(());
    }
    Err(type_error(format!("the encoded image is {x}, a list of u8 is wanted")))
}

fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact(ctx), || {
        let channels = Pixels::read(ctx.attrs).ok()?.channels();
        Some(vec![Type::new(DType::U8, [Dim::unknown(0, 0), Dim::unknown(0, 1), channels.into()])])
    })
}

/// Inference by decoding, where the data is constant.
fn exact(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check(ctx)?;
    let known = ctx.inputs.first().copied().flatten().and_then(|o| o.content).and_then(|c| c.as_const());
    let image = decode(known.ok_or_else(data_dependent)?.bytes())?;
    Ok(vec![Type::known(DType::U8, &[image.height, image.width, Pixels::read(ctx.attrs)?.channels()])])
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    crate::shapes::result_types(ctx, |c| check(c).map(|()| Vec::new()))?;
    let pixels = Pixels::read(ctx.attrs)?;
    let image = decode(tensor(ctx, 0)?.bytes())?;
    let bytes = image.rgb.chunks_exact(3).flat_map(|p| pixels.of([p[0], p[1], p[2]])).collect();
    Ok(vec![from_bytes(DType::U8, &[image.height, image.width, pixels.channels()], bytes)?])
}

fn too_large() -> Diag {
    unsupported("the image is too large").hint(format!("images have at most {MAX_PIXELS} pixels"))
}

/// The image; an empty one for damaged data, as the definition wants it.
///
/// # Errors
/// `U001` for an image that is too large or of a kind that is not supported.
fn decode(data: &[u8]) -> Result<Image, Diag> {
    const JPEG_2000: [&[u8]; 2] = [b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"];
    if data.starts_with(b"\xff\xd8\xff") {
        return decode_jpeg(data);
    }
    if JPEG_2000.iter().any(|head| data.starts_with(head)) {
        return contained(|| decode_jpeg_2000(data));
    }
    match image::guess_format(data) {
        Ok(format) => contained(|| decode_other(data, format)),
        Err(_) => Ok(Image::none()),
    }
}

/// A foreign decoder's panic over damaged data counts as an image that cannot be decoded.
fn contained(decode: impl FnOnce() -> Result<Image, Diag>) -> Result<Image, Diag> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode)).unwrap_or_else(|_| Ok(Image::none()))
}

fn decode_jpeg(data: &[u8]) -> Result<Image, Diag> {
    match jpeg::decode(data, MAX_PIXELS) {
        Ok(image) => {
            let rgb = if image.grey { tripled(&image.pixels) } else { image.pixels };
            Ok(Image { height: image.height, width: image.width, rgb })
        }
        Err(jpeg::Failure::Broken) => Ok(Image::none()),
        Err(jpeg::Failure::Unsupported(what)) => Err(unsupported(format!("{what} is not supported"))),
    }
}

/// Grey as three equal channels.
fn tripled(grey: &[u8]) -> Vec<u8> {
    grey.iter().flat_map(|&v| [v; 3]).collect()
}

fn decode_jpeg_2000(data: &[u8]) -> Result<Image, Diag> {
    use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext};
    let Ok(image) = hayro_jpeg2000::Image::new(data, &DecodeSettings::default()) else {
        return Ok(Image::none());
    };
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(too_large());
    }
    let colors = match image.color_space() {
        ColorSpace::Gray => 1,
        ColorSpace::RGB => 3,
        ColorSpace::Icc { num_channels, .. } | ColorSpace::Unknown { num_channels } => {
            usize::from(*num_channels)
        }
        ColorSpace::CMYK => 4,
    };
    if !matches!(colors, 1 | 3) {
        return Err(unsupported(format!("JPEG 2000 of {colors} colours is not supported")));
    }
    let mut context = DecoderContext::default();
    let Ok(decoded) = image.decode(&mut context) else { return Ok(Image::none()) };
    let channels = colors + usize::from(image.has_alpha());
    let pixel = |p: &[u8]| if colors == 1 { [p[0]; 3] } else { [p[0], p[1], p[2]] };
    let rgb: Vec<u8> = decoded.data_u8().chunks_exact(channels).flat_map(pixel).collect();
    Ok(if rgb.len() == width * height * 3 { Image { height, width, rgb } } else { Image::none() })
}

/// BMP, PNG, PNM, TIFF and WebP.
fn decode_other(data: &[u8], format: ImageFormat) -> Result<Image, Diag> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(data), format);
    reader.limits(limits);
    match reader.decode() {
        Ok(image) if image.width() as usize * image.height() as usize > MAX_PIXELS => Err(too_large()),
        Ok(image) => Ok(from_dynamic(&image)),
        Err(ImageError::Limits(_)) => Err(too_large()),
        Err(ImageError::Unsupported(error)) => {
            Err(unsupported(format!("the image is not supported: {error}")))
        }
        Err(_) => Ok(Image::none()),
    }
}

/// 8-bit channels; transparency is dropped.
fn from_dynamic(image: &DynamicImage) -> Image {
    let rgb = image.to_rgb8();
    Image { height: rgb.height() as usize, width: rgb.width() as usize, rgb: rgb.into_raw() }
}

/// A random image in the plainest of the formats, now and then cut short.
fn sample(rng: &mut Rng) -> Sample {
    let (width, height) = (1 + rng.below(4), 1 + rng.below(4));
    let mut data = format!("P6 {width} {height} 255\n").into_bytes();
    data.extend((0..width * height * 3).map(|_| rng.below(256) as u8));
    if rng.below(4) == 0 {
        data.truncate(rng.below(data.len()));
    }
    let format = *rng.pick(&["RGB", "BGR", "Grayscale"]);
    let inputs = vec![Tensor::from_slice(&[data.len()], &data)];
    Sample { attrs: Attrs::new().with("pixel_format", format), inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(data: &[u8], format: &str) -> (Vec<usize>, Vec<u8>) {
        let x = Tensor::from_slice(&[data.len()], data).unwrap();
        let attrs = Attrs::new().with("pixel_format", format);
        let y = eval(&EvalCtx { attrs: &attrs, inputs: &[Some(&x)], n_outputs: 1 }).unwrap().remove(0);
        (y.shape().to_vec(), y.bytes().to_vec())
    }

    #[test]
    fn channels_are_ordered_and_mixed() {
        let data = b"P6 1 1 255\n\x0a\x14\x1e";
        assert_eq!(decoded(data, "RGB"), (vec![1, 1, 3], vec![10, 20, 30]));
        assert_eq!(decoded(data, "BGR"), (vec![1, 1, 3], vec![30, 20, 10]));
        assert_eq!(decoded(data, "Grayscale"), (vec![1, 1, 1], vec![18]));
    }

    #[test]
    fn damaged_data_is_an_empty_image() {
        for data in [
            &b"P6 9 9 255\nxx"[..],
            b"\xff\xd8\xff\xe0",
            b"",
            b"\0\0\0\x0cjP  \r\n\x87\n",
            b"\x89PNG\r\n\x1a\n",
        ] {
            assert_eq!(decoded(data, "Grayscale").0, [0, 0, 1], "{data:?}");
        }
    }
}
