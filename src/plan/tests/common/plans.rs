//! Plans by hand: a builder that does what the compiler does last (reservations and offsets), and a few plans.
//!
//! Also included by the tests of the runtime, so it uses the public interface only.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "helpers of tests")]

use partita_plan::dim::DimItem;
use partita_plan::limits::ARENA_ALIGN_BYTES;
use partita_plan::memory::{self, Item};
use partita_plan::reserve::reserve_positions;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::*;

/// A plan under construction and its weight section.
pub struct Build {
    pub plan: Plan,
    pub weights: Vec<u8>,
}

/// The constant dimensions `dims`.
pub fn dims(dims: &[i64]) -> Vec<DimExpr> {
    dims.iter().map(|&d| DimExpr::constant(d)).collect()
}

/// Symbol `index` as a dimension.
pub fn symbol(index: i64) -> DimExpr {
    DimExpr { items: vec![DimItem { op: DimOp::Symbol as i32, value: index }] }
}

/// `dim` times `factor`.
pub fn times(dim: &DimExpr, factor: i64) -> DimExpr {
    let mut items = dim.items.clone();
    items.push(DimItem { op: DimOp::Const as i32, value: factor });
    items.push(DimItem { op: DimOp::Mul as i32, value: 0 });
    DimExpr { items }
}

/// "After the first `steps` steps of queue `queue`".
pub fn after(queue: u32, steps: u32) -> Wait {
    Wait { queue, steps }
}

pub fn instr(op: TileOp, args: &[u32]) -> TileInstr {
    TileInstr { op: op as i32, lane: Lane::Float as i32, args: args.to_vec(), ..TileInstr::default() }
}

pub fn load(index: u32) -> TileInstr {
    TileInstr { index, ..instr(TileOp::Load, &[]) }
}

pub fn float(value: f64) -> TileInstr {
    TileInstr { float: value, ..instr(TileOp::Const, &[]) }
}

/// `x * scale + shift`.
pub fn affine(scale: f64, shift: f64) -> TileProgram {
    let instrs =
        vec![load(0), float(scale), instr(TileOp::Mul, &[0, 1]), float(shift), instr(TileOp::Add, &[2, 3])];
    TileProgram { inputs: 1, instrs, outputs: vec![4] }
}

/// `x + y`.
pub fn add() -> TileProgram {
    TileProgram { inputs: 2, instrs: vec![load(0), load(1), instr(TileOp::Add, &[0, 1])], outputs: vec![2] }
}

impl Build {
    /// Devices named `d0`, `d1`, ... with these drivers.
    pub fn new(name: &str, drivers: &[&str]) -> Self {
        let devices = drivers.iter().enumerate().map(|(i, driver)| Device {
            name: format!("d{i}"),
            driver: (*driver).to_string(),
            ..Device::default()
        });
        let plan = Plan { name: name.to_string(), devices: devices.collect(), ..Plan::default() };
        Self { plan, weights: Vec::new() }
    }

    fn push(&mut self, value: Value) -> u32 {
        self.plan.values.push(value);
        self.plan.values.len() as u32 - 1
    }

    /// An f32 value in the arena of `device`.
    pub fn value(&mut self, name: &str, device: u32, shape: Vec<DimExpr>) -> u32 {
        self.push(Value { name: name.to_string(), device, shape, ..Value::default() })
    }

    /// The same bytes as `of` in another shape.
    pub fn alias(&mut self, name: &str, of: u32, shape: Vec<DimExpr>) -> u32 {
        let device = self.plan.values[of as usize].device;
        let value = Value { name: name.to_string(), device, shape, ..Value::default() };
        self.push(Value { storage: Storage::Alias as i32, alias_of: of, ..value })
    }

    /// An f32 weight.
    pub fn weight(&mut self, name: &str, device: u32, data: &[f32]) -> u32 {
        let offset = self.weights.len().next_multiple_of(64);
        self.weights.resize(offset, 0);
        self.weights.extend(data.iter().flat_map(|x| x.to_le_bytes()));
        let shape = dims(&[data.len() as i64]);
        let value =
            Value { name: name.to_string(), device, shape, offset: offset as u64, ..Value::default() };
        self.push(Value { storage: Storage::Weight as i32, stored_bytes: data.len() as u64 * 4, ..value })
    }

