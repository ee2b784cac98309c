//! Tile programs: prepared once, then executed block by block over a range of output elements.
//!
//! Registers live in scratch slots of `LANES` lanes that are reused when a register dies, so that a program
//! works inside the first cache level. Constants and scalars are filled once per range, dense f32 operands
//! are read in place.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::broadcast::Broadcast;
use crate::isa::Isa;
use crate::prepared::{ALIGN, Call, Cx, Operand, Prepared, Scratch, parts_for};
use crate::team::share;
use crate::tile_bytes::Facts;
use crate::tile_idioms::{Idiom, Plan, plan, run_idiom};
use crate::tile_memory::{load_bytes, load_run, load_scalar, store_range, store_whole};
use crate::tile_ops::{Code, run_block};
use crate::tile_table;
use partita_plan::tile::Lane;
use partita_plan::{ElementType, TileInstr, TileProgram, tile::TileOp};
use partita_runtime::error::RuntimeError;

/// Lanes per block.
pub(crate) const LANES: usize = 512;
/// Elementary operations below which another thread does not pay.
const GRAIN: usize = 16_384;

/// Where a register's lanes are.
#[derive(Clone, Copy, Debug)]
enum Home {
    /// Nothing reads them.
    Nowhere,
    /// At this byte offset of the slots.
    Slot(usize),
    /// In the operand (or result) itself, f32 at this address; the address moves with the block.
    Dense(*const f32),
}

/// An operand that must be fetched into its slot for each block, unless the block is one run of it.
struct Fetch {
    reg: usize,
    slot: usize,
    operand: Operand,
    map: Broadcast,
    /// Bytes are read as floats.
    as_float: bool,
}

/// What happens in a block, in order.
enum Step {
    Fetch(Fetch),
    Compute(Code),
    /// A function of register `arg`.
    Idiom {
        idiom: Idiom,
        dst: usize,
        arg: usize,
    },
}

/// A register stored to an output.
struct Store {
    reg: usize,
    lane: Lane,
    ptr: *mut u8,
    dtype: ElementType,
    /// The floats are whole numbers of the type.
    whole: bool,
}

/// Value of a register that is the same for all elements.
enum Constant {
    Float(f32),
    Int(i64),
    Scalar(Operand),
}

/// A program bound to its operands.
pub(crate) struct Tile {
    steps: Vec<Step>,
    constants: Vec<(usize, Lane, Constant)>,
    homes: Vec<Home>,
    stores: Vec<Store>,
    slot_bytes: usize,
    isa: Isa,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Tile {}
// SAFETY: as above.
unsafe impl Sync for Tile {}

/// Hands out slots and takes them back.
#[derive(Default)]
struct Slots {
    free: [Vec<usize>; 2],
    bytes: usize,
}

impl Slots {
    fn take(&mut self, lane: Lane) -> usize {
        if let Some(slot) = self.free[lane as usize].pop() {
            return slot;
        }
        let slot = self.bytes;
        self.bytes += LANES * if lane == Lane::Float { size_of::<f32>() } else { size_of::<i64>() };
        slot
    }

    /// A slot that nothing else uses before or after: constants are filled once for all blocks.
    fn fresh(&mut self, lane: Lane) -> usize {
        let free = std::mem::take(&mut self.free);
        let slot = self.take(lane);
        self.free = free;
        slot
    }

    fn give(&mut self, lane: Lane, slot: usize) {
        self.free[lane as usize].push(slot);
    }
}

/// For every register the last instruction that reads it; outputs are read at the end.
fn last_uses(program: &TileProgram, plans: &[Plan], facts: &Facts) -> Vec<usize> {
    let mut last: Vec<usize> = (0..program.instrs.len()).collect();
    for (at, (instr, plan)) in program.instrs.iter().zip(plans).enumerate() {
        for arg in plan.reads(instr) {
            last[facts.home(arg)] = at;
        }
    }
    for &out in &program.outputs {
        last[facts.home(out as usize)] = usize::MAX;
    }
    last
}

/// What loads read.
struct Read<'a> {
    inputs: &'a [Option<Operand>],
    shape: &'a [usize],
    as_float: bool,
}

