//! What running a program relies on: indices in range, slots filled before they are read, bodies behind their users.

use crate::check::{Checked, bad, check_part};
use crate::limits::{MAX_PORTS, MAX_RANK, MAX_SYMBOLS, MAX_VALUES};
use crate::program::{Block, Item, PortForm, Program};
use crate::tensor::n_elements;
use crate::{ElementType, NO_VALUE, Plan, PlanError};

/// Deepest nesting of blocks.
const MAX_BLOCK_DEPTH: usize = 32;

/// Most blocks of a program.
const MAX_BLOCKS: usize = 1 << 16;

/// Checks a program and its parts; the parts' findings are returned in their order.
///
/// # Errors
/// As `check` for the parts; `L070` too many parts, `L071` a slot, `L072` a constant, `L073` a body, `L074` a size.
pub(crate) fn check_program(plan: &Plan, program: &Program) -> Result<Vec<Checked>, PlanError> {
    counts(program)?;
    let mut checked = Vec::with_capacity(program.plans.len());
    for (n, part) in program.plans.iter().enumerate() {
        let place = |e: PlanError| PlanError { place: format!("part {n}, {}", e.place), ..e };
        if part.program.is_some() || part.weight_bytes != plan.weight_bytes {
            return Err(bad("L070", format!("part {n}"), "it is not a static part of this plan"));
        }
        checked.push(check_part(part).map_err(place)?);
    }
    constants(plan, program)?;
    nesting(program)?;
    for index in 0..program.blocks.len() {
        Walk::new(program, index)?.run()?;
    }
    Ok(checked)
}

fn counts(program: &Program) -> Result<(), PlanError> {
    let ports = program.blocks.iter().map(|b| b.inputs.len().max(b.outputs.len())).max().unwrap_or(0);
    let slots = program.blocks.iter().map(|b| b.slots as usize).max().unwrap_or(0);
    let rows = [
        (program.plans.len(), MAX_BLOCKS),
        (program.blocks.len(), MAX_BLOCKS),
        (program.symbols.len(), MAX_SYMBOLS),
        (program.constants.len(), MAX_VALUES),
        (slots, MAX_VALUES),
        (ports, MAX_PORTS.max(MAX_VALUES)),
    ];
    if program.blocks.is_empty() || rows.iter().any(|(n, limit)| n > limit) {
        return Err(bad("L070", "the program", "it has no block, or more parts than the limit"));
    }
    Ok(())
}

/// How deep blocks run blocks; running them recurses as deep.
fn nesting(program: &Program) -> Result<(), PlanError> {
    let mut depth = vec![0usize; program.blocks.len()];
    // Bodies are behind their users, which `Walk` checks.
    for (index, block) in program.blocks.iter().enumerate() {
        let inside = depth[index] + 1;
        if inside > MAX_BLOCK_DEPTH {
            return Err(bad(
                "L073",
                format!("block {index}"),
                format!("bodies nest more than {MAX_BLOCK_DEPTH} deep"),
            ));
        }
        for body in block.items.iter().flat_map(|i| &i.bodies) {
            if let Some(depth) = depth.get_mut(body.block as usize) {
                *depth = (*depth).max(inside);
            }
        }
    }
    Ok(())
}

fn constants(plan: &Plan, program: &Program) -> Result<(), PlanError> {
    for (n, constant) in program.constants.iter().enumerate() {
        let fail = |what: &str| Err(bad("L072", format!("constant {n}"), what));
        let Ok(dtype) = ElementType::try_from(constant.dtype) else {
            return fail("its element type is unknown");
        };
        let shape: Option<Vec<usize>> = constant.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
        let Some(count) = shape.filter(|s| s.len() <= MAX_RANK).as_deref().and_then(n_elements) else {
            return fail("it is too large");
        };
        let fits = if dtype == ElementType::Str {
            constant.strings.len() == count
        } else {
            let bytes = (count as u64).checked_mul(dtype.size_bytes() as u64);
            bytes.and_then(|b| b.checked_add(constant.offset)).is_some_and(|end| end <= plan.weight_bytes)
        };
        if !fits {
            return fail("its elements are not there");
        }
    }
    Ok(())
}

/// Walks a block in order and keeps track of what is filled.
struct Walk<'a> {
    program: &'a Program,
    index: usize,
    block: &'a Block,
    filled: Vec<bool>,
}

impl<'a> Walk<'a> {
    fn new(program: &'a Program, index: usize) -> Result<Self, PlanError> {
        let block = &program.blocks[index];
        let walk = Self { program, index, block, filled: vec![false; block.slots as usize] };
        for port in block.inputs.iter().chain(&block.outputs) {
            let known = ElementType::try_from(port.dtype).is_ok() && PortForm::try_from(port.form).is_ok();
            if !known || port.shape.len() > MAX_RANK {
                return Err(walk.fail("L071", &port.name, "its type is unknown"));
            }
        }
        Ok(walk)
    }

    fn fail(&self, code: &'static str, place: &str, what: &str) -> PlanError {
        bad(code, format!("block {}, {place}", self.index), what)
    }

    fn run(mut self) -> Result<(), PlanError> {
        for port in &self.block.inputs {
            self.fill(port.slot, &port.name)?;
        }
        for constant in &self.block.constants {
            if constant.constant as usize >= self.program.constants.len() {
                return Err(self.fail("L072", "a constant", "it does not exist"));
            }
            self.fill(constant.slot, "a constant")?;
        }
        for item in &self.block.items {
            self.item(item)?;
        }
        for port in &self.block.outputs {
            self.read(port.slot, &port.name)?;
        }
        Ok(())
    }

    fn item(&mut self, item: &Item) -> Result<(), PlanError> {
        for slot in item.inputs.iter().filter(|&&s| s != NO_VALUE) {
            self.read(*slot, &item.name)?;
        }
        for slot in &item.outputs {
            self.fill(*slot, &item.name)?;
        }
        for body in &item.bodies {
            let block = body.block as usize;
            if block <= self.index || block >= self.program.blocks.len() {
                return Err(self.fail("L073", &item.name, "a body is not behind the block that runs it"));
            }
        }
        for bind in &item.binds {
            if bind.symbol as usize >= self.program.symbols.len()
                || bind.output as usize >= item.outputs.len()
            {
                return Err(self.fail("L074", &item.name, "it tells a size that does not exist"));
            }
        }
        if item.kernel.is_some() {
            return Ok(());
        }
        let part = self.program.plans.get(item.plan as usize);
        let part = part.ok_or_else(|| self.fail("L070", &item.name, "its part does not exist"))?;
        let whole = !item.inputs.contains(&NO_VALUE);
        if !whole || part.inputs.len() != item.inputs.len() || part.outputs.len() != item.outputs.len() {
            return Err(self.fail("L071", &item.name, "it does not fit its part"));
        }
        Ok(())
    }

    fn read(&self, slot: u32, place: &str) -> Result<(), PlanError> {
        match self.filled.get(slot as usize) {
            Some(true) => Ok(()),
            _ => Err(self.fail("L071", place, "it reads a slot that is not filled")),
        }
    }

    fn fill(&mut self, slot: u32, place: &str) -> Result<(), PlanError> {
        match self.filled.get_mut(slot as usize) {
            Some(filled) if !*filled => {
                *filled = true;
                Ok(())
            }
            _ => Err(self.fail("L071", place, "it fills a slot that is filled or does not exist")),
        }
    }
}
