//! Convolution nets before and after their layout is changed: random ones compute the same, and transpositions are only
//! where the net begins and ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
mod support;

use partita_ir::op::Rng;
use partita_ir::{Attrs, Builder, DType, Dim, Graph, Tensor, Type, ValueId};
use partita_passes::{CHANNELS_LAST, Options, run_passes};
use support::same_results;

/// A random net under construction; every value has as many pixels as `size` says.
struct Net {
    rng: Rng,
    build: Builder,
    constants: usize,
}

/// Channels of every value: with 3 x 3 windows, convolutions of this size pay for their borders.
const CHANNELS: usize = 16;

impl Net {
    fn op(&mut self, name: &str, attrs: Attrs, inputs: &[ValueId]) -> ValueId {
        self.build.op(partita_ops::op(name).unwrap(), attrs, inputs).unwrap_or_else(|d| panic!("{name}: {d}"))
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.constants += 1;
        let tensor = self.rng.tensor(DType::F32, shape, -0.3, 0.3);
        self.build.constant(&format!("w{}", self.constants), tensor)
    }

    fn shape(&self, x: ValueId) -> Vec<Dim> {
        self.build.graph().ty(x).shape.clone()
    }

    fn channels(&self, x: ValueId) -> usize {
        usize::try_from(self.shape(x)[1].as_known().unwrap()).unwrap()
    }

    fn conv(&mut self, x: ValueId, outputs: usize, kernel: usize, group: usize) -> ValueId {
        let inputs = self.channels(x) / group;
        let w = self.weight(&[outputs, inputs, kernel, kernel]);
        let b = self.weight(&[outputs]);
        let pad = (kernel / 2) as i64;
        let mut attrs = Attrs::new().with("pads", vec![pad; 4]);
        if group > 1 {
            attrs.set("group", group as i64);
        }
        self.op("conv", attrs, &[x, w, b])
    }

    fn activation(&mut self, x: ValueId) -> ValueId {
        let name = *self.rng.pick(&["relu", "sigmoid", "hard_swish", "tanh", "hard_sigmoid"]);
        self.op(name, Attrs::new(), &[x])
    }

    fn squeeze_excite(&mut self, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        let mut y = match self.rng.below(3) {
            0 => self.op("global_max_pool", Attrs::new(), &[x]),
            1 => self.op("global_average_pool", Attrs::new(), &[x]),
            _ => self.op("reduce_mean", Attrs::new().with("axes", vec![2i64, -1]), &[x]),
        };
        if self.rng.below(2) == 0 {
            y = self.conv(y, 8, 1, 1);
            y = self.op("relu", Attrs::new(), &[y]);
            y = self.conv(y, channels, 1, 1);
        } else {
            let w = self.weight(&[channels, channels]);
            y = self.op("flatten", Attrs::new(), &[y]);
            y = self.op("matmul", Attrs::new(), &[y, w]);
            y = self.op("unsqueeze", Attrs::new().with("axes", vec![2i64, 3]), &[y]);
        }
        let y = self.op("hard_sigmoid", Attrs::new(), &[y]);
        let both = if self.rng.below(2) == 0 { [x, y] } else { [y, x] };
        self.op("mul", Attrs::new(), &both)
    }

    /// Channels swapped between two groups.
    fn shuffle(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let half = Dim::known(self.channels(x) as i64 / 2);
        let mut split = vec![shape[0].clone(), Dim::known(2), half];
        split.extend_from_slice(&shape[2..]);
        let y = self.op("reshape", Attrs::new().with("shape", partita_ir::Attr::from(split)), &[x]);
        let y = self.op("transpose", Attrs::new().with("perm", vec![0i64, 2, 1, 3, 4]), &[y]);
        self.op("reshape", Attrs::new().with("shape", partita_ir::Attr::from(shape)), &[y])
    }

    fn parts(&mut self, x: ValueId) -> ValueId {
        let half = self.channels(x) as i64 / 2;
        let slice = |from: i64, to: i64| {
            Attrs::new().with("starts", vec![from]).with("ends", vec![to]).with("axes", vec![1i64])
        };
        let a = self.op("slice", slice(0, half), &[x]);
        let b = self.op("slice", slice(half, i64::MAX), &[x]);
        let b = self.activation(b);
        self.op("concat", Attrs::new().with("axis", -3i64), &[b, a])
    }

