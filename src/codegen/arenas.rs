//! When every value needs its bytes, and where they lie in its device's arena.

use partita_ir::diag::Diag;
use partita_plan::limits::ARENA_ALIGN_BYTES;
use partita_plan::memory::{self, Item};
use partita_plan::order::Order;
use partita_plan::reserve::reserve_positions;
use partita_plan::{ElementType, Plan, Storage, Value};

/// Fills in reservations, and for plans without symbols offsets and arena sizes.
pub(crate) fn place(plan: &mut Plan) -> Result<(), Diag> {
    let order = Order::new(plan)?;
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
