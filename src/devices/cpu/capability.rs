//! The capability table of the CPU: which kernels it has for which types, and how it packs weights.

use crate::int_form::Form;
use crate::layout::{Layout, pack_conv_b, pack_conv_transpose_b, pack_depthwise, pack_gemm_b, round_gemm_b};
use crate::pack_int::pack_int;
use crate::pack_n_bits::{Sizes, pack_n_bits};
use crate::winograd_weight::pack_winograd;
use partita_plan::{ElementType, Kernel};

/// Libraries that compute in f32 and accept f16 and bf16 by conversion.
const FLOAT_KERNELS: [&str; 7] =
    ["gemm", "conv", "conv_transpose", "pool", "reduce", "softmax", "layer_norm"];
/// Libraries that move elements of any type.
const MOVEMENT: [&str; 8] = ["transpose", "slice", "expand", "concat", "split", "pad", "copy", "fill"];

fn is_float(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::F32 | ElementType::F16 | ElementType::Bf16)
}

fn fits_tile(dtype: ElementType) -> bool {
    dtype.is_computable() && !matches!(dtype, ElementType::F64 | ElementType::U64)
}

/// Whether this device has `kernel` for operands and results of these types. Omitted operands are left out
/// of `inputs`.
pub fn supports(kernel: &Kernel, inputs: &[ElementType], outputs: &[ElementType]) -> bool {
    let all = || inputs.iter().chain(outputs);
    match kernel.library.as_str() {
        "tile" => all().all(|&d| fits_tile(d)),
        "reference" => true,
        "gather" => {
            inputs.first() == outputs.first()
                && matches!(inputs.get(1), Some(ElementType::I32 | ElementType::I64))
        }
        "dims" => outputs.iter().all(|d| d.is_computable() && !d.is_float()),
        "reduce" if inputs.first().is_some_and(|d| !d.is_float()) => {
            let mode = kernel.string("mode").unwrap_or_default();
            all().all(|&d| fits_tile(d) && !d.is_float()) && matches!(mode, "sum" | "max" | "min" | "prod")
        }
        "gemm_int" | "conv_int" => supports_int(kernel, inputs, outputs),
        "pool" if inputs.first().is_some_and(|&d| is_byte(d)) => {
            kernel.string("mode") == Some("max") && has_layout(kernel) && outputs == [inputs[0]]
        }
        "gemm_n_bits" => {
            const OWN: [ElementType; 4] =
                [ElementType::F32, ElementType::U8, ElementType::F32, ElementType::U8];
            let (own, extra) = inputs.split_at(own_operands(kernel).min(inputs.len()));
            Sizes::of(kernel).is_some()
                && own.iter().zip(&OWN).all(|(a, b)| a == b)
                && (3..=4).contains(&own.len())
                && outputs == [ElementType::F32]
                && extra.iter().all(|&d| fits_tile(d))
        }
        "rotary" => all().all(|&d| d == ElementType::F32),
        // A mask may be boolean.
        "attention" => {
            let (own, mask) = inputs.split_at(inputs.len().min(3));
            own.iter().chain(outputs).all(|&d| is_float(d))
                && mask.iter().all(|&d| is_float(d) || d == ElementType::Bool)
        }
        // Operands of an epilogue may be of any type that tile programs hold.
        name if FLOAT_KERNELS.contains(&name) && !has_layout(kernel) => false,
        name if FLOAT_KERNELS.contains(&name) => {
            let own = own_operands(kernel).min(inputs.len());
            let (own, extra) = inputs.split_at(own);
            own.iter().chain(outputs).all(|&d| is_float(d)) && extra.iter().all(|&d| fits_tile(d))
        }
        name => MOVEMENT.contains(&name),
    }
}

fn is_byte(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::I8 | ElementType::U8)
}