    pub fn input(&mut self, value: u32) {
        let name = self.plan.values[value as usize].name.clone();
        self.plan.inputs.push(Port { name, value });
    }

    pub fn output(&mut self, value: u32) {
        let name = self.plan.values[value as usize].name.clone();
        self.plan.outputs.push(Port { name, value });
    }

    /// Symbol `name`, bound by axis `axis` of input `input`.
    pub fn bind_symbol(&mut self, name: &str, input: u32, axis: u32) {
        self.plan.symbols.push(Symbol { name: name.to_string(), input, axis, likely: 1, least: 0 });
    }

    pub fn tile(&mut self, program: TileProgram) -> u32 {
        let kernel = Kernel { library: "tile".to_string(), program: Some(program), ..Kernel::default() };
        self.plan.kernels.push(kernel);
        self.plan.kernels.len() as u32 - 1
    }

    /// The compute queue of `device`.
    pub fn queue(&mut self, device: u32) -> u32 {
        let name = self.plan.devices[device as usize].name.clone();
        self.plan.queues.push(Queue { name, device, ..Queue::default() });
        self.plan.queues.len() as u32 - 1
    }

    /// The copy queue from one device to another.
    pub fn link(&mut self, from: u32, to: u32) -> u32 {
        let name = format!("d{from}->d{to}");
        self.plan.queues.push(Queue { name, device: to, copies: true, from, ..Queue::default() });
        self.plan.queues.len() as u32 - 1
    }

    /// A launch on a compute queue; predicted to take 10 us.
    pub fn step(&mut self, queue: u32, kernel: u32, inputs: &[u32], outputs: &[u32], waits: &[Wait]) {
        let steps = &mut self.plan.queues[queue as usize].steps;
        steps.push(Step {
            name: format!("s{}", steps.len()),
            kernel,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            waits: waits.to_vec(),
            time_us: 10.0,
            ..Step::default()
        });
    }

    /// A transfer on a copy queue.
    pub fn transfer(&mut self, queue: u32, from: u32, to: u32, waits: &[Wait]) {
        self.step(queue, 0, &[from], &[to], waits);
    }

    /// Fills reservations and, without symbols, offsets and arena sizes.
    pub fn finish(mut self) -> (Plan, Vec<u8>) {
        let plan = &mut self.plan;
        plan.weight_bytes = self.weights.len() as u64;
        let order = Order::new(plan).unwrap();
        let reserved = reserve_positions(plan, &order).unwrap();
        for (value, reservation) in plan.values.iter_mut().zip(reserved) {
            (value.first, value.last) = (reservation.first, reservation.last);
        }
        if plan.symbols.is_empty() {
            (0..plan.devices.len()).for_each(|device| place(plan, device));
        }
        (self.plan, self.weights)
    }
}

fn place(plan: &mut Plan, device: usize) {
    let arena = |v: &Value| v.device as usize == device && v.storage == Storage::Arena as i32;
    let bytes = |v: &Value| 4 * v.shape.iter().map(|d| d.as_constant().unwrap() as u64).product::<u64>();
    let of = |v: &Value| Item { bytes: bytes(v), align: ARENA_ALIGN_BYTES, first: v.first, last: v.last };
    let items: Vec<Item> = plan.values.iter().filter(|v| arena(v)).map(of).collect();
    let offsets = memory::plan(&items);
    for (value, offset) in plan.values.iter_mut().filter(|v| arena(v)).zip(offsets.offsets) {
        value.offset = offset;
    }
    plan.devices[device].arena_bytes = offsets.total_bytes;
}

/// One device, four elementwise steps in a row, values that can reuse bytes: y = 16 x + 15 for x of 4 floats.
pub fn chain(driver: &str) -> (Plan, Vec<u8>) {
    let mut b = Build::new("chain", &[driver]);
    let kernel = b.tile(affine(2.0, 1.0));
    let queue = b.queue(0);
    let mut value = b.value("x", 0, dims(&[4]));
    b.input(value);
    for step in 0..4 {
        let next = b.value(&format!("v{step}"), 0, dims(&[4]));
        b.step(queue, kernel, &[value], &[next], &[]);
        value = next;
    }
    b.output(value);
    b.finish()
}

