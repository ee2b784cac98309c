//! What the time of a launch is made of: its class, and amounts of what kernels of the class spend time on.
//!
//! Amounts follow from kernel and shapes alone. A fit (measured by `calibrate`) says how long one of each takes on some
//! machine; `price` multiplies. An amount that costs nothing there fits as zero, so listing one too many does no harm.

use crate::launch::{Heads, Launch, Operand, count};
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{Kernel, TileProgram};
use std::collections::BTreeMap;

/// Rows and columns of a tile of the matrix engine.
pub const TILE_ROWS: f64 = 14.0;
pub const TILE_COLUMNS: f64 = 32.0;

/// Columns of a tile that are computed together: a tile of half as many costs half.
const HALF_COLUMNS: f64 = 16.0;

/// Rows of so many floats, or a multiple, fall on the same lines of the first cache.
const PAGE_FLOATS: f64 = 1024.0;

/// Operations up to which an epilogue is done in registers.
const FEW_OPERATIONS: usize = 2;

/// Share of a core's own cache that holds what is passed from one step to the next; the rest holds what else is touched.
const NEAR_SHARE: f64 = 0.75;

/// The same of the last cache, where it was not measured: others use it too.
const FAR_SHARE: f64 = 0.5;

/// What a step of a tile costs beside its rows, in rows: two vectors of B and the counters.
const STEP_ROWS: f64 = 0.5;
/// What a tile costs beside its steps, in steps of all its rows: the multiply-adds' latency to begin with, then adding to
/// C and storing it.
const TILE_STEPS: f64 = 8.0;

/// One launch described by amounts.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Launches of one class cost the same per amount.
    pub class: String,
    /// What the kernel compares with its grain to choose how many threads join in.
    pub work: f64,
    /// Pieces of work that are not cut further: rows and columns of tiles, and matrices.
    units: Option<(f64, f64, f64)>,
    amounts: BTreeMap<&'static str, f64>,
    read_bytes: f64,
    written_bytes: f64,
    weight_bytes: f64,
    /// Weights and inputs: what was there before the run.
    resting_bytes: f64,
}

/// What decides where bytes are found.
#[derive(Clone, Copy, Debug)]
pub struct Caches {
    /// Bytes that stay in a core's own cache, and in the last one, until they are used again.
    pub near_bytes: f64,
    pub far_bytes: f64,
    /// Bytes that a run touches, weights and data: too many push each other out of the caches before the next run.
    pub footprint_bytes: f64,
}

impl Caches {
    /// Those of a device; sizes that are common stand in for unknown ones. `far_bytes` is what was measured.
    pub fn of(device: &partita_hw::Device, far_bytes: Option<f64>, footprint_bytes: f64) -> Self {
        let second = device.caches.iter().find(|c| c.level == 2).map_or(1 << 20, |c| c.bytes);
        let last = device.last_level_cache_bytes().unwrap_or(16 << 20);
        Self {
            near_bytes: NEAR_SHARE * second as f64,
            far_bytes: far_bytes.unwrap_or(FAR_SHARE * last as f64),
            footprint_bytes,
        }
    }
}

/// Bytes that a run of these launches touches: all weights, and the data of the largest of them, whose memory the others
/// use too.
pub fn footprint_bytes<'a>(launches: impl Iterator<Item = &'a Terms>) -> f64 {
    let (weights, data) = launches.fold((0.0, 0.0f64), |(weights, data), t| {
        (weights + t.weight_bytes, data.max(t.read_bytes + t.written_bytes))
    });
    weights + data
}

/// Share of `bytes` that does not stay in a cache where `kept` do. Neither all nor nothing: what stays is not what came
/// last, since caches forget adaptively.
fn beyond(kept: f64, bytes: f64) -> f64 {
    if bytes > kept { 1.0 - kept / bytes } else { 0.0 }
}