    /// The same padded on one side and cut on the other.
    fn shifted(&mut self, x: ValueId) -> ValueId {
        let pads = Attrs::new().with("pads", vec![0i64, 0, 1, 2, 0, 0, 0, 0]).with("value", 0.5f32);
        let y = self.op("pad", pads, &[x]);
        let ends = Attrs::new().with("starts", vec![0i64, 0]).with("ends", vec![-1i64, -2]);
        self.op("slice", ends.with("axes", vec![2i64, 3]), &[y])
    }

    fn up_and_down(&mut self, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        let w = self.weight(&[channels, CHANNELS, 2, 2]);
        let y = self.op("conv_transpose", Attrs::new().with("strides", vec![2i64, 2]), &[x, w]);
        let name = *self.rng.pick(&["max_pool", "average_pool"]);
        let attrs = Attrs::new().with("kernel_shape", vec![2i64, 2]).with("strides", vec![2i64, 2]);
        self.op(name, attrs, &[y])
    }

    /// Twice as large, and half again.
    fn resized(&mut self, x: ValueId) -> ValueId {
        let scales = |s: f32| partita_ir::Attr::Floats(vec![1.0, 1.0, s, s]);
        let mode = *self.rng.pick(&["nearest", "linear"]);
        let name = *self.rng.pick(&["resize", "upsample"]);
        let attrs = Attrs::new().with("mode", mode).with("scales", scales(2.0));
        let y = self.op(name, attrs, &[x]);
        let attrs = Attrs::new().with("mode", mode).with("scales", scales(0.5));
        self.op("resize", attrs, &[y])
    }

    fn pixel_shuffle(&mut self, x: ValueId) -> ValueId {
        let mode = *self.rng.pick(&["DCR", "CRD"]);
        let y = self.conv(x, 4 * CHANNELS, 3, 1);
        let y = self.op("depth_to_space", Attrs::new().with("blocksize", 2i64).with("mode", mode), &[y]);
        let attrs = Attrs::new().with("kernel_shape", vec![2i64, 2]).with("strides", vec![2i64, 2]);
        self.op("average_pool", attrs, &[y])
    }

    fn per_channel(&mut self, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        let shape = if self.rng.below(2) == 0 { vec![channels, 1, 1] } else { vec![1, channels, 1, 1] };
        let c = self.weight(&shape);
        let name = *self.rng.pick(&["add", "mul", "sub"]);
        let both = if self.rng.below(2) == 0 { [x, c] } else { [c, x] };
        self.op(name, Attrs::new(), &both)
    }

    fn normal(&mut self, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        let [scale, bias, mean] = [(); 3].map(|()| self.weight(&[channels]));
        let variance = self.rng.tensor(DType::F32, &[channels], 0.5, 1.5);
        let variance = self.build.constant(&format!("v{}", self.constants), variance);
        self.op("batch_norm", Attrs::new(), &[x, scale, bias, mean, variance])
    }

    fn block(&mut self, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        match self.rng.below(15) {
            0 | 1 => self.conv(x, CHANNELS, 3, 1),
            2 => self.conv(x, channels, 3, channels),
            3 => self.conv(x, CHANNELS, 3, 2),
            4 => {
                let y = self.conv(x, channels, 3, 1);
                let y = self.activation(y);
                self.op("add", Attrs::new(), &[x, y])
            }
            5 => {
                let y = self.conv(x, CHANNELS, 1, 1);
                self.op("concat", Attrs::new().with("axis", 1i64), &[x, y])
            }
            6 => self.squeeze_excite(x),
            7 => self.shuffle(x),
            8 => self.parts(x),
            9 => self.shifted(x),
            10 => self.up_and_down(x),
            11 => self.per_channel(x),
            12 => self.resized(x),
            13 => self.pixel_shuffle(x),
            _ => self.normal(x),
        }
    }