/// Products of integers: types of both sides with scale and zero point, and an epilogue of the form they know.
fn supports_int(kernel: &Kernel, inputs: &[ElementType], outputs: &[ElementType]) -> bool {
    let n_own = kernel.int("n_own").and_then(|v| usize::try_from(v).ok()).unwrap_or(inputs.len());
    let (own, extra) = inputs.split_at(n_own.min(inputs.len()));
    let form = kernel.program.as_ref().map_or(Some(Form::PLAIN), Form::of);
    let (Some(form), [out], &[a, _, a_zero, b, _, b_zero, ..]) = (form, outputs, own) else { return false };
    let floats = [1, 4, 6].iter().all(|&n| own.get(n).is_none_or(|&d| d == ElementType::F32));
    let bytes = is_byte(a) && is_byte(b) && a == a_zero && b == b_zero && own.len() <= 7;
    let term = form.term.is_none_or(|t| match extra.get(t.input - 1) {
        Some(&dtype) => {
            if t.numbers.is_some() {
                is_byte(dtype)
            } else {
                dtype == ElementType::F32
            }
        }
        None => false,
    });
    let result = match form.last {
        None => *out == ElementType::F32,
        Some(last) => last.fits(*out),
    };
    let layout = match kernel.library.as_str() {
        "conv_int" => b == ElementType::I8 && matches!(kernel.string("layout"), Some("nhwc" | "nchw_nhwc")),
        _ => true,
    };
    floats && bytes && term && result && layout
}

/// Whether the kernel has the layout it is asked for, if any.
fn has_layout(kernel: &Kernel) -> bool {
    match kernel.string("layout") {
        None | Some("nchw" | "nhwc") => true,
        Some("nchw_nhwc") => kernel.library == "conv",
        Some(_) => false,
    }
}

/// Operands that belong to the kernel itself, as far as the parameters say.
fn own_operands(kernel: &Kernel) -> usize {
    if kernel.program.is_none() {
        return usize::MAX;
    }
    kernel.int("n_own").and_then(|v| usize::try_from(v).ok()).unwrap_or(usize::MAX)
}

/// Packs constant operand `operand` of `kernel` (row-major bytes of `dtype` and `shape`) the way this
/// device's kernel reads it. `None` when the kernel reads it as it is.
pub fn pack(
    kernel: &Kernel,
    operand: usize,
    raw: &[u8],
    dtype: ElementType,
    shape: &[usize],
) -> Option<(String, Vec<u8>)> {
    match kernel.library.as_str() {
        "gemm_n_bits" => return pack_n_bits(kernel, operand, raw, dtype),
        "gemm_int" | "conv_int" if operand == 3 => return pack_int(kernel, raw, dtype, shape),
        _ => {}
    }
    if operand != 1 || dtype != ElementType::F32 || shape.contains(&0) {
        return None;
    }
    let (chunks, rest) = raw.as_chunks::<4>();
    let values: Vec<f32> = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    if !rest.is_empty() || values.len() != count {
        return None;
    }
    match kernel.library.as_str() {
        "gemm" => pack_gemm(kernel, &values, shape),
        "conv" => pack_conv(kernel, &values, shape),
        "conv_transpose" => pack_conv_transpose(kernel, &values, shape),
        _ => None,
    }
}

fn pack_gemm(kernel: &Kernel, values: &[f32], shape: &[usize]) -> Option<(String, Vec<u8>)> {
    let &[rows, columns] = shape else { return None };
    let transposed = kernel.int("trans_b").is_some_and(|v| v != 0);
    let (k, n) = if transposed { (columns, rows) } else { (rows, columns) };
    let panels = pack_gemm_b(values, k, n, transposed);
    if kernel.string("precision") == Some("bf16") {
        return Some((Layout::GemmBHalf { k, n }.to_string(), round_gemm_b(&panels, k)));
    }
    Some((Layout::GemmB { k, n }.to_string(), panels))
}

fn pack_conv(kernel: &Kernel, values: &[f32], shape: &[usize]) -> Option<(String, Vec<u8>)> {
    let groups = usize::try_from(kernel.int("group").unwrap_or(1)).ok()?;
    let (&channels, rest) = shape.split_first()?;
    if groups == 0 || !channels.is_multiple_of(groups) || rest.len() < 2 {
        return None;
    }
    match kernel.string("layout") {
        None | Some("nchw") => None,
        Some(_) => Some(pack_channels_last(kernel, values, groups, channels / groups, rest)),
    }
}