impl Terms {
    /// Describes a launch.
    pub fn of(launch: &Launch) -> Self {
        let bytes = launch.bytes();
        let written_bytes: f64 = launch.outputs.iter().map(Operand::bytes).sum();
        let mut terms = Self {
            class: launch.kernel.library.clone(),
            work: launch.output().map_or(0.0, Operand::count),
            units: None,
            amounts: BTreeMap::new(),
            read_bytes: (bytes.total - bytes.weights - bytes.inputs - written_bytes).max(0.0),
            written_bytes,
            weight_bytes: bytes.weights,
            resting_bytes: bytes.weights + bytes.inputs,
        };
        let known = match launch.kernel.library.as_str() {
            "gemm" | "gemm_int" | "gemm_n_bits" => terms.gemm(launch),
            "conv" | "conv_int" => terms.conv(launch),
            "conv_transpose" => terms.conv_transpose(launch),
            "attention" => terms.attention(launch),
            "softmax" | "layer_norm" | "reduce" => terms.rows(launch),
            "pool" => terms.pool(launch),
            "tile" => terms.program(launch),
            _ => terms.moves(launch),
        };
        if known.is_none() {
            terms.add("element", terms.work);
        }
        if let Some(precision) = launch.kernel.string("precision") {
            terms.class = format!("{} {precision}", terms.class);
        }
        terms
    }

    /// Amounts of the busiest of `threads` threads, where a further one joins in for every `grain` of work.
    pub fn amounts(&self, threads: u32, grain: f64, caches: &Caches) -> Vec<(&'static str, f64)> {
        let parts = self.parts(threads, grain);
        let share = self.share(parts);
        let mut out = vec![("launch", 1.0)];
        if parts > 1.0 {
            out.push(("fork", 1.0));
        }
        out.extend(self.amounts.iter().map(|(name, amount)| (*name, amount * share)));
        // Every byte costs what it costs in the nearest cache, and more for what lies farther.
        let data = self.read_bytes + self.written_bytes;
        let (far, memory) = (beyond(caches.near_bytes, data / parts), beyond(caches.far_bytes, data));
        let (read, written, resting) =
            (self.read_bytes / parts, self.written_bytes / parts, self.resting_bytes / parts);
        let far_resting = if caches.footprint_bytes > caches.near_bytes { 1.0 } else { 0.0 };
        out.extend([
            ("byte read", read),
            ("byte read, far", read * far),
            ("byte read, memory", read * memory),
            ("byte written", written),
            ("byte written, far", written * far),
            ("byte written, memory", written * memory),
            ("resting byte", resting),
            ("resting byte, far", resting * far_resting),
            ("resting byte, memory", resting * beyond(caches.far_bytes, caches.footprint_bytes)),
        ]);
        out.retain(|(_, amount)| *amount > 0.0);
        out
    }

    /// Share of the rate of large products that one with these sizes attains, where nothing was measured: rows and
    /// columns of tiles that are empty, and steps and tiles that are too few to fill the pipeline.
    pub fn efficiency(&self) -> f64 {
        let amount = |name| self.amounts.get(name).copied().unwrap_or(0.0);
        let (steps, tiles) = (amount("tile step"), amount("tile"));
        let full = TILE_ROWS * TILE_COLUMNS;
        let spent = amount("multiply-add") + STEP_ROWS * TILE_COLUMNS * steps + TILE_STEPS * full * tiles;
        if spent > 0.0 && self.units.is_some() { (self.work / spent).clamp(0.01, 1.0) } else { 1.0 }
    }

    /// How many threads take part.
    fn parts(&self, threads: u32, grain: f64) -> f64 {
        (self.work / grain.max(1.0)).floor().clamp(1.0, f64::from(threads.max(1)))
    }

    /// What the busiest of them has of the whole: tiles are not cut.
    fn share(&self, parts: f64) -> f64 {
        let Some((rows, columns, matrices)) = self.units.filter(|_| parts > 1.0) else { return 1.0 / parts };
        if matrices > 1.0 {
            let all = rows * columns * matrices;
            return (all / parts).ceil() / all;
        }
        let cut = |along: f64| (rows / along).ceil() * (columns / (parts / along).floor()).ceil();
        let least = (1..=parts as u32).map(|n| cut(f64::from(n))).fold(f64::INFINITY, f64::min);
        least / (rows * columns)
    }