    /// What stands at the end of a net.
    fn head(&mut self, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        match self.rng.below(5) {
            0 => {
                let y = self.op("global_average_pool", Attrs::new(), &[x]);
                let y = self.op("flatten", Attrs::new(), &[y]);
                let w = self.weight(&[channels, 5]);
                self.op("matmul", Attrs::new(), &[y, w])
            }
            1 => {
                let axes = Attrs::new().with("axes", vec![2i64, 3]).with("keepdims", 0i64);
                self.op("reduce_sum", axes, &[x])
            }
            2 => self.op("softmax", Attrs::new().with("axis", 1i64), &[x]),
            3 => self.op("reduce_max", Attrs::new().with("axes", vec![3i64]).with("keepdims", 0i64), &[x]),
            _ => self.op("transpose", Attrs::new().with("perm", vec![0i64, 2, 3, 1]), &[x]),
        }
    }
}

fn net(seed: u64) -> Graph {
    let mut net = Net { rng: Rng(seed), build: Builder::new("net"), constants: 0 };
    let batch = if seed.is_multiple_of(2) { Dim::known(2) } else { Dim::symbol("n") };
    let channels = *net.rng.pick(&[3, 3, 16]);
    let side = Dim::known(net.rng.int(4, 6));
    let ty = Type::new(DType::F32, vec![batch, Dim::known(channels), side.clone(), side]);
    let mut x = net.build.input("x", ty);
    x = net.conv(x, CHANNELS, 3, 1);
    let mut early = None;
    for n in 0..net.rng.below(7) {
        x = net.block(x);
        if n == 2 {
            early = Some(x);
        }
    }
    let y = net.head(x);
    net.build.output("y", y);
    if let Some(early) = early {
        net.build.output("early", early);
    }
    net.build.finish()
}

fn converted(graph: &Graph) -> Graph {
    run_passes(graph.clone(), CHANNELS_LAST, &Options::default()).unwrap_or_else(|d| panic!("{d:?}")).0
}

/// Transpositions that are neither the last step before an output nor the first behind an input.
fn inner_transposes(graph: &Graph) -> usize {
    let outputs: Vec<ValueId> = graph.outputs().map(|(_, v)| v).collect();
    let inner = |n: &&partita_ir::graph::Node| {
        n.op.name == "transpose"
            && !outputs.contains(&n.outputs[0])
            && n.inputs.iter().flatten().all(|v| graph.producer(*v).is_some())
    };
    graph.nodes().map(|(_, n)| n).filter(inner).count()
}

#[test]
fn random_nets_compute_the_same_with_channels_last() {
    let mut n_converted = 0;
    for seed in 0..150 {
        let before = net(seed);
        let after = converted(&before);
        same_results(&before, &after, 1e-4).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let layouts = after.nodes().filter(|(_, n)| n.attrs.get("layout").is_some()).count();
        n_converted += usize::from(layouts > 0);
        if layouts > 0 {
            // Shuffles of channels and of pixels are themselves transpositions.
            let shuffles = before.nodes().filter(|(_, n)| n.op.name == "depth_to_space").count();
            let own = inner_transposes(&before) + shuffles;
            assert!(inner_transposes(&after) <= own, "seed {seed}: {:?}", support::ops(&after));
        }
    }
    assert!(n_converted > 100, "{n_converted}");
}

#[test]
fn fuel_converts_one_convolution_at_a_time() {
    for seed in 0..6 {
        let before = net(seed);
        for fuel in 0..8 {
            let options = Options { fuel: Some(fuel), ..Options::default() };
            let (after, _) = run_passes(before.clone(), CHANNELS_LAST, &options).unwrap();
            same_results(&before, &after, 1e-4).unwrap_or_else(|e| panic!("seed {seed}, fuel {fuel}: {e}"));
        }
    }
}

#[test]
fn constants_keep_their_values() {
    let mut net = Net { rng: Rng(1), build: Builder::new("net"), constants: 0 };
    let x = net.build.input("x", Type::known(DType::F32, &[1, 16, 4, 4]));
    let y = net.conv(x, 16, 5, 1);
    let full = Tensor::from_f64s(DType::F32, &[16, 4, 4], &(0..256).map(f64::from).collect::<Vec<_>>());
    let full = net.build.constant("full", full.unwrap());
    let y = net.op("add", Attrs::new(), &[y, full]);
    net.build.output("y", y);
    net.build.output("full", full);
    let before = net.build.finish();
    let after = converted(&before);
    assert!(after.nodes().any(|(_, n)| n.attrs.get("layout").is_some()));
    same_results(&before, &after, 1e-6).unwrap();
}
