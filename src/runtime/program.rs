//! A loaded plan of any kind: one static session, or a program of sessions and operators evaluated on the host.

use crate::driver::WeightBytes;
use crate::error::RuntimeError;
use crate::execute::guarded;
use crate::session::{Drivers, PortInfo, Session, SessionOptions, infos};
use crate::source::{self, PlanSource};
use partita_plan::budget::{Budget, RunLimits};
use partita_plan::check::check_all;
use partita_plan::program::{Bind, Block, Constant, Item, PortForm, SlotPort};
use partita_plan::tensor::n_elements;
use partita_plan::{Bytes, Datum, DimExpr, ElementType, Kernel, NO_VALUE, Plan, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// A size nothing has told yet.
const UNKNOWN: i64 = i64::MIN;

/// Runs the bodies of an operator under evaluation.
pub trait Blocks {
    /// Runs the body `name`.
    ///
    /// # Errors
    /// What its items say, or a limit.
    fn run(&self, name: &str, inputs: Vec<Datum>) -> Result<Vec<Datum>, RuntimeError>;

    /// Accounts for bytes that are kept.
    ///
    /// # Errors
    /// `X035` when the limit of memory is reached.
    fn hold(&self, bytes: usize) -> Result<(), RuntimeError>;

    /// Asks whether a value of so many bytes may be made.
    ///
    /// # Errors
    /// `X035` when the limit of memory would be reached.
    fn room(&self, bytes: usize) -> Result<(), RuntimeError>;
}

/// One evaluation of an operator on the host.
pub struct HostCall<'a> {
    /// Values of the program's symbols.
    pub symbols: &'a [i64],
    /// `None` for an omitted operand.
    pub inputs: &'a [Option<&'a Datum>],
    pub n_outputs: usize,
    pub blocks: &'a dyn Blocks,
}

/// An operator that is evaluated on the host on values of any kind.
pub trait HostOp: Send + Sync {
    /// Evaluates it.
    ///
    /// # Errors
    /// When the operands' values are not valid for the operator, or a body fails.
    fn run(&self, call: &HostCall<'_>) -> Result<Vec<Datum>, RuntimeError>;
}

/// Source of operators on the host, where the program links their evaluation.
pub trait HostOps: Send + Sync {
    /// Prepares the operator that `kernel` names.
    ///
    /// # Errors
    /// When it is unknown or malformed.
    fn prepare(&self, kernel: &Kernel) -> Result<Box<dyn HostOp>, RuntimeError>;
}

/// A plan that is ready to run.
pub struct Program {
    plan: Plan,
    /// One per static part.
    sessions: Vec<Mutex<Session>>,
    constants: Vec<Datum>,
    /// Operators on the host by block and item.
    ops: Vec<Vec<Option<Box<dyn HostOp>>>>,
    /// Slots that nobody reads behind an item, by block and item.
    free: Vec<Vec<Vec<usize>>>,
    inputs: Vec<PortInfo>,
    outputs: Vec<PortInfo>,
    pub limits: RunLimits,
}

impl Program {
    /// Decodes and checks a plan and opens its devices.
    ///
    /// # Errors
    /// As `Session::load`, and what `ops` says about an operator.
    pub fn load(
        source: impl Into<PlanSource>,
        drivers: &Drivers,
        ops: Option<&dyn HostOps>,
        options: &SessionOptions,
    ) -> Result<Self, RuntimeError> {
        let (plan, weights) = source::open(source.into(), options.verify_weights)?;
        let mut sessions = Vec::new();
        for (part, checked) in plan.parts().iter().zip(check_all(&plan)?) {
            let session =
                Session::with(part.clone(), checked, Arc::clone(&weights), drivers, options.clone())?;
            sessions.push(Mutex::new(session));
        }
        let mut program = Self {
            sessions,
            constants: Vec::new(),
            ops: Vec::new(),
            free: Vec::new(),
            inputs: port_infos(&plan, true),
            outputs: port_infos(&plan, false),
            limits: RunLimits::default(),
            plan,
        };
        program.prepare(&weights, ops)?;
        Ok(program)
    }