    fn add(&mut self, name: &'static str, amount: f64) {
        *self.amounts.entry(name).or_default() += amount;
    }

    /// `matrices` products of `m` rows, `n` columns and depth `k`, in tiles.
    fn product(&mut self, m: f64, n: f64, k: f64, matrices: f64) {
        let (rows, columns) = ((m / TILE_ROWS).ceil(), (n / TILE_COLUMNS).ceil());
        let tiles = matrices * rows * columns;
        self.add("multiply-add", matrices * m * (n / HALF_COLUMNS).ceil() * HALF_COLUMNS * k);
        self.add("tile step", tiles * k);
        self.add("tile", tiles);
        self.work = matrices * m * n * k;
        self.units = Some((rows, columns, matrices));
    }

    fn gemm(&mut self, launch: &Launch) -> Option<()> {
        let (a, b, out) = (launch.input(0)?, launch.weight()?, launch.output()?);
        let (rows, columns) = last_two(&out.shape)?;
        let mut matrices = out.count() / (rows * columns).max(1.0);
        let turned = launch.kernel.int("trans_a").is_some_and(|t| t != 0);
        let (a_rows, a_columns) = last_two(&a.shape)?;
        let depth = if turned { a_rows } else { a_columns };
        let mut rows = rows;
        if b.constant || b.shape.len() == 2 {
            (rows, matrices) = (rows * matrices, 1.0);
        }
        self.product(rows, columns, depth, matrices);
        if launch.kernel.library == "gemm_n_bits" {
            let bits = launch.kernel.int("bits").unwrap_or(8);
            self.class = format!("gemm_n_bits {bits}");
        } else if !b.constant {
            self.class.push_str(" of data");
            self.add("packed element", matrices * depth * columns);
        }
        self.few(rows, depth);
        self.epilogue(launch)
    }

    /// Products of a single tile of rows have kernels of their own; rows that collide in the cache are copied first.
    fn few(&mut self, rows: f64, depth: f64) {
        if rows > TILE_ROWS {
            return;
        }
        let collide = rows > 1.0 && depth % PAGE_FLOATS == 0.0;
        self.class.push_str(if collide { " few rows, colliding" } else { " few rows" });
    }

    fn conv(&mut self, launch: &Launch) -> Option<()> {
        let (x, w, out) = (launch.input(0)?, launch.weight()?, launch.output()?);
        let (kernel, layout) = (launch.kernel, launch.kernel.string("layout").unwrap_or("nchw"));
        let groups = kernel.int("group").unwrap_or(1).max(1) as f64;
        let taps = count(w.shape.get(2..)?);
        let [channels, inputs, ..] = w.shape[..] else { return None };
        let (channels, inputs) = (channels as f64, inputs as f64);
        let pixels = out.count() / channels.max(1.0);
        let kind = match () {
            () if groups > 1.0 && inputs <= 1.0 => "depthwise",
            () if groups > 1.0 => "grouped",
            () if taps <= 1.0 => "pointwise",
            () => "window",
        };
        self.class = format!("{} {kind} {layout}", kernel.library);
        if kind == "depthwise" {
            self.work = out.count() * taps;
            self.add("tap", self.work);
            self.add("element", out.count());
            self.add("row", out.shape.get(1).map_or(1.0, |&rows| rows as f64));
            return self.epilogue(launch);
        }
        if let Some(side) = squares(kernel) {
            self.class = format!("{} {}", self.class, kernel.string("algorithm")?);
            self.winograd(launch, side, pixels, (inputs, channels));
            return self.epilogue(launch);
        }
        if layout == "nchw" {
            self.product(channels / groups, pixels, inputs * taps, groups);
            self.add("packed element", groups * pixels * inputs * taps);
        } else {
            self.product(pixels, channels / groups, inputs * taps, groups);
            let tiles = self.amounts.get("tile").copied().unwrap_or(0.0);
            self.add("segment", if taps > 1.0 { tiles * taps } else { 0.0 });
            self.add("read element", if taps > 1.0 { x.count() } else { 0.0 });
            if kind == "pointwise" {
                self.few(pixels, inputs);
            }
        }
        self.epilogue(launch)
    }