/// Whether tile programs can hold this type.
pub(crate) fn holds(dtype: ElementType) -> bool {
    dtype.is_computable() && !matches!(dtype, ElementType::F64 | ElementType::U64)
}

impl Tile {
    /// Binds `program` to `inputs`, broadcast to `outputs`, which all have the same shape.
    ///
    /// # Errors
    /// When the program is malformed or its operands do not fit.
    pub(crate) fn new(
        call: &Call<'_>,
        program: &TileProgram,
        inputs: &[Option<Operand>],
        outputs: &[Operand],
    ) -> Result<Self, RuntimeError> {
        let lanes = program.check()?;
        let shape = &outputs.first().ok_or_else(|| call.bad("a tile program needs a result"))?.shape;
        call.ensure(program.outputs.len() == outputs.len(), "results and stored registers differ in number")?;
        call.ensure(outputs.iter().all(|o| &o.shape == shape), "results differ in shape")?;
        let operands = inputs.iter().flatten().chain(outputs);
        for operand in operands {
            call.ensure(operand.layout.is_none(), "a packed weight cannot be read element by element")?;
            call.ensure(holds(operand.dtype), "f64 and u64 are not held in tile registers")?;
        }
        let mut tile = Self {
            steps: Vec::new(),
            constants: Vec::new(),
            homes: Vec::new(),
            stores: Vec::new(),
            slot_bytes: 0,
            isa: call.isa,
        };
        let mut slots = Slots::default();
        let is_byte = |input: usize| {
            let operand = inputs.get(input).and_then(Option::as_ref);
            operand.is_some_and(|o| matches!(o.dtype, ElementType::I8 | ElementType::U8))
        };
        let (plans, facts) = (plan(program), Facts::of(program, &is_byte));
        let last = last_uses(program, &plans, &facts);
        for (at, (instr, plan)) in program.instrs.iter().zip(&plans).enumerate() {
            let read = Read { inputs, shape, as_float: facts.as_float[at] };
            match (plan, facts.same[at]) {
                (Plan::Unused, _) => tile.homes.push(Home::Nowhere),
                (Plan::Plain, Some(same)) => tile.homes.push(tile.homes[same]),
                (Plan::Plain, None) => tile.add(call, instr, lanes[at], &read, &mut slots)?,
                (&Plan::Idiom(idiom, arg), _) => {
                    tile.steps.push(Step::Idiom { idiom, dst: at, arg: facts.home(arg) });
                    tile.homes.push(Home::Slot(slots.take(lanes[at])));
                }
            }
            for arg in plan.reads(instr).into_iter().map(|arg| facts.home(arg)) {
                if last[arg] == at {
                    let lane = if facts.as_float[arg] { Lane::Float } else { lanes[arg] };
                    tile.release(arg, lane, &mut slots);
                }
            }
        }
        tile.slot_bytes = slots.bytes;
        for (&reg, output) in program.outputs.iter().zip(outputs) {
            let reg = reg as usize;
            let whole = facts.whole[reg] && matches!(output.dtype, ElementType::I8 | ElementType::U8);
            tile.stores.push(Store { reg, lane: lanes[reg], ptr: output.ptr, dtype: output.dtype, whole });
        }
        tile.store_directly();
        Ok(tile)
    }

    /// Lets the last function write its result where it is stored.
    fn store_directly(&mut self) {
        if let ([store], Some(Step::Idiom { dst, .. })) = (self.stores.as_slice(), self.steps.last())
            && store.reg == *dst
            && store.dtype == ElementType::F32
        {
            self.homes[*dst] = Home::Dense(store.ptr.cast::<f32>().cast_const());
            self.stores.clear();
        }
    }

    /// Gives the slot of a dead register back, unless it holds the same value for the whole range.
    fn release(&mut self, reg: usize, lane: Lane, slots: &mut Slots) {
        let fixed = self.constants.iter().any(|(r, ..)| *r == reg);
        if let (Home::Slot(slot), false) = (self.homes[reg], fixed)
            && !slots.free[lane as usize].contains(&slot)
        {
            slots.give(lane, slot);
        }
    }