    fn prepare(&mut self, weights: &WeightBytes, ops: Option<&dyn HostOps>) -> Result<(), RuntimeError> {
        let Some(program) = &self.plan.program else { return Ok(()) };
        for constant in &program.constants {
            self.constants.push(Datum::Tensor(tensor_of(constant, weights)?));
        }
        for block in &program.blocks {
            let op = |item: &Item| match (&item.kernel, ops) {
                (None, _) => Ok(None),
                (Some(kernel), Some(ops)) => ops.prepare(kernel).map(Some),
                (Some(_), None) => Err(no_ops(&item.name)),
            };
            self.ops.push(block.items.iter().map(op).collect::<Result<_, _>>()?);
            self.free.push(last_reads(block));
        }
        Ok(())
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What `run` takes, in order.
    pub fn inputs(&self) -> &[PortInfo] {
        &self.inputs
    }

    /// What `run` returns, in order.
    pub fn outputs(&self) -> &[PortInfo] {
        &self.outputs
    }

    /// The one session of a static plan; `None` for a program.
    pub fn session(&mut self) -> Option<&mut Session> {
        match (&self.plan.program, self.sessions.as_mut_slice()) {
            (None, [session]) => Some(session.get_mut().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    /// Runs the plan on its inputs, in the model's order.
    ///
    /// # Errors
    /// `X001`, `X002` for inputs that do not fit, `X030`, `X035`, `X036` for limits; what sessions and operators say.
    pub fn run(&self, inputs: Vec<Datum>) -> Result<Vec<Datum>, RuntimeError> {
        let budget = Budget::new(self.limits);
        match &self.plan.program {
            None => self.part(0, &inputs.iter().map(Some).collect::<Vec<_>>(), &[], &[], None),
            Some(program) => {
                let run = Run { program: self, budget: &budget };
                run.block(0, inputs, vec![UNKNOWN; program.symbols.len()])
            }
        }
    }

    /// Runs static part `index`.
    fn part(
        &self,
        index: usize,
        inputs: &[Option<&Datum>],
        names: &[String],
        symbols: &[i64],
        budget: Option<&Budget>,
    ) -> Result<Vec<Datum>, RuntimeError> {
        let mut tensors = Vec::with_capacity(inputs.len());
        for input in inputs {
            let tensor = input.and_then(|d| d.as_tensor());
            tensors.push(tensor.ok_or_else(|| wrong("an input", "it must be a tensor"))?);
        }
        let mut session = self.sessions[index].lock().unwrap_or_else(PoisonError::into_inner);
        for (port, tensor) in session.inputs().iter().zip(&tensors) {
            if port.dtype != tensor.dtype() {
                let text = format!("it is {}, the model wants {}", tensor.dtype().name(), port.text);
                return Err(unfit(&port.name, text));
            }
        }
        if !symbols.is_empty() {
            let value = |name: &String| names.iter().position(|n| n == name).map_or(UNKNOWN, |i| symbols[i]);
            let given: Vec<i64> = session.plan().symbols.iter().map(|s| value(&s.name)).collect();
            session.give(given.into_iter());
        }
        let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.shape()).collect();
        session.bind(&shapes)?;
        // The memory a part works in counts before it is touched.
        if let (Some(budget), Some(bound)) = (budget, session.bound()) {
            budget.room(bound.arena_bytes.iter().sum())?;
        }
        let views: Vec<(&[u8], &[usize])> = tensors.iter().map(|t| (t.bytes(), t.shape())).collect();
        session.run(&views)?;
        (0..session.outputs().len()).map(|n| output(&session, n).map(Datum::Tensor)).collect()
    }
}

/// Output `n` of the last run of a session as a tensor.
///
/// # Errors
/// When nothing ran yet, or a device fails.
pub fn output(session: &Session, n: usize) -> Result<Tensor, RuntimeError> {
    let shape = session.output_shape(n)?.to_vec();
    let bytes = Bytes::from_vec(session.output_vec(n)?);
    Tensor::new(session.outputs()[n].dtype, &shape, bytes)
        .ok_or_else(|| wrong(&format!("output {n}"), "it has the wrong size"))
}

fn tensor_of(constant: &Constant, weights: &WeightBytes) -> Result<Tensor, RuntimeError> {
    let bad = || wrong("a constant", "its elements are not there");
    let dtype = ElementType::try_from(constant.dtype).map_err(|_| bad())?;
    let shape: Vec<usize> = constant.shape.iter().map(|&d| d as usize).collect();
    if dtype == ElementType::Str {
        return Tensor::from_strings(&shape, &constant.strings).ok_or_else(bad);
    }
    let bytes = n_elements(&shape).and_then(|n| n.checked_mul(dtype.size_bytes())).ok_or_else(bad)?;
    let start = usize::try_from(constant.offset).map_err(|_| bad())?;
    let bytes = Bytes::slice_of(Arc::clone(weights), start, bytes).ok_or_else(bad)?;
    Tensor::new(dtype, &shape, bytes).ok_or_else(bad)
}

fn port_infos(plan: &Plan, inputs: bool) -> Vec<PortInfo> {
    let Some(program) = &plan.program else {
        return infos(plan, if inputs { &plan.inputs } else { &plan.outputs });
    };
    let block = program.blocks.first().cloned().unwrap_or_default();
    let ports = if inputs { block.inputs } else { block.outputs };
    let size = |d: &DimExpr| if d.is_symbolic() { None } else { d.eval(&[]).ok() };
    let info = |port: SlotPort| PortInfo {
        dtype: ElementType::try_from(port.dtype).unwrap_or(ElementType::F32),
        shape: port.shape.iter().map(|d| size(d).and_then(|s| usize::try_from(s).ok())).collect(),
        text: port.text,
        name: port.name,
    };
    ports.into_iter().map(info).collect()
}

/// For every item the slots that are read for the last time there; outputs are kept.
fn last_reads(block: &Block) -> Vec<Vec<usize>> {
    let mut seen: Vec<bool> = vec![false; block.slots as usize];
    block.outputs.iter().for_each(|p| seen[p.slot as usize] = true);
    let mut free: Vec<Vec<usize>> = Vec::new();
    for item in block.items.iter().rev() {
        let slots = item.inputs.iter().chain(&item.outputs).filter(|&&s| s != NO_VALUE);
        let mut last = Vec::new();
        for slot in slots.map(|&s| s as usize) {
            if !std::mem::replace(&mut seen[slot], true) {
                last.push(slot);
            }
        }
        free.push(last);
    }
    free.reverse();
    free
}

/// One run of a program.
struct Run<'a> {
    program: &'a Program,
    budget: &'a Budget,
}

impl Run<'_> {
    fn names(&self) -> &[String] {
        self.program.plan.program.as_ref().map_or(&[], |p| &p.symbols)
    }

    /// Runs a block; `symbols` are those bound around it.
    fn block(
        &self,
        index: usize,
        inputs: Vec<Datum>,
        mut symbols: Vec<i64>,
    ) -> Result<Vec<Datum>, RuntimeError> {
        let Some(block) = self.program.plan.program.as_ref().and_then(|p| p.blocks.get(index)) else {
            return Err(wrong("a block", "it does not exist"));
        };
        check_inputs(block, &inputs, &mut symbols)?;
        let n_slots = block.slots as usize;
        let mut frame = Frame { slots: vec![None; n_slots], held: vec![0; n_slots], symbols };
        for (port, datum) in block.inputs.iter().zip(inputs) {
            let slot = port.slot as usize;
            // What the caller gives the model is the caller's; what a loop carries is ours.
            if index > 0 {
                frame.held[slot] = datum.size_bytes();
                self.budget.hold(frame.held[slot])?;
            }
            frame.slots[slot] = Some(datum);
        }
        for constant in &block.constants {
            frame.slots[constant.slot as usize] =
                Some(self.program.constants[constant.constant as usize].clone());
        }
        for at in 0..block.items.len() {
            self.item((index, at), block, &mut frame)?;
        }
        self.budget.release(frame.held.iter().sum());
        let take = |port: &SlotPort| {
            frame.slots[port.slot as usize].clone().ok_or_else(|| wrong(&port.name, "it was not computed"))
        };
        block.outputs.iter().map(take).collect()
    }

    /// Runs item `at` of block `index`.
    fn item(
        &self,
        (index, at): (usize, usize),
        block: &Block,
        frame: &mut Frame,
    ) -> Result<(), RuntimeError> {
        let item = &block.items[at];
        self.budget.check_time()?;
        let inputs: Vec<Option<&Datum>> =
            item.inputs.iter().map(|&s| frame.slots.get(s as usize).and_then(Option::as_ref)).collect();
        let symbols = &frame.symbols;
        let results = match &self.program.ops[index][at] {
            None => {
                let names = self.names();
                self.program.part(item.plan as usize, &inputs, names, symbols, Some(self.budget))?
            }
            Some(op) => {
                let bodies = Bodies { run: self, item, symbols };
                let call =
                    HostCall { symbols, inputs: &inputs, n_outputs: item.outputs.len(), blocks: &bodies };
                let place = || format!("node {}", item.name);
                guarded(place, || op.run(&call)).map_err(|e| at_item(e, item))?
            }
        };
        if results.len() < item.outputs.len() {
            return Err(wrong(&item.name, "it gave too few results"));
        }
        bind(&item.binds, &results, &mut frame.symbols);
        for (slot, datum) in item.outputs.iter().zip(results) {
            let bytes = datum.size_bytes();
            self.budget.hold(bytes)?;
            frame.held[*slot as usize] = bytes;
            frame.slots[*slot as usize] = Some(datum);
        }
        for &slot in &self.program.free[index][at] {
            frame.slots[slot] = None;
            self.budget.release(std::mem::take(&mut frame.held[slot]));
        }
        Ok(())
    }
}

/// The slots of a block that runs.
struct Frame {
    slots: Vec<Option<Datum>>,
    /// Bytes of each slot that count against the budget.
    held: Vec<usize>,
    symbols: Vec<i64>,
}

fn at_item(error: RuntimeError, item: &Item) -> RuntimeError {
    let inner = error.place.is_empty() || error.place.starts_with("operator ");
    if inner { RuntimeError { place: format!("node {}", item.name), ..error } } else { error }
}

/// Symbols told by the axes of results.
fn bind(binds: &[Bind], results: &[Datum], symbols: &mut [i64]) {
    for bind in binds {
        let tensor = results.get(bind.output as usize).and_then(Datum::as_tensor);
        if let Some(size) = tensor.and_then(|t| t.shape().get(bind.axis as usize)) {
            symbols[bind.symbol as usize] = *size as i64;
        }
    }
}

/// Binds symbols from the shapes of a block's inputs and checks that all fit.
fn check_inputs(block: &Block, inputs: &[Datum], symbols: &mut [i64]) -> Result<(), RuntimeError> {
    if inputs.len() != block.inputs.len() {
        let text = format!("{} inputs were given, it takes {}", inputs.len(), block.inputs.len());
        return Err(RuntimeError::new(
            "X001",
            block.name.clone(),
            text,
            "give every input once, in the model's order",
        ));
    }
    for (port, datum) in block.inputs.iter().zip(inputs) {
        let Some(tensor) = datum.as_tensor() else { continue };
        for (dim, &size) in port.shape.iter().zip(tensor.shape()) {
            if let Some(symbol) = dim.as_symbol().and_then(|s| symbols.get_mut(s)).filter(|s| **s == UNKNOWN)
            {
                *symbol = size as i64;
            }
        }
    }
    block.inputs.iter().zip(inputs).try_for_each(|(port, datum)| check_input(port, datum, symbols))
}

fn check_input(port: &SlotPort, datum: &Datum, symbols: &[i64]) -> Result<(), RuntimeError> {
    let tensor = datum.as_tensor();
    let dtype = tensor.is_some_and(|t| t.dtype() as i32 == port.dtype);
    let size = |(dim, &size): (&DimExpr, &usize)| {
        let known = dim.symbols().all(|s| symbols.get(s).is_some_and(|&v| v != UNKNOWN));
        !known || dim.eval(symbols).is_ok_and(|want| want == size as i64)
    };
    let shape = |t: &Tensor| t.rank() == port.shape.len() && port.shape.iter().zip(t.shape()).all(size);
    let fits = match PortForm::try_from(port.form).unwrap_or_default() {
        PortForm::Tensor => dtype && tensor.is_some_and(shape),
        PortForm::Unranked => dtype,
        PortForm::Any => true,
        PortForm::Other => tensor.is_none(),
    };
    if fits {
        return Ok(());
    }
    let have =
        tensor.map_or_else(|| datum.kind().to_owned(), |t| format!("{}{:?}", t.dtype().name(), t.shape()));
    let text = format!("it is {have}, the model wants {}", port.text);
    Err(unfit(&port.name, text))
}

fn unfit(port: &str, text: String) -> RuntimeError {
    RuntimeError::new("X002", format!("input {port}"), text, "convert or reshape the input")
}

/// The bodies of an item.
struct Bodies<'a> {
    run: &'a Run<'a>,
    item: &'a Item,
    symbols: &'a [i64],
}

impl Blocks for Bodies<'_> {
    fn run(&self, name: &str, inputs: Vec<Datum>) -> Result<Vec<Datum>, RuntimeError> {
        let body = self.item.bodies.iter().find(|b| b.name == name);
        let body = body.ok_or_else(|| wrong(&self.item.name, "it has no such body"))?;
        self.run.budget.step()?;
        self.run.block(body.block as usize, inputs, self.symbols.to_vec())
    }

    fn hold(&self, bytes: usize) -> Result<(), RuntimeError> {
        self.run.budget.hold(bytes)
    }

    fn room(&self, bytes: usize) -> Result<(), RuntimeError> {
        self.run.budget.room(bytes)
    }
}

fn wrong(place: &str, message: &str) -> RuntimeError {
    RuntimeError::new("R061", place, message, "check what is fed to the model, or compile it again")
}

fn no_ops(place: &str) -> RuntimeError {
    RuntimeError::new(
        "R042",
        place,
        "it is evaluated on the host, and this program does not link the reference evaluation",
        "give `Program::load` the operators",
    )
}