    /// Squares of `side` by `side` results from `(side + 2)²` products each.
    fn winograd(&mut self, launch: &Launch, side: f64, pixels: f64, (inputs, outputs): (f64, f64)) {
        let out = launch.output().map_or(&[][..], |o| &o.shape);
        let axes = out.get(1..out.len().saturating_sub(1)).unwrap_or_default();
        let covered: f64 = axes.iter().map(|&d| (d as f64 / side).ceil()).product();
        let images = pixels / count(axes).max(1.0);
        let (squares, products) = (images * covered, (side + 2.0) * (side + 2.0));
        self.product(squares, outputs, inputs, products);
        self.units = None;
        self.add("transformed element", squares * products * inputs);
        self.add("result element", squares * products * outputs);
    }

    fn conv_transpose(&mut self, launch: &Launch) -> Option<()> {
        let (x, w) = (launch.input(0)?, launch.input(1)?);
        let layout = launch.kernel.string("layout").unwrap_or("nchw");
        let inputs = *w.shape.first()? as f64;
        let groups = launch.kernel.int("group").unwrap_or(1).max(1) as f64;
        self.class = format!("conv_transpose {layout}");
        self.product(x.count() / inputs.max(1.0), count(w.shape.get(1..)?), inputs / groups, groups);
        self.epilogue(launch)
    }

    fn attention(&mut self, launch: &Launch) -> Option<()> {
        let Heads { heads, queries: rows, keys, depth, values } = launch.heads()?;
        self.product(rows, keys, depth, heads);
        self.product(rows, values, keys, heads);
        self.work = heads * rows * keys * (depth + values);
        self.units = Some(((rows / TILE_ROWS).ceil(), 1.0, heads));
        self.add("score", heads * rows * keys);
        self.add("row", heads * rows);
        self.add("packed element", heads * keys * (depth + values));
        if rows <= TILE_ROWS {
            self.class.push_str(" few rows");
        }
        Some(())
    }

    /// Kernels that take rows of elements as a whole.
    fn rows(&mut self, launch: &Launch) -> Option<()> {
        let (x, kernel) = (launch.input(0)?, launch.kernel);
        let axes = [kernel.ints("axes"), kernel.ints("axis")].concat();
        let rank = x.shape.len();
        let inner = axes.iter().any(|&a| a + 1 == rank as i64);
        if let Some(mode) = kernel.string("mode") {
            self.class = format!("{} {mode}", self.class);
        }
        if kernel.int("rms").is_some_and(|rms| rms != 0) {
            self.class = "rms_norm".to_owned();
        }
        let sized =
            |a: &i64| usize::try_from(*a).ok().and_then(|a| x.shape.get(a)).map_or(1.0, |&d| d as f64);
        let length = match kernel.library.as_str() {
            "layer_norm" => count(x.shape.get(usize::try_from(*axes.first()?).ok()?..)?),
            _ => axes.iter().map(sized).product(),
        };
        if !inner && kernel.library != "layer_norm" {
            self.class.push_str(" across");
        }
        self.work = x.count();
        self.add("element", x.count());
        self.add("row", x.count() / length.max(1.0));
        Some(())
    }

    fn pool(&mut self, launch: &Launch) -> Option<()> {
        let (kernel, out) = (launch.kernel, launch.output()?.count());
        let (mode, layout) = (kernel.string("mode")?, kernel.string("layout").unwrap_or("nchw"));
        self.class = format!("pool {mode} {layout}");
        let taps: f64 = kernel.ints("kernel").iter().map(|&d| d.max(1) as f64).product();
        self.work = out * taps;
        self.add("tap", self.work);
        self.add("element", out);
        Some(())
    }

    fn program(&mut self, launch: &Launch) -> Option<()> {
        let out = launch.output()?.count();
        let instrs = launch.kernel.program.as_ref()?.instrs.len();
        self.epilogue(launch)?;
        self.work = out * (instrs.max(1) as f64);
        self.add("element", out);
        Some(())
    }