    fn add(
        &mut self,
        call: &Call<'_>,
        instr: &TileInstr,
        lane: Lane,
        read: &Read<'_>,
        slots: &mut Slots,
    ) -> Result<(), RuntimeError> {
        let reg = self.homes.len();
        let op = TileOp::try_from(instr.op).unwrap_or(TileOp::Const);
        match op {
            TileOp::Load => return self.add_load(call, instr, lane, read, slots),
            TileOp::Const => {
                let value = match lane {
                    Lane::Float => Constant::Float(instr.float as f32),
                    Lane::Int => Constant::Int(instr.int),
                };
                self.constants.push((reg, lane, value));
                self.homes.push(Home::Slot(slots.fresh(lane)));
                return Ok(());
            }
            _ => {
                let arg = |i: usize| instr.args.get(i).map_or(0, |&a| a as usize);
                let own = Lane::try_from(instr.lane).unwrap_or(Lane::Float);
                let to = ElementType::try_from(instr.index as i32).unwrap_or(ElementType::F32);
                let code = Code { op, lane: own, dst: reg, args: [arg(0), arg(1), arg(2)], to };
                self.steps.push(Step::Compute(code));
            }
        }
        self.homes.push(Home::Slot(slots.take(lane)));
        Ok(())
    }

    fn add_load(
        &mut self,
        call: &Call<'_>,
        instr: &TileInstr,
        lane: Lane,
        read: &Read<'_>,
        slots: &mut Slots,
    ) -> Result<(), RuntimeError> {
        let reg = self.homes.len();
        let operand = read.inputs.get(instr.index as usize).and_then(Option::as_ref);
        let operand = operand.ok_or_else(|| call.bad("the tile program loads an operand that is missing"))?;
        let float = operand.dtype.is_float();
        call.ensure(float == (lane == Lane::Float), "an operand has the wrong kind of lane")?;
        let map = Broadcast::new(&operand.shape, read.shape)
            .ok_or_else(|| call.bad("an operand does not broadcast to the result"))?;
        if map.is_dense() && operand.dtype == ElementType::F32 {
            self.homes.push(Home::Dense(operand.f32()));
            return Ok(());
        }
        let lane = if read.as_float { Lane::Float } else { lane };
        let slot = if map.is_scalar() { slots.fresh(lane) } else { slots.take(lane) };
        self.homes.push(Home::Slot(slot));
        if map.is_scalar() {
            self.constants.push((reg, lane, Constant::Scalar(operand.clone())));
        } else {
            self.steps.push(Step::Fetch(Fetch {
                reg,
                slot,
                operand: operand.clone(),
                map,
                as_float: read.as_float,
            }));
        }
        Ok(())
    }

