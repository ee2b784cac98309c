//! Everything a session and its drivers rely on, checked before a plan runs. Plans are untrusted input.
//!
//! What shapes mean to a kernel (that a `gemm` has matching inner sizes, that operands broadcast) is checked by
//! the driver when it prepares the kernel, because only the driver knows the kernel. Everything else is here:
//! this file looks at each part alone, `check_flow` at steps and their order, `check_memory` at arenas.

use crate::check_flow::Flow;
use crate::check_program::check_program;
use crate::dim::DimItem;
use crate::limits::{
    MAX_DEVICES, MAX_DIM, MAX_DIM_ITEMS, MAX_KERNELS, MAX_PORTS, MAX_RANK, MAX_SYMBOLS, MAX_THREADS,
    MAX_VALUE_BYTES, MAX_VALUES, VALUE_ALIGN_BYTES,
};
use crate::reserve::{Reservation, alias_roots, compute_queues, reserve_positions, value_place};
use crate::tile::{Lane, TileOp};
use crate::{
    DimExpr, DimOp, ElementType, Kernel, NO_VALUE, Order, Plan, PlanError, Port, Storage, TileProgram, Value,
    check_memory,
};
use std::collections::BTreeSet;

/// The hint of every error here: a plan that fails was not made by this compiler, or not kept whole.
pub(crate) const HINT: &str = "the plan is damaged or from a faulty compiler; compile the model again";

/// What checking found out and running needs again.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Which step happens before which.
    pub order: Order,
    /// The value that owns the bytes of each value.
    pub roots: Vec<u32>,
    /// The compute queue of each device.
    pub compute_queues: Vec<Option<usize>>,
    /// When the bytes of each value must be reserved, computed from the steps.
    pub reservations: Vec<Reservation>,
}

/// Checks a plan of any kind, a static one or a program with its parts; the findings about its static parts.
///
/// # Errors
/// See `check` and `check_program`.
pub fn check_all(plan: &Plan) -> Result<Vec<Checked>, PlanError> {
    match &plan.program {
        None => Ok(vec![check(plan)?]),
        Some(program) => check_program(plan, program),
    }
}

/// Checks a static plan.
///
/// # Errors
/// The first thing found wrong: `L010` too many parts, `L011` device, `L012` symbol, `L013` type or storage,
/// `L014` size, `L015` weight, `L016` alias, `L017` port, `L018` kernel, `L019` queue, `L020` size expression,
/// `L030` tile program, `L040`-`L042` waits, `L050`-`L057` steps, `L060`-`L063` arenas.
pub fn check(plan: &Plan) -> Result<Checked, PlanError> {
    if plan.program.is_some() || plan.symbols.iter().any(|s| s.input == NO_VALUE) {
        return Err(bad("L012", "the plan", "it is not a static plan whose inputs bind its symbols"));
    }
    check_part(plan)
}

/// Checks a static plan, which may be a part of a program.
pub(crate) fn check_part(plan: &Plan) -> Result<Checked, PlanError> {
    counts(plan)?;
    devices(plan)?;
    for index in 0..plan.values.len() {
        value(plan, index)?;
    }
    let roots = alias_roots(plan)?;
    alias_sizes(plan, &roots)?;
    ports(plan, "input", &plan.inputs)?;
    ports(plan, "output", &plan.outputs)?;
    symbols(plan)?;
    for (index, kernel) in plan.kernels.iter().enumerate() {
        self::kernel(plan, index, kernel)?;
    }
    let compute_queues = compute_queues(plan)?;
    let order = Order::new(plan)?;
    Flow::new(plan, &order, &roots)?.check()?;
    let reservations = reserve_positions(plan, &order)?;
    check_memory::check(plan, &roots, &reservations)?;
    Ok(Checked { order, roots, compute_queues, reservations })
}

/// An error with the common hint.
pub(crate) fn bad(code: &'static str, place: impl Into<String>, message: impl Into<String>) -> PlanError {
    PlanError::new(code, place, message, HINT)
}

fn counts(plan: &Plan) -> Result<(), PlanError> {
    let rows = [
        ("devices", plan.devices.len(), MAX_DEVICES),
        ("values", plan.values.len(), MAX_VALUES),
        ("kernels", plan.kernels.len(), MAX_KERNELS),
        ("symbols", plan.symbols.len(), MAX_SYMBOLS),
        ("inputs", plan.inputs.len(), MAX_PORTS),
        ("outputs", plan.outputs.len(), MAX_PORTS),
    ];
    match rows.iter().find(|(_, count, limit)| count > limit) {
        None => Ok(()),
        Some((what, count, limit)) => {
            Err(bad("L010", "the plan", format!("{count} {what} exceed the limit of {limit}")))
        }
    }
}