    /// The program of a launch over its results, by kinds of operations.
    fn epilogue(&mut self, launch: &Launch) -> Option<()> {
        let out = launch.output()?.count();
        let kinds: Vec<&str> = launch.kernel.program.iter().flat_map(kinds).collect();
        let few = kinds.len() <= FEW_OPERATIONS && kinds.iter().all(|&kind| kind == "operation");
        let in_registers = few && launch.kernel.library != "tile";
        for kind in kinds {
            self.add(if in_registers { "operation in registers" } else { kind }, out);
        }
        Some(())
    }

    /// Kernels that only move: runs of elements that stay together.
    fn moves(&mut self, launch: &Launch) -> Option<()> {
        let (out, library) = (launch.output()?, launch.kernel.library.as_str());
        let first = launch.input(0).map_or(&[][..], |o| &o.shape);
        let kept = |from: usize, shape: &[usize]| count(shape.get(from..).unwrap_or_default()).max(1.0);
        let axis = usize::try_from(launch.kernel.int("axis").unwrap_or(0)).ok()?;
        self.work = launch.outputs.iter().map(Operand::count).sum();
        let run = match library {
            "transpose" => {
                let perm = launch.kernel.ints("perm");
                let moved = perm.iter().enumerate().rposition(|(n, &p)| p != n as i64);
                let run = moved.map_or(out.count(), |at| kept(at + 1, &out.shape));
                self.class = if run > 1.0 { "transpose rows" } else { "transpose" }.to_owned();
                run
            }
            "concat" => kept(axis, &out.shape) / launch.inputs.len().max(1) as f64,
            "split" => kept(axis, first) / launch.outputs.len().max(1) as f64,
            "gather" => kept(axis + 1, first),
            "slice" | "pad" | "expand" => {
                let cut = first.iter().rev().zip(out.shape.iter().rev()).position(|(a, b)| a != b);
                kept(out.shape.len().saturating_sub(cut.unwrap_or(out.shape.len()) + 1), &out.shape)
            }
            _ => self.work,
        };
        if library == "reference" {
            self.class = format!("reference {}", launch.kernel.string("op").unwrap_or_default());
        }
        self.add("element", self.work);
        self.add("run", self.work / run.max(1.0));
        Some(())
    }
}

fn last_two(shape: &[usize]) -> Option<(f64, f64)> {
    let [.., rows, columns] = shape else { return None };
    Some((*rows as f64, *columns as f64))
}

/// Side of the squares of results that a kernel computes at once, where it does.
fn squares(kernel: &Kernel) -> Option<f64> {
    let side = kernel.string("algorithm")?.strip_prefix("winograd")?;
    side.parse().ok()
}

/// The kind of every operation of a program that costs time.
fn kinds(program: &TileProgram) -> impl Iterator<Item = &'static str> {
    program.instrs.iter().filter_map(|instr| kind(TileOp::try_from(instr.op).ok()?, instr.lane))
}

fn kind(op: TileOp, lane: i32) -> Option<&'static str> {
    use TileOp::{
        Abs, Add, And, Ceil, Const, Div, Eq, Erf, Exp, Floor, IsNan, Le, Load, Log, Lt, Max, Min, Mul,
        MulAdd, Neg, Not, Or, Recip, Round, RoundTo, Select, Shl, Shr, Sigmoid, Sign, Sqrt, Sub, Tanh,
        ToFloat, ToInt, Wrap, Xor,
    };
    Some(match op {
        Const | Load => return None,
        Add | Sub | Mul | Max | Min | Neg | Abs | MulAdd | Select | Eq | Lt | Le | Floor | Ceil | Round
        | Sign
            if lane == Lane::Float as i32 =>
        {
            "operation"
        }
        Not | And | Or | Xor | Shl | Shr | Wrap | ToFloat | ToInt | IsNan | RoundTo => "integer operation",
        Add | Sub | Mul | Max | Min | Neg | Abs | Select | Eq | Lt | Le | Sign => "integer operation",
        Div | Recip | Sqrt => "division",
        Exp => "exp",
        Sigmoid => "sigmoid",
        Tanh => "tanh",
        Erf => "erf",
        Log => "log",
        _ => "function",
    })
}
