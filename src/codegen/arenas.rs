//! When every value needs its bytes, and where they lie in its device's arena.

use partita_ir::diag::Diag;
use partita_plan::limits::ARENA_ALIGN_BYTES;
use partita_plan::memory::{self, Item};
use partita_plan::order::Order;
use partita_plan::reserve::{Reservation, alias_roots, reserve_positions};
use partita_plan::{ElementType, NO_VALUE, Plan, Storage, Value};

/// Fills in reservations, and for plans without symbols offsets and arena sizes. Elementwise steps write over
/// operands that nobody reads later.
pub(crate) fn place(plan: &mut Plan) -> Result<(), Diag> {
    let order = Order::new(plan)?;
    let reservations = reserve_positions(plan, &order)?;
    reuse(plan, &reservations)?;
    let reservations = reserve_positions(plan, &order)?;
    for (value, reservation) in plan.values.iter_mut().zip(reservations) {
        value.first = reservation.first;
        value.last = reservation.last;
    }
    if plan.symbols.is_empty() {
        for device in 0..plan.devices.len() {
            place_device(plan, device)?;
        }
    }
    Ok(())
}

/// Who shares whose bytes while elementwise results are put over their operands.
struct Sharing {
    roots: Vec<u32>,
    /// Last position at which the bytes of a root are reserved.
    last: Vec<u32>,
    /// Inputs and outputs of the plan, by root: nobody writes over them.
    fixed: Vec<bool>,
}

/// Gives results of elementwise steps the bytes of an operand that nobody reads later. CPU only: other devices may
/// not bind one piece of memory for reading and for writing.
fn reuse(plan: &mut Plan, reservations: &[Reservation]) -> Result<(), Diag> {
    let roots = alias_roots(plan)?;
    let mut fixed = vec![false; plan.values.len()];
    let ports = plan.inputs.iter().chain(&plan.outputs);
    ports.for_each(|port| fixed[roots[port.value as usize] as usize] = true);
    // Queues beside each other would have to be ordered anew for what is written over.
    if plan.queues.iter().filter(|q| !q.steps.is_empty()).count() > 1 {
        return Ok(());
    }
    let last = reservations.iter().map(|r| r.last).collect();
    let mut sharing = Sharing { roots, last, fixed };
    for queue in 0..plan.queues.len() {
        for step in 0..plan.queues[queue].steps.len() {
            if let Some((result, root)) = sharing.candidate(plan, queue, step) {
                sharing.merge(result, root);
                let value = &mut plan.values[result as usize];
                (value.storage, value.alias_of) = (Storage::Alias as i32, root);
            }
        }
    }
    Ok(())
}

impl Sharing {
    /// The result of an elementwise step and the value whose bytes it may take.
    fn candidate(&self, plan: &Plan, queue: usize, at: usize) -> Option<(u32, u32)> {
        let (queue, step) = (&plan.queues[queue], &plan.queues[queue].steps[at]);
        let &[result] = step.outputs.as_slice() else { return None };
        let on_cpu = !queue.copies && plan.devices[queue.device as usize].driver == "cpu";
        let elementwise = plan.kernels.get(step.kernel as usize).is_some_and(|k| k.library == "tile");
        let arena = |v: u32| plan.values[v as usize].storage == Storage::Arena as i32;
        if !(on_cpu && elementwise && arena(result)) {
            return None;
        }
        let operands = || step.inputs.iter().copied().filter(|&v| v != NO_VALUE);
        let root = |v: u32| self.root(v);
        let alike = |v: u32| {
            let (a, b) = (&plan.values[v as usize], &plan.values[result as usize]);
            a.dtype == b.dtype && a.shape == b.shape
        };
        // Every operand with these bytes has to see them as the result does.
        let free = |r: u32| {
            let dies = self.last[r as usize] as usize == at && !self.fixed[r as usize];
            dies && arena(r) && operands().filter(|&v| root(v) == r).all(alike)
        };
        operands().map(root).find(|&r| free(r)).map(|r| (result, r))
    }

    fn merge(&mut self, result: u32, root: u32) {
        self.last[root as usize] = self.last[result as usize];
        self.fixed[root as usize] = self.fixed[result as usize];
        self.roots[result as usize] = root;
    }

    /// The value that owns the bytes. Owners are written before what takes their bytes, so chains stay short.
    fn root(&self, value: u32) -> u32 {
        let mut at = self.roots[value as usize];
        while self.roots[at as usize] != at {
            at = self.roots[at as usize];
        }
        at
    }
}

fn place_device(plan: &mut Plan, device: usize) -> Result<(), Diag> {
    let in_arena = |v: &Value| v.device as usize == device && v.storage == Storage::Arena as i32;
    let members: Vec<usize> = (0..plan.values.len()).filter(|n| in_arena(&plan.values[*n])).collect();
    let items = members.iter().map(|n| item(&plan.values[*n])).collect::<Result<Vec<Item>, Diag>>()?;
    let offsets = memory::plan(&items);
    for (member, offset) in members.iter().zip(&offsets.offsets) {
        plan.values[*member].offset = *offset;
    }
    plan.devices[device].arena_bytes = offsets.total_bytes;
    Ok(())
}

fn item(value: &Value) -> Result<Item, Diag> {
    let too_large = || Diag::new("C004", "the value is too large").at_value(&value.name);
    let mut bytes = ElementType::try_from(value.dtype).map_or(1, ElementType::size_bytes) as u64;
    for dim in &value.shape {
        let size = dim.eval(&[]).ok().and_then(|d| u64::try_from(d).ok()).ok_or_else(too_large)?;
        bytes = bytes.checked_mul(size).ok_or_else(too_large)?;
    }
    Ok(Item { bytes, align: ARENA_ALIGN_BYTES, first: value.first, last: value.last })
}