fn devices(plan: &Plan) -> Result<(), PlanError> {
    for (index, device) in plan.devices.iter().enumerate() {
        let place = || format!("device {index} ({})", device.name);
        if device.driver.is_empty() {
            return Err(bad("L011", place(), "it names no driver"));
        }
        if device.threads > MAX_THREADS {
            return Err(bad("L011", place(), format!("it has more than {MAX_THREADS} threads")));
        }
    }
    Ok(())
}

fn value(plan: &Plan, index: usize) -> Result<(), PlanError> {
    let value = &plan.values[index];
    let fail = |code, message: &str| Err(bad(code, value_place(plan, index), message));
    if value.device as usize >= plan.devices.len() {
        return fail("L013", "its device does not exist");
    }
    if ElementType::try_from(value.dtype).is_err() {
        return fail("L013", "its element type is unknown");
    }
    let Ok(storage) = Storage::try_from(value.storage) else {
        return fail("L013", "its kind of storage is unknown");
    };
    if value.shape.len() > MAX_RANK {
        return fail("L014", "it has more dimensions than the limit of 16");
    }
    for dim in &value.shape {
        expression(plan, dim).map_err(|e| PlanError { place: value_place(plan, index), ..e })?;
    }
    let Some(bytes) = constant_bytes(value) else {
        return fail("L014", "a dimension is negative or its size is beyond the limit");
    };
    if storage == Storage::Weight { weight(plan, index, bytes) } else { Ok(()) }
}

/// Bytes of a value of constant shape, `Some(None)` for a symbolic one, `None` when out of bounds.
#[expect(clippy::option_option, reason = "unknown and impossible are different answers")]
pub(crate) fn constant_bytes(value: &Value) -> Option<Option<u64>> {
    let mut bytes = ElementType::try_from(value.dtype).ok()?.size_bytes() as u64;
    let mut symbolic = false;
    for dim in &value.shape {
        if dim.is_symbolic() {
            symbolic = true;
            continue;
        }
        let size = dim.eval(&[]).ok().filter(|d| (0..=MAX_DIM).contains(d))?;
        bytes = bytes.checked_mul(size as u64).filter(|&b| b <= MAX_VALUE_BYTES)?;
    }
    Some((!symbolic).then_some(bytes))
}

fn weight(plan: &Plan, index: usize, bytes: Option<u64>) -> Result<(), PlanError> {
    let value = &plan.values[index];
    let fail = |message: &str| Err(bad("L015", value_place(plan, index), message));
    let Some(bytes) = bytes else { return fail("a weight has a symbolic size") };
    if value.layout.is_empty() && value.stored_bytes != bytes {
        return fail("its stored bytes differ from its shape");
    }
    if !value.offset.is_multiple_of(VALUE_ALIGN_BYTES) {
        return fail("its offset is not a multiple of 64 bytes");
    }
    match value.offset.checked_add(value.stored_bytes) {
        Some(end) if end <= plan.weight_bytes => Ok(()),
        _ => fail("it does not lie inside the weight section"),
    }
}

/// Checks the form of a size expression, and its value where it is constant.
fn expression(plan: &Plan, dim: &DimExpr) -> Result<(), PlanError> {
    let fail = |message: &str| Err(bad("L020", "a size", message));
    if dim.items.len() > MAX_DIM_ITEMS {
        return fail("the size expression is too long");
    }
    let mut depth = 0usize;
    for DimItem { op, value } in &dim.items {
        match DimOp::try_from(*op) {
            Ok(DimOp::Const) => depth += 1,
            Ok(DimOp::Symbol) => {
                if usize::try_from(*value).is_ok_and(|s| s < plan.symbols.len()) {
                    depth += 1;
                } else {
                    return fail("the size names a symbol the plan does not have");
                }
            }
            Ok(_) if depth >= 2 => depth -= 1,
            _ => return fail("the size expression is malformed"),
        }
    }
    if depth == 1 { Ok(()) } else { fail("the size expression is malformed") }
}

fn alias_sizes(plan: &Plan, roots: &[u32]) -> Result<(), PlanError> {
    for (index, value) in plan.values.iter().enumerate() {
        let root = &plan.values[roots[index] as usize];
        let fail = |message: &str| Err(bad("L016", value_place(plan, index), message));
        if roots[index] as usize == index {
            continue;
        }
        if !root.layout.is_empty() {
            return fail("it shares the bytes of a packed weight");
        }
        if let (Some(Some(own)), Some(Some(whole))) = (constant_bytes(value), constant_bytes(root))
            && own > whole
        {
            return fail("it is larger than the value whose bytes it shares");
        }
    }
    Ok(())
}