/// Two devices side by side, with transfers both ways, an alias and a weight:
/// a = 2x+1 on d0; b = 3a+w on d1 while c = a-5 on d0; y = b + c on d0. x is [n] if `symbolic`, else [4].
pub fn two_devices(drivers: [&str; 2], symbolic: bool) -> (Plan, Vec<u8>) {
    let mut b = Build::new("two devices", &drivers);
    let n = if symbolic { symbol(0) } else { DimExpr::constant(4) };
    let flat = vec![n.clone()];
    let column = vec![n, DimExpr::constant(1)];
    let x = b.value("x", 0, flat.clone());
    b.input(x);
    if symbolic {
        b.bind_symbol("n", 0, 0);
    }
    let a = b.value("a", 0, flat.clone());
    let a1 = b.value("a@d1", 1, flat.clone());
    let w = b.weight("w", 1, &[7.0]);
    let t = b.value("t", 1, flat.clone());
    let b1 = b.value("b", 1, flat.clone());
    let b0 = b.value("b@d0", 0, flat.clone());
    let c = b.value("c", 0, flat.clone());
    let sum = b.value("sum", 0, flat);
    let y = b.alias("y", sum, column);
    b.output(y);
    b.output(c);
    let (double, triple, minus) =
        (b.tile(affine(2.0, 1.0)), b.tile(affine(3.0, 0.0)), b.tile(affine(1.0, -5.0)));
    let add = b.tile(add());
    let (q0, q1) = (b.queue(0), b.queue(1));
    let (out, back) = (b.link(0, 1), b.link(1, 0));
    b.step(q0, double, &[x], &[a], &[]);
    b.transfer(out, a, a1, &[after(q0, 1)]);
    b.step(q1, triple, &[a1], &[t], &[after(out, 1)]);
    b.step(q1, add, &[t, w], &[b1], &[]);
    b.step(q0, minus, &[a], &[c], &[]);
    b.transfer(back, b1, b0, &[after(q1, 2)]);
    b.step(q0, add, &[b0, c], &[sum], &[after(back, 1)]);
    b.finish()
}

/// A plan with every kind of field filled.
pub fn full() -> (Plan, Vec<u8>) {
    let (mut plan, weights) = two_devices(["naive", "naive"], true);
    let half = times(&symbol(0), 2);
    plan.kernels.push(Kernel {
        library: "slice".to_string(),
        params: vec![
            Param { name: "mode".into(), strings: vec!["edge".into()], ..Param::default() },
            Param { name: "starts".into(), ints: vec![1, -1], dims: vec![half], ..Param::default() },
            Param { name: "value".into(), floats: vec![0.5, -1.0], ..Param::default() },
        ],
        program: None,
    });
    plan.devices[0] = Device {
        profile: "some-cpu".into(),
        threads: 2,
        adapter: "0".into(),
        memory_bytes: 1 << 30,
        ..plan.devices[0].clone()
    };
    plan.provenance = Some(Provenance {
        compiler: "partita 0.1.0".into(),
        machine: "two".into(),
        objective: "latency".into(),
        value_us: 40.0,
        bound_us: 40.0,
        status: "optimal".into(),
        solver: "ilp".into(),
        nodes_before: 6,
        nodes_after: 5,
        rules: vec!["conv-bn 2".into()],
        alone: vec![Alone { device: "d0".into(), value_us: 50.0, barred: String::new() }],
    });
    plan.queues[0].steps[0].why = Some(Why {
        choices: vec![
            Choice {
                device: "d0".into(),
                time_us: 10.0,
                origin: "roofline".into(),
                plan_us: 30.0,
                ..Default::default()
            },
            Choice { device: "d1".into(), time_us: -1.0, origin: "no kernel".into(), ..Default::default() },
        ],
        flops: 8.0,
        bytes: 32.0,
        reason: "nearest to its input".into(),
        binds: "time".into(),
    });
    (plan, weights)
}