fn pack_conv_transpose(kernel: &Kernel, values: &[f32], shape: &[usize]) -> Option<(String, Vec<u8>)> {
    let groups = usize::try_from(kernel.int("group").unwrap_or(1)).ok()?;
    let &[channels, columns, ref kernel_sizes @ ..] = shape else { return None };
    if groups == 0 || !channels.is_multiple_of(groups) || kernel.string("layout") != Some("nhwc") {
        return None;
    }
    let (depth, taps) = (channels / groups, kernel_sizes.iter().product());
    let packed = pack_conv_transpose_b(values, groups, depth, columns, taps);
    Some((Layout::ConvB { groups: groups * taps, depth, columns }.to_string(), packed))
}

/// For results with their channels last; `rest` holds input channels and kernel sizes.
fn pack_channels_last(
    kernel: &Kernel,
    values: &[f32],
    groups: usize,
    columns: usize,
    rest: &[usize],
) -> (String, Vec<u8>) {
    let (inputs, taps) = (rest[0], rest[1..].iter().product());
    let nhwc = kernel.string("layout") == Some("nhwc");
    if nhwc && inputs == 1 && columns == 1 {
        let packed = pack_depthwise(values, taps, groups);
        return (Layout::Depthwise { taps, channels: groups }.to_string(), packed);
    }
    if let (true, Some(m), 1, [_, 3, 3]) = (nhwc, squares(kernel), groups, rest) {
        let packed = pack_winograd(values, m, inputs, columns);
        return (Layout::Winograd { m, inputs, outputs: columns }.to_string(), packed);
    }
    let (packed, depth) = (pack_conv_b(values, groups, columns, inputs, taps), inputs * taps);
    if kernel.string("precision") == Some("bf16") {
        let halves =
            packed.chunks(packed.len() / groups).flat_map(|group| round_gemm_b(group, depth)).collect();
        return (Layout::ConvBHalf { groups, depth, columns }.to_string(), halves);
    }
    (Layout::ConvB { groups, depth, columns }.to_string(), packed)
}

/// Side of the squares of results that a kernel computes at once, when it does.
fn squares(kernel: &Kernel) -> Option<usize> {
    match kernel.string("algorithm")? {
        "winograd2" => Some(2),
        "winograd4" => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_plan::Param;

    fn kernel(library: &str, ints: &[(&str, i64)]) -> Kernel {
        let param = |(name, value): &(&str, i64)| Param {
            name: (*name).to_owned(),
            ints: vec![*value],
            ..Param::default()
        };
        Kernel { library: library.to_owned(), params: ints.iter().map(param).collect(), program: None }
    }

    #[test]
    fn types_decide() {
        let (f32, f64, i64) = (ElementType::F32, ElementType::F64, ElementType::I64);
        assert!(supports(&kernel("gemm", &[]), &[f32, f32], &[f32]));
        assert!(!supports(&kernel("gemm", &[]), &[i64, i64], &[i64]));
        assert!(!supports(&kernel("tile", &[]), &[f64], &[f64]));
        assert!(supports(&kernel("transpose", &[]), &[f64], &[f64]));
        assert!(supports(&kernel("gather", &[]), &[f64, i64], &[f64]));
        assert!(!supports(&kernel("unheard_of", &[]), &[f32], &[f32]));
    }

    #[test]
    fn weights_of_products_are_packed() {
        let raw: Vec<u8> = (0..18).flat_map(|v| (v as f32).to_le_bytes()).collect();
        let packed = pack(&kernel("gemm", &[]), 1, &raw, ElementType::F32, &[6, 3]);
        assert_eq!(
            packed.map(|(layout, bytes)| (layout, bytes.len())),
            Some(("gemm-b:6x3".into(), 6 * 32 * 4))
        );
        assert!(pack(&kernel("conv", &[("group", 1)]), 1, &raw, ElementType::F32, &[2, 1, 3, 3]).is_none());
        assert!(pack(&kernel("gemm", &[]), 1, &raw, ElementType::F32, &[6, 4]).is_none());
    }
}