fn ports(plan: &Plan, kind: &str, ports: &[Port]) -> Result<(), PlanError> {
    let mut names = BTreeSet::new();
    let mut values = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let fail = |message: &str| Err(bad("L017", format!("{kind} {index} ({})", port.name), message));
        let Some(value) = plan.values.get(port.value as usize) else {
            return fail("its value does not exist");
        };
        if !names.insert(port.name.as_str()) {
            return fail("its name occurs twice");
        }
        if kind == "input" && (value.storage != Storage::Arena as i32 || !values.insert(port.value)) {
            return fail("inputs need an arena value of their own");
        }
        if !value.layout.is_empty() {
            return fail("its value has a packed layout");
        }
    }
    Ok(())
}

fn symbols(plan: &Plan) -> Result<(), PlanError> {
    for (index, symbol) in plan.symbols.iter().enumerate().filter(|(_, s)| s.input != NO_VALUE) {
        let port = plan.inputs.get(symbol.input as usize);
        let value = port.and_then(|p| plan.values.get(p.value as usize));
        let dim = value.and_then(|v| v.shape.get(symbol.axis as usize));
        let bound = DimExpr { items: vec![DimItem { op: DimOp::Symbol as i32, value: index as i64 }] };
        if dim != Some(&bound) {
            let place = format!("symbol {index} ({})", symbol.name);
            return Err(bad("L012", place, "the input axis that should bind it does not hold it"));
        }
    }
    Ok(())
}

fn kernel(plan: &Plan, index: usize, kernel: &Kernel) -> Result<(), PlanError> {
    let place = || format!("kernel {index} ({})", kernel.library);
    if kernel.library.is_empty() {
        return Err(bad("L018", place(), "it has no name"));
    }
    if !kernel.params.is_sorted_by(|a, b| a.name < b.name) {
        return Err(bad("L018", place(), "its parameters are not sorted by name or occur twice"));
    }
    for dim in kernel.params.iter().flat_map(|p| &p.dims) {
        expression(plan, dim).map_err(|e| PlanError { place: place(), ..e })?;
    }
    match &kernel.program {
        Some(program) => self::program(program).map_err(|e| PlanError { place: place(), ..e }),
        None if kernel.library == "tile" => Err(bad("L018", place(), "a tile kernel needs a program")),
        None => Ok(()),
    }
}

/// The program's own check, and that every operation runs on a lane it is defined for.
fn program(program: &TileProgram) -> Result<(), PlanError> {
    program.check()?;
    for (at, instr) in program.instrs.iter().enumerate() {
        let fail = |what: &str| Err(bad("L030", format!("instruction {at}"), what));
        let (Ok(op), Ok(lane)) = (TileOp::try_from(instr.op), Lane::try_from(instr.lane)) else {
            return fail("unknown operation or lane");
        };
        if lane_of(op).is_some_and(|only| only != lane) {
            return fail("the operation is not defined on this lane");
        }
        let target = ElementType::try_from(instr.index as i32);
        let rounds = match op {
            TileOp::Wrap => target.is_ok_and(|t| !t.is_float()),
            TileOp::RoundTo => target.is_ok_and(ElementType::is_float),
            _ => true,
        };
        if !rounds {
            return fail("it converts to an unknown or unsuitable element type");
        }
    }
    Ok(())
}

/// The only lane an operation computes on, if it is bound to one. Conversions state their result's lane freely.
fn lane_of(op: TileOp) -> Option<Lane> {
    use TileOp::{
        Acos, Acosh, And, Asin, Asinh, Atan, Atanh, Cos, Cosh, Erf, Exp, Log, Log1p, MulAdd, Or, Pow, Recip,
        RoundTo, Shl, Shr, Sigmoid, Sin, Sinh, Sqrt, Tan, Tanh, Wrap, Xor,
    };
    match op {
        Pow | Sqrt | Exp | Log | Erf | Tanh | Sin | Cos | Sigmoid | Recip | MulAdd | Tan | Asin | Acos
        | Atan | Sinh | Cosh | Asinh | Acosh | Atanh | Log1p | RoundTo => Some(Lane::Float),
        And | Or | Xor | Shl | Shr | Wrap => Some(Lane::Int),
        _ => None,
    }
}