    /// Scratch bytes of one member.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.table_bytes() + self.slot_bytes
    }

    /// Number of instructions, a measure of the work per element.
    pub(crate) fn work(&self) -> usize {
        self.steps.len() + self.stores.len()
    }

    /// Executes the program for output elements `start..start + len`.
    ///
    /// # Safety
    /// The range lies in the output; `scratch` has `scratch_bytes` bytes, aligned, used by nobody else.
    pub(crate) unsafe fn run(&self, start: usize, len: usize, scratch: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { self.run_rows(start, len, 1, 0, scratch) };
    }

    /// Executes the program for `rows` ranges of `len` output elements that begin `distance` apart.
    ///
    /// # Safety
    /// As for `run`, for every range.
    pub(crate) unsafe fn run_rows(
        &self,
        start: usize,
        len: usize,
        rows: usize,
        distance: usize,
        scratch: *mut u8,
    ) {
        let table: *mut *mut u8 = scratch.cast();
        let slots = scratch.wrapping_add(self.table_bytes());
        for (reg, home) in self.homes.iter().enumerate() {
            if let Home::Slot(offset) = home {
                // SAFETY: the table has one entry per register.
                unsafe { *table.add(reg) = slots.wrapping_add(*offset) };
            }
        }
        // SAFETY: slots of constants are never reused.
        unsafe { self.fill_constants(table, len.min(LANES)) };
        for row in 0..rows {
            let mut done = 0;
            while done < len {
                let count = (len - done).min(LANES);
                // SAFETY: a part of the caller's range.
                unsafe { self.block(start + row * distance + done, count, table, slots) };
                done += count;
            }
        }
    }

    fn table_bytes(&self) -> usize {
        (self.homes.len() * size_of::<*mut u8>()).next_multiple_of(ALIGN)
    }

    unsafe fn fill_constants(&self, table: *mut *mut u8, count: usize) {
        for (reg, lane, value) in &self.constants {
            // SAFETY: every constant has a slot of `LANES` lanes.
            unsafe {
                let slot = *table.add(*reg);
                match value {
                    Constant::Float(v) => std::slice::from_raw_parts_mut(slot.cast::<f32>(), count).fill(*v),
                    Constant::Int(v) => std::slice::from_raw_parts_mut(slot.cast::<i64>(), count).fill(*v),
                    Constant::Scalar(operand) => load_scalar(operand.dtype, operand.ptr, *lane, slot, count),
                }
            }
        }
    }

    unsafe fn block(&self, start: usize, count: usize, table: *mut *mut u8, slots: *mut u8) {
        for (reg, home) in self.homes.iter().enumerate() {
            if let Home::Dense(base) = home {
                // SAFETY: dense operands have as many elements as the output.
                unsafe { *table.add(reg) = base.wrapping_add(start).cast_mut().cast() };
            }
        }
        for step in &self.steps {
            // SAFETY: the program was checked; slots have `LANES` lanes and do not overlap; a function that stores its
            // result directly reads the same elements of an operand or none of the result's.
            unsafe {
                match step {
                    Step::Fetch(fetch) => fetch.block(self.isa, start, count, table, slots),
                    Step::Compute(code) => run_block(self.isa, code, table, count),
                    Step::Idiom { idiom, dst, arg } => {
                        let (src, dst) = ((*table.add(*arg)).cast(), (*table.add(*dst)).cast());
                        run_idiom(self.isa, *idiom, src, dst, count);
                    }
                }
            }
        }
        for store in &self.stores {
            // SAFETY: the range lies in the output.
            unsafe {
                let slot = *table.add(store.reg);
                if store.whole {
                    store_whole(self.isa, slot.cast(), store.ptr.add(start), count);
                } else {
                    store_range(store.dtype, store.ptr, start, store.lane, slot, count);
                }
            }
        }
    }
}

impl Fetch {
    /// Brings elements `start..start + count` of the broadcast operand into the table: their own address where they
    /// are neighbours, else a copy.
    ///
    /// # Safety
    /// The elements lie in the output, the table has the register's entry, the slot `LANES` lanes.
    unsafe fn block(&self, isa: Isa, start: usize, count: usize, table: *mut *mut u8, slots: *mut u8) {
        let slot = slots.wrapping_add(self.slot);
        // SAFETY: the map was checked against the operand's shape.
        unsafe {
            *table.add(self.reg) = slot;
            self.map.runs(start, count, |position, run| {
                let operand = &self.operand;
                if run.len == count && run.step == 1 && operand.dtype == ElementType::F32 {
                    *table.add(self.reg) = operand.f32().wrapping_add(run.from).cast();
                } else if self.as_float {
                    load_bytes(isa, operand.dtype, operand.ptr, run, slot.cast::<f32>().add(position));
                } else {
                    load_run(operand.dtype, operand.ptr, run, slot, position);
                }
            });
        }
    }
}

/// The `tile` kernel.
struct TileKernel {
    tile: Tile,
    elements: usize,
    members: usize,
}

impl Prepared for TileKernel {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: self.tile.scratch_bytes() }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let parts = parts_for(self.elements * self.tile.work(), GRAIN, self.members);
        cx.run(parts, &|part| {
            let range = share(self.elements, LANES, part, parts);
            // SAFETY: the range lies in the output, scratch belongs to this member.
            unsafe { self.tile.run(range.start, range.len(), cx.local(part)) };
        })
    }
}

/// Prepares a `tile` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let program = call.kernel.program.as_ref().ok_or_else(|| call.bad("the tile program is missing"))?;
    if let Some(table) = tile_table::of(call, program)? {
        return Ok(table);
    }
    let tile = Tile::new(call, program, &call.inputs, &call.outputs)?;
    let elements = call.output(0)?.len();
    Ok(Box::new(TileKernel { tile, elements, members: call.members }))
}
