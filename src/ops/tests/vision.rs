//! Laws of the operators of vision and signals that tie them to each other and to simpler operators.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use partita_ir::attr::Attrs;
use partita_ir::op::{EvalCtx, Rng};
use partita_ir::{DType, Tensor};
use partita_ops::op;
use partita_ops::samples::list;

fn run_all(name: &str, attrs: &Attrs, inputs: &[Option<&Tensor>], n_outputs: usize) -> Vec<Tensor> {
    (op(name).unwrap().eval)(&EvalCtx { attrs, inputs, n_outputs }).unwrap()
}

fn run(name: &str, attrs: &Attrs, inputs: &[&Tensor]) -> Tensor {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
    run_all(name, attrs, &inputs, 1).remove(0)
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    for (x, y) in a.to_f64s().iter().zip(b.to_f64s()) {
        assert!((x - y).abs() < 1e-5, "{x} instead of {y}");
    }
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

#[test]
fn the_identity_grid_samples_the_data_itself() {
    let mut rng = Rng(1);
    let x = rng.tensor(DType::F32, &[2, 3, 4, 5], -1.0, 1.0);
    let theta = floats(&[2, 2, 3], &[1., 0., 0., 0., 1., 0., 1., 0., 0., 0., 1., 0.]);
    for align in [0i64, 1] {
        let attrs = Attrs::new().with("align_corners", align);
        let grid = run("affine_grid", &attrs, &[&theta, &list(&[2, 3, 4, 5])]);
        for mode in ["nearest", "linear", "cubic"] {
            let attrs = attrs.clone().with("mode", mode).with("padding_mode", "border");
            assert_close(&run("grid_sample", &attrs, &[&x, &grid]), &x);
        }
    }
}

#[test]
fn deformation_by_nothing_is_convolution() {
    let mut rng = Rng(2);
    let (x, w) =
        (rng.tensor(DType::F32, &[1, 4, 6, 5], -1.0, 1.0), rng.tensor(DType::F32, &[6, 2, 3, 2], -1.0, 1.0));
    let attrs =
        Attrs::new().with("group", 2i64).with("strides", vec![2i64, 1]).with("pads", vec![1i64, 0, 1, 1]);
    let want = run("conv", &attrs, &[&x, &w]);
    let offset = rng.tensor(DType::F32, &[1, 12, want.shape()[2], want.shape()[3]], 0.0, 0.0);
    assert_close(&run("deform_conv", &attrs, &[&x, &w, &offset]), &want);
}

#[test]
fn maxima_return_to_their_places() {
    let mut rng = Rng(3);
    let x = rng.tensor(DType::F32, &[1, 2, 6, 4], 0.5, 1.0);
    let attrs = Attrs::new().with("kernel_shape", vec![2i64, 2]).with("strides", vec![2i64, 2]);
    let mut pooled = run_all("max_pool", &attrs, &[Some(&x)], 2);
    let (index, y) = (pooled.remove(1), pooled.remove(0));
    let back = run("max_unpool", &attrs, &[&y, &index]);
    assert_eq!(back.shape(), x.shape());
    assert_close(&run("max_pool", &attrs, &[&back]), &y);
    let kept = back.to_f64s().iter().zip(x.to_f64s()).filter(|(b, x)| *b == x).count();
    assert_eq!(kept, y.n_elements());
}

#[test]
fn blocks_overlap_as_windows_do() {
    let ones = floats(&[1, 4, 4], &[1.0; 16]);
    let y = run("col2im", &Attrs::new(), &[&ones, &list(&[3, 3]), &list(&[2, 2])]);
    assert_eq!(y.to_f64s(), [1., 2., 1., 2., 4., 2., 1., 2., 1.]);
}

#[test]
fn transforms_go_there_and_back() {
    let mut rng = Rng(4);
    let inverse = Attrs::new().with("inverse", 1i64);
    for n in [1, 2, 7, 12, 31, 64] {
        let x = rng.tensor(DType::F32, &[2, n, 3, 2], -1.0, 1.0);
        let axis = Tensor::scalar(1i64);
        let operands = |x| [Some(x), None, Some(&axis)];
        let y = run_all("dft", &Attrs::new(), &operands(&x), 1).remove(0);
        assert_close(&run_all("dft", &inverse, &operands(&y), 1)[0], &x);
        let real = rng.tensor(DType::F32, &[2, n, 1], -1.0, 1.0);
        let onesided = Attrs::new().with("onesided", 1i64);
        let half = run("dft", &onesided, &[&real]);
        assert_eq!(half.shape(), [2, n / 2 + 1, 2]);
        let whole = run("dft", &onesided.with("inverse", 1i64), &[&half, &Tensor::scalar(n as i64)]);
        assert_close(&whole, &real);
    }
}

#[test]
fn frames_are_transforms_of_slices() {
    let mut rng = Rng(5);
    let signal = rng.tensor(DType::F32, &[1, 16, 1], -1.0, 1.0);
    let frames = run_all(
        "stft",
        &Attrs::new(),
        &[Some(&signal), Some(&Tensor::scalar(3i64)), None, Some(&list(&[8]))],
        1,
    );
    assert_eq!(frames[0].shape(), [1, 3, 5, 2]);
    let second: Vec<f32> = signal.to_f64s()[3..11].iter().map(|&v| v as f32).collect();
    let want = run("dft", &Attrs::new().with("onesided", 1i64), &[&floats(&[1, 8, 1], &second)]);
    let got: Vec<f32> = frames[0].to_f64s()[10..20].iter().map(|&v| v as f32).collect();
    assert_close(&floats(&[1, 5, 2], &got), &want);
}

#[test]
fn regions_of_whole_elements_are_copied() {
    let x = floats(&[1, 1, 2, 2], &[1., 2., 3., 4.]);
    let (roi, batch) = (floats(&[1, 4], &[0., 0., 2., 2.]), list(&[0]));
    let attrs =
        Attrs::new().with("output_height", 2i64).with("output_width", 2i64).with("sampling_ratio", 1i64);
    assert_close(&run("roi_align", &attrs, &[&x, &roi, &batch]), &x);
    let attrs = Attrs::new().with("pooled_shape", vec![1i64, 1]);
    let pooled = run("max_roi_pool", &attrs, &[&x, &floats(&[1, 5], &[0., 0., 0., 0.6, 0.4])]);
    assert_eq!(pooled.to_f64s(), [2.0]);
}

#[test]
fn shrinking_with_antialias_is_a_weighted_mean() {
    let x = floats(&[4], &[0., 4., 8., 100.]);
    let attrs = Attrs::new().with("mode", "linear").with("antialias", 1i64).with("scales", vec![0.5f32]);
    // Position 0.5: weights 0.75 for its neighbours and 0.25 for those beyond, the edge repeated.
    let y = run("resize", &attrs, &[&x]);
    assert_eq!(
        y.to_f64s(),
        [(0.25 * 0. + 0.75 * 0. + 0.75 * 4. + 0.25 * 8.) / 2., (1. + 6. + 75. + 25.) / 2.]
    );
}

#[test]
fn the_aspect_ratio_is_kept() {
    let x = floats(&[1, 1, 2, 4], &[0.; 8]);
    for (policy, want) in [("stretch", [7, 8]), ("not_larger", [4, 8]), ("not_smaller", [7, 14])] {
        let attrs = Attrs::new()
            .with("axes", vec![2i64, 3])
            .with("keep_aspect_ratio_policy", policy)
            .with("sizes", vec![7i64, 8]);
        assert_eq!(run("resize", &attrs, &[&x]).shape()[2..], want, "{policy}");
    }
}

#[test]
fn text_is_moved() {
    let x = Tensor::from_strings(&[1, 1, 1, 2], &["a", "b"]).unwrap();
    let grid = floats(&[1, 1, 3, 2], &[0.5, 0., -3., 0., -0.5, 0.]);
    let y = run("grid_sample", &Attrs::new().with("mode", "nearest"), &[&x, &grid]);
    assert_eq!(y.with_table(x.table().cloned()).strings(), ["b", "", "a"]);
    let y = run("center_crop_pad", &Attrs::new(), &[&x, &list(&[1, 1, 2, 1])]);
    assert_eq!(y.with_table(x.table().cloned()).strings(), ["a", ""]);
}

/// The images were made, and the pixels they stand for computed, by Pillow with libjpeg-turbo.
#[test]
fn pixels_are_those_of_the_usual_decoder() {
    let images: [(&[u8], &[u8]); 2] = [
        (include_bytes!("images/sequential.jpg"), include_bytes!("images/sequential.rgb")),
        (include_bytes!("images/progressive.jpg"), include_bytes!("images/progressive.rgb")),
    ];
    for (data, pixels) in images {
        let y = run("image_decoder", &Attrs::new(), &[&Tensor::from_slice(&[data.len()], data).unwrap()]);
        assert_eq!(y.shape(), [11, 19, 3]);
        assert!(y.bytes() == pixels);
    }
}
